"""Both papers chained: the multiplier sees the step that is really made."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_close, flat
from tests.methods.cases import runner

FIXED = {"multiplier_learning_rate": 0.0, "multiplier_decay": 0.0}


def three_retain_batches(n: int) -> Any:
    """The first is for the surgery, two are for the fast weights."""
    return toy.nth_retain_batches(toy.problem().retain, n, 3)


@pytest.mark.parametrize("case", ["", ", shared"])
def test_without_multiplier_it_is_sfron(case: str) -> None:
    """With the same two fast batches; the batch for the surgery then weighs nothing."""
    chained, alone = runner("eupmu_sfron" + case), runner("sfron" + case)
    ours, theirs = chained.start(initial_multiplier=0.0), alone.start()
    chained_numbers = {k: jnp.float32(v) for k, v in (chained.numbers | FIXED).items()}
    numbers = {k: jnp.float32(v) for k, v in alone.numbers.items()}
    for n in range(3):
        forget = toy.nth_batch(toy.problem().forget, n, toy.FORGET_BATCH)
        retain = three_retain_batches(n)
        fast = jax.tree.map(lambda x: x[1:], retain)
        ours, metrics = chained.step(chained_numbers, ours, forget, retain)
        theirs, reference = alone.step(numbers, theirs, forget, fast)
        assert np.isclose(metrics["forget_loss"], reference["forget_loss"], rtol=1e-5)
    assert_trees_close(ours.params, theirs.params)
    assert_trees_close(ours.model_state, theirs.model_state)


def test_the_multiplier_sees_the_final_step(retain_by_hand: Any) -> None:
    """The dual gradient compares the weights before with those after the fast steps."""
    run = runner("eupmu_sfron").run(
        4,
        tolerance=-0.05,
        multiplier_learning_rate=0.5,
        multiplier_decay=0.1,
        initial_multiplier=1.5,
    )
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.5))
    value = jnp.float32(1.5)
    state, trail = optimizer.init(value), []
    for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        batch = jax.tree.map(lambda x: x[0], three_retain_batches(n))
        loss, _, _ = retain_by_hand(before.params, before.model_state, batch)
        loss_after, _, _ = retain_by_hand(after.params, before.model_state, batch)
        assert np.isclose(run.metrics[n]["retain_loss"], loss, rtol=1e-5)
        dual = jnp.float32(np.log(loss) - np.log(loss_after) - 0.05)
        step, state = optimizer.update(dual, state, value)
        value = jnp.maximum(value + step, 0.0)
        trail.append(float(value))
    np.testing.assert_allclose([m["multiplier"] for m in run.metrics], trail, rtol=1e-3)
    assert len({round(x, 2) for x in trail}) == 4  # it moved each time


def test_the_direction_is_the_surgery_of_both_gradients(
    retain_by_hand: Any, weighted_ascent_by_hand: Any
) -> None:
    """One step without retain descent: `-rate clip(alpha m (g_f + lambda g_r))`."""
    chained = runner("eupmu_sfron")
    numbers = {"learning_rate": 0.0, "forget_learning_rate": 0.3, "initial_multiplier": 1.5}
    run = chained.run(1, alpha=2.0, clip_norm=0.5, threshold=0.0, exponent=0.7, **numbers)
    params, model_state = run.start.params, run.start.model_state
    batch = toy.nth_batch(toy.problem().forget, 0, toy.FORGET_BATCH)
    _, forget = weighted_ascent_by_hand(params, model_state, batch, 0.7)
    surgery_batch = jax.tree.map(lambda x: x[0], three_retain_batches(0))
    _, _, retain = retain_by_hand(params, model_state, surgery_batch)
    direction = jax.tree.map(lambda f, r: 2.0 * (f + 1.5 * r), forget, retain)
    scale = min(1.0, 0.5 / float(np.linalg.norm(flat(direction))))
    assert scale < 1.0
    expected = jax.tree.map(lambda p, d: p - 0.3 * scale * d, params, direction)
    assert_trees_close(run.end.params, expected, rtol=1e-5)
    after_first, after_second = model_state, None
    for i in (1, 2):  # the running mean is written by the fast batches, in order
        fast = jax.tree.map(lambda x, i=i: x[i], three_retain_batches(0))
        _, after_second, _ = retain_by_hand(expected, after_first, fast)
        after_first = after_second
    assert_trees_close(run.end.model_state, after_second, rtol=1e-5)


def test_too_few_fast_steps_are_refused() -> None:
    with pytest.raises(InputError, match="num_fast_steps is 0, but must be at least 1"):
        methods.eupmu_sfron(toy.TASK, optax.sgd(0.1), num_steps=1, num_fast_steps=0)
