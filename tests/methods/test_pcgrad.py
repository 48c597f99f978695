"""PCGrad: no step goes against the forget or the retain gradient of its own batches."""

from typing import Any

import numpy as np

from tests.methods.cases import runner


def test_no_step_goes_against_a_gradient(aggregated: Any) -> None:
    """Where they conflict, the plain sum would have more of one at the expense of the other."""
    steps = aggregated(runner("pcgrad"), 6)
    for step in steps:
        assert step.forget @ step.direction > 0 and step.retain @ step.direction > 0
    conflicts = [step for step in steps if step.forget @ step.retain < 0]
    assert 0 < len(conflicts) < len(steps)
    for step in conflicts:
        f, r, product = step.forget, step.retain, step.forget @ step.retain
        expected = f - product / (r @ r) * r + r - product / (f @ f) * f
        np.testing.assert_allclose(step.direction, expected, rtol=1e-4, atol=1e-5)


def test_gradients_that_agree_are_added(aggregated: Any) -> None:
    steps = aggregated(runner("pcgrad"), 6)
    for step in (step for step in steps if step.forget @ step.retain > 0):
        expected = step.forget + step.retain
        np.testing.assert_allclose(step.direction, expected, rtol=1e-4, atol=1e-5)
