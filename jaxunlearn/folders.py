"""Folders that belong to one thing for good: a run, a study, a search, a sweep, shadow models.

Each kind leaves a file of its own in its folders, the record of what the folder is for.
"""

import reprlib
from pathlib import Path
from typing import Any

from jaxunlearn.types import InputError


def check_claim(folder: Path, record: str, thing: str, many: bool = False) -> bool:
    """Raises if a folder belongs to anything else; says whether it belongs to such a thing already.

    Args:
        folder: it need not be there.
        record: the name of the file that things of this kind leave behind.
        thing: how an error names the kind, such as "run".
        many: whether that is a plural.

    Returns:
        Whether the record is there; if not, the folder is free.

    Raises:
        InputError: it is a file, or holds anything else but hidden files.
    """
    if folder.exists() and not folder.is_dir():
        needs = f"{thing} need" if many else f"a {thing} needs"
        raise InputError(f"{folder} is a file, but {needs} a folder; give another name.")
    if (folder / record).exists():
        return True
    if folder.exists() and any(entry.name[0] != "." for entry in folder.iterdir()):
        raise InputError(
            f"{folder} is not empty and holds no {thing}; name a new folder, or empty this one."
        )
    return False


def check_same(there: Any, here: Any, otherwise: str) -> None:
    """Raises unless what a folder is for and what is wanted now are the same.

    Args:
        there: the content of the record.
        here: what is wanted.
        otherwise: how the error begins: which folder, and that it is not the one wanted.

    Raises:
        InputError: they differ; it names the first difference.
    """
    difference = first_difference(there, here)
    if difference is not None:
        name, theirs, ours = difference
        raise InputError(
            f"{otherwise}: {name} is {theirs} there, but {ours} now; name a new folder, or delete "
            "this one."
        )


def first_difference(there: Any, here: Any, name: str = "") -> tuple[str, str, str] | None:
    """The first entry in which two trees of plain values differ: its name, and both values.

    What is missing counts as None: records written before an optional field was are sound.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            inner = f"{name}.{key}" if name else key
            found = first_difference(there.get(key), here.get(key), inner)
            if found is not None:
                return found
        return None
    if there == here:
        return None
    theirs, ours = (reprlib.repr("not given" if x is None else x) for x in (there, here))
    return name, theirs, ours
