"""The verdict on one request in plain sentences, each about numbers of the table.

With several seeds, differences are paired over them. A difference counts as settled if the 95%
t-interval of its mean excludes the limit. With one seed there are no intervals: numbers are
compared as the table shows them, below a sentence that one seed ranks nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxunlearn.evaluation import Summary, summarize
from jaxunlearn.studies.report.aggregate import Row, Table, make_table
from jaxunlearn.studies.report.columns import COLUMNS
from jaxunlearn.studies.report.diagnosis import (
    LEAST_MOVEMENT,
    MOST_UNSURE,
    NO_EFFECT,
    NOT_MOVED,
    OVER_FORGOTTEN,
    diagnose,
)
from jaxunlearn.studies.report.numerals import number
from jaxunlearn.studies.report.ranking import METRIC, can_rank, make_ranking
from jaxunlearn.studies.report.study import Study
from jaxunlearn.studies.report.ulira import ENOUGH_SHADOWS
from jaxunlearn.studies.report.wording import describe_request, parts, ranking_sentence

RETAIN_LOSS, TEST_LOSS = 0.5, 1.0  # percentage points below the retrained model
SMALL_SHARE = 20.0  # percent of the time of retraining
_MANY = 6

ONE_SEED = "One seed ranks nothing: another seed may reverse any of these sentences."
SETTLED_NOTE = (
    "A difference is called settled if its paired 95% t-interval excludes zero, or the limit that "
    "is named. The intervals are not corrected for the number of methods."
)
_COLUMN = {column.key: column for column in COLUMNS}
_DIAGNOSES = {
    NOT_MOVED: f"Nothing moved (weights changed by less than {LEAST_MOVEMENT:g}%)",
    NO_EFFECT: "No effect at this rate (predictions on forget data are the original model's)",
    OVER_FORGOTTEN: f"Over-forgotten (more than {MOST_UNSURE:g} points less confident on forget "
    "data than a model that never saw them)",
}


class Verb(NamedTuple):
    """A verb for one method and for several, its negations, and its infinitive after them."""

    one: str
    many: str
    not_one: str
    not_many: str
    infinitive: str = ""


_IS = Verb("is", "are", "is not", "are not")
_CAN = Verb("can", "can", "cannot", "cannot")
_HAS = Verb("has", "have", "does not", "do not", " have")
_TAKES = Verb("takes", "take", "does not", "do not", " take")


class Sides(NamedTuple):
    """Methods for which a claim is true, is false, or is left open by the seeds."""

    true: list[str]
    false: list[str]
    open: list[str]


def headline(study: Study) -> str:
    """The result of a study in one sentence, for large type; "" before any comparison.

    It is about the first request with a method that has been compared with a retrained model.
    """
    tables = (make_table(study, request) for request in study.requests)
    table = next((table for table in tables if _compared(table)), None)
    if table is None:
        return ""
    rows = _compared(table)
    first = rows[_first(rows, METRIC)[0]]
    away = {row.name: row.cells[METRIC].value.mean for row in table.rows if METRIC in row.cells}
    shown = {name: number(gap, 1) for name, gap in away.items()}
    start = f"Forgetting {describe_request(table.request) or table.request}, "
    end = "." if first.seeds > 1 else " (one seed)."
    if away[first.name] >= away.get("original", math.inf):
        worse = f"no method is closer to retraining than the original model, {shown['original']}"
        return f"{start}{worse} points away{end}"
    sentence = f"{start}{first.name} is within {shown[first.name]} points of retraining"
    if "share_of_retraining" in first.cells:
        share = number(first.cells["share_of_retraining"].value.mean, 0)
        sentence += f", in {share}% of its time"
    beside = [
        f"{what} is {shown[name]} away"
        for name, what in (
            ("original", "the original model"),
            ("retrain-again", "a second retrained model"),
        )
        if name in shown
    ]
    return "; ".join([sentence, *([", ".join(beside)] if beside else [])]) + end


def make_verdict(study: Study, table: Table, ulira: Mapping[str, Any] | None = None) -> list[str]:
    """The conclusions on one request; none before a method was compared with a retrained model."""
    rows = _compared(table)
    if not rows:
        return []
    alone = max(row.seeds for row in rows.values()) == 1
    return [
        *([ONE_SEED] if alone else []),
        *_nearest(study, table.request, rows),
        *_beside_the_original(study, table, alone),
        *_beside_the_floor(study, table, rows, alone),
        *_diagnoses(study, table.request),
        *_attacks(rows),
        *_accuracies(rows, alone),
        *_time(rows),
        *_shadows(rows, ulira),
    ]


def _compared(table: Table) -> dict[str, Row]:
    """The methods that have a distance to the retrained model."""
    return {row.name: row for row in table.rows if not row.reference and METRIC in row.cells}


def split(differences: Mapping[str, Summary], limit: float, decimals: int, alone: bool) -> Sides:
    """Sorts methods by whether their difference is below a limit; rounded first for one seed.

    Example:
        >>> found = {"a": Summary(-1.0, 0.4, 3), "b": Summary(-1.0, 1.4, 3)}
        >>> split(found, 0.0, 2, alone=False)
        Sides(true=['a'], false=[], open=['b'])
    """
    sides = Sides([], [], [])
    for name, (mean, width, *_) in differences.items():
        if alone:
            side = sides.true if round(mean, decimals) < limit else sides.false
        elif width is None:
            side = sides.open
        else:
            side = sides.true if mean + width < limit else sides.open
            side = sides.false if mean - width >= limit else side
        side.append(name)
    return sides


def _sentences(verb: Verb, claim: str, sides: Sides) -> list[str]:
    """One sentence on a claim about every method, or none where nothing is known."""
    total = sum(map(len, sides))
    if not total:
        return []
    if len(sides.true) == total > 1:
        return [f"Every method {verb.one} {claim}."]
    if len(sides.false) == total > 1:
        return [f"No method {verb.one} {claim}."]
    if len(sides.open) == total:
        names = sides.open[0] if total == 1 else "any method"
        return [f"Whether {names} {verb.one} {claim} is not settled."]
    clauses = []
    if sides.true:
        clauses.append(f"{_listed(sides.true)} {verb[len(sides.true) > 1]} {claim}")
    if sides.false:
        no = verb[2 + (len(sides.false) > 1)]
        many = sides.true and not sides.open and len(sides.false) > _MANY
        names = "all others" if many else _listed(sides.false)
        clauses.append(f"{names} {no}" + ("" if sides.true else f"{verb.infinitive} {claim}"))
    if sides.open:
        clauses.append(f"for {_listed(sides.open)} it is not settled")
    return ["; ".join(clauses) + "."]


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> _listed(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _paired(study: Study, request: str, key: str, other: str) -> dict[str, Summary]:
    """The mean difference of each method to a reference, paired over seeds."""
    theirs = {
        run.seed: run.metrics[key] for run in study.select(request, other) if key in run.metrics
    }
    found = {}
    for name in study.methods:
        pairs = [
            run.metrics[key] - theirs[run.seed]
            for run in study.select(request, name)
            if key in run.metrics and run.seed in theirs
        ]
        if pairs:
            found[name] = summarize(pairs)
    return found


def _first(rows: Mapping[str, Row], key: str) -> list[str]:
    """The methods with the smallest mean, as rounded for the table."""
    column = _COLUMN[key]
    means = {
        name: round(row.cells[key].value.mean, column.decimals)
        for name, row in rows.items()
        if key in row.cells
    }
    return [name for name, mean in means.items() if mean == min(means.values())]


def _mean(table: Table, name: str, key: str) -> float:
    return next(row.cells[key].value.mean for row in table.rows if row.name == name)


def _nearest(study: Study, request: str, rows: Mapping[str, Row]) -> list[str]:
    first = _first(rows, METRIC)
    gap = " ".join(parts(rows[first[0]].cells[METRIC], _COLUMN[METRIC])[:2]).strip()
    if len(rows) == 1:
        return [f"The five-part gap of {first[0]} to the retrained model is {gap} points."]
    verb = _IS[len(first) > 1]
    sentence = f"{_listed(first)} {verb} closest to the retrained model, {gap} points away."
    if not can_rank(study, request):
        return [sentence]
    return [f"{sentence} {ranking_sentence(make_ranking(study, request))}"]


def _beside_the_original(study: Study, table: Table, alone: bool) -> list[str]:
    sentences = []
    for key, name in (
        (METRIC, "a smaller five-part gap than the original model"),
        ("js_to_retrained", "a smaller JS divergence from the retrained model than the original"),
    ):
        found, decimals = _paired(study, table.request, key, "original"), _COLUMN[key].decimals
        if found:
            value = number(_mean(table, "original", key), decimals)
            sentences += _sentences(_HAS, f"{name} ({value})", split(found, 0.0, decimals, alone))
    return sentences


def _beside_the_floor(
    study: Study, table: Table, rows: Mapping[str, Row], alone: bool
) -> list[str]:
    """Which methods are farther from the retrained model than a second retrained model is."""
    found = _paired(study, table.request, METRIC, "retrain-again")
    if not found:
        return []
    decimals = _COLUMN[METRIC].decimals
    floor = round(_mean(table, "retrain-again", METRIC), decimals)
    turned = {name: Summary(-each.mean, each.half_width, each.n) for name, each in found.items()}
    claim = (
        "farther from the retrained model than a second retrained model is "
        f"({number(floor, decimals)})"
    )
    sentences = _sentences(_IS, claim, split(turned, 0.0, decimals, alone))
    least = _mean(table, _first(rows, METRIC)[0], METRIC)
    behind = {name: round(_mean(table, name, METRIC) - least, decimals) for name in rows}
    near = [name for name, distance in behind.items() if 0 < distance < floor]
    if alone and near:
        sentences.append(
            f"The lead over {_listed(near)} is smaller than that, so it means nothing."
        )
    return sentences


def _diagnoses(study: Study, request: str) -> list[str]:
    found = diagnose(study, request)
    return [
        f"{words}: {_listed(names)}."
        for kind, words in _DIAGNOSES.items()
        if (names := [name for name, each in found.items() if each == kind])
    ]


def _attacks(rows: Mapping[str, Row]) -> list[str]:
    """The method with the smallest average gap, by either attack."""
    found: list[str] = []
    before: list[str] = []
    if len(rows) > 1:
        for key, column in _COLUMN.items():
            if key.startswith("average_gap_") and all(key in row.cells for row in rows.values()):
                first = _first(rows, key)
                attack = key.removeprefix("average_gap_")
                value = number(rows[first[0]].cells[key].value.mean, column.decimals)
                names = "" if first == before else f"for {_listed(first)} "
                found.append(f"{names}by {attack} ({value})")
                before = first
    return [f"The average gap is smallest {_listed(found)}."] if found else []


def _accuracies(rows: Mapping[str, Row], alone: bool) -> list[str]:
    sentences = []
    for part, most in (("retain", RETAIN_LOSS), ("test", TEST_LOSS)):
        key = f"{part}_accuracy"
        found = {
            method: difference
            for method, row in rows.items()
            if key in row.cells and (difference := row.cells[key].difference) is not None
        }
        sides = split(found, -most, _COLUMN[key].decimals, alone)
        claim = f"a {part} accuracy more than {most:.1f} points below the retrained model's"
        sentences += _sentences(_HAS, claim, sides)
    return sentences


def _time(rows: Mapping[str, Row]) -> list[str]:
    key = "share_of_retraining"
    sides = Sides([], [], [])
    for name, row in rows.items():
        if key in row.cells:
            mean = row.cells[key].value.mean
            small = round(mean, _COLUMN[key].digits(mean)) <= SMALL_SHARE
            (sides.true if small else sides.false).append(name)
    return _sentences(_TAKES, f"at most {SMALL_SHARE:g}% of the time of retraining", sides)


def _shadows(rows: Mapping[str, Row], ulira: Mapping[str, Any] | None) -> list[str]:
    if ulira is None:
        return []
    sides = Sides([], [], [])
    for name, found in ulira["models"].items():
        if name in rows:
            (sides.true if found["auc"]["low"] > 50 else sides.false).append(name)
    few = ", too few for reliable intervals" if ulira["shadows"] < ENOUGH_SHADOWS else ""
    claim = (
        f"be distinguished from a retrained model by U-LiRA (95% interval of the AUC above 50; "
        f"{ulira['shadows']} shadow models{few})"
    )
    return _sentences(_CAN, claim, sides)
