"""Every figure in the tables of README and the notebook equals the result file it comes from."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiments import results_page
from experiments.results_page import NAMES, cell, result

ROOT = Path(__file__).parent.parent


class Table(NamedTuple):
    """A table of a page, and the result file that is named last before it."""

    place: str
    source: str
    titles: list[str]
    rows: list[list[str]]


def tables() -> Iterator[Table]:
    """The tables of runs with accuracies, or with what is seen in generated images."""
    for page in (ROOT / "README.md", ROOT / "experiments" / "NOTEBOOK.md"):
        source, lines = None, page.read_text("utf-8").splitlines()
        for number, line in enumerate(lines):
            named = re.findall(r"`experiments/results/(\w+)\.(?:json|md)`", line)
            source = named[-1] if named else source
            if not re.match(r"\| (run|model) \| (FA|seen, %) \|", line):
                continue
            assert source is not None, f"{page.name}:{number + 1} names no result file"
            body = lines[number + 2 :]
            length = next((i for i, row in enumerate(body) if not row.startswith("|")), len(body))
            titles, *rows = (
                [part.strip() for part in row.strip("|").split("|")]
                for row in (line, *body[:length])
            )
            yield Table(f"{page.name}:{number + 1}", source, titles[1:], rows)


def shown(found: dict[str, Any], name: str, title: str, like: str) -> str:
    """The cell of a run by the result file, with as many digits as the printed cell has."""
    if title == "alike":
        places = {place["method"]: place["letters"] for place in found["ranking"]["places"]}
        return places.get(name, "")
    digits = len(like.split(" ")[0].partition(".")[2])
    return cell(found["runs"].get(name, {"metrics": {}}), title, digits, interval=" " in like)


def differences(table: Table, of: list[dict[str, Any]]) -> list[str]:
    """The cells that are not as in the result file; a cell has one value for each request."""
    wrong = []
    for name, *cells in table.rows:
        key = name.strip("*").lower()
        key = NAMES.get(key, key)
        for title, printed in zip(table.titles, cells, strict=True):
            values = printed.split(", ")
            recorded = ", ".join(
                shown(found, key, title, like) for found, like in zip(of, values, strict=True)
            )
            if printed != recorded:
                wrong.append(f"{name}, {title}: {printed!r}, but in the file {recorded!r}")
    return wrong


@pytest.mark.parametrize("table", list(tables()), ids=lambda table: table.place)
def test_a_table_is_its_result_file(table: Table) -> None:
    """Whichever of the file's requests it is about, or all of them side by side."""
    found = list(result(table.source)["requests"].values())
    together = len(table.rows[0][1].split(", "))
    choices = [found] if together > 1 else [[each] for each in found]
    assert together in (1, len(found))
    best = min((differences(table, choice) for choice in choices), key=len)
    assert not best


def test_a_changed_figure_is_found() -> None:
    table = next(tables())
    name, first, *cells = table.rows[0]
    altered = table._replace(rows=[[name, f"9{first}", *cells], *table.rows[1:]])
    of = [next(iter(result(table.source)["requests"].values()))]
    assert len(differences(altered, of)) == len(differences(table, of)) + 1


def test_the_pages_of_results_are_up_to_date() -> None:
    made = {place: results_page.page(name) for name, place in results_page.PAGES.items()}
    made[results_page.README] = results_page.readme()
    for place, text in made.items():
        assert place.read_text("utf-8") == text, "run `python experiments/results_page.py`"
