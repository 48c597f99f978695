"""The small pieces of HTML that all sections of the page are made of. They escape what they get."""

from collections.abc import Mapping, Sequence
from html import escape

from jaxunlearn.studies.report.aggregate import Row
from jaxunlearn.studies.report.columns import REFERENCES
from jaxunlearn.studies.report.wording import row_name


def breakable(name: str) -> str:
    """An escaped name that may break after underscores."""
    return escape(name).replace("_", "_<wbr>")


def model_name(name: str) -> str:
    """What a model is called, escaped: a reference in words, a method by its name."""
    return breakable(REFERENCES[name][0] if name in REFERENCES else name)


def key_list(entries: Sequence[tuple[str, str, str]]) -> str:
    """The key of the lines of a chart.

    Args:
        entries: for each line the variable of its colour, what it is, and its dashes.

    Returns:
        A list.
    """
    items = "".join(
        f'<li><svg viewBox="0 0 30 10" aria-hidden="true"><line x1="1" y1="5" x2="29" y2="5" '
        f'stroke="var(--{color})" stroke-width="2" stroke-dasharray="{dashes or "none"}"/></svg>'
        f"{escape(words)}</li>"
        for color, words, dashes in entries
    )
    return f'<ul class="key">{items}</ul>'


def figure(caption: str, picture: str) -> str:
    """A picture below its caption; both are HTML already."""
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"


def row_figure(row: Row, picture: str) -> str:
    """A picture of one row of the table."""
    note = f"<small>{escape(REFERENCES[row.name][1])}</small>" if row.reference else ""
    return figure(f"{breakable(row_name(row))}{note}", picture)


def plain_table(
    label: str,
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    shades: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """A table of texts, one row a model, with the references set apart.

    Args:
        label: what it shows, for screen readers.
        titles: of the columns after the first.
        rows: for each model its name and its cells, which are escaped here.
        shades: for each model how strongly its cells are shaded, from -1 to 1, if they are.

    Returns:
        A table that scrolls by itself.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    bodies = ""
    for kind, is_reference in (("references", True), ("methods", False)):
        inside = "".join(
            f'<tr><th scope="row">{model_name(name)}</th>'
            + "".join(
                f"<td{_shade(0 if shades is None else shades[name][i])}>{escape(cell)}</td>"
                for i, cell in enumerate(cells)
            )
            + "</tr>"
            for name, *cells in rows
            if (name in REFERENCES) == is_reference
        )
        bodies += f'<tbody class="{kind}">{inside}</tbody>' if inside else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="plain"><thead><tr class="names"><th scope="col"></th>{head}</tr></thead>'
        f"{bodies}</table></div>"
    )


def _shade(strength: float) -> str:
    percent = round(60 * min(abs(strength), 1.0))
    colour = "forget" if strength > 0 else "retain"
    return f' class="shade" style="--by: var(--{colour}) {percent}%"' if percent else ""
