"""The report of the evidence: a table in Markdown and three pictures for each request."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.evaluation import summarize
from jaxunlearn.evaluation.units import unit_of
from jaxunlearn.files import write_text
from jaxunlearn.studies.report.columns import REFERENCES
from jaxunlearn.studies.report.markdown_text import escape, markdown_table
from jaxunlearn.studies.report.numerals import number, spread
from jaxunlearn.studies.report.plots import (
    draw_distance,
    draw_map,
    draw_relearning,
    paneled,
    picture,
)

_NAMES = {name: title for name, (title, _) in REFERENCES.items()}
_PARTS = ("forget", "test")
_ENDS = [(part, end, i) for part in ("retain", "test") for end, i in (("near", 0), ("far", -1))]
Entries = list[dict[str, Any]]

MEANINGS = """\
FA after 0, 1 and 5 epochs: accuracy on the forget data while the model is trained on them again.
Probe: accuracy of a logistic regression on the features, the inputs of the last dense layer; it
learns from retain examples and half of the forget examples, and is tested on the other half. ECE
(expected calibration error, in percentage points) and Brier score (0 to 2) measure calibration.
Worst class: the largest loss of test accuracy in one class against the retrained model, in
percentage points. Disagreement: percentage of examples for which the model and the retrained model
predict different classes. Residual: accuracy on forget data with added noise, minus the retrained
model's, in percentage points. Exposure: AUC of an attack that tells retain from test data by the
confidence in the true class. Discrepancy: total variation distance between the predictions of the
model and of the retrained model, in percent, for the fifth of the retain or test data that is
nearest to the forget data, and for the farthest fifth. Values are means over the seeds with 95%
intervals. No value is good or bad in itself: the goal is the value of the retrained model, and a
second retrained model shows how much of a difference is due to chance."""


def write_evidence_report(folder: Path, report: dict[str, Any]) -> None:
    """Writes `evidence.md`, and for each request `evidence-REQUEST-relearning.png`, `-damage.png`,
    `-disagreement.png` and `-distance.png`.
    """
    write_text(folder / "evidence.md", render_markdown(report))
    for request, models in by_request(report).items():
        stem = f"evidence-{request}"
        _draw_relearning(folder / f"{stem}-relearning.png", models)
        _draw_damage(folder / f"{stem}-damage.png", models)
        _draw_disagreement(folder / f"{stem}-disagreement.png", models)
        if _complete(models):
            _draw_distance(folder / f"{stem}-distance.png", models)


def by_request(report: dict[str, Any]) -> dict[str, dict[str, Entries]]:
    """All seeds' entries by request and then by name, the references first."""
    found: dict[str, dict[str, Entries]] = {}
    for entry in report["runs"]:
        found.setdefault(entry["request"], {}).setdefault(entry["name"], []).append(entry)
    return {
        request: {name: models[name] for name in (*_NAMES, *models) if name in models}
        for request, models in found.items()
    }


def render_markdown(report: dict[str, Any]) -> str:
    """The evidence as Markdown, one table for each request."""
    lines = [f"# Evidence: {escape(report['title'])}", "", *MEANINGS.splitlines()]
    for request, models in by_request(report).items():
        titles, rows = evidence_rows(report, models)
        named = [
            [f"*{_NAMES[name]}*" if name in _NAMES else escape(name), *cells]
            for name, *cells in rows
        ]
        lines += ["", f"## {escape(request)}", "", *markdown_table(["", *titles], named)]
    return "\n".join(lines) + "\n"


