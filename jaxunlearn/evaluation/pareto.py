"""The Pareto front of two numbers that are better when smaller, and its hypervolume.

A point dominates another if it is as good in both numbers and better in one; the front is the set
of points that no point dominates. The hypervolume of points p under a reference r is the area that
they dominate,

    area of the union over p of [p_1, r_1] x [p_2, r_2],

so more is better, and points that are worse than the reference in either number do not count
(Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative case study and the
strength Pareto approach", IEEE Transactions on Evolutionary Computation 3, 1999).
"""

from typing import Any

import numpy as np

from jaxunlearn.types import InputError


def pareto_front(points: Any) -> np.ndarray:
    """The points that no point dominates.

    Args:
        points: points `[N, 2]`, both coordinates better when smaller; N may be 0.

    Returns:
        Positions of these points, int `[F]`, by ascending first coordinate. Equal points are all
        on the front or all off it.

    Raises:
        InputError: another shape, or coordinates that are not finite.

    Example:
        >>> pareto_front([[3, 1], [1, 3], [2, 2], [3, 3]]).tolist()
        [1, 2, 0]
    """
    array = _checked(points)
    front: list[int] = []
    for i in np.lexsort((array[:, 1], array[:, 0])):  # from the left, the lower one first
        if not front or array[i, 1] < array[front[-1], 1] or (array[i] == array[front[-1]]).all():
            front.append(int(i))
    return np.array(front, np.int64)


def hypervolume(points: Any, reference: tuple[float, float]) -> float:
    """The area that some points dominate, up to a reference point.

    Args:
        points: points `[N, 2]`, both coordinates better when smaller; N may be 0.
        reference: worst corner of the area.

    Returns:
        Area, in the product of the units of the coordinates; 0 if no point is better than the
        reference in both.

    Raises:
        InputError: another shape, or numbers that are not finite.

    Example:
        >>> hypervolume([[1, 2], [2, 1]], reference=(3, 3))
        3.0
    """
    array, corner = _checked(points), _checked([reference])[0]
    inside = array[(array < corner).all(axis=1)]
    area, top = 0.0, corner[1]
    for i in pareto_front(inside):
        area += float((corner[0] - inside[i, 0]) * (top - inside[i, 1]))
        top = inside[i, 1]
    return area


def _checked(points: Any) -> np.ndarray:
    array = np.asarray(points, np.float64)
    if array.size == 0:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise InputError(
            f"points of a Pareto front have shape {array.shape}, but must be finite numbers of "
            "shape [N, 2]; leave out runs that diverged."
        )
    return array
