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


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    r"""The lines of a table.

    Args:
        titles: headings of all columns, escaped.
        rows: cells of each row, escaped.
        left: how many columns, from the first, are aligned to the left; the others to the right.

    Example:
        >>> print(*table(["run", "gap"], [["a", "0.5"]]), sep="\n")
        | run | gap |
        | --- | ---: |
        | a | 0.5 |
    """
    rule = ["---"] * left + ["---:"] * (len(titles) - left)
    return ["| " + " | ".join(row).lstrip() + " |" for row in (titles, rule, *rows)]
