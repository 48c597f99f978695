"""The discrepancy to the retrained model, by the distance of an example to the forget data.

Forgetting damages the neighbours of forgotten examples first; a mean over all examples hides that.
The discrepancy of two predictions p and q is their total variation, `1/2 sum_i |p_i - q_i|`. The
distance of an example is the Euclidean distance to its nearest forget example, in the features of
the retrained model, which saw no forget example.

Source: the discrepancy to the oracle against the distance to the forget set in arXiv 2605.31317.
"""

from typing import Any

import numpy as np

from jaxunlearn.evaluation.predictions import check_probabilities
from jaxunlearn.types import InputError


def distance_to_forget(features: Any, forget: Any) -> np.ndarray:
    """The distance of each example to its nearest forget example, float64 `[N]`.

    Args:
        features: features of the examples, `[N, F]`.
        forget: features of the forget examples, `[M, F]`.

    Example:
        >>> distance_to_forget([[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [9.0, 9.0]]).tolist()
        [0.0, 5.0]
    """
    from sklearn.neighbors import NearestNeighbors

    found, _ = NearestNeighbors(n_neighbors=1).fit(forget).kneighbors(features)
    return np.asarray(found[:, 0], np.float64)


def discrepancy_by_distance(
    model: Any, retrained: Any, distances: Any, groups: int = 5
) -> list[float]:
    """The mean discrepancy in percent, in equally large groups from near to far.

    Args:
        model: class probabilities of the model, `[N, C]`.
        retrained: class probabilities of the retrained model for the same examples, `[N, C]`.
        distances: distances of the examples to the forget data, `[N]`.
        groups: number of groups; with fewer examples than groups, each example is a group.

    Returns:
        The mean total variation of each group, 0 to 100, the nearest group first.

    Raises:
        InputError: the probabilities are malformed, or the arrays differ in length.

    Example:
        >>> far, near = [0.5, 0.5], [1.0, 0.0]
        >>> discrepancy_by_distance([far, near], [far, far], distances=[9.0, 1.0], groups=2)
        [50.0, 0.0]
    """
    ours = check_probabilities(model, "the prediction set of the model")
    theirs = check_probabilities(retrained, "the prediction set of the retrained model")
    if ours.shape != theirs.shape or np.shape(distances) != ours.shape[:1]:
        raise InputError(
            f"the model's probabilities have shape {ours.shape}, the retrained model's "
            f"{theirs.shape}, and the distances {np.shape(distances)}, but all must be of the same "
            "examples; compute them from the same arrays."
        )
    variation = 50.0 * np.abs(ours - theirs).sum(axis=1)
    order = np.argsort(distances, kind="stable")
    parts = np.array_split(variation[order], min(groups, len(order)))
    return [float(part.mean()) for part in parts]
