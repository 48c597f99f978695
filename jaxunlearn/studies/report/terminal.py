"""The results table for a terminal of 100 to 120 columns."""

from dataclasses import replace
from typing import TYPE_CHECKING

from jaxunlearn.studies.report.aggregate import Row, make_table, shown_columns
from jaxunlearn.studies.report.columns import Column
from jaxunlearn.studies.report.study import Study, read_study
from jaxunlearn.studies.report.wording import parts, row_name, unfinished_lists

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text

_LEFT_OUT = (
    "js_to_retrained",
    "average_gap_svc_non_member_rate",
    "average_gap_entropy_member_rate",
    "share_of_retraining",
    "weights_moved",
)


def _texts(row: Row, columns: list[Column]) -> "list[Text]":
    from rich.text import Text

    texts = [Text(row_name(row), style="dim" if row.reference else "")]
    for column in columns:
        cell = row.cells.get(column.key)
        mean, _, difference = parts(cell, column)
        if cell is not None and cell.best:
            text = Text(f"*{mean}", style="bold green")
        else:
            text = Text(mean, style="dim" if row.reference else "")
        if difference:
            text.append(f"\n{difference}", style="dim not bold")
        texts.append(text)
    return texts


def render_table(study: Study | str) -> "RichTable":
    """Renders all requests of a study as one table, a section for each.

    A cell has the mean over seeds and, below it in parentheses, the signed difference to the
    retrained model. Intervals, the ranking and a few columns are in the written report only.

    Args:
        study: a study, or the path of its folder.

    Raises:
        InputError: the study cannot be read.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not isinstance(study, Study):
        study = read_study(study)
    tables = [make_table(study, request) for request in study.requests]
    columns = [
        replace(column, decimals=1) if column.decimals == 2 else column
        for column in shown_columns(study, tables)
        if column.key not in _LEFT_OUT
    ]
    unfinished = [f"{kind}: {'; '.join(runs)}" for kind, runs in unfinished_lists(study).items()]
    seeds = f"means over {len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    rendered = Table(
        title=Text(study.title, style="bold"),
        caption="\n".join(
            [
                f"{seeds}; in parentheses the difference to the retrained model; "
                "* best among methods",
                *unfinished,
            ]
        ),
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    rendered.add_column("")
    height = max((column.short.count("\n") for column in columns), default=0)
    for column in columns:
        heading = "\n" * (height - column.short.count("\n")) + column.short
        rendered.add_column(Text(heading), justify="right")
    for table in tables:
        rendered.add_row(Text(table.request, style="bold underline"), *[""] * len(columns))
        for index, row in enumerate(table.rows):
            is_last = index + 1 == len(table.rows)
            rendered.add_row(*_texts(row, columns), end_section=is_last)
    return rendered
