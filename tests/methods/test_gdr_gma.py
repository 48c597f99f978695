"""GDR-GMA: the weight follows the retain loss, the bank holds the last forget gradients."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import flat
from tests.methods.cases import runner


def rectified(gradient: np.ndarray, other: np.ndarray) -> np.ndarray:
    return gradient - min(gradient @ other, 0.0) / (other @ other) * other


def test_each_step_by_hand(aggregated: Any) -> None:
    """With a bank of two, and a weight that moves from one side to the other."""
    steps = aggregated(runner("gdr_gma"), 6, sharpness=3.0, threshold=1.0)
    shares = []
    for n, step in enumerate(steps):
        memory = np.mean([s.forget for s in steps[max(0, n - 1) : n + 1]], axis=0)
        share = 1.0 / (1.0 + np.exp(3.0 * (step.metrics["retain_loss"] - 1.0)))
        expected = share * rectified(step.forget, step.retain)
        expected = expected + (1.0 - share) * rectified(step.retain, memory)
        np.testing.assert_allclose(step.direction, expected, rtol=1e-4, atol=1e-5)
        shares.append(share)
    assert min(shares) < 0.4 and max(shares) > 0.5
    assert any(step.forget @ step.retain < 0 for step in steps)


def test_the_bank_holds_the_last_forget_gradients(forget_gradient: Any) -> None:
    run = runner("gdr_gma").run(3)
    bank = run.end.opt_state[0].bank
    for slot, n in ((0, 2), (1, 1)):  # the third gradient has taken the place of the first
        state = run.states[n]
        expected = flat(forget_gradient(state.params, state.model_state, n))
        held = np.concatenate([leaf[slot].ravel() for leaf in jax.tree.leaves(bank)])
        np.testing.assert_allclose(held, expected, rtol=1e-4, atol=1e-6)


def test_far_above_the_threshold_it_is_finetuning(aggregated: Any) -> None:
    """But for the parts of the retain gradient that go against the bank."""
    for step in aggregated(runner("gdr_gma"), 3, sharpness=100.0, threshold=0.0):
        assert step.forget @ step.retain > 0  # nothing is rectified here
        np.testing.assert_allclose(step.direction, step.retain, rtol=1e-4, atol=1e-5)


def test_a_bank_without_room_is_refused() -> None:
    with pytest.raises(InputError, match="bank_size is 0, but must be at least 1"):
        methods.gdr_gma(toy.TASK, optax.sgd(0.1), bank_size=0)
