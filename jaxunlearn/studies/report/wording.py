"""Numbers and sentences, the same in every form of the report."""

import re
from collections.abc import Mapping
from typing import Any

from jaxunlearn.evaluation import Summary
from jaxunlearn.evaluation.comparison import LEVEL
from jaxunlearn.evaluation.units import unit_of
from jaxunlearn.studies.report.aggregate import Cell, Row, Table
from jaxunlearn.studies.report.columns import REFERENCES, Column
from jaxunlearn.studies.report.numerals import number, spread
from jaxunlearn.studies.report.ranking import Ranking
from jaxunlearn.studies.report.study import Study

MISSING = "–"
RANKING_NOTE = (
    "Means over pretraining seeds with 95% t-intervals, or both values where there are two seeds. "
    "Methods that share a letter cannot be told apart: the paired t-test of their difference gives "
    f"{LEVEL:g} or more after Holm's correction over all pairs. That does not prove them equal; "
    "more seeds may separate them."
)


def parts(cell: Cell | None, column: Column) -> tuple[str, str, str]:
    """Mean, spread and "(signed difference)" of a cell as texts; "" where one is absent."""
    if cell is None:
        return MISSING, "", ""
    mean, difference = cell.value.mean, cell.difference
    decimals = column.digits(mean)
    return (
        number(mean, decimals),
        spread(cell.value, decimals),
        "" if difference is None else f"({number(difference.mean, decimals, signed=True)})",
    )


def row_name(row: Row) -> str:
    """The title of a row: a reference in words, a method by its name."""
    return REFERENCES[row.name][0] if row.reference else row.name


def row_note(row: Row, study: Study) -> str:
    """The note below a row's name: the meaning of a reference, and missing seeds."""
    notes = [REFERENCES[row.name][1]] if row.reference else []
    if row.seeds < len(study.seeds):
        notes.append(f"{row.seeds} of {len(study.seeds)} seeds")
    return ", ".join(notes)


def describe_request(name: str) -> str:
    """A forget request in plain words; "" for a name of an unknown form.

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
        count = int(match[1])
        return f"{count:,} chosen training example" + "s" * (count != 1)
    return ""


def describe_counts(counts: Mapping[str, int]) -> str:
    """The number of examples in each split that has any, in one line."""
    names = {
        "test_forget": "test of forgotten classes",
        "generated_forget": "generated of forgotten classes",
        "generated_retain": "generated of other classes",
    }
    return ", ".join(
        f"{int(count):,} {names.get(name, name)}" for name, count in counts.items() if count
    )


def facts(study: Study) -> list[tuple[str, str]]:
    """The facts of a study as pairs of a heading and a text, in the order of the report."""
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
        moments = sorted(run.finished[:16].replace("T", " ") for run in study.runs if run.finished)
        span = " to ".join(dict.fromkeys([*moments[:1], *moments[-1:]]))
        pairs.append(("Finished runs", f"{len(study.runs)}" + (f", {span} UTC" if span else "")))
    return pairs


def plain(value: Any, unit: str = "") -> str:
    """A recorded value as text: lists and objects without brackets and quotes.

    Example:
        >>> plain({"model": "mlp", "test_accuracy": 96.61971830985917, "widths": [8, 16]})
        'model mlp, test_accuracy 96.62%, widths 8 16'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item, unit_of(key).name)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(plain(item) for item in value) or "none"
    if unit == "%":
        return f"{number(value, 2)}%"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def interval_note(study: Study, table: Table) -> str:
    """The meaning of the numbers beside the means, or the reason for their absence."""
    most = max((row.seeds for row in table.rows), default=0)
    if most < 2:
        return "One seed has no intervals: another seed may change every difference."
    cells = [cell.value for row in table.rows for cell in row.cells.values()]
    notes = []
    if most > 2:
        notes.append("± half the width of the 95% t-interval")
    if any(cell.is_cut and cell.n > 2 for cell in cells):
        notes.append(
            "the interval in square brackets if it is cut at the smallest or largest possible value"
        )
    if any(cell.n == 2 for cell in cells):
        notes.append("both values in square brackets if there are two seeds")
    paired = ""
    if table.ranking is not None:
        paired = " The ranking below compares the methods by differences paired over seeds."
    return (
        f"Means over {len(study.seeds)} seeds, {', '.join(notes)}. In parentheses: the signed "
        f"difference to the retrained model of the same seed.{paired}"
    )


def ranking_headings(ranking: Ranking) -> list[str]:
    """The headings of the ranking's columns."""
    return ["Rank", "Method", ranking.column.title, "Behind the first by", "p (Holm)", "Alike"]


def ranking_cells(ranking: Ranking) -> list[list[str]]:
    """The ranking's rows as texts, in the order of `ranking_headings`."""
    rows, sign = [], -1 if ranking.column.direction == "high" else 1
    for index, place in enumerate(ranking.places, start=1):
        digits, behind, p_value = ranking.column.digits(place.value.mean), "", ""
        if place.to_best is not None and place.p_adjusted is not None:
            mean, width, _, n, values = place.to_best
            turned = Summary(sign * mean, width, n, tuple(sign * value for value in values))
            behind = f"{number(turned.mean, digits)} {spread(turned, digits)}"
            p_value = "< 0.001" if place.p_adjusted < 0.001 else f"{place.p_adjusted:.3f}"
        value = f"{number(place.value.mean, digits)} {spread(place.value, digits)}".rstrip()
        rows.append([str(index), place.name, value, behind, p_value, place.letters])
    return rows


def ranking_sentence(ranking: Ranking) -> str:
    """A sentence on the methods that can be told apart from the first one."""
    first, *others = ranking.places
    if not first.like:
        return f"{first.name} can be told apart from every other method."
    if len(first.like) == len(others):
        return f"No method can be told apart from {first.name}: the order may be chance."
    return f"{first.name} cannot be told apart from {', '.join(first.like)}."


def unfinished_lists(study: Study) -> dict[str, list[str]]:
    """The started runs without results, one line each, below a heading; no empty lists."""
    lists: dict[str, list[str]] = {}
    for run in study.unfinished:
        place = f"seed {run.seed}, {run.request}, {run.name}"
        step = None if run.step is None else f"{run.step:,}"
        if run.diverged:
            line = place if step is None else f"{place}: at step {step}"
            lists.setdefault("Diverged", []).append(line)
        else:
            last = "no step logged yet" if step is None else f"last logged step {step}"
            lists.setdefault("Not finished", []).append(f"{place}: {last}")
    return lists


def settings_lines(study: Study, request: str) -> list[tuple[str, str]]:
    """The settings of every run on a request: its name, and its method and settings in words."""
    lines = []
    for name, chosen in study.settings(request).items():
        text = f"{chosen.get('method', 'not recorded')}: {plain(chosen.get('settings', {}))}"
        text += f"; {plain(chosen['aim'])}" if "aim" in chosen else ""
        lines.append((REFERENCES[name][0] if name in REFERENCES else name, text))
    return lines
