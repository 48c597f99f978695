"""Numbers and sentences, the same in every form of the report."""

import re
import time
from collections.abc import Mapping
from typing import Any

from jaxunlearn.report.aggregate import Cell, Row, Table
from jaxunlearn.report.columns import REFERENCES, Column
from jaxunlearn.report.study import Study

MISSING = "–"


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
    if study.machine:
        pairs.append(("Machine", plain(study.machine)))
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


def headline(table: Table) -> str:
    """A sentence on which method came closest to the retrained model, by either average gap."""
    winners: dict[str, list[str]] = {}
    floor = next((row for row in table.rows if row.name == "retrain-again"), None)
    for column in table.columns:
        best = [row for row in table.rows if column.key in row.cells and row.cells[column.key].best]
        if not column.key.startswith("average_gap_") or not best:
            continue
        mean, width, _ = parts(best[0].cells[column.key], column)
        text = f"{mean} {width}".strip() + f" points by {column.key.removeprefix('average_gap_')}"
        if floor is not None and column.key in floor.cells:
            text += f" (retraining twice differs by {parts(floor.cells[column.key], column)[0]})"
        winners.setdefault(" and ".join(row_name(row) for row in best), []).append(text)
    return " ".join(
        f"Smallest average gap to the retrained model: {name}, {' and '.join(texts)}."
        for name, texts in winners.items()
    )


def interval_note(study: Study) -> str:
    """What the numbers behind ± are, or why there are none."""
    if len(study.seeds) < 2:
        return (
            "One seed: no intervals can be given, and differences of the size that another seed "
            "would make mean nothing."
        )
    return (
        f"Means over {len(study.seeds)} seeds, ± half the width of the 95% t-interval. "
        "In brackets: the signed difference to the retrained model of the same seed. "
        "Where intervals overlap, the order of methods is not settled."
    )


def unfinished_lines(study: Study) -> list[str]:
    """One line for each started run without results."""
    return [
        f"seed {run.seed}, {run.request}, {run.name}"
        + (": no step logged yet" if run.step is None else f": step {run.step:,} logged last")
        for run in study.unfinished
    ]
