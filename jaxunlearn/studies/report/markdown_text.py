"""Markdown made from data: text that cannot be read as markup, and tables."""

from collections.abc import Sequence


def escape(text: str) -> str:
    r"""Escapes text, so that it is not read as Markdown or HTML and does not break a table.

    Example:
        >>> print(escape("a_b <i>|"))
        a\_b &lt;i>\|
    """
    for character in "\\`*_|[]#":
        text = text.replace(character, "\\" + character)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def markdown_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1
) -> list[str]:
    r"""The lines of a table of escaped texts, with the first `left` columns aligned to the left.

    Example:
        >>> print(*markdown_table(["run", "gap"], [["a", "0.5"]]), sep="\n")
        | run | gap |
        | --- | ---: |
        | a | 0.5 |
    """
    rule = ["---"] * left + ["---:"] * (len(titles) - left)
    return ["| " + " | ".join(row).lstrip() + " |" for row in (titles, rule, *rows)]
