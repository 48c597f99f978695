"""The page on writing a method, run block by block as it stands."""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.evaluation import accuracy

PAGE = Path(__file__).parents[2] / "docs" / "new-method.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_page_runs_and_does_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)
    assert "uniform_surgery" in methods.available()
    assert methods.summary("uniform_surgery").startswith("Makes the forget data look like no class")

    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed.keys() == {"original", "uniform_surgery", "eupmu"}
    number = r"([\d.]+)"
    for name, line in printed.items():
        found = re.findall(rf"(\w+) +{number} % \({number} nats\)", line)
        parts = {part: (float(percent), float(nats)) for part, percent, nats in found}
        assert parts.keys() == {"forget", "retain", "test"}
        forgot = name != "original"
        assert parts["forget"][0] < 5 if forgot else parts["forget"][0] > 99
        assert parts["forget"][1] > 2.0 if forgot else parts["forget"][1] < 0.3
        assert parts["retain"][0] > 94 and parts["test"][0] > 92 and parts["retain"][1] < 0.6
        # What the page shows is what is printed, up to the last digits of another machine.
        shown = next(row for row in PAGE.read_text("utf-8").splitlines() if f"    {name} " in row)
        values = [float(x) for x in re.findall(number, shown)]
        assert np.allclose(values, [float(x) for x in re.findall(number, line)], atol=1.5)

    study = names["study"]
    method, settings = study.run_settings(study.requests[0], "uniform_surgery")
    assert method == "uniform_surgery" and settings["tolerance"] == 0.02
    assert accuracy(names["predictions"]) > 92


def test_the_method_has_about_twenty_lines() -> None:
    """Blank lines aside."""
    functions = {
        node.name: ast.get_source_segment(block, node) or ""
        for block in BLOCKS
        for node in ast.parse(block).body
        if isinstance(node, ast.FunctionDef)
    }
    counts = {
        name: len([line for line in source.splitlines() if line.strip()])
        for name, source in functions.items()
    }
    assert 15 <= counts["uniform_surgery"] <= 24 and counts["toward_uniform"] <= 8
