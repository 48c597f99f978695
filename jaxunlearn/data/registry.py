"""Data sets by name.

`digits` comes with scikit-learn, `fashion_mnist` and `tiny_imagenet` are read from folders, and
every other name is a tfds data set: one in the table, or any other image-classification set, whose
statistics are computed from its training images. The user's own data has a name with a prefix,
such as `folder:images`, or is returned by a function, `my_package.data:load`; see
`jaxunlearn.data.own`.

`cifar20` is cifar100 with its 20 coarse classes as labels, so that a fine class can be forgotten as
a subclass. `digits_captions` and `fashion_mnist_captions` show the images of these sets in four
styles; see `jaxunlearn.data.captions`.
"""

import inspect
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxunlearn import plugins
from jaxunlearn.data import captions
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.own import Reading, called, own_kind, read_own
from jaxunlearn.data.table import TABLE
from jaxunlearn.home import expanded, user_cache
from jaxunlearn.objects import is_object_path, load_object
from jaxunlearn.types import InputError

_CAPTIONS = "_captions"
_REMEDIES = {
    "fashion_mnist": "install Debian's package dataset-fashion-mnist, or give the folder of its "
    "four files with --folder (folder=).",
    "tiny_imagenet": "unpack tiny-imagenet-200.zip (cs231n.stanford.edu), and give its folder with "
    "--folder (folder=).",
}
_WITH_FOLDER = (*_REMEDIES, "fashion_mnist_captions")
_LOADERS: dict[str, Callable[[], Dataset]] = {}
_Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # images and labels of "train" and "test"


def available() -> tuple[str, ...]:
    """Names in the table; `load` also takes other names.

    Example:
        >>> "digits" in available()
        True
    """
    return (*TABLE, *_LOADERS)


def register(loader: Callable[[], Dataset]) -> Callable[[], Dataset]:
    """A decorator that adds a custom data set by its name, for `load` and for every command.

    Args:
        loader: a function without arguments that returns the data set, the same one each time.

    Raises:
        InputError: the name of another data set, or a function with arguments.

    Example::

        @data.register
        def few_digits():
            digits = data.load("digits")
            return replace(digits, name="few_digits", train=digits.train.take(np.arange(100)))
    """
    name, signature = loader.__name__, inspect.signature(loader)
    if any(parameter.default is parameter.empty for parameter in signature.parameters.values()):
        raise InputError(f"data set {name} takes {signature}, but must take no arguments.")
    plugins.claim("data set", name, TABLE)
    _LOADERS[name] = loader
    return loader


