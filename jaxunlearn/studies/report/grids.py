"""Generated images in a file: a row for each model, a column for each image.

Where all models begin with the same noise in a column, rows differ only in what unlearning changed.
Small images are enlarged by a whole number, so that each pixel is a square of one colour.
"""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxunlearn.studies.report.columns import REFERENCES
from jaxunlearn.studies.report.plots import DPI, INK, ORANGE, picture
from jaxunlearn.types import InputError

_SIDE, _LARGEST = 84, 192  # pixels: about the side of enlarged images, at most of shrunk ones
_MARGIN, _GAP, _GROUP_GAP, _RULE = 26, 4, 24, 2  # pixels
_LETTERS, _LETTER = 14, 12  # minimum letters of a heading's line, and pixels of a letter


def check_picture(path: Path) -> None:
    """Raises `InputError` unless the name of a picture file ends in ".png"."""
    if path.suffix != ".png":
        raise InputError(f"the picture is {path.name}, but must be a file ending in .png.")


def sample_grid(
    path: Path,
    rows: Mapping[str, Any],
    columns: Sequence[str],
    title: str,
    forgotten: Collection[str] = (),
) -> None:
    """Draws images of several models into one PNG file.

    `rows` are images `[n, H, W, C]` by the name of the model, uint8 or floating-point in [0, 1];
    `columns` are the n requested classes, of which neighbours share a heading.

    Example:
        >>> import tempfile
        >>> images = np.random.default_rng(0).random((2, 8, 8, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sample_grid(Path(folder) / "grid.png", {"original": images}, ["0", "1"], "Digits")
        ...     print([path.name for path in Path(folder).iterdir()])
        ['grid.png']
    """
    check_picture(path)
    images = check_rows(rows)
    number, *sides = next(iter(images.values())).shape[:3]
    _check_columns(columns, number, forgotten)
    height, width = _cell(*sides)
    lefts, heads = _columns(columns, width)
    tops = _tops(list(images), height)
    paper = np.full((tops[-1] + height, lefts[-1] + width, 3), 255, np.uint8)
    for name, _, start, end in heads:
        paper[:_RULE, start:end] = _rgb(ORANGE if name in forgotten else INK)
    for top, row in zip(tops, images.values(), strict=True):
        for left, image in zip(lefts, row, strict=True):
            paper[top : top + height, left : left + width] = _resized(image, width, height)
    size = (paper.shape[1] / DPI, paper.shape[0] / DPI)
    with picture(path, 1, 1, size) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(paper, interpolation="nearest")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(title, pad=12)
        axes.xaxis.tick_top()
        axes.set_xticks([(start + end - 1) / 2 for _, _, start, end in heads])
        axes.set_xticklabels(
            [text + "\nforgotten" * (name in forgotten) for name, text, *_ in heads]
        )
        axes.set_yticks([top + height / 2 for top in tops])
        axes.set_yticklabels(["\n".join(REFERENCES.get(name, (name,))) for name in images])
        axes.tick_params(length=0, labelcolor=INK)
        for label, (name, *_) in zip(axes.get_xticklabels(), heads, strict=True):
            label.set_color(ORANGE if name in forgotten else INK)
        for label, name in zip(axes.get_yticklabels(), images, strict=True):
            label.set_fontstyle("italic" if name in REFERENCES else "normal")
        inner = np.array(paper.shape[1::-1])
        low, high = figure.get_tightbbox().get_points() * DPI
        before, after = np.ceil(-low) + _MARGIN, np.ceil(high - inner) + _MARGIN  # whole pixels
        whole = before + inner + after
        figure.set_size_inches(whole / DPI)
        axes.set_position((*before / whole, *inner / whole))


def check_rows(rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The images of each row as uint8 `[n, H, W, C]`."""
    if not rows:
        raise InputError("there are no rows to draw; give the images of one model or more.")
    checked: dict[str, np.ndarray] = {}
    for name, images in rows.items():
        array = np.asarray(images)
        if array.ndim != 4 or array.size == 0 or array.shape[3] not in (1, 3):
            raise InputError(
                f"the shape of the images of {name} is {array.shape}, but must be [n, H, W, C] "
                "with 1 or 3 channels; move the channels last."
            )
        if jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(np.float32)
            if not (array.min() >= 0 and array.max() <= 1):
                raise InputError(
                    f"the images of {name} are from {array.min():.4g} to {array.max():.4g}, but "
                    "must be in [0, 1]; map [-1, 1] there by (x + 1) / 2 and clip."
                )
            array = np.round(255 * array).astype(np.uint8)
        elif array.dtype != np.uint8:
            raise InputError(
                f"the images of {name} are {array.dtype}, but must be uint8 or floating-point in "
                "[0, 1]; convert them."
            )
        first, others = next(iter(checked.items()), (name, array))
        if array.shape != others.shape:
            raise InputError(
                f"the shape of the images of {name} is {array.shape}, but must be the shape of "
                f"the images of {first}, {others.shape}; draw as many with each model."
            )
        checked[name] = array
    return checked


def _check_columns(columns: Sequence[str], number: int, forgotten: Collection[str]) -> None:
    if len(columns) != number:
        raise InputError(
            f"there are {len(columns)} column names for {number} images in a row, but there must "
            "be one for each image."
        )
    missing = [name for name in forgotten if name not in columns]
    if missing:
        raise InputError(
            f"the forgotten class is {missing[0]!r}, but must be one of the columns: "
            f"{', '.join(dict.fromkeys(columns))}; spell it as it is there."
        )


def _cell(height: int, width: int) -> tuple[int, int]:
    """The drawn height and width: enlarged by a whole number, or shrunk to the largest side."""
    side = max(height, width)
    scale = max(1, round(_SIDE / side)) if side <= _LARGEST else _LARGEST / side
    return max(1, round(height * scale)), max(1, round(width * scale))


def _tops(names: Sequence[str], height: int) -> list[int]:
    """The upper edge of each row; reference models and methods are a little apart."""
    tops, before = [], _RULE
    for index, name in enumerate(names):
        other = index > 0 and (name in REFERENCES) != (names[index - 1] in REFERENCES)
        tops.append(before + (3 * _GAP if other else _GAP))
        before = tops[-1] + height
    return tops


def _columns(
    columns: Sequence[str], width: int
) -> tuple[list[int], list[tuple[str, str, int, int]]]:
    """The left edge of each image; and the name, heading, left and right end of each class."""
    lefts, heads, left = [], [], 0
    for name, members in groupby(columns):
        count = len(list(members))
        wide = count * (width + _GAP) - _GAP
        text = textwrap.fill(name, max(_LETTERS, wide // _LETTER), break_on_hyphens=False)
        room = max(wide, _LETTER * max(map(len, text.splitlines())))
        start = left + (room - wide) // 2
        lefts += [start + i * (width + _GAP) for i in range(count)]
        heads.append((name, text, start, start + wide))
        left += room + _GROUP_GAP
    return lefts, heads


def _rgb(colour: str) -> np.ndarray:
    from matplotlib.colors import to_rgb

    return np.round(255 * np.array(to_rgb(colour))).astype(np.uint8)


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """`[H, W, C]` to `[height, width, 3]`: pixels become squares, or are averaged."""
    from PIL import Image

    enlarged = width >= image.shape[1]
    colours = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    way = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return np.asarray(colours.resize((width, height), way))
