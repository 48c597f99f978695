"""The report of U-LiRA and of the audits beside it: tables in Markdown, and pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.evaluation.klom import gaussian_klom
from jaxunlearn.files import write_text
from jaxunlearn.studies.report.columns import REFERENCES
from jaxunlearn.studies.report.markdown_text import escape, markdown_table
from jaxunlearn.studies.report.plots import draw_quantiles, draw_roc, draw_shares, paneled

_NAMES = {name: title for name, (title, _) in REFERENCES.items()}
_TARGETS = {"retrain": "also never seen", "original": "learned"}
_PARTS = {"targets": "forget", "retain": "retain", "test": "test"}
_FIRST = ("retrain", "retrain-again", "original")
ENOUGH_SHADOWS = 16
AUDITS = """\
More audits of the same shadow models. AUC (best at 50): U-LiRA on the tenth of the targets that
models memorise most, on the tenth that they memorise least, and on retained examples, where the
question is whether the model has unlearned anything at all. KLOM (in nats, best at 0): the KL
divergence of the margins of unlearned models from the margins of retrained models, the 95th
percentile over the examples. It is computed from histograms of 20 bins, and from Gaussians, which
are steadier with few models. The rows of retrained models compare one half of them with the other
half, in three random divisions. Their values are the floor: what an audit finds where there is
nothing to find."""


def write_ulira_report(
    folder: Path,
    report: dict[str, Any],
    confidences: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Writes `ulira.md`, `ulira_roc.png`, `ulira_confidence.png` and `ulira_klom.png`.

    `confidences` are logit-scaled, for each model: on targets that it unlearned, and on targets
    that it never saw.
    """
    write_text(folder / "ulira.md", render_markdown(report))
    _draw_roc(folder / "ulira_roc.png", report["models"])
    _draw_confidences(folder / "ulira_confidence.png", confidences)
    _draw_klom(folder / "ulira_klom.png", confidences)


def render_markdown(report: dict[str, Any]) -> str:
    """The results as a Markdown table with its explanation, from the content of `ulira.json`."""
    bound, (titles, rows) = _has_bound(report), ulira_rows(report)
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
        *_table(titles, rows),
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
    titles, rows = audit_rows(report)
    if rows:
        lines += ["", *AUDITS.splitlines(), "", *_table(titles, rows)]
    return "\n".join(lines) + "\n"


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    named = [
        [f"*{_NAMES[name]}*" if name in _NAMES else escape(name), *cells] for name, *cells in rows
    ]
    return markdown_table(["", *titles], named)


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


def audit_rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The other audits, like `ulira_rows`; no rows if a file of an older version has none."""
    titles = [f"AUC {part}" for part in ("most memorised", "least memorised", "retained")]
    titles += [f"KLOM {part}" for part in _PARTS.values()]
    titles += [f"Gaussian KLOM {part}" for part in _PARTS.values()]
    again = [("retrain-again", found) for found in report.get("retrained_again", [])]
    rows = []
    for name, found in sorted([*report["models"].items(), *again], key=lambda one: _rank(one[0])):
        if "klom" not in found:
            return titles, []
        aucs = [*(found["memorised_auc"][end] for end in ("most", "least")), found["retain_auc"]]
        nats = [found[key][part] for key in ("klom", "gaussian_klom") for part in _PARTS]
        rows.append([name, *(f"{auc:.1f}" for auc in aucs), *(f"{nat:.2f}" for nat in nats)])
    return titles, rows


def _rank(name: str) -> int:
    """The place of a model in the table: retrained models first."""
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


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


def _draw_klom(path: Path, confidences: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """One panel per method, between the original and the retrained models: KLOM of the targets."""
    values = {name: gaussian_klom(*both) for name, both in confidences.items()}
    methods = [name for name in values if name not in _NAMES] or ["original"]
    titles = [f"{name}: P95 {np.quantile(values[name], 0.95):.2f}" for name in methods]
    with paneled(path, titles, (3.0, 2.4)) as grid:
        for name, axes in zip(methods, grid, strict=True):
            draw_quantiles(axes, values, name)
            axes.legend(loc="upper left")
