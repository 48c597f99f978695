"""The data set `tiny_imagenet`, read from its unpacked folder with Pillow.

    FOLDER/train/<wnid>/images/*.JPEG      one folder a class
    FOLDER/val/images/*.JPEG               the test split (the official test labels are not public)
    FOLDER/val/val_annotations.txt         file name, wnid, and a box, separated by tabs
    FOLDER/wnids.txt, FOLDER/words.txt     optional: the classes there must be, and their words

Classes are numbered in the order of their sorted wnids, examples in the order of their sorted file
names. Source: Y. Le, X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxunlearn.types import InputError

_MEND = "unpack tiny-imagenet-200.zip (cs231n.stanford.edu) and pass that folder with folder="


def read_folder(
    folder: Path,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Read the whole tree into memory.

    Args:
        folder: the folder that holds `train` and `val`.

    Returns:
        "train" and "test", each a pair: images uint8 `[N, H, W, 3]` and labels int32 `[N]`; and the
        class names, from `words.txt` where there is one, or else the wnids.

    Raises:
        InputError: a folder, file or class is missing, an annotation is malformed, or an image is
            damaged or of another size.
    """
    wnids = _classes(folder)
    number = {wnid: label for label, wnid in enumerate(wnids)}
    train: list[tuple[Path, int]] = []
    for wnid in wnids:
        paths = sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
        if not paths:
            raise InputError(
                f"{folder / 'train' / wnid / 'images'} holds no .JPEG image, but {wnid} is a class "
                f"of this data set; {_MEND}"
            )
        train.extend((path, number[wnid]) for path in paths)
    test = _annotations(folder, number)
    return {"train": _decode(train), "test": _decode(test)}, _class_names(folder, wnids)


def _classes(folder: Path) -> tuple[str, ...]:
    """The sorted wnids: those that `wnids.txt` lists, or else the folders in `train`."""
    if not (folder / "train").is_dir():
        raise InputError(f"tiny_imagenet needs the folder {folder / 'train'}; {_MEND}")
    present = {path.name for path in (folder / "train").iterdir() if path.is_dir()}
    listed = folder / "wnids.txt"
    wanted = set(" ".join(_lines(listed)).split()) if listed.is_file() else present
    missing = sorted(wanted - present)
    if missing:
        raise InputError(
            f"{folder / 'train'} lacks {len(missing)} of the {len(wanted)} classes that wnids.txt "
            f"lists, the first {missing[0]}; {_MEND}"
        )
    if not wanted:
        raise InputError(f"{folder / 'train'} holds no class folder; {_MEND}")
    return tuple(sorted(wanted))


def _annotations(folder: Path, number: dict[str, int]) -> list[tuple[Path, int]]:
    """Path and label of every image that `val_annotations.txt` names, by sorted file name."""
    path = folder / "val" / "val_annotations.txt"
    if not path.is_file():
        raise InputError(f"tiny_imagenet needs the file {path}; {_MEND}")
    examples = []
    for line_number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        parts = line.split("\t")
        if len(parts) < 2 or parts[1] not in number:
            raise InputError(
                f"line {line_number} of {path} must hold a file name and the wnid of a class in "
                f"train, separated by a tab, got {line[:60]!r}; {_MEND}"
            )
        examples.append((folder / "val" / "images" / parts[0], number[parts[1]]))
    if not examples:
        raise InputError(f"{path} names no image; {_MEND}")
    return sorted(examples)


def _class_names(folder: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    words = folder / "words.txt"
    if not words.is_file():
        return wnids
    names = dict(line.split("\t", 1) for line in _lines(words) if "\t" in line)
    return tuple(names.get(wnid, wnid) for wnid in wnids)


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8", errors="replace").splitlines()


def _decode(examples: list[tuple[Path, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Decode to one array; Pillow works outside the interpreter lock, so threads help."""
    first = _image(examples[0][0])
    images = np.empty((len(examples), *first.shape), np.uint8)

    def fill(position: int) -> None:
        path = examples[position][0]
        image = _image(path)
        if image.shape != first.shape:
            raise InputError(
                f"all images must have the size of {examples[0][0]}, {_size(first)} pixels, but "
                f"{path} has {_size(image)}; {_MEND}"
            )
        images[position] = image

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(len(examples))):
            pass
    return images, np.array([label for _, label in examples], np.int32)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _image(path: Path) -> np.ndarray:
    """One image as uint8 `[H, W, 3]`; grey ones, of which there are some, get three channels."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); {_MEND}") from error
