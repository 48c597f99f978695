"""Objects of the user's own modules, by name: `my_package.nets:MyNet`.

The working folder is searched as well, as it is by `python -m`. Nothing is unpickled.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from jaxunlearn.names import closest, reason
from jaxunlearn.types import InputError

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_object_path(name: str) -> bool:
    """Whether a name has the form `module:object`.

    Example:
        >>> is_object_path("my_package.nets:MyNet"), is_object_path("folder:images/cats")
        (True, False)
    """
    return _PATH.fullmatch(name) is not None and not name.startswith(("folder:", "npz:", "csv:"))


def load_object(path: str, what: str) -> Any:
    """The object at `module:object`; `what` names it in errors.

    Raises:
        InputError: another form of path, a module that is missing or fails, or one that does not
            hold the object.

    Example:
        >>> load_object("math:pi", "the number")
        3.141592653589793
    """
    if not is_object_path(path):
        raise InputError(
            f"{what} is {path!r}, but must have the form module:object, such as "
            "my_package.nets:MyNet."
        )
    module_name, _, attributes = path.partition(":")
    found: Any = load_module(module_name, what)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise InputError(
                f"{what} is {path!r}, but {module_name} has no {attribute!r}"
                f"{closest(attribute, dir(found))}."
            )
        found = getattr(found, attribute)
    return found


@contextmanager
def errors_of(path: str, what: str, file: str | None = None) -> Iterator[None]:
    """Reports what an object at `module:object`, or of a file, raises as an InputError."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, InputError) or not (file or is_object_path(path)):
            raise
        file = file or getattr(sys.modules.get(path.partition(":")[0]), "__file__", None)
        lines = [
            str(each.lineno) for each in extract_tb(error.__traceback__) if each.filename == file
        ]
        place = f" at line {lines[-1]} of {file}" if lines else ""
        kind = type(error).__name__
        raise InputError(f"{what} {path!r} raises {kind}{place}: {reason(error)}.") from error


def load_module(name: str, what: str) -> ModuleType:
    """The module of a name, or of the path of a Python file; `what` names it in errors.

    A file is executed once: a second call returns the same module.

    Raises:
        InputError: the module or the file is missing, or raises an exception.
    """
    if name.endswith(".py") and not Path(name).is_file():
        raise InputError(
            f"{what} cannot be loaded, because {name} does not exist; give the path of a Python "
            "file, or the name of a module."
        )
    try:
        if name.endswith(".py"):
            return _module_of_file(Path(name))
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(name)
    except InputError as error:
        raise InputError(f"{what} cannot be loaded: {error}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            if name == error.name or name.startswith(f"{error.name}."):
                raise InputError(
                    f"{what} is in the module {name!r}, which is not installed and not in the "
                    "working folder; install it, or change to its folder."
                ) from error
        kind = type(error).__name__
        raise InputError(
            f"{what} cannot be loaded, because {name} raises {kind}: {reason(error)}."
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    name = f"jaxunlearn_file_{path.resolve().as_posix()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
