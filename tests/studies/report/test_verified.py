"""The table of `verify`: runs that are alike share a row, and what does not match is named."""

import io
from pathlib import Path

from rich.console import Console

from jaxunlearn.studies.report.verified import render_findings
from jaxunlearn.studies.runs.verify import Finding


def printed(findings):
    screen = io.StringIO()
    Console(width=120, file=screen).print(render_findings(Path("study"), findings))
    return screen.getvalue()


def of_run(name, **other):
    checks = ("configuration", "data", "weights")
    return [Finding(Path("study") / name, c, other.get(c, "matches")) for c in checks]


def test_runs_that_are_alike_share_a_row_below_a_summary():
    names = [f"seed-{seed}/class-3/run-{i}" for seed in range(3) for i in range(14)]
    text = printed([finding for name in names for finding in of_run(name)])
    assert "study: 126 checks, 126 matches" in text
    assert "seed-0/class-3/run-0 and 41 more" in text
    assert sum("configuration" in line for line in text.splitlines()) == 1


def test_every_run_that_does_not_match_is_named():
    broken = {"weights": "does not match"}
    findings = of_run("a") + of_run("b", **broken) + of_run("c") + of_run("d", **broken)
    text = printed(findings + of_run("e"))
    assert "15 checks, 13 matches, 2 does not match" in " ".join(text.split())
    rows = text.splitlines()
    assert any("a and 2 more" in row for row in rows)
    assert any("│ b " in row for row in rows)
    assert any("│ d " in row for row in rows)
