"""Forget requests: a fraction, classes (by number or by word), a subclass, or listed examples.

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
import re
import reprlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.data.dataset import Dataset
from jaxunlearn.home import expanded
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
        classes: numbers of the classes to forget; words takes the names.
        words: words; every class with one of them in its name is forgotten. Case and the Unicode
            form of a letter do not matter.
        subclass: number of a fine class to forget, in a data set that also has coarse classes; in
            cifar20, whose models learn the coarse classes, it is forgotten inside its coarse class.
        indices: positions to forget in the data set's training split.
        file: path of a file of such positions, a JSON list or one number a line; it is read at the
            first use.

    Raises:
        InputError: no field or several fields are given, or a field fits no data set.

    Example:
        >>> ForgetRequest(fraction=0.1).name, ForgetRequest(classes=(2, 1)).name
        ('random-0.1', 'classes-1-2')
    """

    fraction: float | None = None
    classes: tuple[int, ...] = ()
    words: tuple[str, ...] | None = None
    subclass: int | None = None
    indices: tuple[int, ...] = ()
    file: str | None = None

    def __post_init__(self) -> None:
        for name in ("fraction", "subclass"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        for name in ("classes", "indices"):
            object.__setattr__(self, name, tuple(sorted(_checked(getattr(self, name), name))))
        object.__setattr__(self, "words", _checked_words(self.words or ()) or None)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = [
            name
            for name, value in values.items()
            if value is not None and not (isinstance(value, tuple) and not value)
        ]
        if len(given) != 1:
            raise InputError(
                f"a forget request has {' and '.join(given) or 'none'}, but must have exactly one "
                "of fraction, classes, words, subclass, indices and file, not empty."
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
        if self.file is not None:
            object.__setattr__(self, "file", str(self.file))

    @functools.cached_property
    def name(self) -> str:
        """A name for folders, equal for requests of the same examples with the same seed.

        "random-0.1", "class-3", "classes-1-2", "word-sneaker", "words-bag-coat", "subclass-7", or
        "indices-2-" and the first eight digits of a hash of the indices, given or in a file. Words
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
        indices = self._explicit
        digest = hashlib.sha256(",".join(str(index) for index in indices).encode()).hexdigest()
        return f"indices-{len(indices)}-{digest[:8]}"

    def resolved(self) -> "ForgetRequest":
        """The same request, with the positions in a file in place of its path.

        Raises:
            InputError: the file cannot be read.
        """
        return self if self.file is None else ForgetRequest(indices=self._explicit)

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
            InputError: a class, subclass or index outside the data set, an index of validation
                data or of an earlier request, a file that cannot be read, or a forget set that is
                empty or everything.
        """
        gone = np.zeros(0, np.int64) if gone is None else gone
        eligible = np.setdiff1d(np.asarray(eligible, np.int64), gone)
        if self.fraction is not None:
            keys = random_keys(seed, FORGET_STREAM, len(dataset.train))
            chosen = _random(self.fraction, eligible, keys)
        elif self.names_classes or self.subclass is not None:
            chosen = eligible[self.forgotten(dataset)[0][eligible]]
        else:
            chosen = self._listed(dataset, eligible, gone)
        if len(chosen) == 0:
            raise InputError(
                f"{self.name} selects none of the {len(eligible)} training examples of "
                f"{dataset.name!r}, but must select at least one; ask for more."
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
        count = dataset.num_classes
        for label in self.classes:
            if not 0 <= label < count:
                raise InputError(
                    f"class {label} does not exist in {dataset.name!r}, which has the classes 0 to "
                    f"{count - 1}."
                )
        names = [_folded(name).split() for name in dataset.class_names]
        known = dict.fromkeys(word for name in names for word in name)
        for word in self.words or ():
            if word not in known:
                raise InputError(
                    f"no class of {dataset.name!r} has the word {word!r} in its name; the words "
                    f"are {', '.join(known)}."
                )
        found = [i for i, name in enumerate(names) if set(name) & set(self.words or ())]
        return tuple(sorted([*self.classes, *found]))

    def _listed(self, dataset: Dataset, eligible: np.ndarray, gone: np.ndarray) -> np.ndarray:
        total = len(dataset.train)
        indices = self._explicit
        outside = [index for index in indices if not 0 <= index < total]
        if outside:
            raise InputError(
                f"index {reprlib.repr(outside[0])} is outside the training split of "
                f"{dataset.name!r}, which has the positions 0 to {total - 1}."
            )
        chosen = np.array(indices, np.int64)
        again = chosen[np.isin(chosen, gone)]
        if len(again):
            raise InputError(
                f"{len(again)} of the {len(chosen)} indices were forgotten by an earlier request "
                f"(first: {again[0]}); leave them out."
            )
        held_out = chosen[~np.isin(chosen, eligible)]
        if len(held_out):
            raise InputError(
                f"{len(held_out)} of the {len(chosen)} indices are validation data, which no model "
                f"has seen (first: {held_out[0]}); leave them out, or choose another seed or a "
                "smaller validation_fraction."
            )
        return chosen

    @functools.cached_property
    def _explicit(self) -> tuple[int, ...]:
        return self.indices if self.file is None else tuple(sorted(read_indices(self.file)))


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


def read_indices(path: str | Path) -> tuple[int, ...]:
    """Positions from a file that holds a JSON list, or one number a line; in the file's order."""
    what = f"forget file {str(path)!r}"
    try:
        text = expanded(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{what} cannot be read ({error}); give a JSON list or one number a line, in UTF-8."
        ) from error
    if text.lstrip()[:1] in ("[", "{"):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{what} is not valid JSON ({error}); give a list of numbers."
            ) from error
        if not isinstance(values, list):
            raise InputError(
                f"{what} holds a {type(values).__name__}, but must hold a JSON list of numbers."
            )
    else:
        values = []
        for line_number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    values.append(int(line))
                except ValueError as error:
                    raise InputError(
                        f"line {line_number} of {what} is {line[:40]!r}, but must be one number."
                    ) from error
    if not values:
        raise InputError(f"{what} is empty, but must hold at least one position.")
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
