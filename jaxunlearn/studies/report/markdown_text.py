"""Markdown made from data: text that cannot be read as markup, and tables."""

from collections.abc import Sequence


def escape(text: str) -> str:
    r"""Keeps data from being read as Markdown or HTML, or from breaking a table.

    Example:
        >>> print(escape("a_b <i>|"))
        a\_b &lt;i>\|
    """
    for character in "\\`*_|[]#":
        text = text.replace(character, "\\" + character)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    r"""The lines of a table, the first column to the left and the others to the right.

    Args:
        titles: the headings of all columns, escaped.
        rows: the cells of each row, escaped.

    Example:
        >>> print(*table(["run", "gap"], [["a", "0.5"]]), sep="\n")
        | run | gap |
        | --- | ---: |
        | a | 0.5 |
    """
    head = ["| " + " | ".join(titles).lstrip() + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    return head + ["| " + " | ".join(row) + " |" for row in rows]
