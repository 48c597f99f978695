"""The report as one HTML page that needs no other file: style, tables and pictures are inside it.

Everything that comes from data goes through `html.escape`; the page has no scripts.
"""

from collections.abc import Sequence
from html import escape
from itertools import groupby

import numpy as np

from jaxunlearn.evaluation import Predictions
from jaxunlearn.studies.report.aggregate import Cell, Row, Table, shown_columns
from jaxunlearn.studies.report.charts import confidence_shares, draw_confidence, draw_history
from jaxunlearn.studies.report.columns import DIRECTIONS, REFERENCE_MEANINGS, REFERENCES, Column
from jaxunlearn.studies.report.extras import Extras
from jaxunlearn.studies.report.markup import breakable, key_list, row_figure
from jaxunlearn.studies.report.ranking import Ranking
from jaxunlearn.studies.report.samples import samples_section
from jaxunlearn.studies.report.sections import (
    evidence_section,
    guard_section,
    multiplier_section,
    plane_section,
    ulira_section,
)
from jaxunlearn.studies.report.study import Study
from jaxunlearn.studies.report.style import STYLE
from jaxunlearn.studies.report.verdict import SETTLED_NOTE, make_verdict
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

_CONFIDENCE_KEY = (
    ("forget", "forget data", ""),
    ("retain", "retain data", "5 1.5"),
    ("test", "test data", "2 1.6"),
    ("ink", "forget data, retrained model", "1 2"),
)
_HISTORY_KEY = (
    ("forget", "forget loss", ""),
    ("retain", "retain loss", "5 1.5"),
    ("multiplier", "multiplier", ""),
)


def _heading(title: str) -> str:
    """An escaped column title; a metric's name breaks in one place only."""
    return escape(title).replace("_member", "_<wbr>member")


def _heading_cells(columns: Sequence[Column]) -> tuple[str, str, set[str]]:
    """Both heading rows, and the keys of the columns that begin a group."""
    groups, names, first = "", "", set()
    for group, members in groupby(columns, key=lambda column: column.group):
        inside = list(members)
        first.add(inside[0].key)
        groups += f'<th class="first" colspan="{len(inside)}" scope="colgroup">{escape(group)}</th>'
    for column in columns:
        mark = ' class="first"' if column.key in first else ""
        names += (
            f'<th{mark} scope="col" title="{escape(column.meaning)}">{_heading(column.title)}'
            f'<span class="aim">{DIRECTIONS[column.direction]}</span></th>'
        )
    return groups, names, first


def _cell(cell: Cell | None, column: Column, first: set[str]) -> str:
    mean, width, difference = parts(cell, column)
    if cell is not None and cell.best:
        mean = f'<span class="best">{mean}<span class="hidden"> (best)</span></span>'
    small = "".join(
        f"<small{' class=ends' if text[0] == '[' else ''}>{text}</small>"
        for text in (width, difference)
        if text
    )
    mark = ' class="first"' if column.key in first else ""
    return f"<td{mark}>{mean}{small}</td>"


def _row(row: Row, table: Table, study: Study, first: set[str]) -> str:
    note = row_note(row, study)
    small = f"<small>{escape(note)}</small>" if note else ""
    cells = "".join(_cell(row.cells.get(column.key), column, first) for column in table.columns)
    return f'<tr><th scope="row">{breakable(row_name(row))}{small}</th>{cells}</tr>'


def _table(table: Table, study: Study) -> str:
    groups, names, first = _heading_cells(table.columns)
    bodies = ""
    for kind, is_reference in (("references", True), ("methods", False)):
        rows = [row for row in table.rows if row.reference == is_reference]
        if rows:
            inside = "".join(_row(row, table, study, first) for row in rows)
            bodies += f'<tbody class="{kind}">{inside}</tbody>'
    label = escape(f"Results for {table.request}")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead>'
        f'<tr class="group"><th></th>{groups}</tr><tr class="names"><th scope="col"></th>{names}'
        f"</tr></thead>{bodies}</table></div>"
    )


def _ranking(ranking: Ranking) -> str:
    titles = "".join(f'<th scope="col">{escape(text)}</th>' for text in ranking_headings(ranking))
    rows = ""
    for place, name, *texts in ranking_cells(ranking):
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
        rows += f'<tr><td>{place}</td><th scope="row">{breakable(name)}</th>{cells}</tr>'
    title = f"Ranking: {ranking.column.title}"
    return (
        f"<h3>{escape(title)}</h3><p>{escape(verdict(ranking))}</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<table class="ranking"><thead><tr class="names">{titles}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="note">{escape(RANKING_NOTE)}</p>'
    )


def _pooled(study: Study, request: str, name: str) -> dict[str, np.ndarray]:
    """Confidence histograms of one model over all seeds, by split."""
    found = [run.predictions() for run in study.select(request, name)]
    kept = [predictions for predictions in found if predictions is not None]
    shares = {}
    for split in ("forget", "retain", "test"):
        sets: list[Predictions] = [getattr(predictions, split) for predictions in kept]
        sets = [predictions for predictions in sets if len(predictions.labels)]
        if sets:
            shares[split] = np.mean([confidence_shares(each) for each in sets], axis=0)
    return shares


