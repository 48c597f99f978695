"""U-LiRA: the strongest attack by single examples that tells unlearned from retrained models.

For one example z, write `o = log p_y - log(1 - p_y)`, the logit-scaled confidence in its true
class. Over many *shadow models* o follows one distribution if the models learned z and then
unlearned it, and another if they were retrained without z. Both are assumed Gaussian, and the
attacker scores a new model by the logarithm of the ratio of both densities at its o:

    score = log N(o; mean_u, var_u) - log N(o; mean_r, var_r)

Every shadow model is scored by Gaussians that were fitted without it. With perfect unlearning the
two distributions are equal, and the attack is as good as a coin: an AUC of 50.

Source: Hayes et al., Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of
Privacy (U-LiRA, arXiv 2403.01218), 2024, after Carlini et al., Membership Inference Attacks From
First Principles (LiRA), 2022, who share the variance over examples when models are few.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.evaluation.predictions import Predictions, check_predictions
from jaxunlearn.types import InputError

VARIANCES = ("example", "shared")
_TINY = 1e-38  # the least probability; logit-scaled confidences are within 88
_LEAST_VARIANCE = 1e-6
_LEAST_MODELS = 3


class Scores(NamedTuple):
    """Scores of all pairs of a model and an example; large means "unlearned".

    Attributes:
        unlearned: scores of models that unlearned the example.          # shape=(M, N)
        retrained: scores of models that were retrained without it.      # shape=(M, N)
    """

    unlearned: np.ndarray
    retrained: np.ndarray


class Estimate(NamedTuple):
    """A number and its 95% bootstrap interval, in percent."""

    value: float
    low: float
    high: float


class Attack(NamedTuple):
    """The success of the attacker.

    Attributes:
        auc: area under the ROC curve, in percent; 50 is a coin.
        tpr: true-positive rate in percent, by the false-positive rate (a share).
    """

    auc: Estimate
    tpr: dict[float, Estimate]


def logit_confidence(predictions: Predictions) -> np.ndarray:
    """`log p_y - log(sum of all other probabilities)`, nearly Gaussian over models.

    Float64 `[N]`, from -88 to 88.

    Raises:
        InputError: malformed predictions.

    Example:
        >>> predictions = Predictions(np.array([[0.9, 0.1], [0.5, 0.5]]), np.array([0, 1]))
        >>> logit_confidence(predictions).round(3).tolist()
        [2.197, 0.0]
    """
    probabilities, labels = check_predictions(predictions, "scored")
    places = (np.arange(len(labels)), labels)
    others = probabilities.copy()
    others[places] = 0.0  # not 1 - p, which is 0 for a sure model
    true, rest = np.maximum(probabilities[places], _TINY), np.maximum(others.sum(axis=1), _TINY)
    return np.log(true) - np.log(rest)


def ulira_scores(unlearned: Any, retrained: Any, variance: str = "example") -> Scores:
    """Scores of every model on every example, by Gaussians fitted to the other models.

    Each pair of models is scored by Gaussians of all other pairs. If only the scored model were
    left out, the two Gaussians would have unequal numbers of models, and a bias.

    Args:
        unlearned: values o of M models that learned and unlearned each of N examples, `[M, N]`.
        retrained: values o of M models retrained without the example, `[M, N]`.
        variance: "example" for a variance of each example and side, or "shared" for their mean
            over examples, which is steadier with few models.

    Raises:
        InputError: other shapes, fewer than three models, values that are not finite, or another
            `variance`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> scores = ulira_scores(rng.normal(2, 1, (8, 50)), rng.normal(0, 1, (8, 50)), "shared")
        >>> bool(scores.unlearned.mean() > scores.retrained.mean())
        True
    """
    first, second = np.asarray(unlearned, np.float64), np.asarray(retrained, np.float64)
    if variance not in VARIANCES:
        raise InputError(f"variance is {variance!r}, but must be one of {', '.join(VARIANCES)}.")
    if first.ndim != 2 or first.shape != second.shape or first.size == 0:
        raise InputError(
            f"unlearned has shape {first.shape} and retrained {second.shape}, but both must have "
            "the same shape, [models, examples]."
        )
    if len(first) < _LEAST_MODELS:
        raise InputError(
            f"there are {len(first)} models on each side, but must be at least {_LEAST_MODELS}, as "
            "a Gaussian is fitted to all but one; train more shadow models."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError(
            "the confidences of the shadow models are not all finite, but must be; a shadow model "
            "has probably diverged."
        )
    scores = Scores(np.empty_like(first), np.empty_like(second))
    for m in range(len(first)):
        fits = [_fit(np.delete(side, m, axis=0), variance) for side in (first, second)]
        for side, values in zip(scores, (first[m], second[m]), strict=True):
            side[m] = _log_density(values, *fits[0]) - _log_density(values, *fits[1])
    return scores


def _fit(values: np.ndarray, variance: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance over models, `[N]` each."""
    variances = values.var(axis=0, ddof=1)
    if variance == "shared":
        variances = np.full_like(variances, variances.mean())
    return values.mean(axis=0), np.maximum(variances, _LEAST_VARIANCE)


