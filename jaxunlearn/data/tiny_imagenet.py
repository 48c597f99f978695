"""Tiny ImageNet, as its archive is unpacked.

    FOLDER/train/CLASS/...          training images
    FOLDER/val/val_annotations.txt  file name in `val/images` and class, separated by a tab
    FOLDER/wnids.txt                classes; by default all folders in `train`
    FOLDER/words.txt                class and name, separated by a tab; optional

Source: Y. Le, X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015.
"""

from pathlib import Path

import numpy as np

from jaxunlearn.data.decoding import ImageFile, cache_place, decode
from jaxunlearn.data.folders import check_classes, class_folders, image_files
from jaxunlearn.names import first_of
from jaxunlearn.types import InputError


def read_tiny_imagenet(
    folder: Path, cache: Path
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """All images of the folder, decoded once into `cache`, and the class names.

    Returns:
        "train" and "test", each a pair: images uint8 `[N, H, W, 3]` and labels int32 `[N]`; and the
        class names.

    Raises:
        InputError: a folder, file or class is missing, a list is malformed, or an image is damaged
            or of another size.
    """
    train, listed = folder / "train", folder / "wnids.txt"
    if not train.is_dir():
        raise InputError(f"{train} is not a folder, but must hold a folder for each class.")
    present = class_folders(train)
    classes = tuple(sorted(set(" ".join(_lines(listed)).split()))) or present
    missing = sorted(set(classes) - set(present))
    if missing:
        raise InputError(
            f"{train} lacks {len(missing)} of the {len(classes)} classes in {listed} (first: "
            f"{first_of(missing)}), but must have a folder for each."
        )
    files = [
        each for i, name in enumerate(classes) for each in image_files(folder, train / name, i)
    ]
    split = len(files)
    files += _annotated(folder / "val" / "val_annotations.txt", classes)
    labels = np.array([file.label for file in files], np.int32)
    check_classes(labels[:split], classes, str(train))
    image = decode(folder, files, cache_place(cache, str(folder)), None, skip_broken=False).image
    names = dict(line.split("\t", 1) for line in _lines(folder / "words.txt") if "\t" in line)
    splits = {"train": (image[:split], labels[:split]), "test": (image[split:], labels[split:])}
    return splits, tuple(names.get(name, name) for name in classes)


def _annotated(path: Path, classes: tuple[str, ...]) -> list[ImageFile]:
    """The images listed in `val_annotations.txt`, by sorted file name."""
    if not path.is_file():
        raise InputError(f"{path} does not exist, but must list the test images.")
    labels = {name: label for label, name in enumerate(classes)}
    files = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        if not rest or rest[0] not in labels:
            raise InputError(
                f"line {number} of {path} is {line[:60]!r}, but must hold a file name and a class "
                "of train, separated by a tab."
            )
        image = path.parent / "images" / name
        stat = image.stat() if image.is_file() else None
        size, time = (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)
        files.append(ImageFile(f"val/images/{name}", size, time, labels[rest[0]]))
    if not files:
        raise InputError(f"{path} names no image, but must name at least one.")
    return sorted(files)


def _lines(path: Path) -> list[str]:
    """The lines of a file; none if it does not exist."""
    return path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
