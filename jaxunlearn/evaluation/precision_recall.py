"""Improved precision and recall: quality and variety of generated images.

A set of features represents the union of balls around its points; the radius r of a ball is the
distance of its point to the k-th nearest other point of the set:

    precision = share of generated points g with  |g - x| <= r(x)  for some real point x
    recall    = share of real points x with       |x - g| <= r(g)  for some generated point g

Bad images lower precision, missing variety lowers recall; the Frechet distance mixes the two. Both
depend on the number of images, so compare only numbers from sets of the same sizes.

Source: Kynkaanniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for
Assessing Generative Models", NeurIPS 2019, equations 1 and 2, with their k = 3.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.evaluation.frechet import check_features
from jaxunlearn.types import InputError

_ROWS = 1024  # rows of the table of distances in memory at once


class PrecisionRecall(NamedTuple):
    """Two shares from 0 to 1; 1 is best.

    Attributes:
        precision: share of the generated images among the real ones.
        recall: share of the real images among the generated ones.
    """

    precision: float
    recall: float


def precision_recall(
    real: Any, generated: Any, num_neighbours: int = 3, real_radii: np.ndarray | None = None
) -> PrecisionRecall:
    """Precision and recall of generated images.

    The table of distances is computed in strips of rows, so memory grows with one set only.

    Args:
        real: features `[N, D]` of real images.
        generated: features `[M, D]` of generated images, by the same network.
        num_neighbours: number of neighbours, k, below both numbers of images.
        real_radii: `squared_radii(real, num_neighbours)`, if known; with many real images they take
            most of the time.

    Returns:
        A `PrecisionRecall`.

    Raises:
        InputError: malformed features, different dimensions, or too few images.

    Example:
        >>> real = np.array([[0.0], [1.0], [2.0], [3.0]])
        >>> generated = np.array([[0.0], [0.1], [-5.0], [-5.1]])
        >>> precision_recall(real, generated, num_neighbours=1)
        PrecisionRecall(precision=0.5, recall=0.25)
    """
    if num_neighbours < 1:
        raise InputError(f"num_neighbours is {num_neighbours}, but must be at least 1; 3 is usual.")
    sets = {"real": real, "generated": generated}
    for name, features in sets.items():
        sets[name] = check_features(features, f"the {name}").astype(np.float64)
        if len(sets[name]) <= num_neighbours:
            raise InputError(
                f"there are {len(sets[name])} {name} images, but must be at least "
                f"{num_neighbours + 1} for {num_neighbours} neighbours; give more images."
            )
    real, generated = sets.values()
    if real.shape[1] != generated.shape[1]:
        raise InputError(
            f"real images have {real.shape[1]} features and generated images "
            f"{generated.shape[1]}, but both must have the same number; use one network for both."
        )
    if real_radii is None:
        real_radii = squared_radii(real, num_neighbours)
    generated_radii = squared_radii(generated, num_neighbours)
    among_real, among_generated = [], np.zeros(len(real), bool)
    for start in range(0, len(generated), _ROWS):
        strip = slice(start, start + _ROWS)
        distances = _squared_distances(generated[strip], real)
        among_real.append((distances <= real_radii).any(axis=1))
        among_generated |= (distances <= generated_radii[strip, None]).any(axis=0)
    return PrecisionRecall(float(np.concatenate(among_real).mean()), float(among_generated.mean()))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`[n, D]` and `[m, D]` to `[n, m]`: |a|^2 - 2 a.b + |b|^2, never below 0."""
    squares = a @ b.T
    squares *= -2.0
    squares += np.sum(a**2, axis=1)[:, None]
    squares += np.sum(b**2, axis=1)
    return np.maximum(squares, 0.0, out=squares)


def squared_radii(points: np.ndarray, num_neighbours: int = 3) -> np.ndarray:
    """The squared distance of each point to its k-th nearest other point, float64 `[N]`.

    Example:
        >>> squared_radii(np.array([[0.0], [1.0], [3.0]]), 1).tolist()
        [1.0, 1.0, 4.0]
    """
    points = np.asarray(points, np.float64)
    radii = []
    for start in range(0, len(points), _ROWS):
        distances = _squared_distances(points[start : start + _ROWS], points)
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf  # a point is not its own neighbour
        distances.partition(num_neighbours - 1, axis=1)
        radii.append(distances[:, num_neighbours - 1].copy())  # a view would keep the whole strip
    return np.concatenate(radii)