def _log_density(values: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * ((values - mean) ** 2 / variance + np.log(2 * np.pi * variance))


def roc_curve(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """False- and true-positive rates as shares, from (0, 0) to (1, 1), at each distinct score.

    Example:
        >>> fpr, tpr = roc_curve(Scores(np.array([[3.0, 1.0]]), np.array([[2.0, 0.0]])))
        >>> fpr.tolist(), tpr.tolist()
        ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    ranks, size = _ranks(scores)
    ones = np.ones(scores.unlearned.size)
    return _curve(ranks, size, ones, ones)


def needed_scores(false_positive_rate: float) -> int:
    """The fewest scores of retrained models that can show a false-positive rate, a share.

    Raises:
        InputError: a rate outside (0, 1).

    Example:
        >>> needed_scores(0.001)
        1000
    """
    if not 0 < false_positive_rate < 1:
        raise InputError(
            f"a false-positive rate is {false_positive_rate}, but must be between 0 and 1; 0.01 is "
            "usual."
        )
    return int(np.ceil(1 / false_positive_rate - 1e-9))


def attack(
    scores: Scores,
    false_positive_rates: Sequence[float] = (0.01, 0.001),
    num_resamples: int = 1000,
    seed: int = 0,
) -> Attack:
    """AUC and true-positive rates at low false-positive rates, with bootstrap intervals.

    Models and examples are both resampled with replacement, since scores of one model are
    correlated, and so are scores of one example. The true-positive rate is read at the lowest
    threshold that keeps the false-positive rate, without interpolation. With few models intervals
    are too narrow: three pairs do not show the variation of models.

    Args:
        scores: scores from `ulira_scores`.
        false_positive_rates: false-positive rates as shares.
        num_resamples: number of bootstrap samples; without any, an interval is its value.
        seed: seed of the bootstrap.

    Returns:
        AUC and true-positive rates in percent, with 95% intervals.

    Raises:
        InputError: a rate outside (0, 1), or too low for the number of scores.

    Example:
        >>> scores = Scores(np.full((4, 50), 1.0), np.full((4, 50), 0.0))
        >>> attack(scores, (0.01,)).tpr[0.01].value
        100.0
    """
    count = scores.retrained.size
    for rate in false_positive_rates:
        if count < needed_scores(rate):
            raise InputError(
                f"there are {count} scores of retrained models, but must be at least "
                f"{needed_scores(rate)} for a false-positive rate of {rate:g}; use more shadow "
                "models or target examples, or ask for a higher rate."
            )
    ranks, size = _ranks(scores)
    shape, rng = scores.unlearned.shape, np.random.default_rng(seed)
    ones = np.ones(shape)
    resampled = (_resampled(shape, rng) for _ in range(num_resamples))
    rows = [
        _summary(ranks, size, weights.ravel(), false_positive_rates)
        for weights in (ones, *resampled)
    ]
    table = 100.0 * np.array(rows)
    low, high = np.quantile(table[1:], (0.025, 0.975), axis=0) if num_resamples else table[[0, 0]]
    estimates = [Estimate(*map(float, each)) for each in zip(table[0], low, high, strict=True)]
    return Attack(estimates[0], dict(zip(false_positive_rates, estimates[1:], strict=True)))


def _resampled(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The number of times that each pair of a model and an example is drawn."""
    models, examples = (np.bincount(rng.integers(0, n, n), minlength=n) for n in shape)
    return np.outer(models, examples).astype(np.float64)


def _ranks(scores: Scores) -> tuple[np.ndarray, int]:
    """The rank of each score among the distinct ones, highest first: unlearned, then retrained."""
    first, second = (np.asarray(side, np.float64) for side in scores)
    values = np.concatenate([first.ravel(), second.ravel()])
    if first.ndim != 2 or first.shape != second.shape or not np.isfinite(values).all():
        raise InputError(
            f"the scores have the shapes {first.shape} and {second.shape}, but both must have the "
            "same shape, [models, examples], and be finite; compute them with `ulira_scores`."
        )
    distinct, ranks = np.unique(-values, return_inverse=True)
    return ranks.reshape(2, -1), len(distinct)


def _curve(
    ranks: np.ndarray, size: int, positive: np.ndarray, negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """False- and true-positive rates with a weight for each score."""
    tpr, fpr = (
        np.concatenate([[0.0], np.cumsum(np.bincount(rank, weight, size))]) / weight.sum()
        for rank, weight in zip(ranks, (positive, negative), strict=True)
    )
    return fpr, tpr


def _summary(
    ranks: np.ndarray, size: int, weights: np.ndarray, rates: Sequence[float]
) -> list[float]:
    """The AUC (ties count half: trapezoids) and the rates, as shares."""
    fpr, tpr = _curve(ranks, size, weights, weights)
    return [float(np.trapezoid(tpr, fpr)), *(float(tpr[fpr <= r + 1e-12].max()) for r in rates)]
