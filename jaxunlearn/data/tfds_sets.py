"""Any tfds image-classification set, by its name.

Reading needs no TensorFlow, only a data set that was prepared in a format with random access. If
TensorFlow is installed, a missing data set is prepared first.
"""

import contextlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.data.dataset import Dataset, channel_statistics
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.table import TABLE, Entry
from jaxunlearn.files import quiet
from jaxunlearn.names import closest
from jaxunlearn.types import InputError

_BLOCK = 1024  # records read at a time


def load_tfds(given: str, place: Path) -> Dataset:
    """Load a tfds data set from the folder of prepared data.

    Args:
        given: a tfds name such as "cifar10" or "cmaterdb/bangla", or a name in the table. A version
            may follow, as in "cifar10:3.0.2"; the default is the version of the installed tfds, or
            else the newest prepared one.
        place: folder of prepared data.

    Returns:
        The data set. Data sets in the table have its settings, in every version; for others the
        statistics come from the training images, and there is no augmentation.

    Raises:
        InputError: as in `jaxunlearn.data.load`.
    """
    name, source, entry = _named(given)
    builder = _builder(source, place)
    image_key, fine_key = _keys(name, builder)
    coarse_key = entry.coarse if entry else None
    train_split, test_split = (entry.train, entry.test) if entry else _splits(name, builder)
    keys = (image_key, fine_key, coarse_key) if coarse_key else (image_key, fine_key)
    try:
        train, test = (
            dict(zip(keys, _read(builder, split, keys), strict=True))
            for split in (train_split, test_split)
        )
    except InputError as error:
        with _quiet():
            prepared = builder.is_prepared()
        if prepared:
            raise
        raise _not_prepared(source, place, "TensorFlow is not installed") from error

    for split, columns in (("training", train), ("test", test)):
        if len(columns[image_key]) == 0:
            raise InputError(
                f"the {split} split of {name!r} is empty, but must hold at least one example; "
                "choose another data set."
            )
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
    """The data set's name without a version, its tfds name with one, and its row of the table."""
    with _quiet():
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
    """The tfds builder, with its data prepared if that is possible."""
    with _quiet():
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
        with _quiet(bars=sys.stderr.isatty()):
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        raise _not_prepared(source, place, _sentence(error)) from error
    return builder


def _unknown(name: object, error: Exception) -> InputError:
    """The error for a name that tfds cannot open."""
    import tensorflow_datasets as tfds

    known = (*TABLE, *tfds.list_builders(with_community_datasets=False))
    sets = (
        f"known data sets are {', '.join(TABLE)}, all image-classification sets of tfds, and your "
        "own as folder:DIR, npz:FILE, csv:FILE or module:function"
    )
    base = str(name).split("/")[0].split(":")[0]
    if base in known:
        return InputError(f"tfds cannot open the data set {name!r} ({_sentence(error)}); {sets}.")
    return InputError(f"unknown data set {name!r}{closest(base, known)}; {sets}.")


def _not_prepared(source: str, place: Path, reason: str) -> InputError:
    """The error for a data set that is absent and cannot be prepared."""
    there = sorted(path.name for path in (place / source.split(":")[0]).glob("*.*.*"))
    found = f"only in version {' and '.join(there)}, " if there else ""
    return InputError(
        f"data set {source!r} is not prepared in {place}, {found}and cannot be prepared here "
        f"({reason}); prepare it on a machine with a network, with pip install "
        f"'jaxunlearn[tfds-prepare]' and tfds build {source} --data_dir={place} "
        "--file_format=array_record. It must have a train split and a test or validation split."
    )


def _keys(name: str, builder: Any) -> tuple[str, str]:
    """Names of the image and of the label among the data set's features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image, label = "image", "label"
    supervised = builder.info.supervised_keys
    if supervised and len(supervised) == 2 and all(isinstance(key, str) for key in supervised):
        image, label = supervised
    found = isinstance(features, tfds.features.FeaturesDict) and image in features
    if not found or label not in features or len(features[image].shape) != 3:
        raise InputError(
            f"data set {name!r} has the features {' '.join(str(features).split())[:200]}, but must "
            "have an image of rank 3 and a label; choose another data set."
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
            f"feature {label!r} of data set {name!r} is {features[label]}, but must be a class "
            "label with a known number of classes; choose another data set."
        )
    return image, label


def _splits(name: str, builder: Any) -> tuple[str, str]:
    """Training and test split of a data set that is not in the table."""
    known = tuple(builder.info.splits) or ("train", "test")
    test = next((name for name in ("test", "val") if name in known), "validation")
    for split in ("train", test):
        if split not in known:
            raise InputError(
                f"data set {name!r} has the splits {', '.join(known)}, but must have a train split "
                "and a test or validation split; choose another data set."
            )
    return "train", test


@contextlib.contextmanager
def _quiet(bars: bool = False) -> Iterator[None]:
    """Silences the logs, the banners and (unless `bars`) the progress bars of tfds."""
    from tensorflow_datasets.core.utils import tqdm_utils

    before = tqdm_utils._active
    tqdm_utils.display_progress_bar(bars)
    try:
        stderr = sys.stderr if bars else io.StringIO()
        out, err = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr)
        with quiet(), out, err:
            yield
    finally:
        tqdm_utils.display_progress_bar(before)


def _read(builder: Any, split: str, names: tuple[str, ...]) -> list[np.ndarray]:
    """Some features of a whole split in memory, in stored order; `names` begins with the image."""
    columns: list[list[np.ndarray]] = [[] for _ in names]
    shapes: set[tuple[int, ...]] = set()
    try:
        with _quiet():
            source = builder.as_data_source(split=split)
            for start in range(0, len(source), _BLOCK):
                positions = list(range(start, min(start + _BLOCK, len(source))))
                records = _records(source, positions)
                shapes |= {np.shape(record[names[0]]) for record in records}
                if len(shapes) > 1:
                    break
                for column, name in zip(columns, names, strict=True):
                    column.append(np.stack([record[name] for record in records]))
    except Exception as error:
        raise InputError(
            f"the prepared data in {builder.data_dir} cannot be read ({_sentence(error)}); prepare "
            "it again, in the format array_record, if its files are damaged or of another format."
        ) from error
    if len(shapes) > 1:
        raise InputError(
            f"images of {builder.name!r} have the shapes "
            f"{' and '.join(str(shape) for shape in sorted(shapes)[:2])}, but must all have one; "
            "resize them first."
        )
    return [np.concatenate(column) if column else np.zeros(0) for column in columns]


def _records(source: Any, positions: list[int]) -> list[dict[str, Any]]:
    """The records at these positions; one call is far faster than many."""
    try:
        return list(source.__getitems__(positions))
    except TypeError:
        # The sources of tfds.testing.mock_data read one record at a time only.
        return [source[position] for position in positions]


def _sentence(error: Exception) -> str:
    """The first line of an error, after its type."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
