"""Generated images side by side: a row for each model, a column for each noise and class asked for.

Where all models start from the same noise in a column, what differs between rows is what unlearning
changed, and not chance.

Places are reckoned in pixels of the file, from its upper left corner. Small images are enlarged by
a whole number, so that each of their pixels is a square of one colour.
"""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxunlearn.studies.report.columns import REFERENCES
from jaxunlearn.studies.report.figures import GRID, INK, MUTED, ORANGE, drawn, picture
from jaxunlearn.types import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150  # of the files that `picture` writes
_SIDE, _LARGEST = 84, 192  # about what an image is enlarged to, and at most shrunk to
_MARGIN, _GAP, _LINE = 26, 4, 22
_GROUP_GAP, _HEADING_GAP = 24, 16  # at least between images and between headings of two classes
_TITLE, _TEXT, _NOTE = 10.5, 9.0, 7.5  # font sizes in points
_LETTERS, _LETTER = 14, 12  # of a class name in one line at least, and pixels that one takes
_NOTED = "forgotten"


class _Group(NamedTuple):
    """Neighbouring columns of one class.

    Attributes:
        name: of the class, in lines.
        forgotten: whether it was to be forgotten.
        columns: which of the images it has.
        left: where its images begin.
        width: of its images together.
    """

    name: str
    forgotten: bool
    columns: range
    left: int
    width: int


def check_picture(path: Path) -> None:
    """Raises unless a file can hold a picture, before anything is drawn for it.

    Raises:
        InputError: its name does not end in ".png".
    """
    if path.suffix != ".png":
        raise InputError(f"the picture is to be {path.name}, but must be a file ending in .png.")


def sample_grid(
    path: Path,
    rows: Mapping[str, Any],
    columns: Sequence[str],
    title: str,
    forgotten: Collection[str] = (),
) -> None:
    """Draws images of several models into one PNG file.

    Args:
        path: the file, ending in ".png"; its folder must exist.
        rows: by the model's name, from top to bottom, images `[n, H, W, C]`: uint8, or
            floating-point in [0, 1]; C is 1 or 3. Reference models ("original", "retrain",
            "retrain-again") are written in words.
        columns: the class asked for in each of the n columns; neighbours of one class share a
            heading.
        title: of the picture.
        forgotten: those of the classes that were to be forgotten; they are marked.

    Raises:
        InputError: no rows, images of another form, unlike rows, another number of columns, a
            forgotten class that has no column, or a file that cannot be written.

    Example:
        >>> import tempfile
        >>> images = np.random.default_rng(0).random((2, 8, 8, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sample_grid(Path(folder) / "grid.png", {"original": images}, ["0", "1"], "Digits")
        ...     print([path.name for path in Path(folder).iterdir()])
        ['grid.png']
    """
    check_picture(path)
    images = _check_rows(rows)
    number, *sides = next(iter(images.values())).shape[:3]
    _check_columns(columns, number, forgotten)
    height, width = _cell(*sides)
    labels = {name: REFERENCES.get(name, (name, "")) for name in images}
    widest = max(
        _text_width(text, size)
        for label in labels.values()
        for text, size in zip(label, (_TEXT, _NOTE), strict=True)
    )
    groups = _groups(columns, forgotten, width, _MARGIN + widest + _GROUP_GAP)
    lines = max(group.name.count("\n") + 1 + group.forgotten for group in groups)
    rule = _MARGIN + (2 + lines) * _LINE
    tops = _tops(list(images), rule + 3 * _GAP, height)
    last = groups[-1]
    right = last.left + (last.width + max(last.width, _head_width(last))) // 2
    right = max(right, _MARGIN + _text_width(title, _TITLE, weight="bold"))
    paper = np.full((tops[-1] + height + _MARGIN, right + _MARGIN, 3), 255, np.uint8)
    for group in groups:
        _paint(paper, (group.left, rule, group.width, 2), _rgb(ORANGE if group.forgotten else INK))
        for row, top in zip(images.values(), tops, strict=True):
            for place, column in enumerate(group.columns):
                left = group.left + place * (width + _GAP)
                _paint(paper, (left - 1, top - 1, width + 2, height + 2), _rgb(GRID))
                _paint(paper, (left, top, width, height), _resized(row[column], width, height))
    size = paper.shape[1] / _DPI, paper.shape[0] / _DPI
    with picture(path, 1, 1, size) as figure:
        figure.figimage(paper)
        _write(figure, _MARGIN, _MARGIN, title, _TITLE, va="top", color=INK, weight="bold")
        for group in groups:
            _write_head(figure, group, rule)
        for label, top in zip(labels.values(), tops, strict=True):
            _write_label(figure, top + height / 2, *label)


