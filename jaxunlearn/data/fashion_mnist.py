"""The data set `fashion_mnist`, read from its four IDX files.

The files come with Debian's package `dataset-fashion-mnist`, or are in any folder, gzipped or not.
Source: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms, 2017 (arXiv 1708.07747).
"""

import os
from pathlib import Path

import numpy as np

from jaxunlearn.data.idx import read_idx
from jaxunlearn.home import expanded
from jaxunlearn.types import InputError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIZE = 28

_PREFIXES = {"train": "train", "test": "t10k"}
_MEND = "install Debian's package dataset-fashion-mnist, or pass folder= (the folder of its files)"


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise InputError(f"fashion_mnist needs {name} or {name}.gz in {folder}, but has none; {_MEND}")


def read_folder(
    folder: str | os.PathLike[str] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read and check the four files.

    Args:
        folder: the folder of the files; None is that of Debian's package.

    Returns:
        "train" and "test", each a pair: images uint8 `[N, 28, 28, 1]` and labels uint8 `[N]`.

    Raises:
        InputError: a file is missing, damaged, empty, of other images, or does not match its pair.
    """
    place = DEBIAN_FOLDER if folder is None else expanded(folder)
    paths = {
        split: (
            _find(place, f"{prefix}-images-idx3-ubyte"),
            _find(place, f"{prefix}-labels-idx1-ubyte"),
        )
        for split, prefix in _PREFIXES.items()
    }
    splits = {}
    for split, (image_path, label_path) in paths.items():
        try:
            images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
        except InputError as error:
            raise InputError(f"{error}, or {_MEND}") from error
        if images.shape[1:] != (SIZE, SIZE):
            raise InputError(
                f"{image_path} must hold images of {SIZE}x{SIZE} pixels, got "
                f"{images.shape[1]}x{images.shape[2]}; {_MEND}"
            )
        if len(images) != len(labels):
            raise InputError(
                f"{image_path} holds {len(images)} images but {label_path} holds {len(labels)} "
                f"labels; take both files from one source, or {_MEND}"
            )
        if len(labels) == 0:
            raise InputError(f"{image_path} holds no image; {_MEND}")
        if labels.max() >= len(CLASS_NAMES):
            raise InputError(
                f"labels in {label_path} must lie in 0 to {len(CLASS_NAMES) - 1}, got "
                f"{labels.max()}; {_MEND}"
            )
        splits[split] = (images[..., None], labels)
    return splits
