"""Inversion: embeddings of labels are trained, and the model is frozen."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models import denoisers
from jaxunlearn.models.process import Process
from jaxunlearn.tasks import diffusion
from jaxunlearn.tasks.inversion import inversion
from jaxunlearn.tasks.trainable_subset import trainable_subset
from jaxunlearn.types import FROZEN, Conditions, InputError
from tests.toy_diffusion import KEY, batch_of, toy

SHAPE = (8, 8, 1)
DIT = diffusion(
    denoisers.create("dit-tiny-test", SHAPE, 10), Process(50), image_shape=SHAPE, num_classes=10
)
BATCH = {
    "image": jax.random.uniform(KEY, (4, *SHAPE), minval=-1.0),
    "label": jnp.array([3, 1, 3, 3]),
    "index": jnp.arange(4),
    "epoch": jnp.zeros(4, jnp.int32),
}


@pytest.fixture(scope="module")
def params():
    """Random parameters: the published initial ones have outputs of zero."""
    shapes, rng = jax.eval_shape(DIT.init, KEY)[0], np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


def readable():
    """The toy, whose table is added to its output."""

    def read(params, model_state):
        return model_state["table"] if "table" in model_state else params["Embed_0"]["embedding"]

    def write(model_state, embeddings):
        return {**model_state, "table": embeddings}

    task = toy(label_drop=0.5)

    def forget_losses(params, model_state, batch, key, train):
        params = {**params, "Embed_0": {"embedding": read(params, model_state)}}
        return task.forget_losses(params, {}, batch, key, train)[0], model_state

    return task._replace(forget_losses=forget_losses, conditions=Conditions(read, write))


def test_the_minimum_is_one_step_away_where_the_output_is_linear_in_the_embedding():
    """The loss of a row is `sum |c + rest|^2`, so a step of half its gradient ends at the minimum;
    rows of other labels, and of "no class" in spite of dropped labels, have no gradient."""
    task = readable()
    part, batch = inversion(task), batch_of() | {"label": jnp.array([0, 0, 0, 2, 0, 0])}
    params = jax.jit(task.init)(KEY)[0]
    weights, frozen = part.split(params, {}, KEY)

    @jax.jit
    def gradient(table):
        return jax.grad(lambda t: jnp.sum(part.task.losses(t, frozen, batch, KEY, True)[0]))(table)

    first = gradient(weights)
    assert np.all(first[jnp.array([1, 3])] == 0.0) and np.all(first[0] != 0.0)
    counts = jnp.array([5.0, 1.0, 1.0, 1.0])[:, None]
    chex.assert_trees_all_close(gradient(weights - first / 2 / counts), 0 * first, atol=1e-4)
    chex.assert_trees_all_equal(part.merge(weights, frozen)[0], params)


def test_a_model_uses_written_embeddings_in_place_of_its_own(params):
    """Also through adapters and a frozen table; what was read and written changes nothing."""
    conditions = DIT.conditions
    outputs = jax.jit(lambda p, s: DIT.outputs(p, s, BATCH, KEY, True)[0])
    table = conditions.read(params, {})
    assert table.shape == (11, 16)
    own, swapped = outputs(params, {}), table.at[3].set(table[5])
    same, other = (outputs(params, conditions.write({}, t)) for t in (table, swapped))
    chex.assert_trees_all_equal(own, same)
    moved = np.abs(own - other).max(axis=(1, 2, 3))
    assert moved[1] == 0.0 and np.all(moved[[0, 2, 3]] > 1e-3)

    part = trainable_subset(DIT, "out/kernel", rank=1)
    subset, state = part.split(params, {}, KEY)
    chex.assert_trees_all_equal(part.task.conditions.read(subset, state), table)
    written = part.task.conditions.write(state, swapped)
    found, after = jax.jit(lambda *w: part.task.outputs(*w, BATCH, KEY, True))(subset, written)
    chex.assert_trees_all_close(found, other, atol=1e-5)
    assert FROZEN in after
    chex.assert_trees_all_equal(part.task.conditions.read(subset, written), swapped)


def test_a_model_without_known_embeddings_is_refused():
    with pytest.raises(InputError, match="no known embeddings of classes to invert"):
        inversion(toy())
