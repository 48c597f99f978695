"""Support vectors with a radial kernel on one feature, exactly and in a fraction of a second.

The machine minimises, over functions f = w . phi + b of the kernel exp(-(x - x')^2),

    1/2 |w|^2 + sum_i u_i xi_i   with   xi_i >= 0,   y_i f(x_i) >= 1 - xi_i,   y_i = -1 or 1.

On one feature a few dozen functions phi of equally spaced nodes span the kernel to rounding error,
so that the problem has a few dozen unknowns, whatever the number of examples. Mehrotra's
predictor-corrector method (SIAM J. Optim. 2, 1992; for such machines Ferris and Munson, SIAM J.
Optim. 13, 2002) solves it in about twenty Newton steps; the general solver of libsvm takes 30
seconds for 20,000 overlapping examples. Equal examples are one, with the sum of their weights u.
"""

from collections.abc import Callable

import numpy as np

_MOST_STEPS = 60
_TOLERANCE = 1e-11  # of the sum of all weights; libsvm stops at violations of 1e-3


def _kernel_functions(nodes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The functions phi: values [N] to [N, K], with phi(x) . phi(x') = exp(-(x - x')^2)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        values: np.ndarray = np.exp(-((x[:, None] - nodes) ** 2))
        return values

    size, directions = np.linalg.eigh(kernel(nodes))
    kept = size > 1e-12 * size[-1]
    whitened = directions[:, kept] / np.sqrt(size[kept])
    return lambda x: kernel(x) @ whitened


def support_vector_machine(
    feature: np.ndarray, positive: np.ndarray, cost: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits the machine; it equals `sklearn.svm.SVC(C=cost, gamma=1)` with a tolerance near 0.

    Args:
        feature: one number for each example `[N]`.
        positive: whether an example belongs to the positive class `[N]`; both classes occur.
        cost: weight u of one example.

    Returns:
        The decision function, from features `[M]` to f `[M]`, positive for the positive class.

    Example:
        >>> decide = support_vector_machine(np.array([0.9, 0.8, 0.1]), np.array([1, 1, 0]), 3.0)
        >>> decide(np.array([0.95, 0.05])) > 0
        array([ True, False])
    """
    points, count = np.unique(np.stack([feature, positive], 1), axis=0, return_counts=True)
    x, y, u = points[:, 0], 2.0 * points[:, 1] - 1.0, cost * count
    low, high = x.min(), x.max()
    functions = _kernel_functions(np.linspace(low, high, 24 + int(8 * (high - low))))
    phi = functions(x)
    a = y[:, None] * np.append(phi, np.ones((len(x), 1)), axis=1)
    penalty = np.append(np.ones(phi.shape[1]), 0.0)  # the bias b is free
    # The multipliers alpha and u - alpha belong to the slacks z = a theta + xi - 1 and xi. All stay
    # positive, and the products fall to 0.
    theta, multipliers, slacks = np.zeros(len(penalty)), np.stack([u, u]) / 2, np.ones((2, len(x)))
    for _ in range(_MOST_STEPS):
        products = multipliers * slacks
        gap = products.sum()
        if gap < _TOLERANCE * u.sum():
            break
        to_theta = a.T @ multipliers[0] - penalty * theta
        to_slack = slacks[0] - slacks[1] - a @ theta + 1
        scale = (slacks / multipliers).sum(axis=0)
        hessian = np.diag(penalty) + a.T @ (a / scale[:, None])
        change = -products  # the predictor: to 0 at once
        for _ in range(2):
            right = change[0] / multipliers[0] - change[1] / multipliers[1] + to_slack
            d_theta = np.linalg.solve(hessian, to_theta + a.T @ (right / scale))
            d_multipliers = np.outer([1, -1], (right - a @ d_theta) / scale)
            d_slacks = (change - slacks * d_multipliers) / multipliers
            falls = max((-d_multipliers / multipliers).max(), (-d_slacks / slacks).max())
            step = 0.995 / max(0.995, falls)
            after = ((multipliers + step * d_multipliers) * (slacks + step * d_slacks)).sum()
            centre = (after / gap) ** 3 * gap / products.size
            change = centre - products - d_multipliers * d_slacks  # the corrector
        theta += step * d_theta
        multipliers += step * d_multipliers
        slacks += step * d_slacks
    weights = theta[:-1]
    bias = _bias(y - phi @ weights, y > 0, count)
    return lambda asked: functions(asked) @ weights + bias


def _bias(margins: np.ndarray, positive: np.ndarray, count: np.ndarray) -> float:
    """The best b, given w: the middle one where many are equally good, as in libsvm.

    The slope of the loss in b starts at minus the number of positive examples and rises by one at
    each example's margin y - w . phi.
    """
    order = np.argsort(margins)
    slopes, total = np.cumsum(count[order]), count[positive].sum()
    first = int(np.searchsorted(slopes, total))
    last = min(first + (slopes[first] == total), len(order) - 1)
    return float(margins[order[[first, last]]].mean())
