"""The verdict on one request in plain sentences, each about numbers of the table.

Statements about several seeds rest on differences that are paired over them. One counts as settled
if the 95% t-interval of the mean difference is on one side of the limit; the others are open. With
one seed there are no intervals: numbers are compared as they are shown, below the sentence that one
seed ranks nothing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxunlearn.evaluation import Summary, summarize
from jaxunlearn.studies.report.aggregate import Row, Table
from jaxunlearn.studies.report.columns import COLUMNS
from jaxunlearn.studies.report.numerals import number
from jaxunlearn.studies.report.ranking import METRIC, can_rank, make_ranking
from jaxunlearn.studies.report.study import Study
from jaxunlearn.studies.report.wording import parts, verdict

RETAIN_LOSS, TEST_LOSS = 0.5, 1.0  # percentage points below the retrained model
SMALL_SHARE = 20.0  # percent of the time of retraining
_ENOUGH_SHADOWS = 16
_MANY = 6

ONE_SEED = (
    "One seed ranks nothing: these sentences describe single runs, and another seed may reverse "
    "them."
)
SETTLED_NOTE = (
    "A difference is called settled if its paired 95% t-interval excludes zero, or the limit "
    "named; the intervals are not corrected for the number of methods."
)
_COLUMN = {column.key: column for column in COLUMNS}


class Sides(NamedTuple):
    """Methods of which something is true, is not, and is left open by the seeds there are."""

    true: list[str]
    false: list[str]
    open: list[str]


def make_verdict(study: Study, table: Table, ulira: Mapping[str, Any] | None = None) -> list[str]:
    """What the numbers on one request say.

    Args:
        study: the study.
        table: of one of its requests.
        ulira: the content of `ulira.json`, if this request was attacked.

    Returns:
        Sentences; none where no method has been compared with a retrained model. What was not
        measured is not spoken of.
    """
    rows = {row.name: row for row in table.rows if not row.reference and METRIC in row.cells}
    if not rows:
        return []
    alone = max(row.seeds for row in rows.values()) == 1
    return [
        *([ONE_SEED] if alone else []),
        *_nearest(study, table.request, rows),
        *_beside_the_original(study, table, alone),
        *_beside_the_floor(study, table, rows, alone),
        *_attacks(rows),
        *_accuracies(rows, alone),
        *_time(rows),
        *_shadows(rows, ulira),
    ]


def split(differences: Mapping[str, Summary], limit: float, decimals: int, alone: bool) -> Sides:
    """Sorts methods by whether their difference is below a limit.

    Args:
        differences: mean differences by method.
        limit: the limit.
        decimals: to which a single run's number is rounded before it is compared.
        alone: whether there is one seed only, and so no interval to ask.

    Returns:
        Methods below the limit, those not below it, and those whose interval holds the limit.

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


def _say(subject: str, claim: str, opposite: str, sides: Sides) -> list[str]:
    """One sentence, or none where nothing is known."""
    total, shares = sum(map(len, sides)), []
    for words, names in ((claim, sides.true), ("not settled", sides.open), (opposite, sides.false)):
        listed = "all methods" if len(names) == total > 1 else ", ".join(names)
        if words == opposite and _MANY < len(names) < total:
            listed = "all others"
        if names:
            shares.append(f"{words} for {listed}")
    return [f"{subject}: {'; '.join(shares)}."] if shares else []


def _paired(study: Study, request: str, key: str, other: str) -> dict[str, Summary]:
    """Each method's mean difference to a reference on the same seeds."""
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


def _shown(row: Row, key: str) -> str:
    return " ".join(parts(row.cells[key], _COLUMN[key])[:2]).strip()


def _first(rows: Mapping[str, Row], key: str) -> list[str]:
    """The methods of the smallest mean as it is shown."""
    column = _COLUMN[key]
    means = {
        name: round(row.cells[key].value.mean, column.decimals)
        for name, row in rows.items()
        if key in row.cells
    }
    return [name for name, mean in means.items() if mean == min(means.values())]


def _nearest(study: Study, request: str, rows: Mapping[str, Row]) -> list[str]:
    first = _first(rows, METRIC)
    gap = f"{_shown(rows[first[0]], METRIC)} points"
    if len(rows) == 1:
        return [f"Five-part gap of {first[0]} to the retrained model: {gap}."]
    sentence = f"Smallest five-part gap to the retrained model: {' and '.join(first)}, {gap}."
    if not can_rank(study, request):
        return [sentence]
    return [f"{sentence} {verdict(make_ranking(study, request))}"]