def _check_rows(rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The images of each row as uint8 `[n, H, W, C]`."""
    if not rows:
        raise InputError("there are no rows to draw: give the images of one model or more.")
    checked: dict[str, np.ndarray] = {}
    for name, images in rows.items():
        array = np.asarray(images)
        if array.ndim != 4 or array.size == 0 or array.shape[3] not in (1, 3):
            raise InputError(
                f"the images of {name} have shape {array.shape}, which must be [n, H, W, C] with "
                "1 or 3 channels; move the channels last."
            )
        if jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(np.float32)
            if not (array.min() >= 0 and array.max() <= 1):
                raise InputError(
                    f"the images of {name} go from {array.min():.4g} to {array.max():.4g}, but "
                    "must lie in [0, 1]; map [-1, 1] there by (x + 1) / 2 and clip."
                )
            array = np.round(255 * array).astype(np.uint8)
        elif array.dtype != np.uint8:
            raise InputError(
                f"the images of {name} are {array.dtype}, but must be uint8 or floating-point in "
                "[0, 1]."
            )
        first, others = next(iter(checked.items()), (name, array))
        if array.shape != others.shape:
            raise InputError(
                f"the images of {name} have shape {array.shape} and those of {first} "
                f"{others.shape}, but all rows must have the same; draw as many with each model."
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
            f"the forgotten class {missing[0]!r} is not among the columns, which are "
            f"{', '.join(dict.fromkeys(columns))}; spell it as it is there."
        )


def _cell(height: int, width: int) -> tuple[int, int]:
    """How large an image is drawn: enlarged by a whole number, or shrunk to the largest side."""
    side = max(height, width)
    scale = max(1, round(_SIDE / side)) if side <= _LARGEST else _LARGEST / side
    return max(1, round(height * scale)), max(1, round(width * scale))


def _tops(names: Sequence[str], top: int, height: int) -> list[int]:
    """Where each row begins; reference models and methods stand a little apart."""
    tops = [top]
    for above, below in pairwise(names):
        apart = (above in REFERENCES) != (below in REFERENCES)
        tops.append(tops[-1] + height + (3 * _GAP if apart else _GAP))
    return tops


def _groups(
    columns: Sequence[str], forgotten: Collection[str], width: int, left: int
) -> list[_Group]:
    """The columns by class, with one gap between classes that leaves room for all headings."""
    groups, start = [], 0
    for name, members in groupby(columns):
        range_ = range(start, start + len(list(members)))
        wide = len(range_) * (width + _GAP) - _GAP
        letters = max(_LETTERS, wide // _LETTER)
        heading = textwrap.fill(name, letters, break_on_hyphens=False)
        groups.append(_Group(heading, name in forgotten, range_, 0, wide))
        start = range_.stop
    beyond = max(max(0, _head_width(group) - group.width) for group in groups)
    gap = max(_GROUP_GAP, beyond + _HEADING_GAP) if beyond else _GROUP_GAP
    left += beyond // 2
    for i, group in enumerate(groups):
        groups[i] = group._replace(left=left)
        left += group.width + gap
    return groups


def _head_width(group: _Group) -> int:
    return max(_text_width(group.name, _TEXT), _text_width(_NOTED, _NOTE) * group.forgotten)


def _text_width(text: str, size: float, weight: str = "normal") -> int:
    """How many pixels the longest line takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with drawn({}):
        font = FontProperties(weight=weight, size=size)
        widths = [
            text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]
            for line in text.split("\n")
        ]
    return math.ceil(max(widths) * _DPI / 72)


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


def _paint(paper: np.ndarray, place: tuple[int, int, int, int], colours: np.ndarray) -> None:
    left, top, width, height = place
    paper[top : top + height, left : left + width] = colours


def _write(figure: "Figure", x: float, y: float, text: str, size: float, **style: Any) -> None:
    width, height = figure.get_size_inches() * _DPI
    figure.text(x / width, 1 - y / height, text, fontsize=size, parse_math=False, **style)


def _write_head(figure: "Figure", group: _Group, rule: int) -> None:
    """The name of a class above its rule."""
    lines = group.name.split("\n")
    for line, text in enumerate(reversed([_NOTED, *lines] if group.forgotten else lines)):
        _write(
            figure,
            group.left + group.width / 2,
            rule - 9 - line * _LINE,
            text,
            _NOTE if line == len(lines) else _TEXT,
            ha="center",
            color=ORANGE if group.forgotten else INK,
        )


def _write_label(figure: "Figure", middle: float, words: str, note: str) -> None:
    """The name of a model at the left of its row; what a reference is stands small below it."""
    if not note:
        _write(figure, _MARGIN, middle, words, _TEXT, va="center_baseline", color=INK)
        return
    _write(figure, _MARGIN, middle - 3, words, _TEXT, color=INK, style="italic")
    _write(figure, _MARGIN, middle + 19, note, _NOTE, color=MUTED)
