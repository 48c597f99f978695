"""One compiled, resumable program on one or many devices: `compile_program` and `run`.

The names below are imported from `jaxunlearn.training.loop` when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxunlearn.training.loop import (
        Diverged,
        Interrupted,
        Numbers,
        Outcome,
        Program,
        Progress,
        compile_program,
        executable_for,
        run,
    )

__all__ = [
    "Diverged",
    "Interrupted",
    "Numbers",
    "Outcome",
    "Program",
    "Progress",
    "compile_program",
    "executable_for",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'jaxunlearn.training' has no attribute {name!r}")
    return getattr(importlib.import_module("jaxunlearn.training.loop"), name)
