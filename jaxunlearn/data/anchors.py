"""The default anchor of a forgotten class: the kept class with the most similar name."""

from collections.abc import Collection, Sequence

import numpy as np


def anchors(names: Sequence[str], forgotten: Collection[int]) -> np.ndarray:
    """For each class, the kept class whose name shares the largest fraction of words with it.

        words in both names / words in either

    Ties go to the next class in order, the first class following the last. So without common words
    the anchor is the next kept class; a forgotten style becomes the plain picture of the same
    subject, and a forgotten subject the next one in the same style.

    Returns int32 `[C]`; entries of kept classes are meaningless.

    Example:
        >>> styles = ["a photo of", "an inverted photo of", "an edge drawing of"]
        >>> names = [f"{style} {subject}" for style in styles for subject in ("a coat", "a bag")]
        >>> anchors(names, {2, 3})[[2, 3]].tolist(), anchors(names, {0, 2, 4})[[0, 2, 4]].tolist()
        ([0, 1], [1, 3, 5])
    """
    words = [set(name.lower().split()) for name in names]
    kept = [label for label in range(len(names)) if label not in forgotten]

    def order(label: int, other: int) -> tuple[float, int]:
        alike = len(words[label] & words[other]) / max(len(words[label] | words[other]), 1)
        return -alike, (other - label - 1) % len(names)

    chosen = [min(kept, key=lambda other: order(label, other)) for label in range(len(names))]
    return np.array(chosen, np.int32)
