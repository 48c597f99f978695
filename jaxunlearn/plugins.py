"""Plug-ins: Python files and modules of the user that register methods, models and so on.

A plug-in is imported once. The registries of methods, models, data sets, metrics and attacks
`claim` each name that it registers, so that runs can record the plug-ins that they need.
"""

import hashlib
import sys
from collections.abc import Container, Iterable
from pathlib import Path
from types import ModuleType

from jaxunlearn.objects import load_module
from jaxunlearn.types import InputError

_MODULES: dict[str, ModuleType] = {}  # by the name of the plug-in
_OWNERS: dict[tuple[str, str], str] = {}  # the plug-in of a kind and a name; "" outside of one
_loading = ""


def load(path: str) -> str:
    """Loads a plug-in, once.

    Args:
        path: path of a Python file, or name of a module that is installed or in the working folder.

    Returns:
        The name of the plug-in: the name of the file, or of the module.

    Raises:
        InputError: the plug-in is missing, raises an exception, registers nothing, or registers a
            name that exists already.
    """
    global _loading
    name = Path(path).name if path.endswith(".py") else path
    before, _loading = set(sys.modules), name
    try:
        module = load_module(path, f"the plug-in {path}")
    finally:
        _loading = ""
    if _MODULES.setdefault(name, module) is not module:
        raise InputError(
            f"the plug-in {path} has the name of another plug-in, {_MODULES[name].__file__}, but "
            "the names must differ; rename one file."
        )
    if module.__name__ not in before and name not in _OWNERS.values():
        raise InputError(
            f"the plug-in {path} registers nothing, but must register a method, a model, a data "
            "set, a metric or an attack; decorate one, such as by @jaxunlearn.methods.register."
        )
    return name


def claim(kind: str, name: str, built_in: Container[str]) -> None:
    """Records that the plug-in that is loading registers a name.

    Raises:
        InputError: the name is built in, or another plug-in has registered it.

    Example:
        >>> claim("method", "finetune", ("finetune", "retrain"))
        Traceback (most recent call last):
        ...
        jaxunlearn.types.InputError: the method finetune already exists; choose another name.
    """
    owner = _OWNERS.setdefault((kind, name), _loading) if name not in built_in else None
    if owner != _loading:
        of = f" in the plug-in {owner}" if owner else ""
        raise InputError(f"the {kind} {name} already exists{of}; choose another name.")


def needed(used: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """The plug-ins that have registered some of these kinds and names, for the record of a run.

    Returns:
        "plugin" and "digest" by kind and name, such as "method mine"; nothing for built-in names.
    """
    owners = {f"{kind} {name}": _OWNERS.get((kind, name)) for kind, name in used}
    return {
        what: {"plugin": owner, "digest": digest(owner)} for what, owner in owners.items() if owner
    }


def digest(name: str) -> str:
    """The SHA-256 of the file of a plug-in, or of all Python files of its package."""
    module = _MODULES[name]
    package = sys.modules.get(module.__name__.partition(".")[0])
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    found = hashlib.sha256()
    for file in files or [Path(str(module.__file__))]:
        found.update(file.read_bytes())
    return found.hexdigest()
