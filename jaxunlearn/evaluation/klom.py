"""KLOM, the KL divergence of margins: how far unlearned models are from retrained ones.

The margin of a model on an example is its logit-scaled confidence in the true class,
`m = z_y - log sum_{j != y} exp z_j = log p_y - log(1 - p_y)`. Over models, m has a distribution p_u
after unlearning and another one, p_r, after retraining without the forget data. For each example

    KLOM = KL(p_u || p_r),

by histograms, or if models are few by Gaussians with means mean_u, mean_r and deviations s_u, s_r:

    log(s_r / s_u) + (s_u^2 + (mean_u - mean_r)^2) / (2 s_r^2) - 1/2.

It is 0 if the distributions are equal. Between two groups of retrained models it is above 0, since
each has few models: that value is the floor. The usual summary is the 95th percentile over the
examples.

Source: Georgiev et al., Attribute-to-Delete: Machine Unlearning via Datamodel Matching (arXiv
2410.23232), 2024.
"""

from typing import Any

import numpy as np

from jaxunlearn.types import InputError

_MOST_MARGIN = 100.0
_LEAST_SHARE = 1e-5  # of retrained models in a bin
_LEAST_VARIANCE = 1e-6


def klom(unlearned: Any, retrained: Any, bins: int = 20) -> np.ndarray:
    """KLOM of each example by histograms with the same edges on both sides, in nats.

    The bins are equally wide, between the least and the greatest margin of all models on the
    example. Margins are cut at -100 and 100, and the share of retrained models in a bin counts as
    1e-5 at least.

    Args:
        unlearned: margins of M models that unlearned each of N examples, `[M, N]`.
        retrained: margins of K models that were retrained without the example, `[K, N]`.
        bins: number of bins.

    Returns:
        Float64 `[N]`, at most log(1e5) = 11.5.

    Raises:
        InputError: other shapes, fewer than two models, or margins that are not finite.

    Example:
        >>> klom([[0.0, 0.0], [2.0, 0.0]], [[0.0, 9.0], [2.0, 9.0]]).round(2).tolist()
        [0.0, 11.51]
    """
    sides = [
        np.clip(side, -_MOST_MARGIN, _MOST_MARGIN)
        for side in checked_margins(unlearned=unlearned, retrained=retrained)
    ]
    low = np.minimum(*(side.min(axis=0) for side in sides))
    high = np.maximum(*(side.max(axis=0) for side in sides))
    width = np.where(high > low, high - low, 1.0)
    shares = []
    for side in sides:
        numbers = np.minimum((bins * (side - low) / width).astype(int), bins - 1)
        shares.append(np.stack([(numbers == number).mean(axis=0) for number in range(bins)]))
    found, wanted = shares[0], np.maximum(shares[1], _LEAST_SHARE)
    ratios = np.log(np.where(found > 0, found, 1.0) / wanted)
    return np.sum(np.where(found > 0, found * ratios, 0.0), axis=0)


def gaussian_klom(unlearned: Any, retrained: Any) -> np.ndarray:
    """KLOM of each example by Gaussians, in nats; steadier than histograms with few models.

    Args:
        unlearned: margins of M models that unlearned each of N examples, `[M, N]`.
        retrained: margins of K models that were retrained without the example, `[K, N]`.

    Returns:
        Float64 `[N]`.

    Raises:
        InputError: other shapes, fewer than two models, or margins that are not finite.

    Example:
        >>> gaussian_klom([[1.0], [3.0]], [[0.0], [2.0]]).tolist()  # a shift of 1, variances of 2
        [0.25]
    """
    sides = checked_margins(unlearned=unlearned, retrained=retrained)
    means = [side.mean(axis=0) for side in sides]
    ours, theirs = (np.maximum(side.var(axis=0, ddof=1), _LEAST_VARIANCE) for side in sides)
    shift = means[0] - means[1]
    return 0.5 * (np.log(theirs / ours) + (ours + shift**2) / theirs - 1.0)


def checked_margins(least: int = 2, **sides: Any) -> list[np.ndarray]:
    """The margins of two groups of models on the same examples, float64 `[models, examples]` each.

    Args:
        least: smallest number of models in a group.
        **sides: the margins of each group, by its name in errors.

    Raises:
        InputError: other shapes, fewer models, or margins that are not finite.
    """
    arrays = [np.asarray(side, np.float64) for side in sides.values()]
    (one, other), shapes = sides, [array.shape for array in arrays]
    if any(array.ndim != 2 for array in arrays) or shapes[0][1] != shapes[1][1] or 0 in shapes[0]:
        raise InputError(
            f"{one} has shape {shapes[0]} and {other} {shapes[1]}, but both must have the shape "
            "[models, examples] with the same examples."
        )
    if min(map(len, arrays)) < least:
        raise InputError(
            f"there are {shapes[0][0]} {one} and {shapes[1][0]} {other} models, but there must be "
            f"at least {least} of each; train more shadow models."
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(
            "the margins are not all finite, but must be; leave out models that diverged."
        )
    return arrays
