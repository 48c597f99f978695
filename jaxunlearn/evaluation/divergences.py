"""Divergences between the predictions of a model and of the retrained model, in nats.

With p the retrained model's prediction, q the unlearned model's and m = (p + q) / 2:
    KL = sum_i p_i (log p_i - log q_i),     JS = (KL(p, m) + KL(q, m)) / 2,
averaged over examples, with 1e-20 added inside every logarithm so that zeros stay finite. JS is
between 0 and log 2. The distance between two models retrained from different seeds is the floor of
every method.
"""

from typing import Any

import numpy as np

from jaxunlearn.evaluation.predictions import check_probabilities
from jaxunlearn.types import InputError

_EPSILON = 1e-20


def _check_pair(p: Any, q: Any) -> tuple[np.ndarray, np.ndarray]:
    first = check_probabilities(p, "the prediction set p of the retrained model")
    second = check_probabilities(q, "the prediction set q of the compared model")
    if first.shape != second.shape:
        raise InputError(
            f"p has shape {first.shape} and q {second.shape}, but both must have the same shape; "
            "evaluate both models on the same examples in the same order."
        )
    return first, second


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.mean(np.sum(p * (np.log(p + _EPSILON) - np.log(q + _EPSILON)), axis=1)))


def kl_divergence(p: Any, q: Any) -> float:
    """Kullback-Leibler divergence KL(p || q), mean over examples, in nats.

    Args:
        p: class probabilities of the retrained model, `[N, C]`.
        q: class probabilities of the compared model for the same examples, `[N, C]`.

    Returns:
        A number from 0 (equal predictions) up; it is not symmetric.

    Raises:
        InputError: malformed probabilities, or different shapes.

    Example:
        >>> round(kl_divergence(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])), 6)
        0.143841
    """
    return _relative_entropy(*_check_pair(p, q))


def js_divergence(p: Any, q: Any) -> float:
    """Jensen-Shannon divergence, mean over examples, in nats.

    Args:
        p: class probabilities of the retrained model, `[N, C]`.
        q: class probabilities of the compared model for the same examples, `[N, C]`.

    Returns:
        A number from 0 (equal predictions) to log 2; it is symmetric.

    Raises:
        InputError: malformed probabilities, or different shapes.

    Example:
        >>> round(js_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])), 6)
        0.693147
    """
    first, second = _check_pair(p, q)
    middle = (first + second) / 2
    return (_relative_entropy(first, middle) + _relative_entropy(second, middle)) / 2
