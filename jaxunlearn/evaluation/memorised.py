"""The most and the least memorised examples, which an attacker tells apart best and worst.

    mem(i) = mean p(y_i | x_i) over models that learned i, minus the same over models that did not

An attack on all examples hides how exposed the memorised ones are. RULI therefore attacks the most
and the least memorised examples, half each (Naderloui et al., Rectifying Privacy and Efficacy
Measurements in Machine Unlearning, arXiv 2506.13009). mem is the memorisation of Feldman and Zhang,
What Neural Networks Memorize and Why, NeurIPS 2020.
"""

from typing import Any

import numpy as np

from jaxunlearn.evaluation.klom import checked_margins
from jaxunlearn.types import InputError


def memorised_ends(learned: Any, unseen: Any, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the most and of the least memorised examples, each a `share` of all.

    Args:
        learned: logit-scaled confidences of M models that learned each of N examples, `[M, N]`.
        unseen: confidences of K models that did not learn the example, `[K, N]`.
        share: share of the examples at each end, in (0, 0.5].

    Returns:
        Two arrays of positions, the most extreme example first, `round(share N)` each, but at least
        one and at most half of N.

    Raises:
        InputError: another share, other shapes, no model, fewer than two examples, or confidences
            that are not finite.

    Example:
        >>> most, least = memorised_ends([[9.0, 9.0, 0.0]], [[-9.0, 9.0, 0.1]], share=0.34)
        >>> most.tolist(), least.tolist()
        ([0], [2])
    """
    sides = checked_margins(least=1, learned=learned, unseen=unseen)
    count = sides[0].shape[1]
    if not 0 < share <= 0.5 or count < 2:
        raise InputError(
            f"share is {share:g} of {count} examples, but must be above 0 and at most 0.5 of at "
            "least 2; 0.1 is usual."
        )
    right = [np.mean(0.5 * (1.0 + np.tanh(0.5 * side)), axis=0) for side in sides]
    order = np.argsort(right[1] - right[0], kind="stable")
    taken = max(1, min(round(share * count), count // 2))
    return order[:taken], order[::-1][:taken]