def evidence_rows(
    report: dict[str, Any], models: dict[str, Entries]
) -> tuple[list[str], list[list[str]]]:
    """The titles of the columns, and for each model its name and its cells as texts."""
    last = report["relearning"]["epochs"]
    titles = [f"FA after {epoch}" for epoch in (0, 1, last)]
    titles += ["Probe", "ECE forget", "ECE test", "Brier test", "Worst class"]
    titles += ["Disagreement forget", "Disagreement test"]
    audited = _complete(models)
    if audited:
        titles += ["Residual", "Exposure"]
        titles += [f"Discrepancy {part}, {end}" for part, end, _ in _ENDS]
    rows = []
    for name, entries in models.items():
        worst = [max(v for v in e["class_damage"] if v is not None) for e in entries]
        curves = [[e["relearning_curve"][epoch] for e in entries] for epoch in (0, 1, last)]
        cells = [_cell("relearning_curve", values) for values in curves]
        cells += [_cell("probe_accuracy", [e["probe_accuracy"] for e in entries])]
        cells += [_of_part("calibration_error", entries, part) for part in _PARTS]
        cells += [_of_part("brier_score", entries, "test", decimals=3)]
        cells += [_cell("class_damage", worst)]
        cells += [_of_part("disagreement", entries, part) for part in _PARTS]
        if audited:
            cells += [
                _cell(key, [e[key] for e in entries])
                for key in ("residual_knowledge", "exposure_auc")
            ]
            cells += [
                _cell("discrepancy", [e["discrepancy"][part][place] for e in entries])
                for part, _, place in _ENDS
            ]
        rows.append([name, *cells])
    return titles, rows


def _complete(models: dict[str, Entries]) -> bool:
    """Whether no entry comes from an older version."""
    return all("discrepancy" in entry for entries in models.values() for entry in entries)


def _cell(key: str, values: list[float | None], decimals: int = 1) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    summary = summarize(known, unit_of(key)[1:])
    return f"{number(summary.mean, decimals)} {spread(summary, decimals)}".rstrip()


def _of_part(key: str, entries: Entries, part: str, decimals: int = 1) -> str:
    return _cell(key, [entry[key][part] for entry in entries], decimals)


def _draw_relearning(path: Path, models: dict[str, Entries]) -> None:
    """One panel per method, between the retrained model and the original: means over the seeds."""
    names = [name for name in models if name not in _NAMES] or ["original"]
    curves = {
        name: np.mean([e["relearning_curve"] for e in entries], axis=0)
        for name, entries in models.items()
    }
    with paneled(path, names, (2.7, 2.2)) as grid:
        for name, axes in zip(names, grid, strict=True):
            draw_relearning(axes, curves, name)
            axes.legend(loc="lower right")


def _draw_distance(path: Path, models: dict[str, Entries]) -> None:
    """One panel per method, and the floor in each: discrepancy from near to far test data."""
    names = [name for name in models if name not in _NAMES] or ["original"]
    curves = {
        name: np.mean([entry["discrepancy"]["test"] for entry in entries], axis=0)
        for name, entries in models.items()
    }
    with paneled(path, names, (2.7, 2.2)) as grid:
        for name, axes in zip(names, grid, strict=True):
            draw_distance(axes, curves, name)
            axes.legend()


def _draw_damage(path: Path, models: dict[str, Entries]) -> None:
    """One row per model, one column per class: points lost against the retrained model."""
    names = [name for name in models if name != "retrain"]
    lost = [
        np.mean([np.array(e["class_damage"], np.float64) for e in models[name]], axis=0)
        for name in names
    ]
    top = max(1.0, float(np.nanmax(np.abs(lost))))
    with picture(path, 1, 1, (1.8 + 0.42 * len(lost[0]), 1.0 + 0.3 * len(names))) as figure:
        axes = figure.subplots()
        image = draw_map(axes, np.array(lost), (-top, top), "PuOr_r")
        axes.set_yticks(range(len(names)), [_NAMES.get(name, name) for name in names])
        axes.set_xlabel("class")
        figure.colorbar(image, ax=axes, label="accuracy lost, points")


def _draw_disagreement(path: Path, models: dict[str, Entries]) -> None:
    """One panel per model: the classes that it and the retrained model predict, forget data."""
    names = [name for name in models if name != "retrain"]
    shares = [np.mean([e["disagreement"]["forget"] for e in models[name]]) for name in names]
    titles = [
        f"{_NAMES.get(name, name)}: {share:.1f}%" for name, share in zip(names, shares, strict=True)
    ]
    with paneled(path, titles, (2.7, 2.6)) as grid:
        for name, axes in zip(names, grid, strict=True):
            counts = np.sum([e["disagreement_map"]["forget"] for e in models[name]], axis=0)
            counts = np.where(np.eye(len(counts), dtype=bool), 0, counts)
            draw_map(axes, counts, (0, max(1, counts.max())), "Oranges")
            axes.set(xlabel="prediction", ylabel="retrained model's prediction")
