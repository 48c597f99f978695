"""The sections of the page after the table: pictures and small tables, as plain objects.

Each function returns the content of one section for the template `section.html`; it is empty if
there is nothing to show.
"""

import base64
import io
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.evaluation import Predictions
from jaxunlearn.studies.report import plots
from jaxunlearn.studies.report.aggregate import Row, Table
from jaxunlearn.studies.report.columns import REFERENCES, REVIVED
from jaxunlearn.studies.report.evidence import Entries, evidence_rows
from jaxunlearn.studies.report.extras import Extras, multiplier_settings
from jaxunlearn.studies.report.numerals import number
from jaxunlearn.studies.report.plane import make_plane
from jaxunlearn.studies.report.samples import Samples
from jaxunlearn.studies.report.study import Run, Study
from jaxunlearn.studies.report.ulira import audit_rows, ulira_rows
from jaxunlearn.studies.report.wording import row_name

_MOST_CLASSES = 20
# The settings that may differ between a run and its twin with the exact multiplier.
_OF_MULTIPLIER = {
    "estimator",
    "tolerance",
    "step_size",
    "log_loss",
    "convex",
    "project",
    "multiplier_learning_rate",
    "multiplier_decay",
    "initial_multiplier",
}


class Figure(NamedTuple):
    """A picture below a name and a note; the picture is a URL that holds it."""

    name: str
    note: str
    picture: str


