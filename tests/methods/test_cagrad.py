"""CAGrad: every step has the largest worse gain in a ball around the average gradient."""

from typing import Any

import numpy as np
import optax
import pytest

from jaxunlearn import LossPair, methods
from jaxunlearn.types import InputError
from tests import toy
from tests.methods.cases import runner
from tests.transforms.test_aggregation import on_circle


@pytest.mark.parametrize("c", [0.0, 0.4, 0.9])
def test_each_step_has_the_best_worse_gain_of_a_grid(c: float, aggregated: Any) -> None:
    for step in aggregated(runner("cagrad"), 4, c=c):
        mean = 0.5 * (step.forget + step.retain)
        reach = c * np.linalg.norm(mean)
        assert np.linalg.norm(step.direction - mean) == pytest.approx(reach, rel=1e-3, abs=1e-5)
        candidates = mean + reach * on_circle(LossPair(step.forget, step.retain))
        best = np.max(np.minimum(candidates @ step.forget, candidates @ step.retain))
        worse = min(step.direction @ step.forget, step.direction @ step.retain)
        assert worse == pytest.approx(best, abs=1e-4)


def test_a_negative_c_is_refused() -> None:
    with pytest.raises(InputError, match="c of method cagrad is -0.1, but must be 0 or more"):
        methods.settings("cagrad", {"c": -0.1})
    with pytest.raises(InputError, match="c is -0.1, but must be 0 or more"):
        methods.cagrad(toy.TASK, optax.sgd(0.1), c=-0.1)
