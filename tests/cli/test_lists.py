"""The lists: every name and every setting with its meaning."""

import json
import re
import subprocess
import sys

import pytest

from jaxunlearn import data, methods, models
from jaxunlearn.cli import lists
from jaxunlearn.studies.report.columns import COLUMNS
from jaxunlearn.types import InputError
from tests.shell.commands import done


def test_lists():
    for what, names in (
        ("methods", methods.available()),
        ("recipes", methods.recipes()),
        ("models", models.available()),
        ("data", data.available()),
        ("metrics", [column.key for column in COLUMNS]),
    ):
        lines = done("list", what).splitlines()
        assert {line.split()[0] for line in lines if line[0] != " "} >= set(names)
        assert all(len(line) > 20 for line in lines if line[0] != " ")
    assert done("list") == done("list", "methods")


@pytest.mark.parametrize("method", methods.choices())
def test_the_list_of_a_method_explains_every_setting(method):
    text = done("list", method)
    for name, value in methods.settings(method).items():
        line = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
        given = f"{name} = {json.dumps(value)}"
        assert line.startswith(given)
        assert len(line.removeprefix(given).strip()) > 5, line
    words = " ".join(text.split())
    for name, limits in methods.limits(method).items():
        given = rf"\b{name} = [^=]*\({re.escape(str(limits))}\)\."
        assert re.search(given, words) or (name.startswith("guard") and method == "retrain")
    assert methods.summary(method) in " ".join(text.split())
    for name, value in methods.settings(method, generates=True).items():
        other = text.partition("Models that generate images have other defaults: ")[2]
        differs = method != "retrain" and value != methods.settings(method)[name]
        assert (f"{name} = {json.dumps(value)}" in other) == differs


def test_long_texts_are_broken_to_the_width_of_the_terminal(monkeypatch):
    texts = {}
    for columns in (60, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        texts[columns] = lists.describe("data")
        assert max(map(len, texts[columns].splitlines())) <= columns
    narrow, wide = (texts[columns].splitlines() for columns in (60, 200))
    assert len(narrow) > len(wide)
    assert any(line.startswith(" " * 15) for line in narrow)
    assert texts[60].split() == texts[200].split()


def test_a_reader_that_goes_away_is_no_error_to_look_at():
    command = f"{sys.executable} -m jaxunlearn list methods | head -1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def test_lists_without_docstrings():
    """`python -OO` drops them: the tables of models and data stay, methods lose their texts."""
    code = (
        "from jaxunlearn.cli.lists import describe\n"
        "for what in ('models', 'data', 'methods', 'sfron'): print(describe(what), end='\\n--\\n')"
    )
    ended = subprocess.run(
        [sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True
    )
    found_models, found_data, names, settings = ended.stdout.split("\n--\n")[:4]
    assert (found_models, found_data) == (lists.describe("models"), lists.describe("data"))
    assert names.split() == list(methods.available())
    assert all(f"{name} = " in settings for name in methods.settings("sfron"))


def test_an_unknown_list_gets_the_closest_name():
    with pytest.raises(
        InputError,
        match=r"the list is 'modles' .did you mean 'models'.*must be meth[^:]*; jaxunlearn list",
    ):
        lists.describe("modles")
