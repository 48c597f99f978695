"""FAMO: weights from the log losses of its own batches, moved by how much each of them fell."""

from typing import Any

import numpy as np

from tests.methods.cases import runner


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.sum(np.exp(x))


def test_each_step_by_hand(aggregated: Any) -> None:
    """The first step weighs the log losses alike; then Adam with decay moves the logits."""
    rates = {"logit_learning_rate": 1.0, "logit_decay": 0.01}
    steps = aggregated(runner("famo"), 5, **rates)
    logits, first, second = np.zeros(2), np.zeros(2), np.zeros(2)
    before, gaps = None, []
    for t, step in enumerate(steps):
        losses = np.array([step.metrics["forget_loss"], step.metrics["retain_loss"]])
        if before is not None:
            z, fall = softmax(logits), np.log(before) - np.log(losses)
            gradient = z * (fall - z @ fall) + 0.01 * logits
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            moved = first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
            logits = logits - moved
        shares = softmax(logits) / losses
        shares = shares / np.sum(shares)
        expected = shares[0] * step.forget + shares[1] * step.retain
        np.testing.assert_allclose(step.direction, expected, rtol=1e-3, atol=1e-4)
        before = losses
        gaps.append(abs(logits[1] - logits[0]))
    assert max(gaps) > 0.5  # they moved


def test_without_a_rate_the_log_losses_weigh_alike(aggregated: Any) -> None:
    """`d` is then along the gradient of `log L_f + log L_r`, with weights that sum to 1."""
    for step in aggregated(runner("famo"), 3, logit_learning_rate=0.0):
        forget, retain = step.metrics["forget_loss"], step.metrics["retain_loss"]
        expected = (retain * step.forget + forget * step.retain) / (forget + retain)
        np.testing.assert_allclose(step.direction, expected, rtol=1e-4, atol=1e-5)
