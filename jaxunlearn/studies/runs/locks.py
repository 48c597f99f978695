"""Folders that belong to one thing for good: a run, a study, a search, a sweep, shadow models.

Each kind leaves a file of its own in its folders, the record of what the folder is for. While a
process writes to a folder it holds a lock on it, which ends with the process, however that ends.
"""

import contextlib
import errno
import os
import reprlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxunlearn.files import unwritable
from jaxunlearn.types import InputError

_LOCK = ".lock"
_PATTERNS = ("[", "*", "?", "\\")  # to the storage of checkpoints


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
        InputError: it is a file, holds anything else but hidden files, or has a path that
            checkpoints cannot be written to.
    """
    _check_path(folder)
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


def _check_path(folder: Path) -> None:
    """Raises if a path means something else to the storage of checkpoints."""
    path = folder.absolute()
    wrong = [mark for mark in _PATTERNS if mark in str(path)]
    wrong += ["gs:"] if any(part.endswith("gs:") for part in path.parts) else []
    if not wrong and os.fsencode(path).decode(errors="replace") != str(path):
        wrong = ["a name that is not in UTF-8"]
    if wrong:
        raise InputError(
            f"the path {str(path)!r} has {wrong[0]} in it, which checkpoints cannot be written "
            f"below; name a folder without {' '.join(_PATTERNS)} and gs:."
        )


@contextlib.contextmanager
def locked(folder: Path, part: str = "") -> Iterator[None]:
    """Keeps every other process from writing to a folder, until the `with` block ends.

    The lock is the operating system's, on an empty hidden file in the folder: it is gone when the
    process is, even if that was killed. Of the processes of one distributed job the first holds it.

    Args:
        folder: made if it is not there.
        part: the name of a part of the folder's work: processes at other parts may work beside this
            one, those at the whole or at the same part may not.

    Raises:
        InputError: another process is at work there, or the folder cannot be written.
    """
    if jax.process_index() != 0:
        yield
        return
    with contextlib.ExitStack() as held:
        _lock(held, folder, _LOCK, shared=bool(part))
        if part:
            _lock(held, folder, f"{_LOCK}-{part}", shared=False)
        yield


@contextlib.contextmanager
def in_turn(folder: Path, piece: str) -> Iterator[None]:
    """Waits until no other process is at a piece of a folder's work, and keeps it from them.

    The first process makes the piece; those that had to wait find it made.

    Args:
        folder: of the work, which each process holds a part of: see `locked`.
        piece: the name of the piece.

    Raises:
        InputError: the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        _lock(held, folder, f"{_LOCK}-{piece}", shared=False, wait=True)
        yield


def _lock(
    held: contextlib.ExitStack, folder: Path, name: str, shared: bool, wait: bool = False
) -> None:
    """Takes one lock, for as long as `held` lasts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((folder / name).open("a"))
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        import fcntl  # not on Windows

        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EACCES):
            raise InputError(
                f"another process is at work in {folder}; wait until it has ended, or name another "
                "folder."
            ) from error
        warnings.warn(
            f"{folder} lies where files cannot be locked, so nothing keeps a second process out "
            "of it.",
            stacklevel=2,
        )


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
