"""Sections of the page on what goes beyond the table: the plane of all methods, utility budgets,
the multiplier beside its exact value, the evidence, and U-LiRA. Each is "" where there is nothing
to show.
"""

from html import escape
from typing import Any

import numpy as np

from jaxunlearn.studies.report.aggregate import Table
from jaxunlearn.studies.report.charts import series
from jaxunlearn.studies.report.columns import REFERENCES
from jaxunlearn.studies.report.curves import draw_multipliers, draw_relearning, draw_roc
from jaxunlearn.studies.report.evidence import MEANINGS, Entries, evidence_rows
from jaxunlearn.studies.report.extras import ULIRA_FOLDER, Extras, multiplier_settings
from jaxunlearn.studies.report.guards import GUARD_NOTE, guard_rows
from jaxunlearn.studies.report.markup import breakable, figure, key_list, plain_table
from jaxunlearn.studies.report.numerals import number
from jaxunlearn.studies.report.plane import draw_plane, make_plane
from jaxunlearn.studies.report.study import Run, Study
from jaxunlearn.studies.report.ulira import ulira_rows

_MOST_CLASSES = 20
# The settings in which a run may differ from the one with the exact multiplier beside it.
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
_MODELS_KEY = (
    ("forget", "the method", ""),
    ("ink", "retrained", "1.5 1.2"),
    ("muted", "original", "5 1.5"),
)
_MULTIPLIER_KEY = (("multiplier", "implicit", ""), ("retain", "exact", "5 1.5"))


def plane_section(study: Study, table: Table) -> str:
    """All methods by forgetting and utility, with the Pareto front."""
    plane = make_plane(study, table)
    if plane is None:
        return ""
    items = ""
    for n, (name, point) in enumerate(plane.methods.items(), start=1):
        mean = f"{number(point.utility, 2)}%, {number(point.error, 2)}"
        notes = [mean, *(["front"] if name in plane.front else [])]
        notes += [] if plane.is_shown(name) else ["outside the picture"]
        items += f"<li><b>{n}</b>{breakable(name)} <small>{', '.join(notes)}</small></li>"
    marks = {
        "retrain": "Full diamond: retrained.",
        "retrain-again": "Hollow diamond: retrained again.",
        "original": "Cross: original.",
    }
    drawn = " ".join(text for name, text in marks.items() if name in plane.references)
    return (
        "<h3>Forgetting against utility</h3><p>To the right: test accuracy, higher is better. "
        "Upwards: forget error, the difference in forget accuracy to the retrained model of the "
        "same seed, lower is better. Filled: the Pareto front, methods that no other method beats "
        f"in both. Points are means over seeds, so a near neighbour may be as good. {drawn}</p>"
        f'<div class="plane"><figure>{draw_plane(plane)}</figure><ol>{items}</ol></div>'
    )


def guard_section(study: Study, table: Table) -> str:
    """The utility budgets of guarded runs, and what they came to."""
    titles, rows = guard_rows(study, table.request)
    if not rows:
        return ""
    heading = "Utility budgets: held-out retain loss"
    return (
        f"<h3>{heading}</h3>{plain_table(heading, titles, rows)}"
        f'<p class="note">{escape(GUARD_NOTE)}</p>'
    )


def multiplier_section(study: Study, table: Table) -> str:
    """The multiplier of each method beside a run of the study that has the exact one."""
    found = {}
    for name in study.methods:
        runs = [run for run in study.select(table.request, name) if _has_multiplier(run)]
        chosen = multiplier_settings(runs[0]) if runs else None
        if chosen is not None:
            found[name] = (*chosen, runs)
    figures = ""
    for name, (method, settings, runs) in found.items():
        for other, (their_method, theirs, exact_runs) in found.items():
            if settings["estimator"] == "exact" or theirs["estimator"] != "exact":
                continue
            if method != their_method or _others(settings) != _others(theirs):
                continue
            picture = draw_multipliers(
                [run.history() for run in runs], [run.history() for run in exact_runs]
            )
            told = [f"{settings['estimator']}, tolerance {settings.get('tolerance')}"]
            told += [f"beside {other}, tolerance {theirs.get('tolerance')}"]
            caption = f"{breakable(name)}<small>{breakable('; '.join(told))}</small>"
            figures += figure(caption, picture)
    if not figures:
        return ""
    return (
        "<h3>Multiplier beside the exact multiplier</h3><p>Runs of one method that differ in how "
        "they find the multiplier, and in the tolerance where the caption names two. Each follows "
        "its own weights, so the curves need not agree step by step. A few values of the exact "
        "multiplier may be above the picture.</p>"
        f'{key_list(_MULTIPLIER_KEY)}<div class="charts">{figures}</div>'
    )


