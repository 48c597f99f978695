"""All pictures of the package, by matplotlib. One function draws each kind, for both uses:

    svg(draw_roc, models, "sfron")                            for the report's page
    with picture(path, rows, columns, size) as figure: ...    as a file

An SVG picture follows the light or dark mode of its reader: its colours are CSS variables of
`templates/colours.css`. The palette is safe for colour-blind readers, and lines also differ in
their dashes.
"""

import contextlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxunlearn.evaluation import Predictions
from jaxunlearn.files import replacing
from jaxunlearn.studies.report.study import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b1d21", "#5b6268", "#dfdcd5"
ORANGE, BLUE, GREEN, PURPLE = "#d55e00", "#0072b2", "#009e73", "#aa4499"
LONG, SHORT, DOTTED = (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (1, 1.5))
DASHES: tuple[Any, ...] = ("-", LONG, SHORT, (0, (6, 1.5, 1.5, 1.5)))
BINS, POINTS = 20, 120
DPI = 150  # of picture files

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "line",
    ORANGE: "forget",
    BLUE: "retain",
    GREEN: "test",
    PURPLE: "multiplier",
}
_LOOK: dict[Any, Any] = {
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; pages replace it
    "font.size": 9.0,
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
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
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxunlearn",
}
_REFERENCES: dict[str, dict[str, Any]] = {
    "original": {"color": MUTED, "linestyle": LONG, "lw": 1.3},
    "retrain": {"color": INK, "linestyle": SHORT, "lw": 1.3},
}
_MARKS = {
    "original": ("X", ORANGE, ORANGE),
    "retrain": ("D", INK, INK),
    "retrain-again": ("D", INK, "none"),
}
_OFFSETS = [(9, 0), (7, 7), (0, 9), (-7, 7), (-9, 0), (-7, -7), (0, -9), (7, -7)]
Histories = Sequence[Sequence[Mapping[str, Any]]]
Point = tuple[float, float]


def look() -> contextlib.AbstractContextManager[None]:
    """The look of all pictures, independent of the user's matplotlib settings."""
    from matplotlib import style

    return style.context(_LOOK, after_reset=True)


@contextlib.contextmanager
def picture(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator["Figure"]:
    """A figure without axes that is written to a file when the `with` block ends.

    `size` is the width and height of one panel in inches; the suffix of the path is the format.
    """
    from matplotlib.figure import Figure

    with look():
        figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
        yield figure
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=DPI, metadata=metadata)