def _beside_the_original(study: Study, table: Table, alone: bool) -> list[str]:
    sentences = []
    for key, name in ((METRIC, "Five-part gap"), ("js_to_retrained", "JS to the retrained model")):
        found, decimals = _paired(study, table.request, key, "original"), _COLUMN[key].decimals
        if found:
            value = number(_mean(table, "original", key), decimals)
            subject = f"{name} against the original model's ({value})"
            sides = split(found, 0.0, decimals, alone)
            sentences += _say(subject, "smaller", "not smaller", sides)
    return sentences


def _mean(table: Table, name: str, key: str) -> float:
    return next(row.cells[key].value.mean for row in table.rows if row.name == name)


def _beside_the_floor(
    study: Study, table: Table, rows: Mapping[str, Row], alone: bool
) -> list[str]:
    """Which methods are farther from the retrained model than a second retrained model is."""
    found, decimals = (
        _paired(study, table.request, METRIC, "retrain-again"),
        _COLUMN[METRIC].decimals,
    )
    if not found:
        return []
    floor = round(_mean(table, "retrain-again", METRIC), decimals)
    subject = (
        f"Five-part gap against a second retrained model's ({number(floor, decimals)}, the floor)"
    )
    turned = {name: Summary(-each.mean, each.half_width, each.n) for name, each in found.items()}
    sentences = _say(subject, "larger", "not larger", split(turned, 0.0, decimals, alone))
    least = _mean(table, _first(rows, METRIC)[0], METRIC)
    behind = {name: round(_mean(table, name, METRIC) - least, decimals) for name in rows}
    near = [name for name, distance in behind.items() if 0 < distance < floor]
    if alone and near:
        sentences.append(
            f"Behind the first by less than the floor, so no different from it: {', '.join(near)}."
        )
    return sentences


def _attacks(rows: Mapping[str, Row]) -> list[str]:
    """Which method is the first by the average gap, with either attack."""
    sentences = []
    if len(rows) > 1:
        for key, column in _COLUMN.items():
            if key.startswith("average_gap_") and all(key in row.cells for row in rows.values()):
                first = _first(rows, key)
                attack = key.removeprefix("average_gap_")
                value = number(rows[first[0]].cells[key].value.mean, column.decimals)
                sentences.append(f"{' and '.join(first)} ({value}) by {attack}")
    return [f"Smallest average gap: {', '.join(sentences)}."] if sentences else []


def _accuracies(rows: Mapping[str, Row], alone: bool) -> list[str]:
    sentences = []
    for key, name, most in (
        ("retain_accuracy", "Retain", RETAIN_LOSS),
        ("test_accuracy", "Test", TEST_LOSS),
    ):
        found = {
            method: difference
            for method, row in rows.items()
            if key in row.cells and (difference := row.cells[key].difference) is not None
        }
        sides = split(found, -most, _COLUMN[key].decimals, alone)
        claim = f"more than {most:.1f} points lower"
        subject = f"{name} accuracy against the retrained model's"
        sentences += _say(subject, claim, f"not {claim}", sides)
    return sentences


def _time(rows: Mapping[str, Row]) -> list[str]:
    key = "share_of_retraining"
    sides = Sides([], [], [])
    for name, row in rows.items():
        if key in row.cells:
            mean = row.cells[key].value.mean
            small = round(mean, _COLUMN[key].digits(mean)) <= SMALL_SHARE
            (sides.true if small else sides.false).append(name)
    most, more = f"at most {SMALL_SHARE:g}%", f"more than {SMALL_SHARE:g}%"
    return _say("Mean time in percent of retraining", most, more, sides)


def _shadows(rows: Mapping[str, Row], ulira: Mapping[str, Any] | None) -> list[str]:
    if ulira is None:
        return []
    sides = Sides([], [], [])
    for name, found in ulira["models"].items():
        if name in rows:
            (sides.true if found["auc"]["low"] > 50 else sides.false).append(name)
    subject = f"U-LiRA with {ulira['shadows']} shadow models"
    if ulira["shadows"] < _ENOUGH_SHADOWS:
        subject += ", too few for intervals that are wide enough"
    claim = "the 95% interval of the AUC is above 50"
    return _say(subject, claim, "not above 50", sides)
