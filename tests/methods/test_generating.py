"""The methods that only models which generate can be told to use, by their defining properties."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError
from tests import toy as classifying
from tests.toy_diffusion import CLASSES, KEY, batch_of, toy

pytestmark = pytest.mark.long

TASK = toy(reduction="mean", label_drop=0.0)
FORGET = batch_of() | {"label": jnp.zeros(6, jnp.int32)}
RETAIN = batch_of() | {"label": jnp.array([1, 2, 1, 2, 1, 2]), "index": jnp.arange(6, 12)}


def arrays(batch):
    return {name: values for name, values in batch.items() if name != "epoch"}


def run(method, steps=1):
    state = method.init(KEY, *TASK.init(KEY), arrays(FORGET), arrays(RETAIN))
    stacked = jax.tree.map(lambda x: x[None], RETAIN)
    step, metrics = jax.jit(method.step), {}
    for _ in range(steps):
        state, metrics = step(state, FORGET, stacked)
    return state, metrics


def embeddings(params):
    return np.asarray(params["Embed_0"]["embedding"])


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_esd_is_guided_away_from_what_is_forgotten(eta):
    """The toy's output is linear in its embedding, so target and loss are too."""
    table = embeddings(TASK.init(KEY)[0])
    away = table[0] - table[CLASSES]  # the forgotten label and no label
    _, metrics = run(methods.esd(TASK, optax.sgd(1e-3), negative_guidance=eta))
    chex.assert_trees_all_close(metrics["forget_loss"], np.mean(((1 + eta) * away) ** 2), rtol=1e-4)
    _, metrics = run(methods.esd(TASK, optax.sgd(0.5), negative_guidance=eta), steps=300)
    chex.assert_trees_all_close(metrics["forget_loss"], 0.0, atol=1e-3)  # the target stands still


def test_concept_ablation_moves_the_forgotten_label_to_the_anchors():
    params, _ = TASK.init(KEY)
    table = embeddings(params)
    method = methods.concept_ablation(TASK, optax.sgd(0.1), retain_weight=0.0)
    state, metrics = run(method)
    expected = np.mean([np.mean((table[0] - table[c]) ** 2) for c in (1, 2)])
    chex.assert_trees_all_close(metrics["forget_loss"], expected, rtol=1e-4)
    moved = embeddings(state.params) - table
    assert np.any(moved[0] != 0) and np.all(moved[1:] == 0)


def test_selective_amnesia_is_held_by_what_the_retain_data_need():
    start = TASK.init(KEY)[0]

    def drift(weight):
        method = methods.selective_amnesia(TASK, optax.adam(1e-2), anchor_weight=weight)
        state, _ = run(method, steps=20)
        return optax.tree.norm(
            jax.tree.map(jnp.subtract, state.params["Dense_0"], start["Dense_0"])
        )

    assert drift(0.0) > 1.5 * drift(5000.0) > 0.0


def test_selective_amnesia_begins_without_elastic_force():
    free, held = (
        run(methods.selective_amnesia(TASK, optax.sgd(1e-2), anchor_weight=weight))[0].params
        for weight in (0.0, 300.0)
    )
    chex.assert_trees_all_close(free, held, rtol=1e-6)


@pytest.mark.parametrize("name", ["esd", "concept_ablation", "selective_amnesia"])
def test_classifiers_are_refused(name):
    with pytest.raises(InputError, match=f"method {name} needs a model that generates images"):
        methods.build(classifying.TASK, name, methods.settings(name))


@pytest.mark.parametrize(
    "name", ["scrub_r", "eupmu_budget", "boundary_shrinking", "boundary_expanding", "unsir"]
)
def test_methods_that_need_classes_refuse_models_that_generate(name):
    with pytest.raises(InputError, match=f"method {name} needs a model that predicts classes"):
        methods.build(TASK, name, methods.settings(name))
