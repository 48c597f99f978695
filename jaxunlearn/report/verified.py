"""What `jaxunlearn verify` shows: a row for each run, and in it what matches and what does not."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from jaxunlearn.verifying import Finding

_VERDICTS = {"matches": "green", "does not match": "bold red", "not recorded": "dim"}


def render_findings(folder: Path, findings: Sequence[Finding]) -> Table:
    """A table in words.

    Args:
        folder: what was verified; runs in it are named by their path from there.
        findings: from `verifying.verify`.

    Returns:
        A table of rich.
    """
    table = Table(title=Text(f"{folder}"), title_justify="left")
    for heading in ("run", *_VERDICTS):
        table.add_column(heading, overflow="fold")
    for run in dict.fromkeys(finding.run for finding in findings):
        cells = []
        for verdict, style in _VERDICTS.items():
            found = [f.what for f in findings if f.run == run and f.verdict == verdict]
            cells.append(Text(", ".join(found), style=style))
        name = "" if run == folder else run.relative_to(folder).as_posix()
        table.add_row(Text(name or folder.name), *cells)
    return table
