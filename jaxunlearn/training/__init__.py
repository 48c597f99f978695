"""One compiled, resumable program on one or many devices: `compile_program` and `run`.

The names below are imported from their modules on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxunlearn.training.compilation import executable_for
    from jaxunlearn.training.loop import Diverged, Interrupted, Outcome, Progress, run
    from jaxunlearn.training.programs import Numbers, Program, compile_program

_MODULES = {
    "compilation": ("executable_for",),
    "loop": ("Diverged", "Interrupted", "Outcome", "Progress", "run"),
    "programs": ("Numbers", "Program", "compile_program"),
}
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
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"jaxunlearn.training.{module}"), name)
    raise AttributeError(f"module 'jaxunlearn.training' has no attribute {name!r}")
