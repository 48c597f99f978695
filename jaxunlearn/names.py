"""The hint that errors give for a misspelt name."""

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
