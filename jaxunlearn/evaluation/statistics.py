"""Mean and interval over seeds.

With n values, mean m and sample standard deviation s (n - 1 in the denominator), the interval that
covers the true mean in 95 of 100 studies is m +- t s / sqrt(n), where t is the 0.975 quantile of
Student's distribution with n - 1 degrees of freedom: 12.7 for two seeds, 4.3 for three, 2.3 for
ten. One value has no interval.

A rate in [0, 100] has its mean in [0, 100] too. So the interval is cut at the bounds, and still
covers the true mean as often.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxunlearn.types import InputError


class Summary(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: mean of the values.
        half_width: half the width of the 95% t-interval, or None for a single value.
        n: number of values.
        values: the values.
        bounds: least and greatest possible value.

    Example:
        >>> Summary(99.0, 3.0, 3, bounds=(0.0, 100.0)).interval
        (96.0, 100.0)
    """

    mean: float
    half_width: float | None
    n: int
    values: tuple[float, ...] = ()
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval within the bounds, or None for a single value."""
        if self.half_width is None:
            return None
        low, high = self.bounds
        return max(self.mean - self.half_width, low), min(self.mean + self.half_width, high)

    @property
    def is_cut(self) -> bool:
        """Whether the t-interval would leave the bounds, by more than rounding errors."""
        if self.half_width is None:
            return False
        slack = 1e-9 * max(abs(self.mean), 1.0)
        beyond = (self.bounds[0] - self.mean, self.mean - self.bounds[1])
        return self.half_width + max(beyond) > slack


def summarize(
    values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Summary:
    """Mean of some values with its 95% t-interval.

    Args:
        values: one finite number for each seed.
        bounds: least and greatest possible value.

    Raises:
        InputError: there are no values, or one is not finite.

    Example:
        >>> summarize([3.0]).interval
        >>> round(summarize([1.0, 2.0, 3.0]).half_width, 3)
        2.484
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise InputError(
            f"the values to summarize are {array.tolist()}, but must be one or more finite numbers."
        )
    mean = float(array.mean())
    if array.size == 1:
        return Summary(mean, None, 1, (mean,), bounds)
    from scipy.stats import t

    quantile = float(t.ppf(0.975, array.size - 1))
    half_width = quantile * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Summary(mean, half_width, int(array.size), tuple(array.tolist()), bounds)
