"""The methods that only models which generate can be told to use, by their defining properties."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.methods._build import Start
from jaxunlearn.methods._passes import fisher_over_timesteps
from jaxunlearn.tasks.microbatched import microbatched
from jaxunlearn.tasks.trainable_subset import trainable_subset
from jaxunlearn.training.checkpoints import masks_of
from jaxunlearn.types import InputError
from tests import toy as classifying
from tests.toy_diffusion import CLASSES, KEY, batch_of, toy

pytestmark = pytest.mark.long

TASK = toy(reduction="mean", label_drop=0.0)
FORGET = batch_of() | {"label": jnp.zeros(6, jnp.int32)}
RETAIN = batch_of() | {"label": jnp.array([1, 2, 1, 2, 1, 2]), "index": jnp.arange(6, 12)}


def arrays(batch):
    return {name: values for name, values in batch.items() if name != "epoch"}


def run(method, steps=1, start=None):
    state = method.init(KEY, *(start or TASK.init(KEY)), arrays(FORGET), arrays(RETAIN))
    stacked = jax.tree.map(lambda x: jnp.stack([x] * method.retain_batches), RETAIN)
    step, metrics = jax.jit(method.step), {}
    for _ in range(steps):
        state, metrics = step(state, FORGET, stacked)
    return state, metrics


def embeddings(params):
    return np.asarray(params["Embed_0"]["embedding"])


@pytest.mark.parametrize("eta", [0.0, 3.0])
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


def built(name, task=TASK, **given):
    given = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.1, "weight_decay": 0.0} | given
    given |= {"learning_rate_schedule": "constant"}
    return methods.build(task, name, methods.settings(name, given))


STILL = {"multiplier_learning_rate": 0.0}  # the multiplier stays 0


@pytest.mark.parametrize("name", ["esd", "concept_ablation"])
def test_surgery_on_the_objective_of_a_method_equals_the_method(name):
    alone = {"retain_weight": 0.0} if name == "concept_ablation" else {}
    one, other = (
        run(method, steps=3)[0]
        for method in (built(name, **alone), built("eupmu", objective=name, **STILL))
    )
    chex.assert_trees_all_close(one.params, other.params, rtol=1e-6)
    assert other.model_state == {}


def test_spm_goes_beyond_the_anchor_that_the_original_model_knows():
    """The next class is the anchor; the target stands still while the weights move."""
    table = embeddings(TASK.init(KEY)[0])
    method = built("eupmu", objective="spm", negative_guidance=3.0, learning_rate=0.5, **STILL)
    _, metrics = run(method)
    expected = np.mean((4.0 * (table[0] - table[1])) ** 2)
    chex.assert_trees_all_close(metrics["forget_loss"], expected, rtol=1e-4)
    _, metrics = run(method, steps=300)
    chex.assert_trees_all_close(metrics["forget_loss"], 0.0, atol=1e-3)


def test_the_retain_loss_may_be_the_distance_from_the_original_model():
    method = built("scalarization", objective="esd", retain_objective="match_original")
    state, metrics = run(method)
    assert metrics["retain_loss"] == 0.0 < metrics["forget_loss"]
    original, _ = TASK.init(KEY)
    batch = RETAIN | {"label": FORGET["label"]}
    outputs = [TASK.outputs(p, {}, batch, KEY, True)[0] for p in (state.params, original)]
    _, metrics = method.step(state, FORGET, jax.tree.map(lambda x: x[None], batch))
    expected = jnp.mean(TASK.divergence(*outputs))
    chex.assert_trees_all_close(metrics["retain_loss"], expected, rtol=1e-5)


def test_the_mask_measures_the_loss_and_not_the_distance_from_the_original_model():
    matched, plain = (
        masks_of(run(built("sfron", num_fast_steps=1, objective="esd", **more))[0])
        for more in ({"retain_objective": "match_original"}, {})
    )
    chex.assert_trees_all_equal(matched, plain)


def test_adapters_and_micro_batches_see_the_same_original_model():
    """The frozen weights are not copied."""
    subset = trainable_subset(TASK, "Dense", rank=1)
    start = subset.split(*TASK.init(KEY), KEY)
    state, metrics = run(built("eupmu", subset.task, objective="esd"), start=start)
    assert state.opt_state.original["model_state"] == {} and "frozen" in state.model_state
    whole = built("eupmu", objective="esd")
    parts = built("eupmu", microbatched(TASK, 2), objective="esd")
    for method in (whole, parts):
        _, others = run(method)
        chex.assert_trees_all_close(metrics["forget_loss"], others["forget_loss"], rtol=1e-5)


def test_options_of_another_objective_are_refused():
    with pytest.raises(InputError, match="must be esd or spm with the setting negative_guidance"):
        built("eupmu", objective="match_anchor", negative_guidance=1.0)
    with pytest.raises(InputError, match="does not keep it; make the method with methods.build"):
        run(methods.eupmu(TASK, optax.sgd(0.1), objective="esd"))


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


def test_fisher_information_of_an_example_sums_its_gradients_over_all_timesteps():
    """The square of a sum, not a sum of squares; 50 timesteps in uneven batches of 8."""
    start = Start(KEY, *TASK.init(KEY), arrays(FORGET), arrays(RETAIN))
    found = fisher_over_timesteps(TASK, start, start.retain, 8)
    times = jnp.arange(TASK.num_timesteps)

    def gradient(i):
        batch = {name: jnp.repeat(v[i : i + 1], 50, axis=0) for name, v in start.retain.items()}
        batch |= {"timestep": times, "epoch": times}
        return jax.grad(lambda p: TASK.losses(p, {}, batch, KEY, False)[0].sum())(start.params)

    squares = [jax.tree.map(jnp.square, gradient(i)) for i in range(6)]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 6, *squares)
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-6)
    one = fisher_over_timesteps(TASK, start, start.retain, 2, num_batches=1)
    assert all(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (one, found)), strict=True))
    assert run(built("selective_amnesia", fisher="timesteps", fisher_batch_size=25))[1]


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
