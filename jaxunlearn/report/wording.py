"""Numbers and sentences, the same in every form of the report."""

import re
import time
from collections.abc import Mapping
from typing import Any

from jaxunlearn.evaluation.comparison import LEVEL
from jaxunlearn.report.aggregate import Cell, Row, Table
from jaxunlearn.report.columns import REFERENCES, Column
from jaxunlearn.report.ranking import Ranking
from jaxunlearn.report.study import Study

MISSING = "–"
RANKING_NOTE = (
    "Paired over pretraining seeds: means ± half the width of the 95% t-interval. Methods that "
    "share a letter cannot be told apart: the paired t-test of their difference gives "
    f"{LEVEL:g} or more after Holm's correction over all pairs. That does not prove them equal; "
    "more seeds may tell."
)


def number(value: float, decimals: int, signed: bool = False) -> str:
    """A number with a fixed number of digits, a true minus sign and separated thousands.

    Args:
        value: the number.
        decimals: digits after the point.
        signed: whether a plus sign is written too; zero has none.

    Returns:
        The text.

    Example:
        >>> number(-0.5, 2, signed=True), number(1234.5, 1), number(-0.001, 2)
        ('−0.50', '1,234.5', '0.00')
    """
    text = f"{abs(value):,.{decimals}f}"
    zero = not any(digit in text for digit in "123456789")
    sign = "" if zero else "−" if value < 0 else "+" if signed else ""
    return sign + text


def parts(cell: Cell | None, column: Column) -> tuple[str, str, str]:
    """A cell as three texts: mean, "± half-width", "(signed difference)"; "" where absent."""
    if cell is None:
        return MISSING, "", ""
    width, difference = cell.value.half_width, cell.difference
    return (
        number(cell.value.mean, column.decimals),
        "" if width is None else f"± {number(width, column.decimals)}",
        "" if difference is None else f"({number(difference.mean, column.decimals, signed=True)})",
    )


def row_name(row: Row) -> str:
    """What a row is called: a reference in words, a method by its name."""
    return REFERENCES[row.name][0] if row.reference else row.name


def row_note(row: Row, study: Study) -> str:
    """What is said below a row's name: what a reference is, and seeds if some are missing."""
    notes = [REFERENCES[row.name][1]] if row.reference else []
    if row.seeds < len(study.seeds):
        notes.append(f"{row.seeds} of {len(study.seeds)} seeds")
    return ", ".join(notes)


def describe_request(name: str) -> str:
    """A forget request's name in plain words.

    Args:
        name: the name of the request, such as "random-0.1".

    Returns:
        Words, or "" for a name of an unknown form.

    Example:
        >>> describe_request("random-0.1"), describe_request("class-3")
        ('a random 10% of the training data', 'all of class 3')
    """
    if match := re.fullmatch(r"random-(0?\.\d+)", name):
        return f"a random {100 * float(match[1]):.4g}% of the training data"
    if match := re.fullmatch(r"class-(\d+)", name):
        return f"all of class {match[1]}"
    if match := re.fullmatch(r"classes-(\d+(?:-\d+)+)", name):
        return "all of classes " + ", ".join(match[1].split("-"))
    if match := re.fullmatch(r"subclass-(\d+)", name):
        return f"subclass {match[1]} inside its coarse class"
    if match := re.match(r"indices-(\d+)", name):
        return f"{int(match[1]):,} chosen training examples"
    return ""


def describe_counts(counts: Mapping[str, int]) -> str:
    """How many examples each split has, in one line; splits without examples are left out."""
    names = {"test_forget": "test of forgotten classes"}
    return ", ".join(
        f"{int(count):,} {names.get(name, name)}" for name, count in counts.items() if count
    )


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def facts(study: Study, written: float) -> list[tuple[str, str]]:
    """What was run, as pairs of a heading and a text.

    Args:
        study: the study.
        written: when the report is written, in seconds since 1970.

    Returns:
        Pairs, in the order in which to show them.
    """
    pairs = [
        ("Data", study.dataset),
        ("Model", study.model),
        ("Forget requests", ", ".join(study.requests) or "none yet"),
        ("Methods", ", ".join(study.methods) or "none yet"),
        ("Seeds", ", ".join(map(str, study.seeds)) or "none yet"),
    ]
    judged = study.runs[0].judged if study.runs else {}
    for heading, key in (("Judge of the images", "judge"), ("Features", "features")):
        if key in judged:
            pairs.append((heading, plain(judged[key])))
    if study.machines:
        several = "Machines" if len(study.machines) > 1 else "Machine"
        pairs.append((several, "; ".join(map(plain, study.machines))))
    if study.runs:
        moments = sorted(run.finished for run in study.runs)
        span = dict.fromkeys([_moment(moments[0]), _moment(moments[-1])])
        pairs.append(("Finished runs", f"{len(study.runs)}, {' to '.join(span)} UTC"))
    pairs.append(("Report written", f"{_moment(written)} UTC"))
    return pairs


def plain(value: Any) -> str:
    """A recorded value as text: lists and objects without brackets and quotes."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return str(value)


def interval_note(study: Study, table: Table) -> str:
    """What the numbers behind ± are, or why there are none."""
    if len(study.seeds) < 2:
        return (
            "One seed: no intervals can be given, and differences of the size that another seed "
            "would make mean nothing."
        )
    return (
        f"Means over {len(study.seeds)} seeds, ± half the width of the 95% t-interval. "
        "In brackets: the signed difference to the retrained model of the same seed. "
        + (
            "Where intervals overlap, the order of methods is not settled."
            if table.ranking is None
            else "What of the order of methods is settled, the ranking below says."
        )
    )


def ranking_headings(ranking: Ranking) -> list[str]:
    """The headings of the ranking's columns."""
    return ["Rank", "Method", ranking.column.title, "Behind the first by", "p (Holm)", "Alike"]


def ranking_cells(ranking: Ranking) -> list[list[str]]:
    """The ranking's rows as texts, in the order of `ranking_headings`."""
    digits, rows = ranking.column.decimals, []
    for index, place in enumerate(ranking.places, start=1):
        width = place.value.half_width
        mean = number(place.value.mean, digits)
        behind = p_value = ""
        if place.to_best is not None and place.p_adjusted is not None:
            behind = f"{number(abs(place.to_best.mean), digits)} ± "
            behind += number(place.to_best.half_width, digits)
            p_value = "< 0.001" if place.p_adjusted < 0.001 else f"{place.p_adjusted:.3f}"
        value = mean if width is None else f"{mean} ± {number(width, digits)}"
        rows.append([str(index), place.name, value, behind, p_value, place.letters])
    return rows


def verdict(ranking: Ranking) -> str:
    """A sentence on what of the ranking's top is settled."""
    first, *others = ranking.places
    if not first.like:
        return f"The first, {first.name}, can be told apart from every other method."
    if len(first.like) == len(others):
        return f"No method can be told apart from the first, {first.name}: the order may be chance."
    return f"The first, {first.name}, cannot be told apart from {', '.join(first.like)}."


def unfinished_lines(study: Study) -> list[str]:
    """One line for each started run without results."""
    return [
        f"seed {run.seed}, {run.request}, {run.name}"
        + (": no step logged yet" if run.step is None else f": step {run.step:,} logged last")
        for run in study.unfinished
    ]
