"""The report as Markdown: the same facts, tables and legend as the page, without pictures."""

from jaxunlearn.report.aggregate import Table, shown_columns
from jaxunlearn.report.columns import DIRECTIONS, REFERENCE_MEANINGS, REFERENCES
from jaxunlearn.report.extras import ULIRA_FOLDER, Extras
from jaxunlearn.report.guards import GUARD_NOTE, guard_rows
from jaxunlearn.report.ranking import Ranking
from jaxunlearn.report.samples import samples_file
from jaxunlearn.report.study import Study
from jaxunlearn.report.verdict import SETTLED_NOTE, make_verdict
from jaxunlearn.report.wording import (
    RANKING_NOTE,
    describe_counts,
    describe_request,
    facts,
    interval_note,
    parts,
    ranking_cells,
    ranking_headings,
    row_name,
    row_note,
    unfinished_lines,
    verdict,
)


def _escape(text: str) -> str:
    """Keeps data from being read as Markdown or HTML, or from breaking a table."""
    for character in "\\`*_|[]#":
        text = text.replace(character, "\\" + character)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def _table(table: Table, study: Study) -> list[str]:
    titles = [f"{_escape(column.title)}" for column in table.columns]
    lines = ["| | " + " | ".join(titles) + " |", "| --- |" + " ---: |" * len(titles)]
    for row in table.rows:
        note = row_note(row, study)
        name = _escape(row_name(row) + (f" ({note})" if note else ""))
        texts = [f"*{name}*" if row.reference else name]
        for column in table.columns:
            cell = row.cells.get(column.key)
            text = " ".join(part for part in parts(cell, column) if part)
            texts.append(f"**{text}**" if cell is not None and cell.best else text)
        lines.append("| " + " | ".join(texts) + " |")
    return lines


def _ranking(ranking: Ranking) -> list[str]:
    titles = ranking_headings(ranking)
    lines = ["| " + " | ".join(titles) + " |", "| ---: | --- |" + " ---: |" * (len(titles) - 2)]
    return lines + [
        "| " + " | ".join(_escape(text) for text in row) + " |" for row in ranking_cells(ranking)
    ]


def _guards(study: Study, request: str) -> list[str]:
    titles, rows = guard_rows(study, request)
    if not rows:
        return []
    lines = ["", "### Utility budgets: held-out retain loss", ""]
    lines += ["| | " + " | ".join(titles) + " |", "| --- |" + " ---: |" * len(titles)]
    lines += ["| " + " | ".join(_escape(text) for text in row) + " |" for row in rows]
    return [*lines, "", GUARD_NOTE]


def render_markdown(study: Study, tables: list[Table], extras: Extras, written: float) -> str:
    """Writes the report as Markdown.

    Args:
        study: the study.
        tables: one for each request.
        extras: what other commands found on it.
        written: when the report is written, in seconds since 1970.

    Returns:
        The text, ending with a newline.
    """
    lines = [f"# {_escape(study.title)}", ""]
    lines += [f"- **{_escape(name)}:** {_escape(text)}" for name, text in facts(study, written)]
    if study.unfinished:
        lines += ["", "**Not finished:**", ""]
        lines += [f"- {_escape(line)}" for line in unfinished_lines(study)]
    for table in tables:
        words = describe_request(table.request)
        lines += ["", f"## {_escape(table.request)}" + (f": {words}" if words else ""), ""]
        if table.counts:
            lines += [f"Examples: {_escape(describe_counts(table.counts))}.", ""]
        if not table.rows:
            lines += ["No run has finished yet."]
            continue
        if not table.has_retrained:
            lines += ["There is no retrained model yet, so no distances to it.", ""]
        if sentences := make_verdict(study, table, extras.ulira_on(table.request)):
            lines += ["### Verdict", "", *(f"- {_escape(sentence)}" for sentence in sentences), ""]
            lines += [SETTLED_NOTE, ""] if len(study.seeds) > 1 else []
        lines += [*_table(table, study), "", interval_note(study, table)]
        if samples_file(study, table.request).exists():
            file = samples_file(study, table.request).name
            lines += ["", f"![Images that the models generate]({file})"]
        if table.ranking is not None:
            lines += ["", f"### Ranking: {_escape(table.ranking.column.title)}", ""]
            lines += [_escape(verdict(table.ranking)), "", *_ranking(table.ranking), ""]
            lines += [_escape(RANKING_NOTE)]
        lines += _guards(study, table.request)
        if table.request in extras.entries:
            lines += ["", "Relearning, probes, calibration, damage: [evidence.md](evidence.md)."]
        if extras.ulira_on(table.request) is not None:
            file = f"{ULIRA_FOLDER}/ulira.md"
            lines += ["", f"The attack on single examples: [{file}]({file})."]
    lines += ["", "## What the rows and columns mean", ""]
    lines += [
        f"- **{REFERENCES[name][0]}:** {meaning}" for name, meaning in REFERENCE_MEANINGS.items()
    ]
    lines += [
        f"- **{_escape(column.title)}** ({DIRECTIONS[column.direction]}): {_escape(column.meaning)}"
        for column in shown_columns(tables)
    ]
    lines += ["", "Bold marks the best distance among the methods; reference rows take no part."]
    return "\n".join(lines) + "\n"
