"""The report of U-LiRA: a table in Markdown, ROC curves, and histograms."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.files import write_text
from jaxunlearn.studies.report.columns import REFERENCES
from jaxunlearn.studies.report.markdown_text import escape, markdown_table
from jaxunlearn.studies.report.plots import draw_roc, draw_shares, paneled

_NAMES = {name: title for name, (title, _) in REFERENCES.items()}
_TARGETS = {"retrain": "also never seen", "original": "learned"}
ENOUGH_SHADOWS = 16


def write_ulira_report(
    folder: Path,
    report: dict[str, Any],
    confidences: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Writes `ulira.md`, `ulira_roc.png` and `ulira_confidence.png`.

    `confidences` are logit-scaled, for each model: on targets that it unlearned, and on targets
    that it never saw.
    """
    write_text(folder / "ulira.md", render_markdown(report))
    _draw_roc(folder / "ulira_roc.png", report["models"])
    _draw_confidences(folder / "ulira_confidence.png", confidences)


def render_markdown(report: dict[str, Any]) -> str:
    """The results as a Markdown table with its explanation, from the content of `ulira.json`."""
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
        f"unlearned these, {100 * report['fraction']:g}% of its training data. The attacker knows "
        "everything except whether a model learned and unlearned an example, or was retrained "
        "without it. An AUC of 50 is a coin toss; in parentheses the 95% interval by resampling "
        "models and examples. The row *Retrained* is the result of perfect unlearning. Gaussians "
        "have "
        + (
            "a variance for each example."
            if report["variance"] == "example"
            else "the mean variance of all examples, since there are few models."
        ),
        "",
        *markdown_table(["", *titles], named),
        "",
        "FA, RA, TA: accuracy on forget, retain and test data in percent, means over the shadow "
        "models.",
    ]
    if report["shadows"] < ENOUGH_SHADOWS:
        lines += ["", "With so few shadow models the intervals are too narrow."]
    if bound:
        lines += [
            "",
            "Epsilon: smaller values are refuted with 95% confidence if all scores are independent;"
            " the scores of one shadow model are nearly so.",
        ]
    return "\n".join(lines) + "\n"


def ulira_rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The titles of the columns, and for each model its name and its cells as texts."""
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


def _draw_roc(path: Path, models: dict[str, Any]) -> None:
    """One panel per method, between the original and the retrained model."""
    methods = [name for name in models if name not in _NAMES] or ["original"]
    titles = [f"{name}: AUC {models[name]['auc']['value']:.1f}" for name in methods]
    with paneled(path, titles, (3.0, 2.8)) as grid:
        for name, axes in zip(methods, grid, strict=True):
            draw_roc(axes, models, name)
            axes.legend(loc="lower right")


def _draw_confidences(path: Path, confidences: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """One panel per model: its confidence in targets that it unlearned, and in unseen targets."""
    everything = np.concatenate([np.ravel(side) for both in confidences.values() for side in both])
    low, high = np.quantile(everything, (0.001, 0.999))
    titles = [_NAMES.get(name, name) for name in confidences]
    with paneled(path, titles, (3.0, 2.3)) as grid:
        for (name, both), axes in zip(confidences.items(), grid, strict=True):
            labels = (_TARGETS.get(name, "unlearned"), "never seen")
            draw_shares(axes, dict(zip(labels, both, strict=True)), (low, high))
            axes.legend()
