"""The six aggregators: every step on its own batches, by hand."""

import itertools
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxunlearn import LossPair, methods
from jaxunlearn.methods import objectives
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import flat
from tests.methods.cases import runner
from tests.transforms.test_aggregation import on_circle


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


def test_each_step_is_the_shortest_of_a_grid(aggregated: Any) -> None:
    shares = np.linspace(0.0, 1.0, 20_001)[:, None]
    for step in aggregated(runner("mgda")):
        points = shares * step.forget + (1.0 - shares) * step.retain
        best = points[np.argmin(np.sum(points**2, axis=1))]
        np.testing.assert_allclose(step.direction, best, atol=1e-4)
        assert np.linalg.norm(step.direction) < min(map(np.linalg.norm, step[:2]))


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


def rectified(gradient: np.ndarray, other: np.ndarray) -> np.ndarray:
    return gradient - min(gradient @ other, 0.0) / (other @ other) * other


def test_gdr_gma_by_hand(aggregated: Any) -> None:
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


@pytest.fixture(scope="module")
def losses_after() -> Any:
    """`(runner, num_steps, **numbers) -> both losses of each step's batches after the step`."""
    pair = jax.jit(objectives.loss_pair(toy.TASK, objectives.random_labels()))
    problem = toy.problem()

    def call(runner: toy.Runner, num_steps: int, **numbers: float) -> list[np.ndarray]:
        plain = {"learning_rate": 0.3, "momentum": 0.0, "weight_decay": 0.0}
        states = runner.run(num_steps, **plain, **numbers).states
        found = []
        for n, (before, after) in enumerate(itertools.pairwise(states)):
            forget = toy.nth_batch(problem.forget, n, toy.FORGET_BATCH)
            retain = toy.nth_batch(problem.retain, n, toy.RETAIN_BATCH)
            losses, _ = pair(after.params, before.model_state, forget, retain, jax.random.key(0))
            found.append(np.array(losses))
        return found

    return call


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.sum(np.exp(x))


@pytest.mark.parametrize(
    "estimator", ["next_batch", pytest.param("same_batch", marks=pytest.mark.long)]
)
def test_famo_by_hand(estimator: str, aggregated: Any, losses_after: Any) -> None:
    """The first step weighs the log losses alike; then Adam with decay moves the logits."""
    rates = {"logit_learning_rate": 1.0, "logit_decay": 0.01}
    of_estimator = toy.runner("famo", estimator=estimator)
    steps = aggregated(of_estimator, 5, **rates)
    same = losses_after(of_estimator, 5, **rates) if estimator == "same_batch" else None
    logits, first, second = np.zeros(2), np.zeros(2), np.zeros(2)
    before, gaps = None, []
    for t, step in enumerate(steps):
        losses = np.array([step.metrics["forget_loss"], step.metrics["retain_loss"]])
        if before is not None:
            after = losses if same is None else same[t - 1]
            z, fall = softmax(logits), np.log(before) - np.log(after)
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
