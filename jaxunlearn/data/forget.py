"""Forget requests: a fraction, classes (by number, name or word), a subclass, or listed examples.

A request selects examples of a data set's training split by their positions. A random choice gives
every position a 64-bit key and takes the positions with the smallest keys, so a larger fraction
contains a smaller one with the same seed. The keys are the raw output of PCG64 (M. O'Neill, PCG: A
Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation,
2014), which NumPy keeps stable on every platform and in every version.
"""

import functools
import hashlib
import json
import numbers
import os
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.file_names import (
    named_positions,
    read_list,
    read_names,
    sorted_names,
)
from jaxunlearn.names import closest, first_of
from jaxunlearn.types import InputError

VALIDATION_STREAM, FORGET_STREAM = 0, 1
_LONGEST_NAME = 100  # bytes


def random_keys(seed: int, stream: int, count: int) -> np.ndarray:
    """One random key for each position, uint64 `[count]`.

    `stream` separates choices for different purposes that share a seed.
    """
    seed = plain(seed)
    if not _is_integer(seed) or seed < 0:
        raise InputError(f"seed is {seed!r}, but must be an integer of at least 0.")
    return np.random.PCG64(np.random.SeedSequence(int(seed), spawn_key=(stream,))).random_raw(count)


@dataclass(frozen=True)
class ForgetRequest:
    """A request to forget, with exactly one of the fields.

    Requests for the same examples are equal, whatever their order and spelling.

    Attributes:
        fraction: share of the training examples, validation examples aside, to forget at random.
        classes: numbers or names of the classes to forget.
        words: words; every class with one of them in its name is forgotten. Case and the Unicode
            form of a letter do not matter.
        subclass: number of a fine class to forget, in a data set that also has coarse classes; in
            cifar20, whose models learn the coarse classes, it is forgotten inside its coarse class.
        indices: positions to forget in the data set's training split, or the path of a file of
            them, a JSON list or one number a line; it is read at the first use.
        names: file names of the examples to forget, or the path of a file of them, a JSON list or
            one name a line. The end of a name is enough if only one name ends like this.
        drop_held_out: whether listed examples that are held out as validation or test data are left
            out of the request, instead of being refused.
        file: former name of a path in indices, which takes its place.

    Raises:
        InputError: no field or several fields are given, or a field fits no data set.

    Example:
        >>> ForgetRequest(fraction=0.1).name, ForgetRequest(classes=(2, 1)).name
        ('random-0.1', 'classes-1-2')
    """

    fraction: float | None = None
    classes: tuple[int | str, ...] = ()
    words: tuple[str, ...] | None = None
    subclass: int | None = None
    indices: tuple[int, ...] | str = ()
    names: tuple[str, ...] | str | None = None
    drop_held_out: bool | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if self.file is not None and not self.indices:
            object.__setattr__(self, "indices", str(self.file))
            object.__setattr__(self, "file", None)
        for name in ("fraction", "subclass"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        object.__setattr__(self, "classes", _checked_classes(self.classes))
        object.__setattr__(self, "indices", _listed(self.indices, "indices", _sorted_indices))
        object.__setattr__(self, "names", _listed(self.names or (), "names", sorted_names) or None)
        object.__setattr__(self, "words", _checked_words(self.words or ()) or None)
        object.__setattr__(self, "drop_held_out", self.drop_held_out or None)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values.pop("drop_held_out")
        given = [
            name
            for name, value in values.items()
            if value is not None and not (isinstance(value, tuple) and not value)
        ]
        if len(given) != 1:
            raise InputError(
                f"a forget request has {' and '.join(given) or 'none'}, but must have exactly one "
                "of fraction, classes, words, subclass, indices and names, not empty."
            )
        if self.drop_held_out and not (self.indices or self.names):
            raise InputError(
                f"drop_held_out is given with {given[0]}, but must be given with indices or names; "
                "other requests select no held-out examples."
            )
        if self.fraction is not None:
            if not is_real(self.fraction) or not 0 < self.fraction < 1:
                raise InputError(
                    f"fraction is {self.fraction!r}, but must be between 0 and 1, both excluded; "
                    "0.1 forgets a tenth."
                )
            object.__setattr__(self, "fraction", float(self.fraction))
        if self.subclass is not None:
            _checked((self.subclass,), "subclass")
            object.__setattr__(self, "subclass", int(self.subclass))

    @functools.cached_property
    def name(self) -> str:
        """A name for folders, equal for requests of the same examples with the same seed.

        "random-0.1", "class-3", "classes-1-2", "word-sneaker", "words-bag-coat", "subclass-7", or
        "indices-2-" or "names-2-" and the first eight digits of a hash of the list. Words
        with characters other than letters and digits, and names that would be too long, end with
        "_" and a hash.
        """
        if self.fraction is not None:
            return f"random-{self.fraction!r}"
        if self.classes:
            return _joined("class", "classes", [str(label) for label in self.classes])
        if self.words:
            return _joined("word", "words", self.words)
        if self.subclass is not None:
            return f"subclass-{self.subclass}"
        kind, listed = ("names", self._named) if self.names else ("indices", self._explicit)
        digest = hashlib.sha256(",".join(map(str, listed)).encode(errors="surrogateescape"))
        return f"{kind}-{len(listed)}-{digest.hexdigest()[:8]}"

    def resolved(self) -> "ForgetRequest":
        """The same request, with the content of a file in place of its path.

        Raises:
            InputError: the file cannot be read.
        """
        if isinstance(self.indices, str):
            return replace(self, indices=self._explicit)
        return replace(self, names=self._named) if isinstance(self.names, str) else self

    def select(
        self, dataset: Dataset, eligible: np.ndarray, seed: int, gone: np.ndarray | None = None
    ) -> np.ndarray:
        """Positions of the examples to forget.

        Args:
            dataset: the data set.
            eligible: positions in `dataset.train` that are not validation data, int `[M]`.
            seed: seed of a random fraction; other requests do not depend on it.
            gone: positions that earlier requests forgot; they count as absent.

        Returns:
            int64 `[F]`, sorted; at least one position, and fewer than all that are left.

        Raises:
            InputError: a class, subclass, index or name outside the data set, an example of
                held-out data or of an earlier request, a file that cannot be read, or a forget set
                that is empty or everything.
        """
        gone = np.zeros(0, np.int64) if gone is None else gone
        eligible = np.setdiff1d(np.asarray(eligible, np.int64), gone)
        if self.fraction is not None:
            keys = random_keys(seed, FORGET_STREAM, len(dataset.train))
            chosen = _random(self.fraction, eligible, keys)
        elif self.names_classes or self.subclass is not None:
            chosen = eligible[self.forgotten(dataset)[0][eligible]]
        else:
            chosen = self._chosen(dataset, eligible, gone)
        if len(chosen) == 0:
            raise InputError(
                f"{self.name} selects none of the {len(eligible)} training examples of "
                f"{dataset.name!r}, but must select at least one; check whether an earlier request "
                "forgot it, or ask for more."
            )
        if len(chosen) == len(eligible):
            raise InputError(
                f"{self.name} would forget all {len(eligible)} training examples of "
                f"{dataset.name!r}; leave some to retain."
            )
        return chosen

    def forgotten(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the examples of forgotten classes, validation data included.

        Returns:
            Masks, bool `[N_train]` and `[N_test]`; all False if the request names no class.

        Raises:
            InputError: the data set has no such class or word, or no coarse classes.
        """
        if self.names_classes:
            wanted = np.array(self.labels(dataset))
            return np.isin(dataset.train.label, wanted), np.isin(dataset.test.label, wanted)
        train, test = dataset.fine_labels
        if self.subclass is None:
            return np.zeros(len(train), bool), np.zeros(len(test), bool)
        if dataset.coarse is None:
            raise InputError(
                f"subclass {self.subclass} needs a data set with coarse classes, such as cifar20, "
                f"but {dataset.name!r} has none; forget a whole class (classes=)."
            )
        count = len(dataset.fine_names) or dataset.num_classes
        if not 0 <= self.subclass < count:
            raise InputError(
                f"subclass is {self.subclass}, but must be a fine class of {dataset.name!r}, from "
                f"0 to {count - 1}."
            )
        return train == self.subclass, test == self.subclass

    @property
    def names_classes(self) -> bool:
        """Whether whole classes are forgotten, by number or by word."""
        return bool(self.classes or self.words)

    def labels(self, dataset: Dataset) -> tuple[int, ...]:
        """The sorted numbers of the classes that are forgotten whole; none if no class is named.

        Raises:
            InputError: the data set has no such class, or no class name has such a word.
        """
        numbers = [_class_number(each, dataset) for each in self.classes]
        names = [_folded(name).split() for name in dataset.class_names]
        known = dict.fromkeys(word for name in names for word in name)
        for word in self.words or ():
            if word not in known:
                raise InputError(
                    f"no class of {dataset.name!r} has the word {word!r} in its name"
                    f"{closest(word, known)}; the words are {first_of(known, 10)}."
                )
        found = [i for i, name in enumerate(names) if set(name) & set(self.words or ())]
        return tuple(sorted({*numbers, *found}))

    def _chosen(self, dataset: Dataset, eligible: np.ndarray, gone: np.ndarray) -> np.ndarray:
        """The positions of listed examples, checked."""
        total, in_test = len(dataset.train), np.zeros(0, np.int64)
        if self.names:
            found = named_positions(self._named, dataset)
            chosen, in_test = np.sort(found[found < total]), found[found >= total]
        else:
            outside = [index for index in self._explicit if not 0 <= index < total]
            if outside:
                raise InputError(
                    f"index {reprlib.repr(outside[0])} is outside the training split of "
                    f"{dataset.name!r}, which has the positions 0 to {total - 1}."
                )
            chosen = np.array(self._explicit, np.int64)
        kind, count = "names" if self.names else "indices", len(chosen) + len(in_test)
        all_names = (*dataset.names, *dataset.test_names)

        def shown(positions: np.ndarray) -> str:
            return first_of(all_names[i] if self.names else i for i in positions)

        again = chosen[np.isin(chosen, gone)]
        if len(again):
            raise InputError(
                f"{len(again)} of the {count} {kind} were forgotten by an earlier request "
                f"(first: {shown(again)}); leave them out."
            )
        held_out = np.concatenate([chosen[~np.isin(chosen, eligible)], in_test])
        if len(held_out) and not self.drop_held_out:
            held = "validation or test data" if self.names else "validation data"
            raise InputError(
                f"{len(held_out)} of the {count} {kind} are {held}, which no model has seen "
                f"(first: {shown(held_out)}); leave them out, by --drop-held-out "
                "(drop_held_out=True) if you like, or choose another seed or a smaller "
                "validation_fraction."
            )
        return chosen[np.isin(chosen, eligible)]

    @functools.cached_property
    def _explicit(self) -> tuple[int, ...]:
        if isinstance(self.indices, str):
            return tuple(sorted(read_indices(self.indices)))
        return self.indices

    @functools.cached_property
    def _named(self) -> tuple[str, ...]:
        return read_names(self.names) if isinstance(self.names, str) else self.names or ()


def _joined(one: str, several: str, parts: Iterable[str]) -> str:
    """A name made of these parts; a hash identifies parts with other characters, or too many."""
    parts = tuple(parts)
    name = "-".join([one if len(parts) == 1 else several, *parts])
    if all(part.isalnum() for part in parts) and len(name.encode()) <= _LONGEST_NAME:
        return name
    shown = re.sub(r"[\W_]+", "-", name).encode()[:_LONGEST_NAME].decode(errors="ignore").strip("-")
    return f"{shown}_{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"


def _random(fraction: float, eligible: np.ndarray, keys: np.ndarray) -> np.ndarray:
    count = int(fraction * len(eligible) + 0.5)
    if count == 0:
        raise InputError(
            f"fraction {fraction} of {len(eligible)} training examples is less than one example; "
            "ask for more."
        )
    return np.sort(eligible[np.argsort(keys[eligible], kind="stable")[:count]])


def read_indices(path: str) -> tuple[int, ...]:
    """Positions from a file that holds a JSON list, or one number a line; in the file's order."""
    what, values = f"forget file {path!r}", []
    for line_number, entry in read_list(path, "forget file", "one number a line"):
        if isinstance(entry, str) and line_number:
            try:
                entry = int(entry)
            except ValueError as error:
                raise InputError(
                    f"line {line_number} of {what} is {entry[:40]!r}, but must be one number; give "
                    "names with --names (names=)."
                ) from error
        values.append(entry)
    return _checked(values, what)


def plain(value: Any) -> Any:
    """A Python number in place of a NumPy or JAX scalar; other values unchanged."""
    if getattr(value, "shape", None) != () or not hasattr(value, "dtype"):
        return value
    scalar = np.asarray(value)[()]
    # The shortest decimals: 0.1 in float32 becomes 0.1, not 0.10000000149011612.
    return float(str(scalar)) if isinstance(scalar, np.floating) else scalar.item()


def is_real(value: object) -> bool:
    """Whether a value is a real number, booleans excluded."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _checked_classes(values: Iterable[int | str]) -> tuple[int | str, ...]:
    """Class numbers, sorted, and then class names, sorted."""
    if isinstance(values, str):
        raise InputError(f"classes are {values!r}, but must be a list of numbers or names.")
    values = np.asarray(values).tolist() if hasattr(values, "__array__") else values
    if not isinstance(values, Iterable):
        raise InputError(f"classes are {values!r}, but must be a list of numbers or names.")
    values = tuple(values)
    names = sorted_names([each for each in values if isinstance(each, str)], "classes")
    numbers = _checked([each for each in values if not isinstance(each, str)], "classes")
    return *sorted(numbers), *names


def _class_number(given: int | str, dataset: Dataset) -> int:
    """The number of a class, given as it is or by name."""
    names, count = dataset.class_names, dataset.num_classes
    if isinstance(given, str):
        if given in names:
            return names.index(given)
        raise InputError(
            f"class {given!r} does not exist in {dataset.name!r}{closest(given, names)}, which has "
            f"the classes {first_of(names, 10)}."
        )
    if not 0 <= given < count:
        raise InputError(
            f"class {given} does not exist in {dataset.name!r}, which has the classes 0 to "
            f"{count - 1}."
        )
    if str(given) in names and names.index(str(given)) != given:
        raise InputError(
            f"class {given} is the number of {names[given]!r} and the name of the class with the "
            f"number {names.index(str(given))}, but must be one class; give the word "
            f"{str(given)!r} (words) for the name, or rename the class."
        )
    return given


def _listed(values: Any, what: str, checked: Callable[[Any, str], Any]) -> Any:
    """The path of a file as text, or the checked values."""
    if isinstance(values, str | os.PathLike):
        return os.fspath(values)
    return checked(values, what)


def _sorted_indices(values: Iterable[int], what: str) -> tuple[int, ...]:
    return tuple(sorted(_checked(values, what)))


def _checked_words(words: Iterable[str]) -> tuple[str, ...]:
    """The words in lower case, sorted and unique."""
    if isinstance(words, str) or not isinstance(words, Iterable):
        raise InputError(f"words are {words!r}, but must be a list of words.")
    words = tuple(words)
    for word in words:
        if not isinstance(word, str) or word.split() != [word]:
            raise InputError(f"words include {word!r}, but must be single words without blanks.")
    return tuple(sorted({_folded(word) for word in words}))


def _folded(text: str) -> str:
    """The text in lower case, in the composed form of Unicode."""
    return unicodedata.normalize("NFC", text.casefold())


def _checked(values: Iterable[int], what: str) -> tuple[int, ...]:
    """The values as Python integers, not negative and all different."""
    values = np.asarray(values).tolist() if hasattr(values, "__array__") else values
    if not isinstance(values, Iterable):
        raise InputError(f"{what} are {values!r}, but must be a list of integers.")
    values = tuple(map(plain, values))
    seen: set[int] = set()
    for value in values:
        if not _is_integer(value):
            raise InputError(
                f"a number in {what} is {reprlib.repr(value)}, but must be an integer."
            )
        if value < 0:
            raise InputError(
                f"a number in {what} is {reprlib.repr(value)}, but must be at least 0."
            )
        if int(value) in seen:
            raise InputError(
                f"the number {reprlib.repr(value)} is in {what} more than once, but must be there "
                "once."
            )
        seen.add(int(value))
    return tuple(int(value) for value in values)
