"""What a person sees of a run: a bar on a terminal, at most a line every ten seconds elsewhere."""

import io
from pathlib import Path
from time import struct_time

import pytest
from rich.console import Console
from rich.table import Table

from jaxunlearn.studies import console
from jaxunlearn.training import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told so, and a time of day that stands still."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console.time, "gmtime", lambda: struct_time((2026, 1, 2, 3, 4, 5, 4, 2, 0)))
    return now


@pytest.fixture
def screen(monkeypatch):
    """A terminal 100 columns wide; returns what was written to it."""
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(console, "console", terminal)
    return text


@pytest.fixture
def pipe(monkeypatch):
    """No terminal; returns what was written."""
    text = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=text, force_terminal=False, width=40))
    return text


def test_a_bar_on_a_terminal(screen):
    with console.show_progress(Path("runs/[red]")) as report:
        report.bar.refresh()
        report(Progress(250, 1000, 0.5, {"retain_loss": 0.123456, "forget_loss": 2.0}))
        report.bar.refresh()
    before, after = screen.getvalue().split("250/1000", 1)
    assert "compiling" in before
    assert "runs/[red]" in before  # a name, no markup
    assert "500 steps/s  forget_loss 2  retain_loss 0.1235" in after


def test_lines_elsewhere(pipe, clock):
    with console.show_progress(Path("/data/studies/big/seed-0/random-0.1/eupmu")) as report:
        for seconds, step in ((0, 100), (9, 200), (2, 300), (5, 400), (6, 500), (20, 1000)):
            clock[0] += seconds
            report(Progress(step, 1000, step / 50, {"retain_loss": 0.5}))
    label = ".../seed-0/random-0.1/eupmu"
    assert pipe.getvalue().splitlines() == [
        f"2026-01-02T03:04:05Z {label}: step 300/1000, 14 s left, 50 steps/s  retain_loss 0.5",
        f"2026-01-02T03:04:05Z {label}: step 500/1000, 10 s left, 50 steps/s  retain_loss 0.5",
    ]


def test_slow_runs_have_a_rate_too(pipe, clock):
    with console.show_progress(Path("run")) as report:
        clock[0] += 11
        report(Progress(1, 40, 8.0, {}))
    line = "2026-01-02T03:04:05Z run: step 1/40, 5 min 12 s left, 0.12 steps/s"
    assert pipe.getvalue().strip() == line


def test_a_sentence_is_printed_as_it_is(pipe):
    console.say("a [bold]folder[/bold] of 1000 characters " + "x" * 60, style="red")
    assert pipe.getvalue() == "a [bold]folder[/bold] of 1000 characters " + "x" * 60 + "\n"


def test_a_table_needs_120_columns(pipe, capsys):
    table = Table("one", "two")
    table.add_row("x" * 50, "y" * 50)
    console.show(table)
    assert "x" * 50 in capsys.readouterr().out
