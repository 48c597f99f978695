"""Numbers as text, the same in every report."""

import math

from jaxunlearn.evaluation.statistics import Summary

_SIGNIFICANT, _MOST_DECIMALS = 3, 3


def number(value: float, decimals: int, signed: bool = False) -> str:
    """A number with a fixed number of digits, a true minus sign and separated thousands.

    Example:
        >>> number(-0.5, 2, signed=True), number(1234.5, 1), number(-0.001, 2)
        ('−0.50', '1,234.5', '0.00')
    """
    text = f"{abs(value):,.{decimals}f}"
    zero = not any(digit in text for digit in "123456789")
    sign = "" if zero else "−" if value < 0 else "+" if signed else ""
    return sign + text


def significant_decimals(value: float) -> int:
    """Digits after the point that show three significant digits; at most three.

    Example:
        >>> [number(value, significant_decimals(value)) for value in (0.0312, 1.536, 57.04, 1536.3)]
        ['0.031', '1.54', '57.0', '1,536']
    """
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return min(max(_SIGNIFICANT - 1 - magnitude, 0), _MOST_DECIMALS)


def spread(summary: Summary, decimals: int) -> str:
    """The spread of some values, as it is shown after their mean.

    "± half-width" of the 95% interval, both its ends if it was cut at a bound, both values if there
    are two, and "" for one value.

    Example:
        >>> from jaxunlearn.evaluation import summarize
        >>> spread(summarize([1.0, 2.0, 3.0]), 1), spread(summarize([0.5, 51.0]), 1)
        ('± 2.5', '[0.5 and 51.0]')
        >>> spread(summarize([99.0, 99.5, 100.0], bounds=(0.0, 100.0)), 1)
        '[98.3 to 100.0]'
    """
    if summary.half_width is None or summary.interval is None:
        return ""
    if summary.n == 2:
        first, second = (number(value, decimals) for value in summary.values)
        return f"[{first} and {second}]"
    if summary.is_cut:
        low, high = (number(value, decimals) for value in summary.interval)
        return f"[{low} to {high}]"
    return f"± {number(summary.half_width, decimals)}"
