"""Files that are there in full or not at all, and that say what is wrong with them when read."""

import contextlib
import json
import os
import reprlib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.types import InputError

_DAMAGE = (  # what reading arrays raises for a file cut short, overwritten, or of another kind
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OSError,
    RuntimeError,
)


def write_text(path: Path, text: str) -> None:
    """Writes a file through a temporary one beside it, so that a kill leaves the old or the new.

    Args:
        path: the file; its folder is made.
        text: what it will hold.

    Raises:
        InputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise unwritable(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically.

    Raises:
        InputError: it cannot be written.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as a compressed `.npz` file, atomically.

    Raises:
        InputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise unwritable(path, error) from error


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Reads arrays of an `.npz` file by name.

    Raises:
        InputError: the file is missing or damaged, or has no array of one of the names.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run the stage that writes it first.") from error
    except _DAMAGE as error:
        raise InputError(
            f"{path} is damaged or has no {' and '.join(names)} ({error}); restore it, or delete "
            "it and run anew."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: the file.

    Returns:
        The object.

    Raises:
        InputError: the file is missing, is not JSON, or holds something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist; run the stage that writes it first.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not readable JSON ({error}); restore it, or delete it and run anew."
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"{path} holds {reprlib.repr(value)}, but must hold a JSON object; restore it, or "
            "delete it and run anew."
        )
    return value


def unwritable(path: Path, error: OSError) -> InputError:
    """What to say when a file or folder cannot be written."""
    return InputError(
        f"{path} cannot be written ({error.strerror or error}); choose a folder with space that "
        "you may write to."
    )
