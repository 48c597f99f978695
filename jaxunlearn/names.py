"""The hint that errors give where a name is misspelt."""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """The text that an error adds right after a name that is nearly a known one, or "".

    Args:
        name: the name that is not known.
        known: all names that are.

    Returns:
        The hint.

    Example:
        >>> closest("resnet81", ("resnet18", "mlp"))
        " (did you mean 'resnet18'?)"
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
