"""Logistic regression on one feature, by Newton's method: two unknowns, a few steps."""

from collections.abc import Callable

import numpy as np

_MOST_STEPS = 100
_TOLERANCE = 1e-12  # of the loss


def balanced_logistic_regression(
    feature: np.ndarray, positive: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits f(x) = a x + b to two classes of N examples that count the same.

    It minimises `a^2 / 2 + sum_i u_i log(1 + exp(-y_i f(x_i)))` with y = -1 or 1 and u = N / 2 over
    the number of examples of the class, as `sklearn.linear_model.LogisticRegression` does with
    balanced classes and a tolerance near 0.

    Args:
        feature: one number for each example `[N]`.
        positive: whether an example belongs to the positive class `[N]`; both classes occur.

    Returns:
        The decision function, from features `[M]` to f `[M]`, positive for the positive class.

    Example:
        >>> decide = balanced_logistic_regression(np.array([0.1, 0.2, 0.9]), np.array([1, 1, 0]))
        >>> decide(np.array([0.15, 0.95])) > 0
        array([ True, False])
    """
    y, x = np.where(positive, 1.0, -1.0), np.stack([feature, np.ones(len(feature))], axis=1)
    u = len(y) / 2 / np.where(y > 0, np.sum(y > 0), np.sum(y < 0))
    penalty, theta = np.diag([1.0, 0.0]), np.zeros(2)

    def loss(theta: np.ndarray) -> float:
        return float(theta @ penalty @ theta / 2 + u @ np.logaddexp(0.0, -y * (x @ theta)))

    for _ in range(_MOST_STEPS):
        wrong = np.exp(-np.logaddexp(0.0, y * (x @ theta)))  # probability of the other class
        gradient = penalty @ theta - x.T @ (u * wrong * y)
        curvature = penalty + x.T @ (x * (u * wrong * (1 - wrong))[:, None])
        direction = -np.linalg.solve(curvature, gradient)
        before, slope, step = loss(theta), gradient @ direction, 1.0
        if -slope <= _TOLERANCE * before:
            break
        while loss(theta + step * direction) > before + 1e-4 * step * slope:
            step /= 2
        theta = theta + step * direction
    return lambda asked: asked * theta[0] + theta[1]
