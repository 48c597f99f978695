"""The report as Markdown: the same facts, tables and legend as the page, without pictures."""

from jaxunlearn.studies.report.aggregate import Table, shown_columns
from jaxunlearn.studies.report.columns import DIRECTIONS, REFERENCE_MEANINGS, REFERENCES
from jaxunlearn.studies.report.extras import ULIRA_FOLDER, Extras
from jaxunlearn.studies.report.guards import GUARD_NOTE, guard_rows
from jaxunlearn.studies.report.markdown_text import escape
from jaxunlearn.studies.report.markdown_text import table as markdown_table
from jaxunlearn.studies.report.ranking import Ranking
from jaxunlearn.studies.report.samples import samples_file
from jaxunlearn.studies.report.study import Study
from jaxunlearn.studies.report.verdict import SETTLED_NOTE, headline, make_verdict
from jaxunlearn.studies.report.wording import (
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
    settings_lines,
    unfinished_lists,
    verdict,
)


def _table(table: Table, study: Study) -> list[str]:
    titles, rows = [escape(column.title) for column in table.columns], []
    for row in table.rows:
        note = row_note(row, study)
        name = escape(row_name(row) + (f" ({note})" if note else ""))
        texts = [f"*{name}*" if row.reference else name]
        for column in table.columns:
            cell = row.cells.get(column.key)
            text = " ".join(part for part in parts(cell, column) if part)
            texts.append(f"**{text}**" if cell is not None and cell.best else text)
        rows.append(texts)
    return markdown_table(["", *titles], rows)


def _ranking(ranking: Ranking) -> list[str]:
    rows = [[escape(text) for text in row] for row in ranking_cells(ranking)]
    return markdown_table(ranking_headings(ranking), rows, left=2)


def _guards(study: Study, request: str) -> list[str]:
    titles, rows = guard_rows(study, request)
    if not rows:
        return []
    escaped = [[escape(text) for text in row] for row in rows]
    lines = ["", "### Utility budgets: held-out retain loss", ""]
    return [*lines, *markdown_table(["", *titles], escaped), "", GUARD_NOTE]


def render_markdown(study: Study, tables: list[Table], extras: Extras) -> str:
    """Renders the report as Markdown.

    Args:
        study: the study.
        tables: the table of each request.
        extras: the findings of other commands on the study.
    """
    lines, sentence = [f"# {escape(study.title)}", ""], headline(study)
    lines += [f"**{escape(sentence)}**", ""] if sentence else []
    lines += [f"- **{escape(name)}:** {escape(text)}" for name, text in facts(study)]
    for heading, runs in unfinished_lists(study).items():
        lines += ["", f"**{heading}:**", "", *(f"- {escape(line)}" for line in runs)]
    for table in tables:
        words = describe_request(table.request)
        lines += ["", f"## {escape(table.request)}" + (f": {words}" if words else ""), ""]
        if table.counts:
            lines += [f"Examples: {escape(describe_counts(table.counts))}.", ""]
        if not table.rows:
            lines += ["No run has finished yet."]
            continue
        if not table.has_retrained:
            lines += ["There is no retrained model yet, so no distances to it.", ""]
        if sentences := make_verdict(study, table, extras.ulira_on(table.request)):
            lines += ["### Verdict", "", *(f"- {escape(sentence)}" for sentence in sentences), ""]
            lines += [SETTLED_NOTE, ""] if len(study.seeds) > 1 else []
        lines += [*_table(table, study), "", interval_note(study, table)]
        if samples_file(study, table.request).exists():
            file = samples_file(study, table.request).name
            lines += ["", f"![Images that the models generate]({file})"]
        if table.ranking is not None:
            lines += ["", f"### Ranking: {escape(table.ranking.column.title)}", ""]
            lines += [escape(verdict(table.ranking)), "", *_ranking(table.ranking), ""]
            lines += [escape(RANKING_NOTE)]
        lines += _guards(study, table.request)
        if table.request in extras.entries:
            lines += ["", "Relearning, probes, calibration, damage: [evidence.md](evidence.md)."]
        if extras.ulira_on(table.request) is not None:
            file = f"{ULIRA_FOLDER}/ulira.md"
            lines += ["", f"The attack on single examples: [{file}]({file})."]
        if settings := settings_lines(study, table.request):
            lines += ["", "### Settings", ""]
            lines += [f"- **{escape(name)}:** {escape(text)}" for name, text in settings]
    lines += ["", "## What the rows and columns mean", ""]
    lines += [
        f"- **{REFERENCES[name][0]}:** {meaning}" for name, meaning in REFERENCE_MEANINGS.items()
    ]
    lines += [
        f"- **{escape(column.title)}** ({DIRECTIONS[column.direction]}): {escape(column.meaning)}"
        for column in shown_columns(tables)
    ]
    lines += ["", "Bold marks the best distance among the methods; reference rows take no part."]
    return "\n".join(lines) + "\n"
