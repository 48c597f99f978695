"""Pictures as SVG text that takes its colours from the page and so follows light and dark mode.

Text inside a picture is only numbers and axis names: names of methods and requests are written by
the page around it. Colours are the page's CSS variables; the two palettes there are chosen to be
told apart by colour-blind readers, and lines differ in their dashes as well.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxunlearn.evaluation import Predictions
from jaxunlearn.studies.report.figures import drawn
from jaxunlearn.studies.report.study import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 20
POINTS = 120

# Stand-ins that the drawing uses and `to_svg` replaces by the page's variables.
INK, MUTED, GRID, FORGET, RETAIN, TEST, MULTIPLIER = (
    "#010101",
    "#020202",
    "#030303",
    "#d55e00",
    "#0072b2",
    "#009e73",
    "#aa4499",
)
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    FORGET: "var(--forget)",
    RETAIN: "var(--retain)",
    TEST: "var(--test)",
    MULTIPLIER: "var(--multiplier)",
}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxunlearn",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def to_svg(figure: "Figure", label: str) -> str:
    """A figure as an SVG element without fixed size, identifiers, metadata or its own font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="(?!p[0-9a-f]{10}|m[0-9a-f]{10})[^"]*"', "", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    # Two decimals are enough for coordinates, which stand inside tags; labels stand between them.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    head = re.search(r'viewBox="[^"]*"', text)
    assert head is not None
    start = f'<svg class="chart" role="img" aria-label="{label}" {head[0]}>'
    text = re.sub(r"<svg[^>]*>", start, text, count=1)
    return re.sub(r"\n\s*", "\n", text)


def new_figure(height: float) -> "Figure":
    """An empty figure of the width that all pictures have; the height is in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(3.6, height), layout="constrained")


def confidence_shares(predictions: Predictions) -> np.ndarray:
    """Histogram of the confidence in the true class.

    Args:
        predictions: `probabilities [N, C]` and `labels [N]`, N at least 1.

    Returns:
        The percentage of examples in each of `BINS` equal bins of [0, 1].
    """
    labels = np.asarray(predictions.labels)
    confidence = np.asarray(predictions.probabilities)[np.arange(len(labels)), labels]
    counts, _ = np.histogram(np.clip(confidence, 0.0, 1.0), BINS, (0.0, 1.0))
    return 100.0 * counts / len(labels)


def draw_confidence(shares: Mapping[str, np.ndarray], goal: np.ndarray | None) -> str:
    """Draws the histograms of one model.

    Args:
        shares: percentages in each bin, by "forget", "retain" and "test".
        goal: the retrained model's percentages on forget data, drawn as a dotted line.

    Returns:
        An SVG element.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter

    edges = np.linspace(0.0, 1.0, BINS + 1)
    styles: dict[str, dict[str, Any]] = {
        "retain": {"color": RETAIN, "linestyle": (0, (5, 1.5)), "linewidth": 1.4},
        "test": {"color": TEST, "linestyle": (0, (1.5, 1.2)), "linewidth": 1.4},
        "forget": {"color": FORGET, "linewidth": 1.8},
    }
    with drawn(SETTINGS):
        figure = new_figure(2.25)
        axes = figure.subplots()
        if "forget" in shares:
            axes.stairs(shares["forget"], edges, fill=True, color=FORGET, alpha=0.16, lw=0)
        for name, style in styles.items():
            if name in shares:
                axes.stairs(shares[name], edges, baseline=None, **style)
        if goal is not None:
            axes.stairs(goal, edges, baseline=None, color=INK, lw=1.2, linestyle=(0, (1, 1.5)))
        axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
        axes.set(xlim=(0, 1), ylim=(0, 104), xticks=(0, 0.25, 0.5, 0.75, 1))
        axes.yaxis.set_major_locator(FixedLocator([0, 2, 10, 25, 50, 100]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("confidence in the true class")
        return to_svg(figure, "Histogram of the confidence in the true class")


def series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """One logged quantity over the steps, thinned out by averaging neighbours.

    Args:
        history: logged steps; those without the quantity, or where it is not finite, are left out.
        key: the quantity's name.

    Returns:
        Steps and values, at most `POINTS` of each.
    """
    pairs = [
        (entry["step"], entry[key])
        for entry in history
        if is_number(entry.get("step")) and is_number(entry.get(key))
    ]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    groups = np.array_split(np.arange(len(steps)), min(len(steps), POINTS) or 1)
    if len(steps) == 0:
        return steps, values
    return (
        np.array([steps[group].mean() for group in groups]),
        np.array([values[group].mean() for group in groups]),
    )


def draw_seeds(
    axes: "Axes", histories: Sequence[Sequence[Mapping[str, Any]]], key: str, **style: Any
) -> None:
    """Draws one logged quantity: seeds thin, their mean bold."""
    curves = [series(history, key) for history in histories]
    curves = [curve for curve in curves if len(curve[0])]
    alone = len(curves) == 1
    for steps, values in curves:
        axes.plot(steps, values, **{**style, "alpha": 1.0 if alone else 0.4, "lw": 1.0})
    if not alone and len({tuple(steps) for steps, _ in curves}) == 1:
        axes.plot(curves[0][0], np.mean([values for _, values in curves], axis=0), **style)


def draw_history(histories: Sequence[Sequence[Mapping[str, Any]]]) -> str | None:
    """Draws losses, and the multiplier if there is one, over the steps of one method.

    Args:
        histories: the logged steps of each seed; seeds are drawn thin, their mean bold.

    Returns:
        An SVG element, or None if nothing was logged.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    def has(key: str) -> bool:
        return any(len(series(history, key)[0]) for history in histories)

    if not has("forget_loss") and not has("retain_loss"):
        return None
    with drawn(SETTINGS):
        figure = new_figure(2.7)
        if has("multiplier"):
            losses, below = figure.subplots(2, sharex=True, height_ratios=(1.7, 1))
            draw_seeds(below, histories, "multiplier", color=MULTIPLIER)
            below.set_ylabel("multiplier")
            below.set_ylim(bottom=0)
            below.yaxis.set_major_locator(MaxNLocator(3))
        else:
            losses = below = figure.subplots()
        draw_seeds(losses, histories, "forget_loss", color=FORGET)
        draw_seeds(losses, histories, "retain_loss", color=RETAIN, linestyle=(0, (5, 1.5)))
        losses.set_ylabel("loss")
        losses.yaxis.set_major_locator(MaxNLocator(4))
        below.set_xlabel("step")
        below.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for axes in figure.axes:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.margins(x=0.01)
        figure.align_ylabels()
        return to_svg(figure, "Losses and multiplier over the steps")
