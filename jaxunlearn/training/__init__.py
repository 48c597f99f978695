"""One compiled, resumable program on one or many devices: `compile_program` and `run`.

The names below are imported from their modules on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxunlearn.training.compilation import executable_for as executable_for
    from jaxunlearn.training.loop import Diverged as Diverged
    from jaxunlearn.training.loop import Interrupted as Interrupted
    from jaxunlearn.training.loop import Outcome as Outcome
    from jaxunlearn.training.loop import Progress as Progress
    from jaxunlearn.training.loop import run as run
    from jaxunlearn.training.programs import Numbers as Numbers
    from jaxunlearn.training.programs import Program as Program
    from jaxunlearn.training.programs import compile_program as compile_program

_MODULES = {
    "executable_for": "compilation",
    **dict.fromkeys(("Diverged", "Interrupted", "Outcome", "Progress", "run"), "loop"),
    **dict.fromkeys(("Numbers", "Program", "compile_program"), "programs"),
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxunlearn.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxunlearn.training.{_MODULES[name]}"), name)
