"""The anchors of forgotten classes: the classes that take their place in models that generate.

| choice | anchor of class c |
| --- | --- |
| a class number | this class |
| None | the kept class with the most similar name |
| "nearest" | the kept class whose mean image has the smallest distance from the mean of c |
| "random" | another kept class at each visit of an example |
| "class+K" | class c + K, modulo the number of classes |
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxunlearn.data.examples import Examples
from jaxunlearn.types import InputError

Anchor = int | str | None


def check_choice(choice: Anchor) -> None:
    """Raises unless the choice is one of the table above."""
    if isinstance(choice, str) and not re.fullmatch(r"nearest|random|class\+[1-9]\d{0,8}", choice):
        raise InputError(
            f"anchor is {choice!r}, but must be the number of a class, 'nearest', 'random' or "
            "'class+K' with a number K, such as 'class+1' for the next class."
        )


def anchors(
    choice: Anchor,
    names: Sequence[str],
    forgotten: Collection[int],
    examples: Examples | None = None,
) -> np.ndarray:
    """The anchor of each class, int32 `[C]`; or for "random" its candidates, bool `[C, C]`.

    If any classes are forgotten, entries of the others are meaningless.

    Args:
        choice: choice of the table above.
        names: names of the classes.
        forgotten: forgotten classes; if there are none, the anchor is any other class.
        examples: training examples, whose means "nearest" compares; no other choice needs them.

    Example:
        >>> pixels = np.array([0, 9, 5, 6], np.float32).reshape(4, 1, 1, 1)
        >>> examples = Examples.from_arrays(pixels, np.arange(4))
        >>> [int(anchors(k, "abcd", {2}, examples)[2]) for k in (0, None, "nearest", "class+1")]
        [0, 3, 3, 3]
        >>> anchors("random", "abcd", {2}, examples)[2].tolist()
        [True, True, False, True]
    """
    labels = np.arange(len(names))
    kept = ~np.isin(labels, list(forgotten)) & ~np.eye(len(names), dtype=bool)
    if choice == "random":
        return kept
    if isinstance(choice, int):
        return np.full(len(names), choice, np.int32)
    if choice is None:
        chosen = [most_similar(label, names, kept[label]) for label in range(len(names))]
        return np.array(chosen, np.int32)
    if choice == "nearest":
        assert examples is not None
        return np.argmin(np.where(kept, _distances(examples, len(names)), np.inf), axis=1).astype(
            np.int32
        )
    shift = int(choice.removeprefix("class+"))
    return ((labels + shift) % len(names)).astype(np.int32)


def most_similar(label: int, names: Sequence[str], kept: Any) -> int:
    """The kept class whose name shares the largest fraction of words with the name of the class.

        words in both names / words in either

    Ties go to the next class in order, the first class following the last. So without common words
    the anchor is the next kept class; a forgotten style becomes the plain picture of the same
    subject, and a forgotten subject the next one in the same style.

    Example:
        >>> styles = ["a photo of", "an inverted photo of", "an edge drawing of"]
        >>> names = [f"{style} {subject}" for style in styles for subject in ("a coat", "a bag")]
        >>> kept = np.array([True, True, False, False, True, True])
        >>> most_similar(2, names, kept), most_similar(3, names, kept)
        (0, 1)
    """
    words = [set(name.lower().split()) for name in names]

    def order(other: int) -> tuple[float, int]:
        alike = len(words[label] & words[other]) / max(len(words[label] | words[other]), 1)
        return -alike, (other - label - 1) % len(names)

    return min(np.flatnonzero(kept).tolist(), key=order, default=label)


def _distances(examples: Examples, num_classes: int) -> np.ndarray:
    """Euclidean distances between the mean images of classes, `[C, C]`; NaN without examples."""
    means = np.full((num_classes, *examples.image.shape[1:]), np.nan)
    for label in np.unique(examples.label):
        images = examples.image[np.flatnonzero(examples.label == label)]
        means[label] = images.mean(axis=0, dtype=np.float64)
    rows = means.reshape(num_classes, -1)
    distances: np.ndarray = np.stack([np.linalg.norm(rows - row, axis=1) for row in rows])
    return np.where(np.isnan(distances), np.finfo(float).max, distances)
