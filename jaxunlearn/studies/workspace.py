"""Folders that each belong to one run, study, search, sweep or set of shadow models, for good.

    workspace = Workspace(folder, "sweep", "sweep.json")
    workspace.check(wanted)                     # the folder is free, or holds the same sweep
    with workspace.locked(shard.part):
        workspace.claim(wanted)                 # from now on it holds this sweep
        with workspace.in_turn("report"):
            ...

The operating system holds a lock on a hidden file, and releases it when the process ends, in
whatever way. While it is held, the file names the process. The shards of a job array hold the locks
of different parts of one folder at once.
"""

import contextlib
import errno
import os
import platform
import re
import reprlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxunlearn.files import read_record, unwritable, write_record
from jaxunlearn.types import InputError

_LOCK = ".lock"
_PATTERNS = ("[", "*", "?", "\\")  # the storage of checkpoints reads these as patterns


@dataclass(frozen=True)
class Workspace:
    """A folder and the thing it belongs to.

    Attributes:
        folder: the folder, which need not exist.
        thing: the kind of thing, for errors.
        file: the name of the record in folders of this kind.
    """

    folder: Path
    thing: str = "run"
    file: str = "config.json"

    @property
    def record(self) -> Path:
        """The path of the record."""
        return self.folder / self.file

    def is_claimed(self) -> bool:
        """Whether the folder belongs to a thing of this kind; if not, it is free.

        Raises InputError if it is a file, holds anything else but hidden files, or has a path to
        which checkpoints cannot be written.
        """
        _check_path(self.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(
                f"{self.folder} is a file, but must be a folder for a {self.thing}; give another "
                "name."
            )
        if self.record.exists():
            return True
        if self.folder.exists() and any(entry.name[0] != "." for entry in self.folder.iterdir()):
            raise InputError(
                f"{self.folder} is not empty and holds no {self.thing}; name a new folder, or "
                "empty this one."
            )
        return False

    def read(self) -> dict[str, Any] | None:
        """The record, or None if the folder is free."""
        return read_record(self.record) if self.is_claimed() else None

    def check_same(self, there: Any, here: Any) -> None:
        """Raises an error that names the first difference between the record and `here`, if any."""
        difference = first_difference(there, here)
        if difference is not None:
            name, theirs, ours = difference
            raise InputError(
                f"{self.folder} holds another {self.thing}: {name} is {theirs} there, but {ours} "
                "now; name a new folder, or delete this one."
            )

    def check(self, wanted: dict[str, Any]) -> bool:
        """Whether the folder has this very record; raises unless it has or is free."""
        there = self.read()
        if there is not None:
            self.check_same(there, wanted)
        return there is not None

    def claim(self, wanted: dict[str, Any]) -> None:
        """Writes the record into a free folder, which must be locked."""
        if not self.check(wanted):
            self.write(wanted)

    def write(self, record: dict[str, Any]) -> None:
        """Writes the record, atomically and sealed."""
        write_record(self.record, record)

    @contextlib.contextmanager
    def locked(self, part: str = "") -> Iterator[None]:
        """Keeps every other process from writing to the folder, until the `with` block ends.

        With the name of a part of the work, processes on other parts may work at the same time. Of
        the processes of one distributed job, the first holds the lock.
        """
        if jax.process_index() != 0:
            yield
            return
        with contextlib.ExitStack() as held:
            self._lock(held, _LOCK, shared=bool(part))
            if part:
                self._lock(held, f"{_LOCK}-{part}")
            yield

    @contextlib.contextmanager
    def in_turn(self, piece: str) -> Iterator[None]:
        """Waits until no other process works on a piece of the work, and keeps others from it.

        The first process makes the piece; the others find it made.
        """
        with contextlib.ExitStack() as held:
            self._lock(held, f"{_LOCK}-{piece}", wait=True)
            yield

    def _lock(
        self, held: contextlib.ExitStack, name: str, shared: bool = False, wait: bool = False
    ) -> None:
        """Takes one lock, for as long as `held` lasts."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = held.enter_context((self.folder / name).open("a"))
        except OSError as error:
            raise unwritable(self.folder, error) from error
        try:
            import fcntl  # not on Windows

            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except (ImportError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(
                    f"another process is at work in {self.folder}; wait until it ends, or name "
                    "another folder."
                ) from error
            warnings.warn(
                f"files in {self.folder} cannot be locked, so a second process may write there.",
                stacklevel=2,
            )
            return
        if not shared:
            held.callback(file.truncate, 0)
            file.truncate(0)
            began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            owner = f"process {os.getpid()} on {platform.node()} since {began}"
            with contextlib.suppress(OSError):  # a full disk, which the next file reports
                os.write(file.fileno(), owner.encode())

    def held_by(self) -> str | None:
        """The process that works in the folder, such as "process 7 on host since ..."; or None."""
        for path in sorted(self.folder.glob(f"{_LOCK}*")):
            owner = path.read_text("utf-8")
            if owner and _is_held(path):
                return owner
        return None


def _is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file."""
    try:
        import fcntl

        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return True
    return False


def _check_path(folder: Path) -> None:
    """Raises if the storage of checkpoints would read a path as something else."""
    path = folder.absolute()
    wrong = [mark for mark in _PATTERNS if mark in str(path)]
    wrong += ["gs:"] if any(part.endswith("gs:") for part in path.parts) else []
    if not wrong and os.fsencode(path).decode(errors="replace") != str(path):
        wrong = ["a name that is not in UTF-8"]
    if wrong:
        raise InputError(
            f"the path {str(path)!r} contains {wrong[0]}, so checkpoints cannot be written there; "
            f"name a folder without {' '.join(_PATTERNS)} and gs:."
        )


def first_difference(there: Any, here: Any, name: str = "") -> tuple[str, str, str] | None:
    """The first entry in which two trees of plain values differ: its name, and both values.

    A missing entry counts as None, so that records from before an optional field remain valid.
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


class Shard(NamedTuple):
    """One of several shares of a folder's work, numbered from 1, for the jobs of a job array."""

    share: int = 1
    shares: int = 1

    @property
    def part(self) -> str:
        """The name of the part of the work, for its lock; "" for all of it."""
        return f"{self.share}-of-{self.shares}" if self.shares > 1 else ""

    def has(self, number: int) -> bool:
        """Whether the piece of work with this number, from 0, belongs to this share."""
        return number % self.shares == self.share - 1


def parse_shard(text: str) -> Shard:
    """Reads a share in the form "i/n", the i-th of n shares.

    Example:
        >>> shard = parse_shard("2/4")
        >>> [number for number in range(8) if shard.has(number)]
        [1, 5]
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(
            f"shard is {text!r}, but must be i/n with i from 1 to n, such as 1/4 for the first of "
            "four jobs."
        )
    return Shard(int(match[1]), int(match[2]))
