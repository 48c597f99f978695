"""Pictures as files: one look for all that is written outside of the report's page."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxunlearn.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by colour-blind readers; lines differ in their dashes as well.
INK, MUTED, GRID = "#1b1d21", "#5b6268", "#dfdcd5"
ORANGE, BLUE, GREEN, PURPLE, YELLOW, SKY = (
    "#d55e00",
    "#0072b2",
    "#009e73",
    "#aa4499",
    "#b58900",
    "#56b4e9",
)
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

_LOOK: dict[Any, Any] = {
    "font.size": 9.0,
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "jaxunlearn",
}


def drawn(settings: dict[Any, Any]) -> contextlib.AbstractContextManager[None]:
    """Draws with these settings over matplotlib's own defaults, whatever the user's are.

    Args:
        settings: by the names of `matplotlib.rcParams`.

    Returns:
        A context, at whose end all settings are as before.
    """
    from matplotlib import style

    return style.context(settings, after_reset=True)


@contextlib.contextmanager
def picture(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator["Figure"]:
    """A figure that is written to a file when the `with` block ends.

    Args:
        path: the file; its ending says the format.
        rows: of panels, for the size of the whole.
        columns: of panels.
        size: of one panel, width and height in inches.

    Yields:
        A matplotlib figure without axes.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    with drawn(_LOOK):
        figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
        yield figure
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=150, metadata=metadata)


def panels(figure: "Figure", titles: Sequence[str], columns: int) -> list["Axes"]:
    """One panel a title, row by row; places of the last row that are left over stay empty.

    Args:
        figure: from `picture`.
        titles: of the panels.
        columns: how many stand in a row.

    Returns:
        The axes, in the order of the titles.
    """
    rows = -(-len(titles) // columns)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title)
    for axes in grid[len(titles) :]:
        axes.set_visible(False)
    return list(grid[: len(titles)])
