"""Files that are there in full or not at all, and that say what is wrong with them when read."""

import json
import os
from pathlib import Path
from typing import Any

from jaxunlearn.types import InputError


def write_text(path: Path, text: str) -> None:
    """Writes a file through a temporary one beside it, so that a kill leaves the old or the new.

    Raises:
        InputError: the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror}); choose a folder with space that you may "
            "write to."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: the file is missing, or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run the stage that writes it first.") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not readable JSON ({error}); delete it and run anew."
        ) from error
