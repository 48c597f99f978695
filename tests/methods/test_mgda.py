"""MGDA: every step is the shortest one between the two gradients of its own batches."""

from typing import Any

import numpy as np

from tests.methods.cases import runner


def test_each_step_is_the_shortest_of_a_grid(aggregated: Any) -> None:
    shares = np.linspace(0.0, 1.0, 20_001)[:, None]
    for step in aggregated(runner("mgda")):
        points = shares * step.forget + (1.0 - shares) * step.retain
        best = points[np.argmin(np.sum(points**2, axis=1))]
        np.testing.assert_allclose(step.direction, best, atol=1e-4)
        assert np.linalg.norm(step.direction) < min(map(np.linalg.norm, step[:2]))
