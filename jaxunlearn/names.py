"""Parts of errors: similar names, the first of many names, errors of other libraries."""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name; "" if no known name is similar.

    Example:
        >>> closest("resnet81", ("resnet18", "mlp"))
        " (did you mean 'resnet18'?)"
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def first_of(names: Iterable[object], most: int = 3) -> str:
    """The first names, and whether there are others.

    Example:
        >>> first_of("abcd"), first_of("ab")
        ('a, b, c and others', 'a, b')
    """
    listed = list(map(str, names))
    return ", ".join(listed[:most]) + (" and others" if len(listed) > most else "")


def reason(error: BaseException) -> str:
    """The text of an error in one line of at most 200 characters, without a period.

    Example:
        >>> reason(OSError("no space left."))
        'no space left'
    """
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:200].rstrip(".")
