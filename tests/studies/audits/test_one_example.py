"""A request of a single example through every command: nothing is undefined, nothing is stuck."""

import json
import math
import re

import pytest

from jaxunlearn.files import read_json
from tests.shell.commands import done

pytest_plugins = ["tests.shell.fixtures"]

STUDY = """
title = "<b>One</b> example"
seeds = [0, 1]
[problem]
data_dir = "{data_dir}"
model = "mlp-tiny"
[problem.training]
num_steps = 20
retain_batch_size = 64
[[requests]]
indices = [7]
[methods.fine_tune]
method = "finetune"
num_steps = 4
forget_batch_size = 32
retain_batch_size = 32
"""


@pytest.fixture(scope="module")
def studied(tmp_path_factory, data_dir):
    """The study, run, with its evidence, and what the commands printed."""
    place = tmp_path_factory.mktemp("one")
    (place / "study.toml").write_text(STUDY.format(data_dir=data_dir))
    folder, words = place / "study", ("--config", place / "study.toml")
    printed = [done("compare", folder, *words), done("evidence", folder)]
    printed += [done("report", folder), done("compare", folder, *words), done("verify", folder)]
    return folder, "\n".join(printed)


def test_the_probe_has_no_value_and_the_report_explains_it(studied):
    report = read_json(studied[0] / "evidence.json")
    assert [entry["probe_accuracy"] for entry in report["runs"]] == [None] * 8
    lines = (studied[0] / "evidence.md").read_text().splitlines()
    titles, row = (
        [cell.strip() for cell in next(line for line in lines if name in line).split("|")]
        for name in ("Probe |", "fine\\_tune")
    )
    assert row[titles.index("Probe")] == "–"


def test_no_number_is_undefined(studied):
    folder, printed = studied
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    for text in (printed, (folder / "report.md").read_text(), (folder / "report.html").read_text()):
        assert not re.search(r"\bnan\b|\binf\b", text, re.IGNORECASE)
    found = read_json(folder / "results.json")["requests"]
    assert all(
        math.isfinite(metric["mean"])
        for request in found.values()
        for run in request["runs"].values()
        for metric in run["metrics"].values()
    )


def test_titles_are_escaped(studied):
    folder = studied[0]
    for name in ("report.md", "report.html", "evidence.md"):
        text = (folder / name).read_text()
        assert "<b>One</b>" not in text and "&lt;b>One" in text.replace("&gt;", ">")
