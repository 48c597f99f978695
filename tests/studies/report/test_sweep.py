"""The report of a sweep, from cells written by hand."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from jaxunlearn.studies.report.sweep import cell_file, write_sweep_report

ORIGINAL = {"forget_accuracy": 100.0, "retain_accuracy": 100.0, "validation_accuracy": 90.0}
# Setting: forget and validation accuracy of each of two seeds. Unseen data has 90.
CELLS = {
    1.0: [(98.0, 90.0), (98.0, 88.0)],  # error 8, utility 89: on the front
    2.0: [(95.0, 86.0), (91.0, 86.0)],  # error 3, utility 86: on the front
    3.0: [(99.0, 85.0), (99.0, 85.0)],  # error 9, utility 85: beaten
    4.0: [(92.0, 70.0), (88.0, 70.0)],  # error 2 (not 0: errors do not cancel), on the front
    5.0: [(90.0, 90.0), None],  # one seed diverged
}


@pytest.fixture
def folder(tmp_path):
    names = []
    for alpha, seeds in CELLS.items():
        for seed, accuracies in enumerate(seeds):
            cell = {"settings": {"alpha": alpha}, "seed": seed, "seconds": 1.0, "group_size": 2}
            if accuracies is None:
                cell["diverged"] = 3
            else:
                forget, validation = accuracies
                metrics = {"forget_accuracy": forget, "validation_accuracy": validation}
                cell["metrics"] = metrics | {"retain_accuracy": 99.0, "five_part_gap": 2.0}
            names.append(cell_file(cell["settings"], seed))
            (tmp_path / "cells").mkdir(exist_ok=True)
            (tmp_path / "cells" / names[-1]).write_text(json.dumps(cell))
    plan = {
        "identity": {
            "method": "sfron",
            "problem": {"data": "digits", "model": "mlp"},
            "varied": {"alpha": {"low": 1.0, "high": 5.0}},
            "search": "random",
        },
        "request": "random-0.1",
        "unseen_accuracy": 90.0,
        "original": ORIGINAL,
        "retrained": None,
        "machine": {},
        "cells": [*names, cell_file({"alpha": 6.0}, 0)],  # one is not finished
    }
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    return tmp_path


def test_the_front_and_its_area_are_those_of_the_cells(folder):
    paths = write_sweep_report(folder)
    found = json.loads(paths["json"].read_text())
    rows = {row["settings"]["alpha"]: row for row in found["settings"]}
    assert {alpha: row["forget_error"] for alpha, row in rows.items()} == {1: 8, 2: 3, 3: 9, 4: 2}
    assert [alpha for alpha, row in rows.items() if row["on_front"]] == [4, 2, 1]
    assert rows[1.0]["validation_accuracy"] == 89
    # From error 10 and accuracy 80: 9 x 2 of the first, and 6 x 5 more of the second.
    assert found["hypervolume"] == 9 * 2 + 6 * 5
    assert found["reference"] == {"forget_error": 10.0, "validation_accuracy": 80.0}
    assert (found["cells"], found["finished"]) == (11, 10)
    (diverged,) = found["diverged"]
    assert diverged.startswith("setting-") and diverged.endswith("-seed-1 (alpha=5)")
    assert [alpha for alpha, row in rows.items() if not row["in_picture"]] == [4]


def test_the_report_explains_what_it_shows(folder):
    text = write_sweep_report(folder)["markdown"].read_text()
    assert "**Cells finished:** 10 of 11, of which 1 diverged" in text
    assert "**On the front:** 3 of 4 settings" in text
    assert "**Hypervolume:** 48.00 squared percentage points" in text
    assert "![Forget error against validation accuracy](front.svg)" in text
    assert "Outside the picture: 1." in text and "Diamond" not in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert table[0].startswith("| alpha | forget error | FA | RA | VA | five-part gap |")
    assert [line.split(" | ")[0] for line in table[2:]] == ["| 4", "| 2", "| 1"]


def test_the_picture_stands_alone(folder):
    text = write_sweep_report(folder)["picture"].read_text()
    root = ElementTree.fromstring(text)  # well-formed, namespaces included
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert used and all(f"{name}:" in text for name in used)
    assert "validation accuracy, %" in text and "forget error, points" in text


def test_no_cell_yet_is_a_report_too(folder):
    for path in (folder / "cells").iterdir():
        path.unlink()
    text = write_sweep_report(folder)["markdown"].read_text()
    assert "0 of 11" in text and "0 of 0 settings" in text and "0.00 squared" in text
