"""Every figure in the tables of README and docs/studies.md is that of the result file they name."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jaxunlearn.evaluation import Summary, summarize
from jaxunlearn.evaluation.units import unit_of
from jaxunlearn.studies.report.numerals import spread

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
METRICS = {
    "FA": "forget_accuracy",
    "RA": "retain_accuracy",
    "TA": "test_accuracy",
    "svc_non_member_rate": "svc_non_member_rate",
    "entropy_member_rate": "entropy_member_rate",
    "KL": "kl_to_retrained",
    "JS": "js_to_retrained",
    "ToW": "tow",
    "s": "seconds",
    "five-part gap": "five_part_gap",
    "seen, %": "generated_forget_accuracy",
    "others seen, %": "generated_retain_accuracy",
    "Frechet / original": "frechet_ratio",
    "% of retraining": "share_of_retraining",
}
NAMES = {"original": "original", "retrained": "retrain", "retrained again": "retrain-again"}


class Table(NamedTuple):
    """A table of a page, and the result file that was named last before it."""

    place: str
    source: Path
    titles: list[str]
    rows: list[list[str]]


def tables() -> Iterator[Table]:
    """The tables of runs with accuracies, or with what is seen in generated images."""
    for page in (ROOT / "README.md", ROOT / "docs" / "studies.md"):
        source, lines = None, page.read_text("utf-8").splitlines()
        for number, line in enumerate(lines):
            for name in re.findall(r"`experiments/results/(\w+)\.(?:json|md)`", line):
                source = RESULTS / f"{name}.json"
            if not re.match(r"\| (run|model) \| (FA|seen, %) \|", line):
                continue
            assert source is not None, f"{page.name}:{number + 1} names no result file"
            body = lines[number + 2 :]
            length = next((i for i, row in enumerate(body) if not row.startswith("|")), len(body))
            titles, *rows = (
                [cell.strip() for cell in row.strip("|").split("|")]
                for row in (line, *body[:length])
            )
            yield Table(f"{page.name}:{number + 1}", source, titles[1:], rows)


@functools.cache
def requests(source: Path) -> dict[str, Any]:
    return json.loads(source.read_text())["requests"]


def shown(found: dict[str, Any], name: str, title: str, like: str) -> str:
    """What the result file says of a run, as many digits of it as the cell has."""
    if title == "alike":
        places = {place["method"]: place["letters"] for place in found["ranking"]["places"]}
        return places.get(name, "")
    value = found["runs"].get(name, {"metrics": {}})["metrics"].get(METRICS[title])
    if value is None:
        return "–"
    digits = len(like.split(" ")[0].partition(".")[2])
    text = f"{value['mean']:.{digits}f}"
    if " " not in like:
        return text
    return f"{text} {spread(summary(value, METRICS[title]), digits)}"


def summary(value: dict[str, Any], metric: str) -> Summary:
    """The mean of a result file with its interval; older files have half of its width."""
    bounds = unit_of(metric)[1:]
    if "values" in value:
        return summarize(value["values"], bounds)
    return Summary(value["mean"], value["half_width"], value["n"], bounds=bounds)


def differences(table: Table, of: list[dict[str, Any]]) -> list[str]:
    """The cells that are not as in the result file; a cell has one value for each request."""
    wrong = []
    for name, *cells in table.rows:
        key = name.strip("*").lower()
        key = NAMES.get(key, key)
        for title, cell in zip(table.titles, cells, strict=True):
            values = cell.split(", ")
            told = ", ".join(
                shown(found, key, title, like) for found, like in zip(of, values, strict=True)
            )
            if cell != told:
                wrong.append(f"{name}, {title}: {cell!r}, but in the file {told!r}")
    return wrong


@pytest.mark.parametrize("table", list(tables()), ids=lambda table: table.place)
def test_a_table_is_its_result_file(table: Table) -> None:
    """Whichever of the file's requests it is about, or all of them side by side."""
    found = list(requests(table.source).values())
    together = len(table.rows[0][1].split(", "))
    choices = [found] if together > 1 else [[each] for each in found]
    assert together in (1, len(found))
    best = min((differences(table, choice) for choice in choices), key=len)
    assert not best


def test_a_changed_figure_is_found() -> None:
    table = next(tables())
    name, first, *cells = table.rows[0]
    altered = table._replace(rows=[[name, f"{float(first) - 1:.2f}", *cells], *table.rows[1:]])
    of = [next(iter(requests(table.source).values()))]
    assert len(differences(altered, of)) == len(differences(table, of)) + 1