def _has_multiplier(run: Run) -> bool:
    return len(series(run.history(), "multiplier")[0]) > 0


def _others(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _OF_MULTIPLIER}


def evidence_section(table: Table, extras: Extras) -> str:
    """Relearning curves, probes, calibration and damage to classes."""
    found = extras.entries.get(table.request)
    if extras.evidence is None or not found:
        return ""
    models = {row.name: found[row.name] for row in table.rows if row.name in found}
    curves = {
        name: np.mean([entry["relearning_curve"] for entry in entries], axis=0)
        for name, entries in models.items()
    }
    low = min(float(curve.min()) for curve in curves.values())
    figures = "".join(
        figure(breakable(name), draw_relearning(curves, name, low))
        for name in models
        if name not in REFERENCES
    )
    shown = ""
    if figures:
        shown = f'{key_list(_MODELS_KEY)}<div class="charts">{figures}</div>'
    titles, rows = evidence_rows(extras.evidence, models)
    missing = ""
    if extras.without_evidence:
        missing = (
            f" {extras.without_evidence} runs of the study have no evidence on their present "
            "weights; run jaxunlearn evidence again."
        )
    return (
        "<h3>Relearning</h3><p>Accuracy on the forget data while the model is trained on them "
        "again. If unlearning left no trace, the curve follows the retrained model's."
        f"</p>{shown}<h3>Evidence</h3>{plain_table('Evidence', titles, rows)}"
        f'<p class="note">{escape(" ".join(MEANINGS.split()) + missing)}</p>{_damage(models)}'
    )


def _damage(models: dict[str, Entries]) -> str:
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
        return ""
    top = max(1.0, *(abs(value) for values in lost.values() for value in values if value))
    rows = [
        [name, *("–" if v is None else number(v, 1, signed=True) for v in values)]
        for name, values in lost.items()
    ]
    shades = {name: [(value or 0.0) / top for value in values] for name, values in lost.items()}
    titles = [str(label) for label in range(count)]
    return (
        "<h3>Damage to classes</h3><p>Percentage points of accuracy that each class of the test "
        "data lost against the retrained model (orange), or gained (minus, blue); means over "
        f"seeds.</p>{plain_table('Damage to classes', titles, rows, shades)}"
    )


def ulira_section(table: Table, extras: Extras) -> str:
    """The results and ROC curves of U-LiRA."""
    found = extras.ulira_on(table.request)
    if found is None:
        return ""
    models = found["models"]
    figures = "".join(
        figure(
            f"{breakable(name)}<small>AUC {number(model['auc']['value'], 1)}</small>",
            draw_roc(models, name),
        )
        for name, model in models.items()
        if name not in REFERENCES
    )
    charts = f'{key_list(_MODELS_KEY)}<div class="charts">{figures}</div>' if figures else ""
    titles, rows = ulira_rows(found)
    few = (
        "" if found["shadows"] >= 16 else " With so few shadow models the intervals are too narrow."
    )
    return (
        "<h3>U-LiRA</h3><p>Can an attacker who knows everything else tell for single examples "
        "whether a model unlearned them, or was retrained without them? "
        f"{found['shadows']} shadow models, {found['targets']} target examples, pretraining seed "
        f"{found['seed']}. An AUC of 50 is a coin toss; the row of the retrained model is what "
        f"perfect unlearning gets here. In parentheses: 95% bootstrap intervals.{few}</p>"
        f"{plain_table('U-LiRA', titles, rows)}{charts}"
        f'<p class="note">ROC curves on logarithmic axes; dotted diagonal: a coin toss. More in '
        f"{ULIRA_FOLDER}/ulira.md.</p>"
    )
