"""The data set `fashion_mnist`, read from its four IDX files.

The files are in Debian's package `dataset-fashion-mnist`, or in any folder, gzipped or not. An IDX
file has a big-endian header (two zero bytes, the type, the number of axes, and the length of each
axis as a 32-bit number) before the bytes of its array.

Source: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms, 2017 (arXiv 1708.07747); the format: Y. LeCun, C. Cortes and C. Burges,
The MNIST database of handwritten digits, 1998.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from jaxunlearn.types import InputError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_NAMES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
CLASS_NAMES = tuple(_NAMES.split(", "))

_SIDE = 28  # pixels
_UNSIGNED_BYTE = 0x08


def read_fashion_mnist(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The training and test split: images uint8 `[N, 28, 28, 1]`, labels uint8 `[N]` each."""
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        image_path = _find(folder, f"{prefix}-images-idx3-ubyte")
        label_path = _find(folder, f"{prefix}-labels-idx1-ubyte")
        images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
        if images.shape[1:] != (_SIDE, _SIDE):
            raise InputError(
                f"images in {image_path} are {images.shape[1]}x{images.shape[2]} pixels, but must "
                f"be {_SIDE}x{_SIDE}."
            )
        if len(images) != len(labels):
            raise InputError(
                f"{image_path} holds {len(images)} images and {label_path} {len(labels)} labels, "
                "but must hold the same number; take both files from one source."
            )
        if len(labels) == 0:
            raise InputError(f"{image_path} holds no image, but must hold at least one.")
        if labels.max() >= len(CLASS_NAMES):
            raise InputError(
                f"a label in {label_path} is {labels.max()}, but must be from 0 to "
                f"{len(CLASS_NAMES) - 1}."
            )
        splits[split] = (images[..., None], labels)
    return splits


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise InputError(f"{folder} has no {name} or {name}.gz, which fashion_mnist needs.")


def read_idx(path: Path, rank: int) -> np.ndarray:
    """The uint8 array of an IDX file with `rank` axes; a file named `.gz` is decompressed."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged or unreadable ({error}); fetch it again.") from error
    header = 4 + 4 * rank
    magic = bytes([0, 0, _UNSIGNED_BYTE, rank])
    if data[:4] != magic:
        raise InputError(
            f"{path} begins with {data[:4].hex(' ') or 'nothing'}, but must begin with the IDX "
            f"bytes {magic.hex(' ')} (unsigned bytes, {rank} axes); fetch it again."
        )
    if len(data) < header:
        raise InputError(f"{path} ends inside its header of {header} bytes; fetch it again.")
    shape = struct.unpack(f">{rank}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise InputError(
            f"{path} holds {len(data) - header} bytes after its header, but must hold "
            f"{math.prod(shape)} for the shape {shape}; fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
