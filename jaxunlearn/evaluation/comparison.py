"""Paired differences of methods over pretraining seeds, and rankings.

Two methods that ran on the same n pretrained models differ by d_1, ..., d_n, of mean m and sample
standard deviation s. The interval of the mean difference is m +- t s / sqrt(n) with the 0.975
quantile t of Student's distribution with n - 1 degrees of freedom, and

    p = 2 P(T >= |m| / (s / sqrt(n)))

is the p-value of the paired t-test. Of many comparisons some have a small one by chance, so the
p-values of all pairs are adjusted by Holm's method ("A simple sequentially rejective multiple test
procedure", Scandinavian Journal of Statistics 6, 1979): the i-th smallest of k times k - i + 1,
never below the one before it. A difference is settled if its adjusted p-value is below 0.05.
Methods that share a letter have no settled difference (Piepho, "An algorithm for a letter-based
representation of all-pairwise comparisons", Journal of Computational and Graphical Statistics 13,
2004).
"""

import itertools
import math
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxunlearn.evaluation.statistics import Summary, summarize
from jaxunlearn.types import InputError

LEVEL = 0.05


class PairedDifference(NamedTuple):
    """The difference of two methods on the same seeds.

    Attributes:
        mean: mean difference.
        half_width: half the width of its 95% interval.
        p_value: p-value of the paired t-test; 1 if all differences are 0.
        n: number of seeds.
        values: difference of each seed.
    """

    mean: float
    half_width: float
    p_value: float
    n: int
    values: tuple[float, ...]


class Ranked(NamedTuple):
    """One place of a ranking.

    Attributes:
        name: name of the method.
        value: mean with its interval.
        to_best: difference to the first place on the common seeds; None for the first place, and
            for fewer than two common seeds.
        p_adjusted: p-value of that difference after Holm's correction over all pairs.
        letters: letters; methods that share one have no settled difference.
        like: the other methods without a settled difference, in the order of the ranking.
    """

    name: str
    value: Summary
    to_best: PairedDifference | None
    p_adjusted: float | None
    letters: str
    like: tuple[str, ...]


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """The mean of `first - second`, seed by seed, with its interval and test.

    Args:
        first: one finite number for each seed, `[n]`.
        second: numbers of the same seeds, `[n]`.

    Returns:
        The difference.

    Raises:
        InputError: fewer than two seeds, different numbers of seeds, or values that are not finite.

    Example:
        >>> difference = paired_difference([3.0, 4.0, 6.0], [1.0, 1.0, 2.0])
        >>> difference.mean, round(difference.p_value, 3)
        (3.0, 0.035)
    """
    if len(first) != len(second) or len(first) < 2:
        raise InputError(
            f"a paired difference has {len(first)} and {len(second)} values, but must have at "
            "least two each, from the same seeds; run more seeds."
        )
    summary = summarize([one - other for one, other in zip(first, second, strict=True)])
    assert summary.half_width is not None
    from scipy.stats import t

    error = summary.half_width / float(t.ppf(0.975, summary.n - 1))
    if error > 0:
        p_value = 2 * float(t.sf(abs(summary.mean) / error, summary.n - 1))
    else:
        p_value = float(summary.mean == 0)
    return PairedDifference(summary.mean, summary.half_width, p_value, summary.n, summary.values)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's correction: p-values that hold together.

    Args:
        p_values: p-values of all comparisons, `[k]`.

    Returns:
        Adjusted p-values, `[k]`, in the same order, at most 1.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    factors = np.arange(len(values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted


def rank(
    values: Mapping[str, Mapping[int, float]],
    *,
    lowest_first: bool = True,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[Ranked, ...]:
    """A ranking of methods by their means, with the settled differences.

    Args:
        values: value of each method on each pretraining seed. Pairs are compared on their common
            seeds; with fewer than two, their difference is not settled.
        lowest_first: whether small values are good.
        bounds: least and greatest possible value.

    Returns:
        The methods, the best first; equal means in the given order.

    Raises:
        InputError: no method has two seeds, or a value is not finite.

    Example:
        >>> gaps = {"a": {0: 1.0, 1: 1.1, 2: 0.9}, "b": {0: 5.0, 1: 5.2, 2: 4.9}}
        >>> [(place.name, place.letters) for place in rank(gaps)]
        [('a', 'a'), ('b', 'b')]
    """
    most = max((len(by_seed) for by_seed in values.values()), default=0)
    if most < 2:
        raise InputError(
            "no method of the ranking has two or more seeds; run the study with more seeds."
        )
    summaries = {
        name: summarize(list(by_seed.values()), bounds) for name, by_seed in values.items()
    }
    sign = 1 if lowest_first else -1
    names = sorted(values, key=lambda name: sign * summaries[name].mean)
    differences: dict[tuple[str, str], PairedDifference] = {}
    for one, other in itertools.combinations(names, 2):
        shared = [seed for seed in values[one] if seed in values[other]]
        if len(shared) >= 2:
            differences[other, one] = paired_difference(
                [values[other][seed] for seed in shared], [values[one][seed] for seed in shared]
            )
    corrected = holm([difference.p_value for difference in differences.values()])
    p_adjusted = dict(zip(differences, map(float, corrected), strict=True))
    apart = {frozenset(pair) for pair, p in p_adjusted.items() if p < LEVEL}
    letters = _letters(names, apart)
    return tuple(
        Ranked(
            name,
            summaries[name],
            differences.get((name, names[0])),
            p_adjusted.get((name, names[0])),
            letters[name],
            tuple(o for o in names if o != name and frozenset((o, name)) not in apart),
        )
        for name in names
    )


def _letters(names: Sequence[str], apart: set[frozenset[str]]) -> dict[str, str]:
    """Letters such that two names share one exactly if they are not apart."""
    groups = [set(names)]
    for one, other in itertools.combinations(names, 2):
        if frozenset((one, other)) in apart:
            split = [
                part
                for group in groups
                for part in ([group - {one}, group - {other}] if {one, other} <= group else [group])
            ]
            groups = []
            for group in sorted(split, key=len, reverse=True):
                if not any(group <= other_group for other_group in groups):
                    groups.append(group)
    groups.sort(key=lambda group: sorted(names.index(name) for name in group))
    width = max(1, math.ceil(math.log(len(groups), 26))) if len(groups) > 1 else 1
    marks = ["".join(mark) for mark in itertools.product(string.ascii_lowercase, repeat=width)]
    separator = "" if width == 1 else " "
    return {
        name: separator.join(
            mark for mark, group in zip(marks, groups, strict=False) if name in group
        )
        for name in names
    }
