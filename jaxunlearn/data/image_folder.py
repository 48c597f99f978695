"""Labelled images in a folder of class folders, read with Pillow; Tiny ImageNet is one.

    FOLDER/train/CLASS/...          training images, at any depth
    FOLDER/test/CLASS/...           test images; `val` works in place of `test`

Classes are numbered in the order of their sorted names, and examples in the order of their sorted
paths. Three files of Tiny ImageNet are used where present:

    FOLDER/wnids.txt                required classes; other folders are left out
    FOLDER/words.txt                class and name, separated by a tab
    FOLDER/val/val_annotations.txt  file name in `val/images` and class, separated by a tab

Source: Y. Le, X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxunlearn.types import InputError

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_Listed = list[tuple[Path, int]]  # the path and the label of each example


def read_image_folder(
    folder: Path,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """All images of a folder, and its class names.

    Returns:
        "train" and "test", each a pair: images uint8 `[N, H, W, 3]` and labels int32 `[N]`; and the
        class names.

    Raises:
        InputError: a folder, file or class is missing, a list is malformed, or an image is damaged
            or of another size.
    """
    classes = _classes(folder)
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.is_file():
        test = _annotated(annotations, classes)
    else:
        places = [folder / name for name in ("test", "val")]
        places = [place for place in places if (place / classes[0]).is_dir()]
        if not places:
            raise InputError(
                f"{folder} has no test images, but must have {annotations}, or a folder "
                f"{classes[0]} in test or val."
            )
        test = _listed(places[0], classes)
    splits = {"train": _decoded(_listed(folder / "train", classes)), "test": _decoded(test)}
    return splits, _class_names(folder / "words.txt", classes)


def _classes(folder: Path) -> tuple[str, ...]:
    """The sorted names of the classes: those in `wnids.txt`, or else of the folders in `train`."""
    train, listed = folder / "train", folder / "wnids.txt"
    if not train.is_dir():
        raise InputError(f"{train} is not a folder, but must hold a folder for each class.")
    present = {path.name for path in train.iterdir() if path.is_dir() and path.name[0] != "."}
    classes = set(" ".join(_lines(listed)).split()) if listed.is_file() else present
    missing = sorted(classes - present)
    if missing:
        raise InputError(
            f"{train} lacks {len(missing)} of the {len(classes)} classes in {listed} (first: "
            f"{missing[0]}), but must have a folder for each."
        )
    if not classes:
        raise InputError(f"{train} holds no folder, but must hold a folder for each class.")
    return tuple(sorted(classes))


def _listed(place: Path, classes: tuple[str, ...]) -> _Listed:
    """The images in each class folder of a split."""
    examples: _Listed = []
    for label, name in enumerate(classes):
        paths = sorted(
            path
            for path in (place / name).rglob("*")
            if path.suffix.lower() in _SUFFIXES and path.name[0] != "."
        )
        if not paths:
            raise InputError(f"{place / name} holds no image, but must hold at least one.")
        examples.extend((path, label) for path in paths)
    return examples


def _annotated(path: Path, classes: tuple[str, ...]) -> _Listed:
    """The images listed in `val_annotations.txt`, by sorted file name."""
    labels = {name: label for label, name in enumerate(classes)}
    examples = []
    for line_number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        parts = line.split("\t")
        if len(parts) < 2 or parts[1] not in labels:
            raise InputError(
                f"line {line_number} of {path} is {line[:60]!r}, but must hold a file name and a "
                "class of train, separated by a tab."
            )
        examples.append((path.parent / "images" / parts[0], labels[parts[1]]))
    if not examples:
        raise InputError(f"{path} names no image, but must name at least one.")
    return sorted(examples)


def _class_names(words: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    lines = _lines(words) if words.is_file() else []
    names = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(names.get(name, name) for name in classes)


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8", errors="replace").splitlines()


def _decoded(examples: _Listed) -> tuple[np.ndarray, np.ndarray]:
    """The images in one array; Pillow releases the interpreter lock, so threads help."""
    first = _image(examples[0][0])
    images = np.empty((len(examples), *first.shape), np.uint8)

    def fill(position: int) -> None:
        path = examples[position][0]
        image = _image(path)
        if image.shape != first.shape:
            raise InputError(
                f"{path} has {image.shape[1]}x{image.shape[0]} pixels, but must have "
                f"{first.shape[1]}x{first.shape[0]}, like {examples[0][0]}."
            )
        images[position] = image

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(examples))))
    return images, np.array([label for _, label in examples], np.int32)


def _image(path: Path) -> np.ndarray:
    """One image as uint8 `[H, W, 3]`; grey images get three equal channels."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is missing or damaged ({error}).") from error
