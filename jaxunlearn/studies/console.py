"""The output of a command: lines, tables, the progress of runs, and the outcome as JSON.

Progress is a bar on a terminal, and a line every few seconds elsewhere.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from jaxunlearn.training import Progress
from jaxunlearn.types import InputError

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Output:
    """The output of a command.

    Attributes:
        json: whether the outcome is printed as JSON, and everything else on standard error.
        quiet: whether nothing is printed but errors and the JSON.
        verbose: whether runs print their settings and a line for each chunk of steps.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise InputError("--quiet and --verbose are given, but only one may be; drop one.")


_PLAIN = Output()
shown: ContextVar[Output] = ContextVar("shown", default=_PLAIN)
console, _errors = Console(), Console(stderr=True)


def _screen() -> Console:
    """The console of lines, tables and progress."""
    return _errors if shown.get().json else console


def say(text: str, style: str | None = None) -> None:
    """Prints a line as it is: no markup, no colours of numbers, no line breaks."""
    if not shown.get().quiet:
        _screen().print(
            text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True
        )


def detail(text: str) -> None:
    """Prints a line if the output is verbose."""
    if shown.get().verbose:
        say(text)


def show(table: Table) -> None:
    """Prints a table as wide as the terminal, or 120 columns wide without a terminal."""
    if not shown.get().quiet:
        screen = _screen()
        (screen if screen.is_terminal else Console(width=120, stderr=screen.stderr)).print(table)


def outcome(value: Any) -> None:
    """Prints the outcome of a command if it is asked for as JSON; paths are text in it."""
    if shown.get().json:
        print(json.dumps(value, indent=1, default=str))


def duration(seconds: float) -> str:
    """Seconds in words, with a sensible number of digits.

    Example:
        >>> duration(0.0123), duration(9.87), duration(75.0), duration(4000.0)
        ('0.012 s', '9.9 s', '1 min 15 s', '1 h 6 min')
    """
    if seconds < 59.95:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def run_label(run: Path) -> str:
    """A short name of a run folder: the last three parts of its path."""
    return str(run) if len(run.parts) <= 3 else "/".join(("...", *run.parts[-3:]))


@contextmanager
def show_progress(run: Path) -> Iterator["Reporter"]:
    """Shows the progress of one run; use the yielded `Reporter` as `on_progress`."""
    if shown.get().quiet or shown.get().verbose or not _screen().is_terminal:
        yield Reporter(run_label(run), None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[steps]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", style="dim"),
    )
    with Bar(*columns, console=_screen(), transient=True) as bar:
        yield Reporter(run_label(run), bar)


class Reporter:
    """Receives the progress of one run."""

    def __init__(self, label: str, bar: Bar | None) -> None:
        self.label, self.bar = label, bar
        self.task = bar.add_task(label, total=None, steps="", figures="compiling") if bar else None
        self.last_line = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Updates the bar, or prints a line if the last one is some seconds old."""
        steps = f"{progress.step}/{progress.num_steps}"
        if self.bar is not None and self.task is not None:
            self.bar.update(
                self.task,
                completed=progress.step,
                total=progress.num_steps,
                steps=steps,
                figures=_figures(progress),
            )
            return
        elapsed = time.monotonic() - self.last_line
        is_due = shown.get().verbose or elapsed > _SECONDS_BETWEEN_LINES
        if is_due and progress.step < progress.num_steps:
            self.last_line = time.monotonic()
            left = progress.seconds / progress.step * (progress.num_steps - progress.step)
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            say(f"{now} {self.label}: step {steps}, {duration(left)} left, {_figures(progress)}")


def _figures(progress: Progress) -> str:
    rate = progress.step / max(progress.seconds, 1e-9)
    values = "  ".join(f"{name} {value:.4g}" for name, value in sorted(progress.metrics.items()))
    return f"{rate:,.{0 if rate >= 10 else 2}f} steps/s  {values}"