def _confidence(table: Table, study: Study) -> str:
    goal = _pooled(study, table.request, "retrain").get("forget")
    rows = [row for row in table.rows if row.name != "retrain-again"]
    rows.sort(key=lambda row: (row.name == "retrain", not row.reference))
    figures = ""
    for row in rows:
        if shares := _pooled(study, table.request, row.name):
            dotted = None if row.name == "retrain" else goal
            figures += row_figure(row, draw_confidence(shares, dotted))
    if not figures:
        return ""
    key = _CONFIDENCE_KEY if goal is not None else _CONFIDENCE_KEY[:3]
    return (
        "<h3>Confidence in the true class</h3><p>Before, after each method, and retrained without "
        "the forget data. Share of examples, on a square-root scale so that small shares can be "
        "seen. Where unlearning has worked, the filled forget histogram follows the dotted line of "
        "the retrained model.</p>"
        f'{key_list(key)}<div class="charts">{figures}</div>'
    )


def _histories(table: Table, study: Study) -> str:
    figures, has_multiplier = "", False
    for row in table.rows:
        histories = [run.history() for run in study.select(table.request, row.name)]
        picture = None if row.reference else draw_history(histories)
        if picture is not None:
            figures += row_figure(row, picture)
            has_multiplier |= "var(--multiplier)" in picture
    if not figures:
        return ""
    bold = " Thin lines are single seeds, bold ones their mean." if len(study.seeds) > 1 else ""
    return (
        "<h3>Losses and multiplier while unlearning</h3><p>As logged at each step; in long runs, "
        f"neighbouring steps are averaged.{bold}</p>"
        f'{key_list(_HISTORY_KEY[: 3 if has_multiplier else 2])}<div class="charts">{figures}</div>'
    )


def _verdict(table: Table, study: Study, extras: Extras) -> str:
    sentences = make_verdict(study, table, extras.ulira_on(table.request))
    if not sentences:
        return ""
    items = "".join(f"<li>{_heading(sentence)}</li>" for sentence in sentences)
    note = f'<p class="note">{escape(SETTLED_NOTE)}</p>' if len(study.seeds) > 1 else ""
    return f'<h3>Verdict</h3><ul class="verdict">{items}</ul>{note}'


def _settings(table: Table, study: Study) -> str:
    """All settings of every run, folded."""
    items = "".join(
        f"<dt>{breakable(name)}</dt><dd>{breakable(text)}</dd>"
        for name, text in settings_lines(study, table.request)
    )
    if not items:
        return ""
    return (
        "<details><summary>Settings of every run</summary>"
        f'<dl class="legend">{items}</dl></details>'
    )


def _section(table: Table, study: Study, extras: Extras, anchor: str) -> str:
    words = describe_request(table.request)
    extra = f' <span class="words">{escape(words)}</span>' if words else ""
    parts_of_section = [f'<section id="{anchor}"><h2>{escape(table.request)}{extra}</h2>']
    if table.counts:
        counts = escape(describe_counts(table.counts))
        parts_of_section.append(f'<p class="muted">Examples: {counts}.</p>')
    if not table.rows:
        return "".join([*parts_of_section, "<p>No run has finished yet.</p></section>"])
    if not table.has_retrained:
        sentence = "There is no retrained model yet, so no distances to it."
        parts_of_section.append(f'<p class="finding">{escape(sentence)}</p>')
    parts_of_section += [
        _verdict(table, study, extras),
        _table(table, study),
        f'<p class="note">{escape(interval_note(study, table))}</p>',
        "" if table.ranking is None else _ranking(table.ranking),
        samples_section(study, table),
        plane_section(study, table),
        guard_section(study, table),
        _confidence(table, study),
        evidence_section(table, extras),
        ulira_section(table, extras),
        _histories(table, study),
        multiplier_section(study, table),
        _settings(table, study),
        "</section>",
    ]
    return "".join(parts_of_section)


def _legend(tables: list[Table]) -> str:
    entries = [(*REFERENCES[name], text) for name, text in REFERENCE_MEANINGS.items()]
    entries += [
        (column.title, DIRECTIONS[column.direction], column.meaning)
        for column in shown_columns(tables)
    ]
    items = "".join(
        f"<dt>{breakable(title)}<small>{aim}</small></dt><dd>{escape(text)}</dd>"
        for title, aim, text in entries
    )
    return (
        '<section id="legend"><h2>What the rows and columns mean</h2>'
        "<p>The goal is the model retrained without the forget data. Most columns are therefore "
        "best where they equal its row, and the signed difference is in parentheses. The best "
        "distance among the methods is highlighted; the reference rows take no part.</p>"
        f'<dl class="legend">{items}</dl></section>'
    )


def render_page(study: Study, tables: list[Table], extras: Extras) -> str:
    """Writes the report as one HTML page.

    Args:
        study: the study.
        tables: one for each request.
        extras: what other commands found on it.

    Returns:
        The page's text.
    """
    pairs = "".join(
        f"<div{' class=wide' if len(text) > 30 else ''}><dt>{escape(name)}</dt>"
        f"<dd>{escape(text)}</dd></div>"
        for name, text in facts(study)
    )
    links = "".join(
        f'<a href="#request-{number}">{escape(table.request)}</a>'
        for number, table in enumerate(tables, start=1)
    )
    warning = ""
    for heading, lines in unfinished_lists(study).items():
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        warning += f'<div class="warning"><strong>{heading}</strong><ul>{items}</ul></div>'
    sections = "".join(
        _section(table, study, extras, f"request-{number}")
        for number, table in enumerate(tables, start=1)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(study.title)}</title><style>{STYLE}</style></head><body><main>"
        f'<header><p class="overline">Machine unlearning study</p><h1>{escape(study.title)}</h1>'
        f'<dl class="facts">{pairs}</dl><nav aria-label="Sections">{links}'
        f'<a href="#legend">What the columns mean</a></nav>{warning}</header>'
        f"{sections}{_legend(tables)}</main></body></html>\n"
    )