def data_url(content: bytes, kind: str) -> str:
    """A URL that holds a whole file."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _drawn(*arguments: Any, **named: Any) -> str:
    return data_url(plots.svg(*arguments, **named).encode(), "svg+xml")


def _of_row(row: Row, picture: str) -> Figure:
    return Figure(row_name(row), REFERENCES[row.name][1] if row.reference else "", picture)


def _pooled(study: Study, request: str, name: str) -> dict[str, np.ndarray]:
    """Confidence histograms of one model over all seeds, by split."""
    found = [run.predictions() for run in study.select(request, name)]
    shares = {}
    for split in ("forget", "retain", "test"):
        sets: list[Predictions] = [getattr(each, split) for each in found if each is not None]
        if known := [plots.confidence_shares(each) for each in sets if len(each.labels)]:
            shares[split] = np.mean(known, axis=0)
    return shares


def confidence(study: Study, table: Table) -> dict[str, Any]:
    """Histograms of the confidence in the true class, one picture per model."""
    goal = _pooled(study, table.request, "retrain").get("forget")
    rows = [row for row in table.rows if row.name != "retrain-again"]
    rows.sort(key=lambda row: (row.name == "retrain", not row.reference))
    figures = []
    for row in rows:
        if shares := _pooled(study, table.request, row.name):
            dotted = None if row.name == "retrain" else goal
            figures.append(_of_row(row, _drawn(plots.draw_confidence, shares, dotted)))
    return {"figures": figures, "has_goal": goal is not None}


def histories(study: Study, table: Table) -> dict[str, Any]:
    """Losses and multipliers over the steps, one picture per method."""
    figures, has_multiplier = [], False
    for row in table.rows:
        logged = [run.history() for run in study.select(table.request, row.name)]
        losses = ("forget_loss", "retain_loss")
        if not row.reference and any(plots.has_series(logged, key) for key in losses):
            two = plots.has_series(logged, "multiplier")
            ratios = (1.7, 1) if two else (1,)
            picture = _drawn(plots.draw_history, logged, height=2.7, ratios=ratios)
            figures.append(_of_row(row, picture))
            has_multiplier |= two
    return {"figures": figures, "has_multiplier": has_multiplier}


def plane(study: Study, table: Table) -> dict[str, Any]:
    """All methods by forgetting and utility, with the Pareto front."""
    found = make_plane(study, table)
    if found is None:
        return {}
    shown = {n: name for n, name in enumerate(found.methods, start=1) if found.is_shown(name)}
    points = [found.methods[name] for name in shown.values()]
    front = {i for i, name in enumerate(shown.values()) if name in found.front}
    which = (points, front, found.references, "test accuracy")
    picture = _drawn(plots.draw_front, *which, numbers=list(shown), height=3.0)
    items = []
    for name, point in found.methods.items():
        notes = [f"{number(point.utility, 2)}%, {number(point.error, 2)}"]
        notes += ["front"] if name in found.front else []
        notes += [] if found.is_shown(name) else ["outside the picture"]
        items.append((name, ", ".join(notes)))
    return {"picture": picture, "methods": items, "references": list(found.references)}


def multipliers(study: Study, table: Table) -> list[Figure]:
    """The multiplier of each method beside the exact multiplier of a like run."""
    found = {}
    for name in study.methods:
        runs = [run for run in study.select(table.request, name) if _has_multiplier(run)]
        chosen = multiplier_settings(runs[0]) if runs else None
        if chosen is not None:
            found[name] = (*chosen, [run.history() for run in runs])
    figures = []
    for name, (method, settings, implicit) in found.items():
        for other, (their_method, theirs, exact) in found.items():
            if settings["estimator"] == "exact" or theirs["estimator"] != "exact":
                continue
            if method != their_method or _others(settings) != _others(theirs):
                continue
            note = f"{settings['estimator']}, tolerance {settings.get('tolerance')}; "
            note += f"beside {other}, tolerance {theirs.get('tolerance')}"
            picture = _drawn(plots.draw_multipliers, implicit, exact)
            figures.append(Figure(name, note, picture))
    return figures


def _has_multiplier(run: Run) -> bool:
    return plots.has_series([run.history()], "multiplier")


def _others(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _OF_MULTIPLIER}


def evidence(table: Table, extras: Extras) -> dict[str, Any]:
    """Relearning curves, probes, calibration and damage to classes."""
    found = extras.entries.get(table.request)
    if extras.evidence is None or not found:
        return {}
    models = {row.name: found[row.name] for row in table.rows if row.name in found}
    curves = {
        name: np.mean([entry["relearning_curve"] for entry in entries], axis=0)
        for name, entries in models.items()
    }
    figures = [
        Figure(name, "", _drawn(plots.draw_relearning, curves, name))
        for name in models
        if name not in REFERENCES
    ]
    titles, rows = evidence_rows(extras.evidence, models)
    return {
        "figures": figures,
        "titles": titles,
        "rows": rows,
        "missing": extras.without_evidence,
        "damage": _damage(models),
    }


def _damage(models: dict[str, Entries]) -> dict[str, Any]:
    """Accuracy that each class lost against the retrained model: means over seeds."""
    lost = {
        name: [
            float(np.mean(known)) if (known := [v for v in values if v is not None]) else None
            for values in zip(*(entry["class_damage"] for entry in entries), strict=True)
        ]
        for name, entries in models.items()
        if name != "retrain"
    }
    count = max((len(values) for values in lost.values()), default=0)
    if not 0 < count <= _MOST_CLASSES:
        return {}
    top = max(1.0, *(abs(value) for values in lost.values() for value in values if value))
    return {
        "titles": [str(label) for label in range(count)],
        "rows": [
            [name, *("–" if v is None else number(v, 1, signed=True) for v in values)]
            for name, values in lost.items()
        ],
        "shades": {name: [(v or 0.0) / top for v in values] for name, values in lost.items()},
    }


def ulira(table: Table, extras: Extras) -> dict[str, Any]:
    """The results and ROC curves of U-LiRA."""
    found = extras.ulira_on(table.request)
    if found is None:
        return {}
    models = found["models"]
    figures = [
        Figure(
            name,
            f"AUC {number(model['auc']['value'], 1)}",
            _drawn(plots.draw_roc, models, name, height=2.7),
        )
        for name, model in models.items()
        if name not in REFERENCES
    ]
    titles, rows = ulira_rows(found)
    audits = audit_rows(found)
    return {"found": found, "figures": figures, "titles": titles, "rows": rows, "audits": audits}


def attacks(table: Table) -> list[Figure]:
    """The forgotten class before and after each attack of `jaxunlearn revive`, by method."""
    titles = {column.key: column.title for column in table.columns if column.group == REVIVED}
    if not titles:
        return []
    titles = {"generated_forget_accuracy": "Before"} | titles
    seen = {
        row.name: {t: row.cells[key].value.mean for key, t in titles.items() if key in row.cells}
        for row in table.rows
    }
    height = 0.8 + 0.22 * len(titles)
    return [
        _of_row(row, _drawn(plots.draw_attacks, seen, row.name, height=height))
        for row in table.rows
        if not row.reference
    ]


def samples(found: Samples | None) -> dict[str, Any]:
    """Generated images: headings of neighbouring columns, and a row of pictures for each model."""
    from PIL import Image

    if found is None:
        return {}

    def as_png(image: np.ndarray) -> str:
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "PNG")
        return data_url(file.getvalue(), "png")

    heads = [(name, len(list(same))) for name, same in groupby(found.columns)]
    return {
        "heads": heads,
        "first": {0, *accumulate(span for _, span in heads)},
        "columns": found.columns,
        "forgotten": found.forgotten,
        "rows": {name: [as_png(image) for image in images] for name, images in found.rows.items()},
    }
