"""The Pareto front of forgetting against utility, as a picture that stands alone."""

import re
from collections.abc import Sequence

from jaxunlearn.studies.report.charts import (
    FORGET,
    INK,
    MUTED,
    RETAIN,
    SETTINGS,
    new_figure,
    to_svg,
)
from jaxunlearn.studies.report.figures import drawn
from jaxunlearn.studies.report.style import STYLE

Point = tuple[float, float]
_BEYOND = 3.0  # points of the worse side that the picture still shows

# What an SVG file needs of the page's style: its colours, by day and by night.
_COLOURS = STYLE[: STYLE.index("* {")] + "text { font-family: system-ui, Arial, sans-serif; }\n"


def is_shown(point: Point, worst: Point) -> bool:
    """Whether a point lies in the picture: at most a little worse than what counts."""
    return point[0] >= worst[0] - _BEYOND and point[1] <= worst[1] + _BEYOND


def draw_front(
    points: Sequence[Point],
    front: Sequence[Point],
    original: Point,
    retrained: Point | None,
    worst: Point,
) -> str:
    """Draws settings by what they keep (to the right) and how they miss in forgetting (upwards).

    Args:
        points: of all settings: validation accuracy and forget error, in percent. What is not
            `is_shown` lies outside the picture.
        front: those that nothing dominates.
        original: the original model's point, a cross.
        retrained: the retrained model's point, a diamond, if there is one.
        worst: the corner up to which the shaded area, the hypervolume, counts.

    Returns:
        An SVG file's text.
    """
    from matplotlib.ticker import MaxNLocator

    with drawn({**SETTINGS, "axes.grid.axis": "both", "ytick.major.size": 3.0}):
        figure = new_figure(2.9)
        axes = figure.subplots()
        stairs = sorted(point for point in front if point[0] > worst[0] and point[1] < worst[1])
        for left, point in zip([worst, *stairs], stairs, strict=False):  # one column a point
            axes.fill_between(
                [left[0], point[0]], point[1], worst[1], color=RETAIN, alpha=0.13, linewidth=0
            )
        chosen = set(front)
        shown = [point for point in points if is_shown(point, worst)]
        others = [point for point in shown if point not in chosen]
        beaten_by_none = sorted(point for point in chosen if is_shown(point, worst))
        for places, face in ((others, "none"), (beaten_by_none, RETAIN)):
            axes.plot(
                [x for x, _ in places],
                [y for _, y in places],
                "o",
                markersize=5,
                markerfacecolor=face,
                markeredgecolor=RETAIN,
                markeredgewidth=1.0,
                clip_on=False,
            )
        axes.plot(*original, "X", color=FORGET, markersize=7, markeredgewidth=0)
        if retrained is not None:
            axes.plot(*retrained, "D", color=INK, markersize=5, markeredgewidth=0)
        axes.axvline(worst[0], color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.axhline(worst[1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        known = [*shown, original, *([] if retrained is None else [retrained])]
        axes.set_xlim(worst[0] - _BEYOND, max(x for x, _ in known) + 1.0)
        axes.set_ylim(0.0, worst[1] + _BEYOND)
        axes.set_xlabel("validation accuracy, %")
        axes.set_ylabel("forget error, points")
        picture = to_svg(figure, "Forget error against validation accuracy")
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    picture = picture.replace("<svg ", head, 1)
    return re.sub(r"(<svg[^>]*>)", rf"\1\n<style>{_COLOURS}</style>", picture, count=1)