def registered() -> dict[str, tuple[None, str]]:
    """The first lines of the docstrings of custom data sets, by name, for lists."""
    docs = {name: inspect.getdoc(loader) or "" for name, loader in _LOADERS.items()}
    return {name: (None, text.partition("\n")[0]) for name, text in docs.items()}


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    reading: Reading = Reading(),
) -> Dataset:
    """Load a data set; a missing tfds data set is prepared first, if possible.

    Args:
        name: one of `available()`; the name of any tfds image-classification set; `folder:DIR`,
            a folder with a folder of images for each class, in `train` and `test` or without;
            `npz:FILE` or `csv:FILE`, arrays of images or features; or `module:function`, which
            returns the `Dataset`.
        data_dir: folder of prepared tfds data sets and of decoded images; by default
            $TFDS_DATA_DIR, or else `jaxunlearn/data` in the user's cache.
        folder: folder of the four files of fashion_mnist, captioned or not (by default
            `fashion-mnist` in `data_dir`, or else the folder of Debian's package
            dataset-fashion-mnist), or of the unpacked tiny_imagenet (by default
            `tiny-imagenet-200` in `data_dir`); or the DIR or FILE of the user's own data, if the
            name is only "folder", "npz" or "csv".
        reading: options for the user's own data.

    Returns:
        The data set, with its images as stored.

    Raises:
        InputError: the name is unknown, the data is not prepared and cannot be prepared here, or
            the data is damaged or unfit for classification.

    Example:
        >>> load("digits")
        Dataset('digits', 1442 training and 355 test images of 8x8x1, 10 classes)
    """
    own = own_kind(name) if isinstance(name, str) else None
    reading.check(own[0] if own else None)
    if own is not None:
        kind, path = own
        if not path and folder is None:
            raise InputError(
                f"data is {name!r}, but must have a path as well, such as {kind}:PATH."
            )
        return read_own(
            kind, expanded(path or folder or ""), lambda: data_folder(data_dir), reading
        )
    if isinstance(name, str) and is_object_path(name):
        return called(load_object(name, "the data"), name)
    if folder is not None and name not in _WITH_FOLDER:
        raise InputError(
            f"folder= is for {', '.join(_WITH_FOLDER)} only, but the data set is {name!r}; give "
            "the folder of prepared data with data_dir=."
        )
    if name in _LOADERS:
        return called(_LOADERS[name], f"{name}()")
    if name == "digits":
        from jaxunlearn.data.digits import read_digits

        return _from_table(name, read_digits(), tuple("0123456789"))
    if name in _REMEDIES:
        return _from_table(name, *_read(name, _place(name, data_dir, folder), data_dir))
    if name in TABLE and name.endswith(_CAPTIONS):
        plain = load(name.removesuffix(_CAPTIONS), data_dir=data_dir, folder=folder)
        subjects = captions.SUBJECTS[plain.name]
        splits = {
            split: captions.captioned(examples, len(subjects))
            for split, examples in (("train", plain.train), ("test", plain.test))
        }
        return _from_table(name, splits, captions.captions(subjects))

    from jaxunlearn.data.tfds_sets import load_tfds

    return load_tfds(name, data_folder(data_dir))


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The absolute path of the folder of prepared data sets, which may not exist.

    None means $TFDS_DATA_DIR, or else `jaxunlearn/data` in the user's cache.
    """
    given = data_dir if data_dir is not None else os.environ.get("TFDS_DATA_DIR") or None
    if given is not None:
        return expanded(given)
    cache = user_cache()
    if cache is None:
        raise InputError(
            "the home folder is unknown, but must be known to hold prepared data; give another "
            "folder with --data-dir (data_dir=), or set TFDS_DATA_DIR or XDG_CACHE_HOME."
        )
    return cache.absolute() / "jaxunlearn" / "data"


def _place(
    name: str, data_dir: str | os.PathLike[str] | None, folder: str | os.PathLike[str] | None
) -> Path:
    """The folder of a data set that is read from files."""
    if folder is not None:
        return expanded(folder)
    if name == "tiny_imagenet":
        return data_folder(data_dir) / "tiny-imagenet-200"

    from jaxunlearn.data import fashion_mnist

    try:
        place = data_folder(data_dir) / "fashion-mnist"
    except InputError:  # the home folder is unknown
        return fashion_mnist.DEBIAN_FOLDER
    return place if place.is_dir() else fashion_mnist.DEBIAN_FOLDER


def _read(
    name: str, place: Path, data_dir: str | os.PathLike[str] | None
) -> tuple[_Pairs, tuple[str, ...]]:
    """The splits of a data set that is read from files, and the names of its classes."""
    from jaxunlearn.data import fashion_mnist, tiny_imagenet

    try:
        if name == "tiny_imagenet":
            return tiny_imagenet.read_tiny_imagenet(place, data_folder(data_dir))
        return fashion_mnist.read_fashion_mnist(place), fashion_mnist.CLASS_NAMES
    except InputError as error:
        raise InputError(
            f"{str(error).partition(';')[0].rstrip('.')}; {_REMEDIES[name]}"
        ) from error


def _from_table(name: str, splits: _Pairs, class_names: tuple[str, ...]) -> Dataset:
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
