"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn

from jaxunlearn.training import Progress

console = Console()
_SECONDS_BETWEEN_LINES = 10.0


def _figures(progress: Progress) -> str:
    rate = progress.step / max(progress.seconds, 1e-9)
    values = "  ".join(f"{name} {value:.4g}" for name, value in sorted(progress.metrics.items()))
    return f"{rate:.0f} steps/s  {values}"


@contextmanager
def show_progress(label: str) -> Iterator["Reporter"]:
    """Shows the progress of one run under a label; use the yielded object as `on_progress`."""
    if not console.is_terminal:
        yield Reporter(label, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", style="dim"),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        yield Reporter(label, bar)


class Reporter:
    """Receives the progress of one run."""

    def __init__(self, label: str, bar: Bar | None) -> None:
        self.label, self.bar = label, bar
        self.task = bar.add_task(label, total=None, figures="compiling") if bar else None
        self.last_line = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Updates the bar, or prints a line if the last one is some seconds old."""
        if self.bar is not None and self.task is not None:
            self.bar.update(
                self.task,
                completed=progress.step,
                total=progress.num_steps,
                figures=_figures(progress),
            )
        elif time.monotonic() - self.last_line > _SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            left = progress.seconds / progress.step * (progress.num_steps - progress.step)
            console.print(
                f"{self.label}: step {progress.step}/{progress.num_steps}, {left:.0f} s left, "
                f"{_figures(progress)}",
                soft_wrap=True,
            )
