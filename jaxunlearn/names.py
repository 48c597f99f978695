"""The hint of errors at a misspelt name."""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """The hint right after an unknown name that is nearly a known one, or "" if it is not.

    Args:
        name: the unknown name.
        known: all known names.

    Example:
        >>> closest("resnet81", ("resnet18", "mlp"))
        " (did you mean 'resnet18'?)"
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
