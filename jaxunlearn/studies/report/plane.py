"""All methods in the plane of forgetting against utility, and the front that none of them beats.

Utility is the test accuracy; the forget error is the distance of the forget accuracy to that of the
retrained model of the same seed,

    |FA - FA_retrained|,

in percentage points, both as means over the seeds.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxunlearn.evaluation.pareto import pareto_front
from jaxunlearn.studies.report.aggregate import Table
from jaxunlearn.studies.report.charts import FORGET, INK, RETAIN, SETTINGS, new_figure, to_svg
from jaxunlearn.studies.report.figures import drawn
from jaxunlearn.studies.report.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UTILITY_SHOWN = 10.0  # points below the best method that the picture still shows
_BEYOND = 1.0
_OFFSETS = [(9, 0), (7, 7), (0, 9), (-7, 7), (-9, 0), (-7, -7), (0, -9), (7, -7)]


class Point(NamedTuple):
    """A model in the plane: test accuracy in percent, forget error in percentage points."""

    utility: float
    error: float


class Plane(NamedTuple):
    """All models of a request in the plane.

    Attributes:
        methods: by name, in the order of the study.
        references: "retrain", and "original" and "retrain-again" if they are there.
        front: the methods that no other method beats in both.
    """

    methods: dict[str, Point]
    references: dict[str, Point]
    front: frozenset[str]

    def is_shown(self, name: str) -> bool:
        """Whether a method lies in the picture: not far beyond the best and the original."""
        point = self.methods[name]
        best = max(each.utility for each in self.methods.values())
        worst = max(each.error for each in self.references.values())
        worst = max(worst, *(self.methods[each].error for each in self.front))
        return point.utility >= best - _UTILITY_SHOWN and point.error <= 2 * worst + _BEYOND


def make_plane(study: Study, table: Table) -> Plane | None:
    """Places the models of one request.

    Args:
        study: the study.
        table: of one of its requests.

    Returns:
        The plane, or None without two methods and the retrained model of one of their seeds.
    """
    oracle = {
        run.seed: run.metrics["forget_accuracy"]
        for run in study.select(table.request, "retrain")
        if "forget_accuracy" in run.metrics
    }
    points = {}
    for row in table.rows:
        pairs = [
            (run.metrics["test_accuracy"], abs(run.metrics["forget_accuracy"] - oracle[run.seed]))
            for run in study.select(table.request, row.name)
            if run.seed in oracle and {"test_accuracy", "forget_accuracy"} <= run.metrics.keys()
        ]
        if pairs:
            points[row.name] = Point(*map(float, np.mean(pairs, axis=0)))
    methods = {name: points.pop(name) for name in study.methods if name in points}
    if len(methods) < 2 or not points:
        return None
    chosen = pareto_front([(point.error, -point.utility) for point in methods.values()])
    return Plane(methods, points, frozenset(list(methods)[i] for i in chosen))


def draw_plane(plane: Plane) -> str:
    """Draws the plane: methods as numbered dots, filled on the front; the references beside them.

    Args:
        plane: from `make_plane`. Methods are numbered from 1 in its order.

    Returns:
        An SVG element.
    """
    from matplotlib.ticker import MaxNLocator

    shown = {n: name for n, name in enumerate(plane.methods, start=1) if plane.is_shown(name)}
    with drawn({**SETTINGS, "axes.grid.axis": "both", "ytick.major.size": 3.0}):
        figure = new_figure(3.0)
        axes = figure.subplots()
        stairs = sorted(plane.methods[name] for name in plane.front if plane.is_shown(name))
        axes.step(*zip(*stairs, strict=True), where="pre", color=RETAIN, lw=1.0, alpha=0.6)
        for name in shown.values():
            face = RETAIN if name in plane.front else "none"
            _mark(axes, plane.methods[name], "o", RETAIN, face)
        for name, (marker, colour, face) in {
            "original": ("X", FORGET, FORGET),
            "retrain": ("D", INK, INK),
            "retrain-again": ("D", INK, "none"),
        }.items():
            if name in plane.references:
                _mark(axes, plane.references[name], marker, colour, face)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel="test accuracy, %", ylabel="forget error, points")
        axes.margins(0.08)
        axes.set_ylim(bottom=0)
        figure.draw_without_rendering()  # so that places on the paper are known
        everything = [*(plane.methods[name] for name in shown.values()), *plane.references.values()]
        taken = list(axes.transData.transform(everything) * 72 / figure.dpi)
        for n, name in shown.items():
            place = axes.transData.transform(plane.methods[name]) * 72 / figure.dpi
            offset = max(_OFFSETS, key=lambda by: _room(place + np.array(by), taken))
            taken.append(place + np.array(offset))
            axes.annotate(
                str(n),
                plane.methods[name],
                offset,
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=7.5,
                color=INK,
                annotation_clip=False,
            )
        return to_svg(figure, "Forget error against test accuracy")


def _mark(axes: "Axes", point: Point, marker: str, edge: str, face: str) -> None:
    axes.plot(
        *point,
        marker,
        markersize=5.5,
        markeredgecolor=edge,
        markerfacecolor=face,
        clip_on=False,
    )


def _room(place: np.ndarray, taken: list[np.ndarray]) -> float:
    """How far a place is from what is drawn already, at most as far as anyone needs."""
    return min(11.0, *(float(np.hypot(*(place - other))) for other in taken))
