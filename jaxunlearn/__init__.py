"""jaxunlearn: make a trained model forget, with optax gradient transformations.

`import jaxunlearn` gives the core, the names in `jaxunlearn.transforms`. It needs only jax and
optax, and imports them when one of these names is first used. The other rooms are modules:
`jaxunlearn.methods`, `jaxunlearn.tasks`, `jaxunlearn.training`, `jaxunlearn.evaluation`,
`jaxunlearn.models`, `jaxunlearn.data`, `jaxunlearn.studies`.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxunlearn.version import __version__ as __version__

# The extra that installs a package, if it is not "pipeline".
EXTRAS = {
    "jax_privacy": "audit",
    "tensorflow": "tfds-prepare",
}

if TYPE_CHECKING:  # type checkers see the names and so find misspelt ones
    from jaxunlearn.transforms import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return _names()
        if name.startswith("_"):
            raise AttributeError(f"module 'jaxunlearn' has no attribute {name!r}")
        if importlib.util.find_spec(f"jaxunlearn.{name}"):
            return _module(name)
        if name in _names():
            return globals().setdefault(name, getattr(_module("transforms"), name))
        raise AttributeError(f"module 'jaxunlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_names(), "transforms", "types"})


def _names() -> list[str]:
    """The exports of the core, and the version."""
    core = vars(_module("transforms"))
    public = (n for n, x in core.items() if not n.startswith("_") and not isinstance(x, ModuleType))
    return sorted({*public, "__version__"})


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"jaxunlearn.{name}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "jaxunlearn"):
            raise
        raise ModuleNotFoundError(
            f"jaxunlearn.{name} needs the package {package}, which is not installed; install "
            f"jaxunlearn[{EXTRAS.get(package, 'pipeline')}].",
            name=error.name,
        ) from error