@contextlib.contextmanager
def paneled(path: Path, titles: Sequence[str], size: tuple[float, float]) -> Iterator[list["Axes"]]:
    """The axes of one panel for each title, in a picture of at most three columns."""
    columns = min(3, len(titles))
    with picture(path, -(-len(titles) // columns), columns, size) as figure:
        yield panels(figure, titles, columns)


def panels(figure: "Figure", titles: Sequence[str], columns: int) -> list["Axes"]:
    """The axes of one panel for each title, row by row; the rest of the last row stays empty."""
    rows = -(-len(titles) // columns)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title)
    for axes in grid[len(titles) :]:
        axes.set_visible(False)
    return list(grid[: len(titles)])


def svg(
    draw: Callable[..., object],
    *arguments: Any,
    height: float = 2.25,
    ratios: Sequence[float] = (1,),
    **named: Any,
) -> str:
    """A picture as the text of an SVG file that follows light and dark mode; equal for equal data.

    `draw` receives the panel first, or the array of panels above each other with relative heights
    `ratios`, and then the other arguments. The picture is 3.6 inches wide.
    """
    from matplotlib.figure import Figure

    with look():
        figure, buffer = Figure(figsize=(3.6, height), layout="constrained"), io.StringIO()
        draw(figure.subplots(len(ratios), sharex=True, height_ratios=ratios), *arguments, **named)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    start = text.index("<svg")
    end = text.index(">", start) + 1
    colours = files("jaxunlearn.studies.report").joinpath("templates/colours.css").read_text()
    font = "text { font-family: system-ui, sans-serif !important; }"
    return f"{text[start:end]}<style>{colours}{font}</style>{text[end:]}"


def confidence_shares(predictions: Predictions) -> np.ndarray:
    """Histogram of the confidence in the true class: percent of examples in each of `BINS` bins."""
    labels = np.asarray(predictions.labels)
    confidence = np.asarray(predictions.probabilities)[np.arange(len(labels)), labels]
    counts, _ = np.histogram(np.clip(confidence, 0.0, 1.0), BINS, (0.0, 1.0))
    return 100.0 * counts / len(labels)


def draw_confidence(
    axes: "Axes", shares: Mapping[str, np.ndarray], goal: np.ndarray | None
) -> None:
    """Draws histograms of the confidence by split, and of the retrained model on forget data."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    edges = np.linspace(0.0, 1.0, BINS + 1)
    styles: dict[str, dict[str, Any]] = {
        "retain": {"color": BLUE, "linestyle": LONG, "lw": 1.4},
        "test": {"color": GREEN, "linestyle": SHORT, "lw": 1.4},
        "forget": {"color": ORANGE, "lw": 1.8},
    }
    if "forget" in shares:
        axes.stairs(shares["forget"], edges, fill=True, color=ORANGE, alpha=0.16, lw=0)
    for name, style in styles.items():
        if name in shares:
            axes.stairs(shares[name], edges, baseline=None, **style)
    if goal is not None:
        axes.stairs(goal, edges, baseline=None, color=INK, lw=1.2, linestyle=DOTTED)
    axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    axes.set(xlim=(0, 1), ylim=(0, 104), xticks=(0, 0.25, 0.5, 0.75, 1))
    axes.yaxis.set_major_locator(FixedLocator([0, 2, 10, 25, 50, 100]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("confidence in the true class")


def series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of a logged quantity, thinned to `POINTS` by averaging neighbours."""
    pairs = [
        (entry["step"], entry[key])
        for entry in history
        if is_number(entry.get("step")) and is_number(entry.get(key))
    ]
    columns = np.array(pairs, np.float64).reshape(-1, 2).T
    if not pairs:
        return columns[0], columns[1]
    groups = np.array_split(columns, min(len(pairs), POINTS), axis=1)
    steps, values = np.array([group.mean(axis=1) for group in groups]).T
    return steps, values


def has_series(histories: Histories, key: str) -> bool:
    """Whether any seed has logged a quantity."""
    return any(len(series(history, key)[0]) for history in histories)


def _draw_seeds(axes: "Axes", histories: Histories, key: str, **style: Any) -> None:
    """Draws one logged quantity: single seeds as thin lines, their mean as a bold one."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    curves = [series(history, key) for history in histories]
    curves = [curve for curve in curves if len(curve[0])]
    alone = len(curves) == 1
    for steps, values in curves:
        axes.plot(steps, values, **{**style, "alpha": 1.0 if alone else 0.4, "lw": 1.0})
    if not alone and len({tuple(steps) for steps, _ in curves}) == 1:
        axes.plot(curves[0][0], np.mean([values for _, values in curves], axis=0), **style)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.01)


def draw_history(axes: Any, histories: Histories) -> None:
    """Draws the losses of one method, all seeds, and its multiplier if there are two panels."""
    from matplotlib.ticker import MaxNLocator

    losses, below = np.ravel(axes)[[0, -1]]
    _draw_seeds(losses, histories, "forget_loss", color=ORANGE)
    _draw_seeds(losses, histories, "retain_loss", color=BLUE, linestyle=LONG)
    losses.set_ylabel("loss")
    losses.yaxis.set_major_locator(MaxNLocator(4))
    if below is not losses:
        _draw_seeds(below, histories, "multiplier", color=PURPLE)
        below.set_ylabel("multiplier")
        below.set_ylim(bottom=0)
        below.yaxis.set_major_locator(MaxNLocator(3))
    below.set_xlabel("step")
    below.figure.align_ylabels()


def draw_multipliers(axes: "Axes", implicit: Histories, exact: Histories) -> None:
    """Draws the multiplier of a method beside its exact multiplier, all seeds."""
    from matplotlib.ticker import MaxNLocator

    pooled = np.concatenate([series(each, "multiplier")[1] for each in (*implicit, *exact)])
    top = 1.1 * float(np.quantile(pooled, 0.98))  # the closed form has a few huge values
    _draw_seeds(axes, exact, "multiplier", color=BLUE, linestyle=LONG)
    _draw_seeds(axes, implicit, "multiplier", color=PURPLE)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set(xlabel="step", ylabel="multiplier", ylim=(0, top if top > 0 else 1))


def draw_relearning(axes: "Axes", curves: Mapping[str, np.ndarray], name: str) -> None:
    """Draws the accuracy of a model and the references after 0, 1, ... epochs of relearning."""
    from matplotlib.ticker import MaxNLocator

    low = min(float(curve.min()) for curve in curves.values())  # the same in every panel
    styles = _REFERENCES | {name: {"color": ORANGE, "marker": "o", "markersize": 3}}
    for each, style in styles.items():
        if each in curves:
            axes.plot(curves[each], label=each, **style)
    axes.set_ylim(low - 0.04 * (100 - low) - 0.5, 100.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set(xlabel="epochs on forget data", ylabel="forget accuracy, %")


def draw_distance(axes: "Axes", curves: Mapping[str, np.ndarray], name: str) -> None:
    """Draws the discrepancy of a model, the original, and a second retrained model, near to far."""
    again = {"retrain-again": _REFERENCES["retrain"], "original": _REFERENCES["original"]}
    for each, style in (again | {name: {"color": ORANGE, "marker": "o", "markersize": 3}}).items():
        if each in curves:
            axes.plot(range(1, len(curves[each]) + 1), curves[each], label=each, **style)
    axes.set_ylim(0, 1.08 * max(float(curve.max()) for curve in curves.values()) + 0.1)
    axes.set_xticks(range(1, 1 + max(len(curve) for curve in curves.values())))
    axes.set(xlabel="fifth of test data, from near to far", ylabel="discrepancy, %")


_DOTS = {"linestyle": "none", "marker": "o", "markersize": 4}


def draw_attacks(axes: "Axes", seen: Mapping[str, Mapping[str, float]], name: str) -> None:
    """Draws the share of images in which a model and the references show a forgotten class, before
    and after each attack.
    """
    attacks = list(seen[name])
    styles = _REFERENCES | {name: {"color": ORANGE}}
    for each, style in styles.items():
        if each in seen:
            values = [seen[each].get(attack, np.nan) for attack in attacks]
            label = "unlearned" if each == name else each
            axes.plot(values, range(len(attacks)), **style | _DOTS, label=label)
    axes.set_yticks(range(len(attacks)), attacks)
    axes.set(xlim=(-2, 102), ylim=(len(attacks) - 0.5, -0.5), xlabel="forgotten class seen, %")


def draw_roc(axes: "Axes", models: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """Draws the ROC curves of a model and the references, the "models" of `ulira.json`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    styles = _REFERENCES | {name: {"color": ORANGE}}
    shown = {each: models[each]["roc_curve"] for each in styles if each in models}
    least = min(min(roc["fpr"]) for roc in shown.values())
    axes.plot([least, 100], [least, 100], color=MUTED, lw=0.8, linestyle=DOTTED)
    for each, roc in shown.items():
        tpr = np.maximum(roc["tpr"], least)
        axes.step(roc["fpr"], tpr, where="post", label=each, **styles[each])
    axes.set(xscale="log", yscale="log", xlim=(least, 100), ylim=(least, 100))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, numticks=5))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate")


def draw_quantiles(axes: "Axes", values: Mapping[str, np.ndarray], name: str) -> None:
    """Draws KLOM against the share of targets below it, of a model and the references."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    least = 0.01
    for each, style in (_REFERENCES | {name: {"color": ORANGE}}).items():
        if each in values:
            shares = np.linspace(0.0, 100.0, len(values[each]))
            axes.plot(shares, np.maximum(np.sort(values[each]), least), label=each, **style)
    axes.axvline(95, color=MUTED, lw=0.8, linestyle=DOTTED)
    axes.set(yscale="log", xlim=(0, 100), ylim=(least, None))
    axes.yaxis.set_major_locator(LogLocator(10, numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(xlabel="% of targets below", ylabel="KLOM, nats")


def draw_front(
    axes: "Axes",
    points: Sequence[Point],
    front: Collection[int],
    references: Mapping[str, Point],
    utility: str,
    worst: Point | None = None,
    numbers: Sequence[int] | None = None,
) -> None:
    """Draws models in the plane of utility in percent (x) and forget error in points (y).

    The points with their index in `front` are filled. The hypervolume is shaded if there is a
    `worst` corner to count it from. `numbers` are written beside the points.
    """
    from matplotlib.ticker import MaxNLocator

    stairs = sorted(points[i] for i in front)
    if worst is None:
        axes.step(*zip(*stairs, strict=True), where="pre", color=BLUE, lw=1.0, alpha=0.6)
    else:
        counted = [point for point in stairs if point[0] > worst[0] and point[1] < worst[1]]
        for left, (x, y) in zip([worst, *counted], counted, strict=False):  # one column per point
            axes.fill_between([left[0], x], y, worst[1], color=BLUE, alpha=0.13, lw=0)
        axes.axvline(worst[0], color=MUTED, lw=0.8, linestyle=LONG)
        axes.axhline(worst[1], color=MUTED, lw=0.8, linestyle=LONG)
    for i, point in enumerate(points):
        face = BLUE if i in front else "none"
        axes.plot(*point, "o", ms=5.5, mec=BLUE, mfc=face, clip_on=False)
    for name, point in references.items():
        marker, edge, face = _MARKS[name]
        axes.plot(*point, marker, ms=5.5, mec=edge, mfc=face, clip_on=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set(xlabel=f"{utility}, %", ylabel="forget error, points")
    axes.margins(0.08)
    axes.set_ylim(bottom=0)
    if numbers is not None:
        _write_beside(axes, points, numbers, list(references.values()))


def _write_beside(
    axes: "Axes", points: Sequence[Point], numbers: Sequence[int], others: Sequence[Point]
) -> None:
    """Writes a number beside each point, on the side with the most room."""
    axes.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    scale = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    taken = list(axes.transData.transform([*points, *others]) * scale)

    def room(place: np.ndarray) -> float:
        return min(11.0, *(float(np.hypot(*(place - other))) for other in taken))

    for number, point in zip(numbers, points, strict=True):
        place = axes.transData.transform(point) * scale
        offset = max(_OFFSETS, key=lambda by: room(place + np.array(by)))
        taken.append(place + np.array(offset))
        where: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center"}
        axes.annotate(str(number), point, offset, fontsize=7.5, annotation_clip=False, **where)


def draw_map(axes: "Axes", values: np.ndarray, ends: tuple[float, float], colours: str) -> Any:
    """Draws a map of numbers and writes the finite, nonzero ones where there is room."""
    image = axes.imshow(values, cmap=colours, vmin=ends[0], vmax=ends[1], aspect="auto")
    axes.grid(False)
    if values.shape[1] <= 20:
        axes.set_xticks(range(values.shape[1]))
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value) and value != 0:
                colour = "white" if abs(value) > 0.6 * ends[1] else INK
                where: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}
                axes.text(column, row, f"{value:z.0f}", color=colour, **where)
    return image


def draw_shares(axes: "Axes", values: Mapping[str, np.ndarray], ends: tuple[float, float]) -> None:
    """Draws histograms of two groups of targets; values beyond the ends count in the last bins."""
    edges = np.linspace(*ends, 61)
    for (label, group), colour in zip(values.items(), (ORANGE, BLUE), strict=True):
        counts, _ = np.histogram(np.clip(group, *ends), edges)
        shares = 100.0 * counts / group.size
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.18, lw=0)
        axes.stairs(shares, edges, color=colour, lw=1.3, label=label)
    axes.set(xlim=ends, xlabel="logit-scaled confidence", ylabel="% of targets")
