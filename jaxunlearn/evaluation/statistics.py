"""Mean and interval over seeds.

With n values, mean m and sample standard deviation s (n - 1 in the denominator), the interval that
covers the true mean in 95 of 100 studies is m +- t s / sqrt(n), where t is the 0.975 quantile of
Student's distribution with n - 1 degrees of freedom: 12.7 for two seeds, 4.3 for three, 2.3 for
ten. One value has no interval.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxunlearn.types import InputError


class Summary(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: the mean of the values.
        half_width: half the width of the 95% interval, or None for a single value.
        n: the number of values.
    """

    mean: float
    half_width: float | None
    n: int


def summarize(values: Sequence[float]) -> Summary:
    """Mean of some values with its 95% t-interval.

    Args:
        values: one finite number for each seed.

    Returns:
        The mean, half the width of its interval (None for one value) and the number of values.

    Raises:
        InputError: if there are no values, or one is not finite.

    Example:
        >>> summarize([3.0])
        Summary(mean=3.0, half_width=None, n=1)
        >>> round(summarize([1.0, 2.0, 3.0]).half_width, 3)
        2.484
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise InputError(
            f"The values to summarize are {array.tolist()}, but they must be one or more finite "
            "numbers."
        )
    mean = float(array.mean())
    if array.size == 1:
        return Summary(mean, None, 1)
    from scipy.stats import t

    quantile = float(t.ppf(0.975, array.size - 1))
    half_width = quantile * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Summary(mean, half_width, int(array.size))
