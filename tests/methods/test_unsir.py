"""UNSIR: noise to be got wrong, a phase that fits it, and a phase that repairs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.methods._build import Start
from jaxunlearn.methods.unsir import error_maximising_noise
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal
from tests.methods.cases import runner

PLAIN = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
KEY = jax.random.key(0)


def noise(num_steps: int, penalty: float, learning_rate: float = 0.1, forget: Any = None) -> Any:
    params, model_state, usual, retain = toy.problem()
    return error_maximising_noise(
        toy.TASK,
        Start(KEY, params, model_state, usual if forget is None else forget, retain),
        num_noise=6,
        num_steps=num_steps,
        learning_rate=learning_rate,
        penalty=penalty,
    )


def losses_of(learned: Any) -> np.ndarray:
    params, model_state, _, _ = toy.problem()
    batch = learned.batch(jnp.int32(0))
    return np.asarray(toy.TASK.losses(params, model_state, batch, KEY, False)[0])


def test_noise_maximises_the_error_and_the_penalty_bounds_it() -> None:
    """Every image's loss climbs; a large penalty takes the images to zero instead."""
    start, learned, bounded = noise(0, 0.0), noise(60, 0.0), noise(60, 1e4)
    assert start.image.shape == (6, toy.INPUTS)
    assert np.all(losses_of(learned) > losses_of(start))
    assert losses_of(learned).mean() > 1.5 * losses_of(start).mean()
    assert np.linalg.norm(bounded.image) < 0.1 * np.linalg.norm(start.image)


def test_the_first_step_of_the_noise_is_adams() -> None:
    """The sign of the gradient of `mean (- l + penalty |N|^2)`, times the rate."""
    params, model_state, _, _ = toy.problem()
    start, after = noise(0, 0.3), noise(1, 0.3, learning_rate=0.01)
    batch = start.batch(jnp.int32(0))

    def objective(images: jax.Array) -> jax.Array:
        losses, _ = toy.TASK.losses(params, model_state, batch | {"image": images}, KEY, False)
        return jnp.mean(-losses + 0.3 * jnp.sum(images**2, axis=1))

    gradient = jax.grad(objective)(start.image)
    np.testing.assert_allclose(
        (start.image - after.image) / 0.01, np.sign(gradient), rtol=1e-3, atol=1e-3
    )


def test_noise_stands_for_the_forgotten_classes_in_their_proportions() -> None:
    forget = toy.problem().forget | {"label": jnp.array([2, 0] * 2 + [2] * 8, jnp.int32)}
    assert noise(0, 0.1, forget=forget).label.tolist() == [0, 2, 2, 2, 2, 2]
    only = forget | {"label": jnp.ones(12, jnp.int32)}
    assert noise(0, 0.1, forget=only).label.tolist() == [1] * 6


def test_repair_is_finetuning() -> None:
    ours, reference = runner("unsir").run(impair_share=0.0), runner("finetune").run()
    assert_trees_close(ours.end.params, reference.end.params)
    assert_trees_close(ours.end.model_state, reference.end.model_state)


def test_impair_steps_fit_noise_and_retain_data(retain_by_hand: Callable[..., Any]) -> None:
    """And only the retain batch leaves running statistics."""
    run = runner("unsir").run(2, impair_share=0.5, **PLAIN)
    before, after = run.states[1:]
    fake = before.opt_state[1].batch(jnp.int32(1))
    retain = toy.nth_batch(toy.problem().retain, 1, toy.RETAIN_BATCH)
    harm, _, of_noise = retain_by_hand(before.params, before.model_state, fake)
    loss, model_state, of_retain = retain_by_hand(before.params, before.model_state, retain)
    moved = jax.tree.map(lambda x, y: (x - y) / 0.1, before.params, after.params)
    assert_trees_close(moved, jax.tree.map(np.add, of_noise, of_retain), atol=3e-6)
    assert_trees_close(after.model_state, model_state)
    assert np.isclose(run.metrics[1]["noise_loss"], harm, rtol=1e-4)
    assert np.isclose(run.metrics[1]["retain_loss"], loss, rtol=1e-4)


def test_the_share_ends_the_impairing() -> None:
    run = runner("unsir").run(4, impair_share=0.5)
    assert [metrics["noise_loss"] > 0 for metrics in run.metrics] == [True, True, False, False]
    assert_trees_equal(run.end.opt_state[1], run.start.opt_state[1])


def test_forget_images_are_never_looked_at() -> None:
    forget = toy.problem().forget
    other = forget | {"image": -forget["image"]}
    assert_trees_equal(
        runner("unsir").run(forget=other).end.params, runner("unsir").run().end.params
    )
    assert_trees_equal(noise(3, 0.1), noise(3, 0.1, forget=other))
