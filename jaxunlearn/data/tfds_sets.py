"""Any image-classification set of tfds, by its name.

Reading needs no TensorFlow, only that the set was prepared in a format with random access. Where
TensorFlow is installed, a set that is missing is prepared on the way.
"""

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.data import storage
from jaxunlearn.data.dataset import Dataset, channel_statistics
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.table import TABLE, Entry
from jaxunlearn.names import closest
from jaxunlearn.types import InputError


def load_tfds(given: str, place: Path) -> Dataset:
    """Load a tfds set.

    Args:
        given: a tfds name such as "cifar10" or "cmaterdb/bangla", or one of the table; a version
            may follow, as in "cifar10:3.0.2". Without one, that of the code is taken, or else the
            newest that is prepared.
        place: the folder of prepared data.

    Returns:
        The data set. Those in the table take their settings from it, in whatever version; for
        others the statistics come from the training images, the class count from the feature, and
        there is no augmentation.

    Raises:
        InputError: see `jaxunlearn.data.load`.
    """
    name, source, entry = _named(given)
    builder = _builder(source, place)
    image_key, fine_key = _keys(name, builder)
    coarse_key = entry.coarse if entry else None
    train_split, test_split = (entry.train, entry.test) if entry else _splits(name, builder)
    keys = (image_key, fine_key, coarse_key) if coarse_key else (image_key, fine_key)
    try:
        train, test = (
            dict(zip(keys, storage.read(builder, split, keys), strict=True))
            for split in (train_split, test_split)
        )
    except InputError as error:
        if storage.is_prepared(builder):
            raise
        raise _not_prepared(source, place, "TensorFlow is not installed") from error

    for split, columns in (("training", train), ("test", test)):
        if len(columns[image_key]) == 0:
            raise InputError(f"the {split} split of {name!r} is empty; choose another data set")
    label_key = fine_key if entry is None or entry.label == "label" else entry.label
    class_names = {key: tuple(builder.info.features[key].names) for key in keys[1:]}
    hierarchy: dict[str, Any] = {}
    if coarse_key:
        hierarchy = {"coarse": train[coarse_key], "coarse_names": class_names[coarse_key]}
    if label_key != fine_key:
        hierarchy["fine"], hierarchy["fine_test"] = train[fine_key], test[fine_key]
        hierarchy["fine_names"] = class_names[fine_key]
    if entry is None:
        mean, std = channel_statistics(train[image_key])
        entry = Entry(len(class_names[label_key]), mean, std, "none")
    return Dataset(
        name=name,
        train=Examples.from_arrays(train[image_key], train[label_key]),
        test=Examples.from_arrays(test[image_key], test[label_key]),
        num_classes=entry.num_classes,
        class_names=class_names[label_key],
        mean=entry.mean,
        std=entry.std,
        augmentation=entry.augmentation,
        **hierarchy,
    )


def _named(given: str) -> tuple[str, str, Entry | None]:
    """The set's own name without a version, its name for tfds with one, and its row of the table.

    Raises:
        InputError: it is no name of a data set.
    """
    with storage.quiet():
        from tensorflow_datasets.core import naming

        try:
            parsed, options = naming.parse_builder_name_kwargs(given)
        except Exception as error:
            raise _unknown(given, error) from error
    version = f":{options.pop('version')}" if "version" in options else ""
    config = f"/{options.pop('config')}" if "config" in options else ""
    if options or parsed.namespace is not None:
        return given, given, None
    name = parsed.name + config
    entry = TABLE.get(name)
    source = entry.source if entry is not None and entry.source is not None else name
    return name, source + version, entry


def _builder(source: str, place: Path) -> Any:
    """The tfds builder; its data is prepared now if it is not and if that is possible."""
    with storage.quiet():
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder

        try:
            builder = tfds.builder(source, data_dir=place)
        except Exception as error:
            raise _unknown(source, error) from error
        if builder.is_prepared():
            return builder
        with contextlib.suppress(tfds.core.DatasetNotFoundError):  # another version is
            return read_only_builder.builder_from_files(source, data_dir=place)
        if importlib.util.find_spec("tensorflow") is None:
            return builder
        size = tfds.core.utils.Size(sum(file.size for file in (builder.url_infos or {}).values()))
    print(f"preparing {source} in {place}: up to {size} to download", file=sys.stderr, flush=True)
    try:
        with storage.quiet(bars=sys.stderr.isatty()):
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        raise _not_prepared(source, place, storage.sentence(error)) from error
    return builder


def _unknown(name: object, error: Exception) -> InputError:
    """What to say of a name that tfds cannot open."""
    import tensorflow_datasets as tfds

    known = (*TABLE, *tfds.list_builders(with_community_datasets=False))
    sets = f"known data sets are {', '.join(TABLE)} and the image-classification sets of tfds"
    base = str(name).split("/")[0].split(":")[0]
    if base in known:
        return InputError(
            f"tfds cannot open the data set {name!r} ({storage.sentence(error)}); {sets}"
        )
    return InputError(f"unknown data set {name!r}{closest(base, known)}; {sets}")


def _not_prepared(source: str, place: Path, reason: str) -> InputError:
    """What to say of a set that is not there and cannot be prepared."""
    there = sorted(path.name for path in (place / source.split(":")[0]).glob("*.*.*"))
    found = f"only in version {' and '.join(there)}, " if there else ""
    return InputError(
        f"data set {source!r} is not prepared in {place}, {found}and cannot be prepared here "
        f"({reason}); prepare it once where there is a network, with pip install "
        f"'jaxunlearn[tfds-prepare]' and tfds build {source} --data_dir={place} "
        "--file_format=array_record. It must have a train split and a test or validation split."
    )


def _keys(name: str, builder: Any) -> tuple[str, str]:
    """Names of the image and of the label among the set's features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image, label = "image", "label"
    supervised = builder.info.supervised_keys
    if supervised and len(supervised) == 2 and all(isinstance(key, str) for key in supervised):
        image, label = supervised
    found = isinstance(features, tfds.features.FeaturesDict) and image in features
    if not found or label not in features or len(features[image].shape) != 3:
        raise InputError(
            f"data set {name!r} is not for image classification: it must have an image feature of "
            f"rank 3 and a label, got {' '.join(str(features).split())[:200]}"
        )
    pixel, channels = features[image].np_dtype, features[image].shape[-1]
    if isinstance(features[image], tfds.features.Image) and (
        pixel == np.uint16 or channels is None
    ):
        raise InputError(
            f"images of data set {name!r} are {np.dtype(pixel)} with {channels or 'any number of'} "
            "channels, but must be uint8 or float32 with a fixed number of channels; choose "
            "another data set, or prepare one of converted images."
        )
    if not isinstance(features[label], tfds.features.ClassLabel) or not features[label].num_classes:
        raise InputError(
            f"feature {label!r} of data set {name!r} must be a class label with a known number of "
            f"classes, got {features[label]}; choose another data set"
        )
    return image, label


def _splits(name: str, builder: Any) -> tuple[str, str]:
    """Training and test split of a set that is not in the table."""
    known = tuple(builder.info.splits) or ("train", "test")
    test = "test" if "test" in known else "validation"
    for split in ("train", test):
        if split not in known:
            raise InputError(
                f"data set {name!r} must have a train split and a test or validation split, it has "
                f"{', '.join(known)}; choose another data set"
            )
    return "train", test
