"""Data sets by name.

`digits` is read from scikit-learn, `fashion_mnist` and `tiny_imagenet` are read from their folders,
and every other name is one of tfds: those in the table, and any other image-classification set with
features "image" and "label", whose statistics are computed from the training images.

`cifar20` is cifar100 learned by its 20 coarse classes; each fine class in it can be forgotten as a
subclass. `digits_captions` and `fashion_mnist_captions` show the images of these sets in four
styles, by captions: see `jaxunlearn.data.captions`.
"""

import contextlib
import os

import numpy as np

from jaxunlearn.data import captions, storage
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.table import TABLE
from jaxunlearn.home import expanded
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
    """Load a data set into memory; a set of tfds is prepared first where that is possible.

    Args:
        name: one of `available()`, or the name of any image-classification set of tfds.
        data_dir: the folder of prepared sets of tfds; by default $TFDS_DATA_DIR, or else
            `jaxunlearn/data` in the user's cache.
        folder: the four files of fashion_mnist, captioned or not (by default `fashion-mnist` in
            `data_dir`, or else those of Debian's package dataset-fashion-mnist), or the unpacked
            tiny_imagenet (by default `tiny-imagenet-200` in `data_dir`).

    Returns:
        The data set, its images as they are stored.

    Raises:
        InputError: the name is unknown, the data is neither prepared nor can be prepared here, or
            the data is damaged or not fit for classification.

    Example:
        >>> load("digits")
        Dataset('digits', 1442 training and 355 test images of 8x8x1, 10 classes)
    """
    if folder is not None and name not in _WITH_FOLDER:
        raise InputError(
            f"folder= belongs to {', '.join(_WITH_FOLDER)} only, but the data set is {name!r}; "
            "use data_dir= for the place of prepared data"
        )
    if name == "digits":
        return _digits()
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


def _digits() -> Dataset:
    from jaxunlearn.data.digits import read_digits

    return _from_table("digits", read_digits(), tuple(str(digit) for digit in range(10)))


def _fashion_mnist(
    data_dir: str | os.PathLike[str] | None, folder: str | os.PathLike[str] | None
) -> Dataset:
    from jaxunlearn.data import fashion_mnist

    if folder is None:
        with contextlib.suppress(InputError):  # no home folder, and so none for data
            place = storage.data_folder(data_dir) / "fashion-mnist"
            folder = place if place.is_dir() else None
    splits = fashion_mnist.read_folder(folder)
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
        place = expanded(folder)
    splits, class_names = tiny_imagenet.read_folder(place)
    return _from_table("tiny_imagenet", splits, class_names)
