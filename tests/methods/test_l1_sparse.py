"""l1-sparse: the sign of each weight in its gradient, fading until plain fine-tuning is left."""

from typing import Any

import jax
import numpy as np

from jaxunlearn.types import TrainState
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal
from tests.methods.cases import runner


def test_every_step_by_hand(retain_by_hand: Any) -> None:
    """T = 4 steps: the penalty is 0.2, 0.15, 0.1 and 0.05 in turn, under momentum and decay."""
    numbers = {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.01}
    run = runner("l1_sparse").run(4, penalty=0.2, **numbers)
    params, model_state = run.start.params, run.start.model_state
    buffer = jax.tree.map(np.zeros_like, params)
    for n, gamma in enumerate((0.2, 0.15, 0.1, 0.05)):
        batch = toy.nth_batch(toy.problem().retain, n, toy.RETAIN_BATCH)
        loss, model_state, grads = retain_by_hand(params, model_state, batch)
        assert np.isclose(run.metrics[n]["retain_loss"], loss, rtol=1e-4)  # without the penalty
        buffer = jax.tree.map(
            lambda b, g, p, gamma=gamma: 0.8 * b + g + gamma * np.sign(p) + 0.01 * p,
            buffer,
            grads,
            params,
        )
        params = jax.tree.map(lambda p, b: p - 0.1 * b, params, buffer)
        assert_trees_close(run.states[n + 1].params, params, rtol=1e-4, atol=1e-5)
        assert_trees_close(run.states[n + 1].model_state, model_state, rtol=1e-4, atol=1e-5)


def test_after_the_last_step_it_is_finetuning() -> None:
    """From the same weights, one step at a penalty that has faded away."""
    method, reference = runner("l1_sparse"), runner("finetune")
    forget = toy.nth_batch(toy.problem().forget, 0, toy.FORGET_BATCH)
    retain = toy.nth_retain_batches(toy.problem().retain, 0, 1)

    def step(one: toy.Runner, state: TrainState, **numbers: float) -> Any:
        given = {name: np.float32(value) for name, value in (one.numbers | numbers).items()}
        return jax.device_get(one.step(given, state, forget, retain)[0].params)

    def step_at(count: int) -> Any:
        state = method.start()
        signs, *rest = state.opt_state[0]
        late = (signs._replace(count=np.int32(count)), *rest)
        return step(method, state._replace(opt_state=(late, None)), penalty=0.5)

    plain = step(reference, reference.start())
    assert_trees_equal(step_at(4), plain)
    assert np.any(step_at(3)["kernel"] != plain["kernel"])


def test_without_penalty_it_is_finetuning() -> None:
    ours, reference = runner("l1_sparse").run(penalty=0.0), runner("finetune").run()
    assert_trees_close(ours.end.params, reference.end.params)
