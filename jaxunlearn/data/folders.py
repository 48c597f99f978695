"""The user's own images: one folder for each class.

    FOLDER/train/CLASS/...   training images, at any depth
    FOLDER/test/CLASS/...    test images; `val` and `validation` work in place of `test`

or FOLDER/CLASS/... without `train`. Classes are numbered in the order of their sorted names, and
examples in the order of their sorted paths. Without test images, a share of the examples becomes
test data: the images with the smallest SHA-256 of their paths. The choice needs no seed, and new
files change it for few of the others.

Images with captions (`jaxunlearn.data.caption_file`) need no folders of classes: each distinct
caption is a class. Those below `test/` (`val/`, `validation/`) are test images.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxunlearn.data.caption_file import read_captions
from jaxunlearn.data.dataset import Dataset, channel_statistics
from jaxunlearn.data.decoding import SUFFIXES, ImageFile, cache_place, decode
from jaxunlearn.data.examples import Examples
from jaxunlearn.files import write_record
from jaxunlearn.names import closest, first_of
from jaxunlearn.types import InputError

_TEST_NAMES = ("test", "val", "validation")


def read_folder(
    folder: Path,
    cache: Path,
    *,
    image_size: int | None = None,
    test_fraction: float | None = None,
    skip_broken: bool = False,
    captions: Path | None = None,
) -> Dataset:
    """The data set of a folder of images; see `jaxunlearn.data.load` for the arguments."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder, but must hold a folder for each class; correct the path, "
            "or give the new place of data that was moved with --data-dir."
        )
    if captions is None:
        classes, train, test = _by_class(folder, test_fraction)
    else:
        classes, train, test = _by_caption(folder, captions, test_fraction)
    key = (str(folder), image_size, test_fraction, skip_broken, captions and classes)
    place = cache_place(cache, *key)
    files = [*train, *test]
    decoded = decode(folder, files, place, image_size, skip_broken)
    kept = [files[i] for i in decoded.kept]
    split = int(np.sum(decoded.kept < len(train)))
    labels = np.array([file.label for file in kept], np.int32)
    if captions is None:
        check_classes(labels[:split], classes, str(folder))
    image, facts = decoded.image, decoded.facts
    known = "fingerprint" in facts
    if not known:
        mean, std = channel_statistics(image[:split])
        facts |= {"mean": mean, "std": std}
    dataset = Dataset(
        name=f"folder:{folder.name}",
        train=Examples.from_arrays(image[:split], labels[:split]),
        test=Examples.from_arrays(image[split:], labels[split:]),
        num_classes=len(classes),
        class_names=classes,
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        augmentation="none",
        names=tuple(file.name for file in kept[:split]),
        test_names=tuple(file.name for file in kept[split:]),
    )
    if not known:
        facts["fingerprint"] = dataset.fingerprint
        write_record(decoded.record, facts)
    return dataset.with_fingerprint(facts["fingerprint"])


def _by_class(
    folder: Path, test_fraction: float | None
) -> tuple[tuple[str, ...], list[ImageFile], list[ImageFile]]:
    """The classes, the training and the test images of a folder of class folders."""
    train_place = folder / "train" if (folder / "train").is_dir() else folder
    tests = [folder / name for name in _TEST_NAMES if (folder / name).is_dir()]
    test_place = tests[0] if tests and train_place != folder else None
    classes = class_folders(train_place)
    train = _files(folder, train_place, classes)
    if test_place is None:
        train, test = _drawn(folder, train, test_fraction)
    else:
        if test_fraction is not None:
            raise _has_test(test_place, test_fraction)
        others = sorted(set(class_folders(test_place)) - set(classes))
        if others:
            raise InputError(
                f"{test_place} has {len(others)} folders that are no classes of {train_place} "
                f"(first: {first_of(others)}), but must have no others; remove them."
            )
        test = _files(folder, test_place, classes)
    check_classes(np.array([file.label for file in train], int), classes, str(train_place))
    return classes, train, test


def _by_caption(
    folder: Path, path: Path, test_fraction: float | None
) -> tuple[tuple[str, ...], list[ImageFile], list[ImageFile]]:
    """The distinct captions, the training and the test images of a file of captions."""
    captions = read_captions(path, folder)
    there = {file.name.removeprefix("./"): file for file in image_files(folder, folder, 0)}
    missing = sorted(captions.keys() - there.keys())
    if missing:
        raise InputError(
            f"{path} names {len(missing)} images that are not in {folder} ({first_of(missing)}"
            f"{closest(missing[0], there)}), but must name images there; correct the names."
        )
    classes = tuple(sorted(set(captions.values())))
    if len(classes) < 2:
        raise InputError(f"{path} holds the single caption {classes[0]!r}, but must hold two.")
    numbers = {caption: number for number, caption in enumerate(classes)}
    files = [
        there[name]._replace(name=name, label=numbers[captions[name]]) for name in sorted(captions)
    ]
    train = [file for file in files if file.name.partition("/")[0] not in _TEST_NAMES]
    test = [file for file in files if file.name.partition("/")[0] in _TEST_NAMES]
    if not test:
        train, test = _drawn(folder, train, test_fraction)
    elif test_fraction is not None:
        raise _has_test(folder, test_fraction)
    if not train:
        raise InputError(
            f"{path} names test images only, but must name images for training as well."
        )
    if len(files) < len(there):
        left = len(there) - len(files)
        print(f"{left} images without a caption are left out", file=sys.stderr, flush=True)
    return classes, train, test


