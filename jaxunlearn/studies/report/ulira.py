"""What U-LiRA found, for people: a table in Markdown, ROC curves, and histograms."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.evaluation.ulira import Scores, roc_curve
from jaxunlearn.files import write_text
from jaxunlearn.studies.report.figures import BLUE, INK, MUTED, ORANGE, panels, picture
from jaxunlearn.studies.report.markdown_text import escape, table

_NAMES = {"retrain": "Retrained", "original": "Original"}
_TARGETS = {"retrain": "never seen, too", "original": "learned"}
_COLUMNS, _BINS, _ENOUGH_SHADOWS = 3, 60, 16


def write_ulira_report(
    folder: Path,
    report: dict[str, Any],
    scores: dict[str, Scores],
    confidences: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Writes `ulira.md`, `ulira_roc.png` and `ulira_confidence.png`.

    Args:
        folder: where to.
        report: the content of `ulira.json`.
        scores: by the name of the model.
        confidences: logit-scaled, by the name of the model: where the target was unlearned, and
            where it was never seen.

    Raises:
        InputError: the files cannot be written.
    """
    write_text(folder / "ulira.md", render_markdown(report))
    _draw_roc(folder / "ulira_roc.png", scores, report)
    _draw_confidences(folder / "ulira_confidence.png", confidences)


def render_markdown(report: dict[str, Any]) -> str:
    """The results as a Markdown table, with what to know to read it.

    Args:
        report: the content of `ulira.json`.

    Returns:
        The text, ending with a newline.
    """
    bound, (titles, rows) = _has_bound(report), ulira_rows(report)
    named = [
        [f"*{_NAMES[name]}*" if name in _NAMES else escape(name), *cells] for name, *cells in rows
    ]
    lines = [
        f"# U-LiRA: {escape(report['title'])}",
        "",
        f"{report['shadows']} shadow models ({escape(report['model'])} on "
        f"{escape(report['dataset'])}), "
        f"{report['targets']} target examples; each model learned half of them and "
        f"unlearned these, {100 * report['fraction']:g}% of all it learned. The attacker knows "
        "everything but whether a model learned and unlearned an example, or was retrained "
        "without it. An AUC of 50 is a coin toss; in parentheses the 95% interval by resampling "
        "models and examples. The row *Retrained* is what perfect unlearning gets here. Gaussians "
        "have "
        + (
            "a variance for each example."
            if report["variance"] == "example"
            else "the mean variance of all examples, since there are few models."
        ),
        "",
        *table(["", *titles], named),
        "",
        "FA, RA, TA: accuracy on what was forgotten, on the retain and on the test data, in "
        "percent, mean over the shadow models.",
    ]
    if report["shadows"] < _ENOUGH_SHADOWS:
        lines += ["", "With so few shadow models the intervals are too narrow."]
    if bound:
        lines += [
            "",
            "Epsilon: refuted below this with 95% confidence, if all scores were independent; "
            "those of one shadow model are not quite.",
        ]
    return "\n".join(lines) + "\n"


def ulira_rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The results as texts.

    Args:
        report: the content of `ulira.json`.

    Returns:
        The titles of the columns, and for each model its name and its cells.
    """
    rates, bound = list(next(iter(report["models"].values()))["tpr"]), _has_bound(report)
    titles = ["AUC", *(f"TPR at {100 * float(rate):g}% FPR" for rate in rates)]
    titles += ["epsilon at least"] if bound else []
    rows = []
    for name, found in report["models"].items():
        cells = [_interval(found["auc"]), *(_interval(found["tpr"][rate]) for rate in rates)]
        cells += [f"{found['epsilon_lower_bound']:.2f}"] if bound else []
        cells += [f"{found[f'{part}_accuracy']:.2f}" for part in ("forget", "retain", "test")]
        rows.append([name, *cells])
    return [*titles, "FA", "RA", "TA"], rows


def _has_bound(report: dict[str, Any]) -> bool:
    return "epsilon_lower_bound" in next(iter(report["models"].values()))


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.1f} ({estimate['low']:.1f} to {estimate['high']:.1f})"


def _draw_roc(path: Path, scores: dict[str, Scores], report: dict[str, Any]) -> None:
    """One panel a method, on logarithmic axes, between the original and the retrained model."""
    methods = [name for name in scores if name not in _NAMES] or ["original"]
    least = 1.0 / next(iter(scores.values())).retrained.size
    titles = [f"{name}: AUC {report['models'][name]['auc']['value']:.1f}" for name in methods]
    columns = min(_COLUMNS, len(methods))
    with picture(path, -(-len(methods) // columns), columns, (3.0, 2.8)) as figure:
        for name, axes in zip(methods, panels(figure, titles, columns), strict=True):
            axes.plot([least, 1], [least, 1], color=MUTED, lw=0.8, linestyle=(0, (1, 1.5)))
            for each, style in (
                ("original", {"color": MUTED, "linestyle": (0, (5, 1.5)), "lw": 1.2}),
                ("retrain", {"color": INK, "linestyle": (0, (1.5, 1.2)), "lw": 1.2}),
                (name, {"color": ORANGE}),
            ):
                fpr, tpr = roc_curve(scores[each])
                axes.step(
                    np.maximum(fpr, least),
                    np.maximum(tpr, least),
                    where="post",
                    label=each,
                    **style,
                )
            axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1))
            axes.set(xlabel="false-positive rate", ylabel="true-positive rate")
            axes.legend(loc="lower right", fontsize=7.5)


def _draw_confidences(path: Path, confidences: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """One panel a model: what it says of targets that it unlearned, and that it never saw."""
    names = list(confidences)
    everything = np.concatenate([np.ravel(side) for both in confidences.values() for side in both])
    low, high = np.quantile(everything, (0.001, 0.999))
    edges = np.linspace(low, high, _BINS + 1)
    titles = [_NAMES.get(name, name) for name in names]
    columns = min(_COLUMNS, len(names))
    with picture(path, -(-len(names) // columns), columns, (3.0, 2.3)) as figure:
        for name, axes in zip(names, panels(figure, titles, columns), strict=True):
            for side, label, colour in zip(
                confidences[name],
                (_TARGETS.get(name, "unlearned"), "never seen"),
                (ORANGE, BLUE),
                strict=True,
            ):
                counts, _ = np.histogram(np.clip(side, edges[0], edges[-1]), edges)
                shares = 100.0 * counts / side.size
                axes.stairs(shares, edges, fill=True, color=colour, alpha=0.18, lw=0)
                axes.stairs(shares, edges, color=colour, lw=1.3, label=label)
            axes.set(xlim=(low, high), xlabel="logit-scaled confidence", ylabel="% of targets")
            axes.legend(fontsize=7.5)
