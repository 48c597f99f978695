"""Nash bargaining: every step has the largest product of both gains on its own batches."""

from typing import Any

import numpy as np
import pytest

from jaxunlearn import LossPair
from tests.methods.cases import runner
from tests.transforms.test_aggregation import on_circle


def test_each_step_has_the_best_product_of_a_grid(aggregated: Any) -> None:
    for step in aggregated(runner("nash")):
        candidates = on_circle(LossPair(step.forget, step.retain))
        gains = candidates @ np.stack([step.forget, step.retain], axis=1)
        product = np.where(np.min(gains, axis=1) > 0, np.prod(gains, axis=1), -np.inf)
        best = candidates[np.argmax(product)]
        length = np.linalg.norm(step.direction)
        assert step.direction @ best / length == pytest.approx(1.0, abs=1e-6)
        assert length == pytest.approx(np.sqrt(2.0), rel=1e-4)


def test_both_losses_gain_the_same_in_proportion(aggregated: Any) -> None:
    """Each weight times the gain of its loss is 1, however long the gradients are."""
    for step in aggregated(runner("nash")):
        both = np.stack([step.forget, step.retain], axis=1)
        weights = np.linalg.lstsq(both, step.direction, rcond=None)[0]
        np.testing.assert_allclose(weights * (both.T @ step.direction), 1.0, rtol=1e-3)