def _drawn(
    folder: Path, files: list[ImageFile], test_fraction: float | None
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Training images and the test images that are drawn from them."""
    names = [file.name for file in files]
    is_test = drawn_for_test(names, test_fraction, f"{folder} has no folder test")
    pairs = list(zip(files, is_test, strict=True))
    return [file for file, held in pairs if not held], [file for file, held in pairs if held]


def _has_test(place: Path, test_fraction: float) -> InputError:
    return InputError(
        f"test_fraction is {test_fraction}, but {place} has test images; leave it out."
    )


def class_folders(place: Path) -> tuple[str, ...]:
    """The sorted names of the folders in a folder, at least one; hidden ones are ignored."""
    names = [each.name for each in os.scandir(place) if each.is_dir() and each.name[0] != "."]
    if not names:
        raise InputError(f"{place} holds no folder, but must hold a folder for each class.")
    return tuple(sorted(names))


def _files(folder: Path, place: Path, classes: tuple[str, ...]) -> list[ImageFile]:
    """The images of each class in a folder of class folders, in the order of their paths."""
    found = []
    for label, name in enumerate(classes):
        found += image_files(folder, place / name, label)
    if not found:
        raise InputError(
            f"{place} holds no image in {len(classes)} class folders, but must hold at least one, "
            f"with a name that ends in {', '.join(sorted(SUFFIXES))}."
        )
    return found


def image_files(folder: Path, place: Path, label: int) -> list[ImageFile]:
    """The images below `place`, in the order of their paths below `folder`, without hidden ones."""
    found = []

    def unreadable(error: OSError) -> None:
        if place.is_dir():  # a class may be without test images
            raise InputError(
                f"{error.filename} cannot be read ({error.strerror}); allow yourself to read it."
            ) from error

    for root, folders, names in os.walk(place, onerror=unreadable, followlinks=True):
        folders[:] = [
            name for name in folders if name[0] != "." and not _leads_up(os.path.join(root, name))
        ]
        below = Path(root).relative_to(folder).as_posix()
        for name in names:
            if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES:
                try:
                    stat = os.stat(os.path.join(root, name))
                    size, time = stat.st_size, stat.st_mtime_ns
                except OSError:  # a broken link, which is found when the file is decoded
                    size, time = 0, 0
                found.append(ImageFile(f"{below}/{name}", size, time, label))
    return sorted(found)


def _leads_up(path: str) -> bool:
    """Whether a folder is a link to one that it is in, whose images would be found many times."""
    return os.path.islink(path) and Path(path).parent.resolve().is_relative_to(Path(path).resolve())


def drawn_for_test(names: Sequence[str], fraction: float | None, lacking: str) -> np.ndarray:
    """A mask of the test data, bool `[N]`: the examples with the smallest SHA-256 of their names.

    `lacking` begins the error if there is no fraction.

    Example:
        >>> drawn_for_test(["a", "b", "c", "d"], 0.25, "").tolist()
        [False, False, False, True]
    """
    if fraction is None:
        raise InputError(
            f"{lacking}, but needs test data; draw some with --test-fraction 0.2 (test_fraction=)."
        )
    if not 0 < fraction < 1:
        raise InputError(f"test_fraction is {fraction}, but must be between 0 and 1.")
    keys = [hashlib.sha256(os.fsencode(name)).digest() for name in names]
    count = max(int(fraction * len(names) + 0.5), 1)
    drawn = np.zeros(len(names), bool)
    drawn[sorted(range(len(names)), key=keys.__getitem__)[:count]] = True
    return drawn


def check_classes(labels: np.ndarray, classes: tuple[str, ...], where: str) -> None:
    """Raises unless there are several classes, each with a training example."""
    if len(classes) < 2:
        raise InputError(
            f"{where} holds the single class {classes[0]!r}, but must hold at least two."
        )
    counts = np.bincount(labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise InputError(
            f"{len(empty)} of the {len(classes)} classes of {where} have no training example "
            f"(first: {first_of(map(repr, empty))}), but must have at least one; add some, remove "
            "the class, or choose another test_fraction."
        )
