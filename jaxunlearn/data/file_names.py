"""Examples by the names of their files, and lists of names or numbers in files."""

import json
import posixpath
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxunlearn.data.dataset import Dataset
from jaxunlearn.home import expanded
from jaxunlearn.names import closest, first_of, reason
from jaxunlearn.types import InputError

_MOST_COMPARED = 20_000  # names among which a similar one is looked for


def named_positions(names: Sequence[str], dataset: Dataset) -> np.ndarray:
    """The position of each name among the training and then the test examples, int64 `[M]`.

    A name is a path below the folder of the data, such as `train/cat/0001.jpg`, the end of one, or
    an absolute path. The end of several training paths is refused; test examples are looked for
    after training examples.

    Raises:
        InputError: data without file names, or names that are unknown, repeated or not unique.
    """
    known = (*dataset.names, *dataset.test_names)
    if not known:
        raise InputError(
            f"examples are given by name, but {dataset.name!r} has no file names; give their "
            "positions in the training split (indices)."
        )
    train, test = _Names(dataset.names, 0), _Names(dataset.test_names, len(dataset.train))
    found: dict[str, int | None] = {}
    for name in names:  # the end of a name may be that of a test example as well
        position = train.position(name)
        found[name] = test.position(name) if position is None else position
    unknown = [name for name, position in found.items() if position is None]
    if unknown:
        base = posixpath.basename(unknown[0])
        similar = [name for name in known if posixpath.basename(name) == base]
        hint = closest(unknown[0], similar or known[:_MOST_COMPARED])
        raise InputError(
            f"{len(unknown)} of the {len(names)} names are unknown in {dataset.name!r}: "
            f"{first_of(map(reprlib.repr, unknown))}{hint}; correct or remove them."
        )
    unclear = [name for name, position in found.items() if position == -1]
    if unclear:
        end = f"/{posixpath.normpath(unclear[0])}"
        both = [name for name in known if name.endswith(end)][:2]
        raise InputError(
            f"{len(unclear)} of the {len(names)} names are the end of several in {dataset.name!r}: "
            f"{first_of(map(reprlib.repr, unclear))}; give more of the path, such as "
            f"{' or '.join(map(reprlib.repr, both))}."
        )
    positions = np.array(list(found.values()), np.int64)
    again = [known[position] for position, count in Counter(positions).items() if count > 1]
    if again:
        raise InputError(
            f"{len(again)} of the {len(names)} names are given more than once, in several "
            f"spellings: {first_of(map(reprlib.repr, again))}; keep one of each."
        )
    return positions


class _Names:
    """The names of a split, whose examples are numbered from `first` on."""

    def __init__(self, names: Sequence[str], first: int) -> None:
        self._whole = {name: first + i for i, name in enumerate(names)}
        self._ends: dict[str, int] = {}  # -1 for the end of several names
        for name, position in self._whole.items():
            while "/" in name:
                name = name.partition("/")[2]
                self._ends[name] = -1 if name in self._ends else position

    def position(self, name: str) -> int | None:
        """The position of a name; -1 for the end of several names, None for an unknown one."""
        name = posixpath.normpath(name)
        if name in self._whole or name in self._ends:
            return self._whole.get(name, self._ends.get(name))
        while name.startswith("/"):  # an absolute path
            name = name[1:].partition("/")[2]
            if name in self._whole:
                return self._whole[name]
            name = f"/{name}" if name else ""
        return None


def read_list(path: str, what: str, content: str) -> Iterator[tuple[int, Any]]:
    """The entries of a file that holds a JSON list, with 0, or of its lines, with their numbers.

    `what` and `content` name the file and its lines in errors.
    """
    what = f"{what} {path!r}"
    try:
        text = expanded(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{what} cannot be read ({reason(error)}); give a JSON list or {content}, in UTF-8."
        ) from error
    if text.lstrip()[:1] in ("[", "{"):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{what} is not valid JSON ({error}); give a list.") from error
        if not isinstance(values, list):
            raise InputError(f"{what} holds a {type(values).__name__}, but must hold a JSON list.")
        entries = [(0, value) for value in values]
    else:
        lines = enumerate(text.splitlines(), start=1)
        entries = [(number, line.strip()) for number, line in lines if line.strip()]
    if not entries:
        raise InputError(f"{what} is empty, but must hold at least one entry.")
    yield from entries


def read_names(path: str, what: str = "forget file") -> tuple[str, ...]:
    """Names from a file that holds a JSON list, or one name a line; sorted."""
    entries = read_list(path, what, "one name a line")
    return sorted_names([entry for _, entry in entries], repr(path))


def sorted_names(values: Iterable[str], what: str) -> tuple[str, ...]:
    """The names, sorted, which must be different texts; `what` holds them."""
    values = tuple(values)
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise InputError(
                f"a name in {what} is {value!r}, but must be a text that is not empty."
            )
    again = [name for name, count in Counter(values).items() if count > 1]
    if again:
        raise InputError(
            f"{what} has {len(again)} of its names more than once: "
            f"{first_of(map(reprlib.repr, again))}; keep one of each."
        )
    return tuple(sorted(values))
