"""How far a model's predictions lie from those of the retrained model, in nats.

With p the retrained model's prediction, q the unlearned model's and m = (p + q) / 2:
    KL = sum_i p_i (log p_i - log q_i),     JS = (KL(p, m) + KL(q, m)) / 2,
averaged over examples, with 1e-20 added inside every logarithm so that zeros stay finite. JS lies
between 0 and log 2. The distance between two models retrained from different seeds is the floor
that no method can be expected to pass.
"""

from typing import Any

import numpy as np

from jaxunlearn.evaluation.predictions import check_probabilities
from jaxunlearn.types import InputError

_EPSILON = 1e-20


def _check_pair(p: Any, q: Any) -> tuple[np.ndarray, np.ndarray]:
    first = check_probabilities(p, "The retrained model's prediction set p")
    second = check_probabilities(q, "The compared model's prediction set q")
    if first.shape != second.shape:
        raise InputError(
            f"p has shape {first.shape} and q has shape {second.shape}, which must be equal: both "
            "models must be evaluated on the same examples in the same order."
        )
    return first, second


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.mean(np.sum(p * (np.log(p + _EPSILON) - np.log(q + _EPSILON)), axis=1)))


def kl_divergence(p: Any, q: Any) -> float:
    """Kullback-Leibler divergence KL(p || q), mean over examples, in nats.

    Args:
        p: the retrained model's class probabilities, `[N, C]`.
        q: the compared model's class probabilities on the same examples, `[N, C]`.

    Returns:
        A number from 0 (equal predictions) up; it is not symmetric.

    Raises:
        InputError: for malformed probabilities or different shapes.

    Example:
        >>> round(kl_divergence(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])), 6)
        0.143841
    """
    return _relative_entropy(*_check_pair(p, q))


def js_divergence(p: Any, q: Any) -> float:
    """Jensen-Shannon divergence, mean over examples, in nats.

    Args:
        p: the retrained model's class probabilities, `[N, C]`.
        q: the compared model's class probabilities on the same examples, `[N, C]`.

    Returns:
        A number from 0 (equal predictions) to log 2; it is symmetric.

    Raises:
        InputError: for malformed probabilities or different shapes.

    Example:
        >>> round(js_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])), 6)
        0.693147
    """
    first, second = _check_pair(p, q)
    middle = (first + second) / 2
    return (_relative_entropy(first, middle) + _relative_entropy(second, middle)) / 2
