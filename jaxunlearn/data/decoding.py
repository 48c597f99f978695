"""Image files of any size and mode as one array, decoded once and kept on the disk.

The array is memory-mapped, so a data set may be larger than memory. It is decoded again when the
name, the size or the time of a file has changed, or its class.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from jaxunlearn.files import read_record, replacing, write_record
from jaxunlearn.types import InputError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_ORIENTATION = 0x0112  # in EXIF
_FORMAT = 1  # of the cache: a new one makes old ones invalid
_BLOCK, _AHEAD = 32, 64  # files that a thread decodes at once; such blocks in memory at most


class ImageFile(NamedTuple):
    """An image file, and its place in the data set.

    Attributes:
        name: path below the folder of the data set, with / between its parts.
        size: size in bytes.
        time: time of the last change in nanoseconds.
        label: number of its class.
    """

    name: str
    size: int
    time: int
    label: int


class Decoded(NamedTuple):
    """Decoded images, memory-mapped, and the positions of their files in the list of files.

    Attributes:
        image: images.  # shape=(M, H, W, C), dtype=uint8
        kept: position of the file of each image; broken files are left out.  # shape=(M,)
        facts: content of the record of these images, which the owner of the data may extend.
        record: path of the record.
    """

    image: np.ndarray
    kept: np.ndarray
    facts: dict[str, Any]
    record: Path


class _Colour(Exception):
    """A colour image among images that began grey."""


def cache_place(cache: Path, *key: Any) -> Path:
    """The folder for the images of one data set and reading, in the folder of all caches."""
    return cache / "folders" / hashlib.sha256(os.fsencode(repr(key))).hexdigest()[:16]


def decode(
    folder: Path, files: Sequence[ImageFile], cache: Path, size: int | None, skip_broken: bool
) -> Decoded:
    """All images of a list of files: from the cache, or decoded into it.

    Images are turned by their EXIF orientation. They have one channel if all files are grey,
    and three otherwise; transparency is dropped, and 16-bit images are scaled to 8 bits.

    Args:
        folder: folder of the data set.
        files: the files, in the order of the array.
        cache: folder of the cached array.
        size: side of the square that images are resized to: the shorter side is scaled to it, and
            the middle is cut out. None keeps the size, which must be the same for all.
        skip_broken: whether broken files are left out, rather than refused.

    Raises:
        InputError: broken files, images of several sizes without `size`, or a cache that cannot be
            written.
    """
    stamp = hashlib.sha256(
        json.dumps([_FORMAT, size, skip_broken, list(map(list, files))]).encode()
    ).hexdigest()
    path, array = cache / "images.json", cache / "images.npy"
    facts = {}
    with contextlib.suppress(InputError):
        facts = read_record(path)
    if facts.get("stamp") == stamp:
        with contextlib.suppress(OSError, ValueError):
            return _opened(array, facts, path)
    path.unlink(missing_ok=True)
    with replacing(array) as place:
        broken = _decode_all(folder, files, place, size, skip_broken)
    facts = {"stamp": stamp, "files": len(files), "broken": broken}
    write_record(path, facts)
    return _opened(array, facts, path)


def _opened(array: Path, facts: dict[str, Any], path: Path) -> Decoded:
    kept = np.setdiff1d(np.arange(facts["files"]), facts["broken"])
    return Decoded(np.load(array, mmap_mode="r")[: len(kept)], kept, facts, path)


def _decode_all(
    folder: Path, files: Sequence[ImageFile], place: Path, size: int | None, skip_broken: bool
) -> list[int]:
    """Writes the array of all images that are not broken; returns the positions of the others."""
    from PIL import Image

    if size is not None:
        _check_room(place, (len(files), size, size))
    print(f"reading {len(files):,} images of {folder}", file=sys.stderr, flush=True)
    with warnings.catch_warnings(category=Image.DecompressionBombWarning, action="ignore"):
        try:
            images, broken = _attempt(folder, files, place, size, grey=True)
        except _Colour:
            images, broken = _attempt(folder, files, place, size, grey=False)
    if broken and (not skip_broken or images is None):
        shown = ", ".join(f"{files[i].name} ({reason})" for i, reason in list(broken.items())[:3])
        skip = "" if skip_broken else ", or leave them out with --broken skip (broken='skip')"
        raise InputError(
            f"{len(broken)} of the {len(files):,} images of {folder} cannot be read, such as "
            f"{shown}; repair or remove them{skip}."
        )
    if broken:
        print(f"{len(broken)} broken images are left out", file=sys.stderr, flush=True)
    return sorted(broken)


def _attempt(
    folder: Path, files: Sequence[ImageFile], place: Path, size: int | None, grey: bool
) -> tuple[np.ndarray | None, dict[int, str]]:
    """Decodes all files into an array of one channel or three, and collects the broken ones."""
    images: np.ndarray | None = None
    first, done, broken = "", 0, {}

    def some(start: int) -> list[np.ndarray | str]:
        return [image_of(folder / file.name, size, grey) for file in files[start : start + _BLOCK]]

    with ThreadPoolExecutor(os.cpu_count()) as pool, _progress(len(files)) as advance:
        starts = range(0, len(files), _BLOCK)
        windows = (pool.map(some, starts[i : i + _AHEAD]) for i in range(0, len(starts), _AHEAD))
        decoded = itertools.chain.from_iterable(itertools.chain.from_iterable(windows))
        for position, image in enumerate(decoded):
            advance()
            if isinstance(image, str):
                broken[position] = image
                continue
            if images is None:
                first = files[position].name
                shape = (len(files), *image.shape)
                _check_room(place, shape)
                images = open_memmap(place, mode="w+", dtype=np.uint8, shape=shape)
            if image.shape != images.shape[1:]:
                raise InputError(
                    f"{files[position].name} in {folder} has {image.shape[1]}x{image.shape[0]} "
                    f"pixels and {first} has {images.shape[2]}x{images.shape[1]}, but all must "
                    "have one size; resize them with --image-size (image_size=), such as "
                    f"{_usual(*images.shape[1:3])}."
                )
            images[done] = image
            done += 1
    if images is not None:
        images.flush()  # type: ignore[attr-defined]
    return images, broken


def _check_room(place: Path, shape: tuple[int, ...]) -> None:
    """Raises unless the disk has room for the array; a full disk would end the process later."""
    needed, free = math.prod(shape), shutil.disk_usage(place.parent).free
    if needed > free:
        raise InputError(
            f"the decoded images take {needed / 1e9:,.1f} GB, but {place.parent} has "
            f"{free / 1e9:,.1f} GB free; choose a smaller image_size, or another folder with "
            "--data-dir (data_dir=)."
        )


def _usual(*sides: int) -> int:
    return max(32, 32 * round(min(sides) / 32))


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A progress bar on a terminal; yields a function that advances it."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("decoding", total=total)
        yield lambda: bar.advance(task)


def image_of(path: Path, size: int | None = None, grey: bool = False) -> np.ndarray | str:
    """One image as uint8 `[H, W, C]`, or the reason why it cannot be read.

    Raises:
        _Colour: a colour image, but `grey` asks for one channel.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if grey and image.mode not in ("1", "L", "LA") and image.mode[0] not in "IF":
                raise _Colour
            if image.mode[0] in "IF":  # 16 bits; 255 * 257 = 65535
                wide = np.asarray(image)
                if wide.min() < 0 or wide.max() > 65535 or wide.dtype.kind == "f":
                    return f"{image.mode} images of {wide.dtype} have no known scale"
                narrow = Image.fromarray((wide // 257).astype(np.uint8))
                narrow.info.update(image.info)  # with EXIF
            else:
                narrow = image
            turned, mode = narrow, "L" if grey else "RGB"
            if image.getexif().get(_ORIENTATION, 1) != 1:
                turned = ImageOps.exif_transpose(narrow)
            if turned.mode != mode:
                turned = turned.convert(mode)
            if size is not None and turned.size != (size, size):
                turned = ImageOps.fit(turned, (size, size), Image.Resampling.BILINEAR)
            array = np.asarray(turned)
            return array[..., None] if grey else array
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        return (
            "empty"
            if path.is_file() and path.stat().st_size == 0
            else str(getattr(error, "strerror", None) or error)
            .replace(f" {str(path)!r}", "")
            .rstrip(".")
        )
