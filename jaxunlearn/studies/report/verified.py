"""The table of `jaxunlearn verify`, with one row for equal findings."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from jaxunlearn.studies.runs.verify import Finding

_VERDICTS = {"matches": "green", "does not match": "bold red"}


def render_findings(folder: Path, findings: Sequence[Finding]) -> Table:
    """A table of findings below a summary; folders and files with the same findings share a row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for run in dict.fromkeys(finding.run for finding in findings):
        cells = tuple(
            ", ".join(f.what for f in findings if f.run == run and f.verdict == verdict)
            for verdict in _VERDICTS
        )
        name = folder.name if run == folder else run.relative_to(folder).as_posix()
        alike.setdefault(cells, []).append(name)
    found = Counter(finding.verdict for finding in findings)
    total = ", ".join(f"{found[verdict]:,} {verdict}" for verdict in _VERDICTS if found[verdict])
    table = Table(title=Text(f"{folder}: {len(findings):,} checks, {total}"), title_justify="left")
    for heading in ("run", *_VERDICTS):
        table.add_column(heading, overflow="fold")
    for cells, names in alike.items():
        shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        if cells[1]:
            shown = "\n".join(names)
        styled = zip(cells, _VERDICTS.values(), strict=True)
        table.add_row(Text(shown), *(Text(cell, style=style) for cell, style in styled))
    return table
