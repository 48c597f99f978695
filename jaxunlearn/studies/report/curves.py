"""Pictures of what other commands found: relearning, ROC curves, and the multiplier beside its
exact value. Each shows one method between the retrained model and the original.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxunlearn.studies.report.charts import (
    FORGET,
    INK,
    MULTIPLIER,
    MUTED,
    RETAIN,
    SETTINGS,
    draw_seeds,
    new_figure,
    series,
    to_svg,
)
from jaxunlearn.studies.report.figures import drawn

# The dashes of the reference models, here and in the key of the page.
_REFERENCES: dict[str, dict[str, Any]] = {
    "original": {"color": MUTED, "linestyle": (0, (5, 1.5)), "linewidth": 1.3},
    "retrain": {"color": INK, "linestyle": (0, (1.5, 1.2)), "linewidth": 1.3},
}


def draw_relearning(curves: Mapping[str, np.ndarray], name: str, low: float) -> str:
    """Draws how fast a method's model learns the forget data again.

    Args:
        curves: accuracy in percent after 0, 1, 2, ... epochs, by model.
        name: the method.
        low: the lowest accuracy of all pictures, so that they can be compared.

    Returns:
        An SVG element.
    """
    from matplotlib.ticker import MaxNLocator

    with drawn(SETTINGS):
        figure = new_figure(2.25)
        axes = figure.subplots()
        for each, style in _REFERENCES.items():
            if each in curves:
                axes.plot(curves[each], **style)
        axes.plot(curves[name], color=FORGET, marker="o", markersize=3)
        axes.set_ylim(low - 0.04 * (100 - low) - 0.5, 100.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel="epochs on forget data", ylabel="forget accuracy, %")
        return to_svg(figure, "Forget accuracy over epochs of relearning")


def draw_roc(models: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Draws the ROC curve of U-LiRA on logarithmic axes.

    Args:
        models: the "models" of `ulira.json`, each with "roc_curve": "fpr" and "tpr" in percent.
        name: the method.

    Returns:
        An SVG element.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    styles = _REFERENCES | {name: {"color": FORGET}}
    shown = {each: models[each]["roc_curve"] for each in styles if each in models}
    least = min(min(roc["fpr"]) for roc in shown.values())
    with drawn(SETTINGS | {"axes.grid.axis": "both"}):
        figure = new_figure(2.7)
        axes = figure.subplots()
        axes.plot([least, 100], [least, 100], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        for each, roc in shown.items():
            axes.step(roc["fpr"], np.maximum(roc["tpr"], least), where="post", **styles[each])
        axes.set(xscale="log", yscale="log", xlim=(least, 100), ylim=(least, 100))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, numticks=5))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        axes.set(xlabel="false-positive rate", ylabel="true-positive rate")
        return to_svg(figure, "ROC curve of U-LiRA")


def draw_multipliers(
    implicit: Sequence[Sequence[Mapping[str, Any]]], exact: Sequence[Sequence[Mapping[str, Any]]]
) -> str:
    """Draws a method's multiplier beside that of the same method with the exact one.

    Args:
        implicit: the logged steps of each seed.
        exact: those of the exact runs.

    Returns:
        An SVG element.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    values = [series(history, "multiplier")[1] for history in (*implicit, *exact)]
    pooled = np.concatenate(values)
    top = 1.1 * float(np.quantile(pooled, 0.98))  # the closed form has a few huge values
    with drawn(SETTINGS):
        figure = new_figure(2.25)
        axes = figure.subplots()
        draw_seeds(axes, exact, "multiplier", color=RETAIN, linestyle=(0, (5, 1.5)))
        draw_seeds(axes, implicit, "multiplier", color=MULTIPLIER)
        axes.set_ylim(0, top if top > 0 else 1)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(x=0.01)
        axes.set(xlabel="step", ylabel="multiplier")
        return to_svg(figure, "Multiplier and exact multiplier over the steps")
