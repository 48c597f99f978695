"""AMUN: the nearest adversarial examples, their labels, and the union that is trained on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.methods._build import Start
from jaxunlearn.methods.amun import adversaries
from jaxunlearn.types import Task
from tests import toy
from tests.methods.cases import runner

KEY = jax.random.key(0)
PLAIN = {"learning_rate": 0.3, "momentum": 0.0, "weight_decay": 0.0}


def linear_task() -> Task:
    """Two classes with the logits (0, <w, x>)."""

    def logits(params: Any, images: jax.Array) -> jax.Array:
        return jnp.stack([jnp.zeros(len(images)), images @ params], axis=1)

    def losses(params: Any, state: Any, batch: Any, key: Any, train: bool) -> Any:
        found = jax.nn.log_softmax(logits(params, batch["image"]))
        return -jnp.take_along_axis(found, batch["label"][:, None], axis=1)[:, 0], state

    def predict(params: Any, state: Any, batch: Any) -> jax.Array:
        return jax.nn.softmax(logits(params, batch["image"]))

    return Task(lambda key: (jnp.zeros(3), {}), losses, predict, 2)


def test_the_smallest_ball_reaches_the_boundary_and_half_of_it_does_not() -> None:
    """The distance from the boundary of a linear model is `|<w, x>| / |w|`."""
    rng = np.random.default_rng(0)
    params = jnp.array([1.0, -2.0, 2.0])
    images = jnp.asarray(rng.normal(size=(40, 3)), jnp.float32)
    label = (images @ params > 0).astype(jnp.int32).at[7].add(1) % 2  # one is predicted wrongly
    index = jnp.asarray(rng.permutation(40), jnp.int32)
    forget = {"image": images, "label": label, "index": index}
    found = adversaries(linear_task(), Start(KEY, params, {}, forget, {}), 0.05, 20)
    order = np.argsort(index)
    np.testing.assert_array_equal(found.indices, np.arange(40))
    np.testing.assert_array_equal(found.labels, 1 - label[order])  # all are flipped
    distance = np.abs(images @ params)[order] / 3.0
    moved = np.linalg.norm(found.images - images[order], axis=1)
    wrong = order == 7
    assert found.radii[wrong] == 0.0 and moved[wrong] == 0.0
    right, radius = ~wrong, np.asarray(found.radii)
    assert np.all(radius[right] >= distance[right])
    assert np.all((radius / 2 <= distance * 1.0001) | (radius < 0.051))
    assert np.all(moved <= radius * 1.0001)
    np.testing.assert_array_equal((found.images @ params > 0).astype(int), found.labels)


def test_a_step_descends_the_mean_of_all_three_parts() -> None:
    run = runner("amun").run(1, **PLAIN)
    forget = toy.nth_batch(toy.problem().forget, 0, toy.FORGET_BATCH)
    retain = toy.nth_batch(toy.problem().retain, 0, toy.RETAIN_BATCH)
    found = run.start.opt_state[1]
    places = np.searchsorted(found.indices, forget["index"])
    attacked = forget | {"image": found.images[places], "label": found.labels[places]}
    assert np.any(attacked["label"] != forget["label"])

    def mean(params: Any) -> jax.Array:
        parts = [
            toy.TASK.losses(params, run.start.model_state, batch, KEY, True)[0]
            for batch in (retain, forget, attacked)
        ]
        return jnp.mean(jnp.concatenate(parts))

    grads = jax.grad(mean)(run.start.params)
    for ours, before, g in zip(
        *map(jax.tree.leaves, (run.end.params, run.start.params, grads)), strict=True
    ):
        np.testing.assert_allclose(ours, before - 0.3 * g, rtol=1e-4, atol=1e-6)
