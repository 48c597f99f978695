"""OrthoGrad: no step has a part along the gradient of any retain example of its batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.methods.orthograd import without_span
from tests import toy
from tests.helpers import flat
from tests.methods.cases import runner

PLAIN = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def test_a_step_is_at_right_angles_to_every_retain_example() -> None:
    """And not to the forget gradient, whose rest it is: the batch mean alone is not enough."""
    run = runner("orthograd").run(1, **PLAIN)
    before, after = run.states
    _, model_state, forget, retain = toy.problem()
    batch = jax.tree.map(lambda x: x[0], toy.nth_retain_batches(retain, 0, 1))
    key = jax.random.wrap_key_data(before.key)

    def losses(params, batch):
        return toy.TASK.losses(params, model_state, batch, key, False)[0]

    each = jax.jacrev(losses)(before.params, batch)
    rows = np.stack(
        [flat(jax.tree.map(lambda x, i=i: x[i], each)) for i in range(len(batch["label"]))]
    )
    step = flat(before.params) - flat(after.params)
    forget_batch = toy.nth_batch(forget, 0, 4)
    wanted = -flat(
        jax.grad(lambda p: jnp.mean(losses_of_forget(p, forget_batch, key)))(before.params)
    )
    left = wanted - rows.T @ np.linalg.lstsq(rows.T, wanted, rcond=None)[0]
    np.testing.assert_allclose(step / 0.1, left, rtol=1e-3, atol=1e-4)
    cosines = rows @ step / (np.linalg.norm(rows, axis=1) * np.linalg.norm(step))
    assert np.abs(cosines).max() < 1e-3
    assert step @ wanted > 0.0


def losses_of_forget(params, batch, key):
    _, model_state, *_ = toy.problem()
    return toy.TASK.losses(params, model_state, batch, key, True)[0]


@pytest.mark.parametrize("seed", range(3))
def test_what_depends_on_others_or_is_zero_does_no_harm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, 12)) * np.array([1e-4, 1.0, 1e3, 1.0, 1.0])[:, None]
    rows = np.concatenate([rows, rows[:2].sum(0, keepdims=True), np.zeros((1, 12))])
    vector = rng.normal(size=12)
    expected = vector - rows.T @ np.linalg.lstsq(rows.T, vector, rcond=1e-12)[0]
    tree = {"a": jnp.asarray(vector[:8], jnp.float32).reshape(2, 4), "b": jnp.asarray(vector[8:])}
    of_rows = {"a": jnp.asarray(rows[:, :8]).reshape(-1, 2, 4), "b": jnp.asarray(rows[:, 8:])}
    found = flat(without_span(tree, of_rows))
    np.testing.assert_allclose(found, expected, atol=2e-4)
