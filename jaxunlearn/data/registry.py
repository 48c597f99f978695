"""Data sets by name.

`digits` and `fashion_mnist` are prepared here without TensorFlow, `tiny_imagenet` is read from its
folder, and every other name is one of tfds: those in the table, and any other image-classification
set with features "image" and "label", whose statistics are computed from the training images.

`cifar20` is cifar100 learned by its 20 coarse classes; each fine class in it can be forgotten as a
subclass. `digits_captions` and `fashion_mnist_captions` show the images of these sets in four
styles, by captions: see `jaxunlearn.data.captions`.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.data import captions, storage
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.table import TABLE
from jaxunlearn.types import InputError

_WITH_FOLDER = ("fashion_mnist", "fashion_mnist_captions", "tiny_imagenet")
_CAPTIONS = "_captions"


def available() -> tuple[str, ...]:
    """Names that `load` knows by heart; it takes the image sets of tfds by their names as well.

    Example:
        >>> "digits" in available()
        True
    """
    return tuple(TABLE)


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load a data set into memory, after preparing it where that is possible.

    Args:
        name: one of `available()`, or the name of any image-classification set of tfds.
        data_dir: where prepared data lies or shall lie; by default $TFDS_DATA_DIR, or else
            `jaxunlearn/data` in the user's cache.
        folder: the files to prepare fashion_mnist from, captioned or not (by default those of
            Debian's package dataset-fashion-mnist), or the unpacked tiny_imagenet (by default
            `tiny-imagenet-200` in `data_dir`).

    Returns:
        The data set, its images as they are stored.

    Raises:
        InputError: the name is unknown, the data is neither prepared nor can be prepared here, or
            the data is damaged or not fit for classification.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     load("digits", data_dir=place)
        Dataset('digits', 1442 training and 355 test images of 8x8x1, 10 classes)
    """
    if folder is not None and name not in _WITH_FOLDER:
        raise InputError(
            f"folder= belongs to {', '.join(_WITH_FOLDER)} only, but the data set is {name!r}; "
            "use data_dir= for the place of prepared data"
        )
    if name == "digits":
        return _digits(data_dir)
    if name == "fashion_mnist":
        return _fashion_mnist(data_dir, folder)
    if name == "tiny_imagenet":
        return _tiny_imagenet(data_dir, folder)
    if name in TABLE and name.endswith(_CAPTIONS):
        plain = name.removesuffix(_CAPTIONS)
        return _captioned(name, load(plain, data_dir=data_dir, folder=folder))

    from jaxunlearn.data.tfds_sets import load_tfds

    return load_tfds(name, storage.data_folder(data_dir))


def _from_table(
    name: str, splits: dict[str, tuple[np.ndarray, np.ndarray]], class_names: tuple[str, ...]
) -> Dataset:
    entry = TABLE[name]
    return Dataset(
        name=name,
        train=Examples.from_arrays(*splits["train"]),
        test=Examples.from_arrays(*splits["test"]),
        num_classes=len(class_names),
        class_names=class_names,
        mean=entry.mean,
        std=entry.std,
        augmentation=entry.augmentation,
    )


def _read_both(builder: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    splits = {}
    for split in ("train", "test"):
        image, label = storage.read(builder, split, ("image", "label"))
        splits[split] = (image, label)
    return splits


def _digits(data_dir: str | os.PathLike[str] | None) -> Dataset:
    from jaxunlearn.data.digits import JaxunlearnDigits

    place = storage.data_folder(data_dir)
    builder = storage.prepare(JaxunlearnDigits, place)
    return _from_table("digits", _read_both(builder), tuple(str(digit) for digit in range(10)))


def _fashion_mnist(
    data_dir: str | os.PathLike[str] | None, folder: str | os.PathLike[str] | None
) -> Dataset:
    from jaxunlearn.data import fashion_mnist

    place = storage.data_folder(data_dir)
    builder_class = fashion_mnist.JaxunlearnFashionMnist
    # Bad files are refused here, before anything is written.
    missing = not storage.is_prepared(storage.open_builder(builder_class, place))
    files = fashion_mnist.read_folder(folder) if missing or folder is not None else None
    builder = storage.prepare(builder_class, place, folder=folder)
    splits = _read_both(builder)
    if files is not None and not all(
        np.array_equal(prepared, original)
        for split in files
        for prepared, original in zip(splits[split], files[split], strict=True)
    ):
        raise InputError(
            f"fashion_mnist in {builder.data_dir} was prepared from other files than those in "
            f"{folder}; remove that folder, or choose another place with data_dir="
        )
    return _from_table("fashion_mnist", splits, fashion_mnist.CLASS_NAMES)


def _captioned(name: str, plain: Dataset) -> Dataset:
    subjects = captions.SUBJECTS[plain.name]
    splits = {
        split: captions.captioned(examples, len(subjects))
        for split, examples in (("train", plain.train), ("test", plain.test))
    }
    return _from_table(name, splits, captions.captions(subjects))


def _tiny_imagenet(
    data_dir: str | os.PathLike[str] | None, folder: str | os.PathLike[str] | None
) -> Dataset:
    from jaxunlearn.data import tiny_imagenet

    if folder is None:
        place = storage.data_folder(data_dir) / "tiny-imagenet-200"
    else:
        place = Path(folder).expanduser().absolute()
    splits, class_names = tiny_imagenet.read_folder(place)
    return _from_table("tiny_imagenet", splits, class_names)
