"""The optional settings of methods with two losses: weights, joint batches, masks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.methods import objectives
from jaxunlearn.methods._two_gradients import gradients_of
from jaxunlearn.transforms import SaliencyMaskState
from jaxunlearn.types import InputError, LossPair
from tests import toy, toy_diffusion
from tests.helpers import assert_trees_close, assert_trees_equal, flat
from tests.methods.cases import runner

PLAIN = {"learning_rate": 0.3, "momentum": 0.0, "weight_decay": 0.0}
WEIGHTS = {"forget_weight": 0.1, "retain_weight": 0.9}


def both_gradients(run: toy.Run, retain_by_hand: Any, forget_gradient: Any) -> tuple[Any, Any]:
    """The gradients of both losses at the start of a run."""
    retain = toy.nth_batch(toy.problem().retain, 0, toy.RETAIN_BATCH)
    start = run.start.params, run.start.model_state
    return forget_gradient(*start, 0), retain_by_hand(*start, retain)[2]


@pytest.mark.parametrize(
    ("name", "static", "multiplier"),
    [
        ("random_labels", {}, 1.0),
        ("eupmu", {"initial_multiplier": 1.5}, 1.5),
        ("cagrad", {"c": 0.0, "rescale": True}, 1.0),
    ],
)
def test_weights_scale_the_gradients_alone(
    name: str, static: Any, multiplier: float, retain_by_hand: Any, forget_gradient: Any
) -> None:
    """Released CAGrad of radius 0 is `2 (g_f + g_r) / 2`, so all three step along one sum."""
    run = toy.runner(name, **WEIGHTS, **static).run(1, **PLAIN)
    plain = toy.runner(name, **static).run(1, **PLAIN)
    forget, retain = both_gradients(run, retain_by_hand, forget_gradient)
    step = jax.tree.map(lambda f, r: -0.3 * (0.1 * f + 0.9 * multiplier * r), forget, retain)
    assert_trees_close(run.end.params, optax.apply_updates(run.start.params, step), rtol=1e-4)
    for loss in ("forget_loss", "retain_loss"):
        assert run.metrics[0][loss] == plain.metrics[0][loss]


@pytest.mark.long
def test_the_weights_of_sfron_scale_both_of_its_phases() -> None:
    """They are `alpha` and the learning rate under other names."""
    numbers = {"momentum": 0.0, "weight_decay": 0.0}
    weighed = toy.runner("sfron", forget_weight=3.0, retain_weight=0.5)
    ours = weighed.run(2, learning_rate=0.2, alpha=0.1, **numbers)
    theirs = runner("sfron").run(2, learning_rate=0.1, alpha=0.3, **numbers)
    assert_trees_close(ours.end.params, theirs.end.params)


def test_a_joint_batch_has_one_set_of_batch_statistics(retain_by_hand: Any) -> None:
    """One pass over the union, whose statistics are written, and two means of its losses."""
    problem, key = toy.problem(), jax.random.key(0)
    forget = toy.nth_batch(problem.forget, 0, toy.FORGET_BATCH)
    retain = toy.nth_batch(problem.retain, 0, toy.RETAIN_BATCH)
    both = {name: jnp.concatenate([forget[name], retain[name]]) for name in retain}
    losses, model_state = toy.TASK.losses(problem.params, problem.model_state, both, key, True)
    joint = toy.TASK._replace(joint_batch=True)
    pair = objectives.loss_pair(joint, objectives.ascent)
    found, after = pair(problem.params, problem.model_state, forget, retain, key)
    np.testing.assert_allclose(found, [-losses[:4].mean(), losses[4:].mean()], rtol=1e-6)
    assert_trees_close(after, model_state)
    run = toy.runner("eupmu", joint_batch=True, objective="ascent").run(1, **PLAIN)
    np.testing.assert_allclose(run.metrics[0]["retain_loss"], found.retain, rtol=1e-5)
    assert_trees_close(run.end.model_state, model_state)
    alone, _, _ = retain_by_hand(problem.params, problem.model_state, retain)
    assert not np.isclose(alone, found.retain, rtol=1e-3)


@pytest.mark.long
def test_without_batch_statistics_a_joint_batch_changes_nothing() -> None:
    """Neither the sum of both losses nor each gradient, weighed or not."""
    problem, key = toy.problem(), jax.random.key(0)
    task = toy.WITHOUT_STATISTICS._replace(weights=LossPair(0.1, 0.9))
    batches = (
        toy.nth_batch(problem.forget, 0, toy.FORGET_BATCH),
        toy.nth_batch(problem.retain, 0, toy.RETAIN_BATCH),
    )
    state = methods.begin(optax.identity(), key, problem.params, {})
    joint, apart = (
        gradients_of(task._replace(joint_batch=joined), objectives.random_labels())(state, *batches)
        for joined in (True, False)
    )
    assert_trees_close(joint, apart)


def masks_in(state: Any) -> list[Any]:
    def is_mask(node: Any) -> bool:
        return isinstance(node, SaliencyMaskState)

    return [n.mask for n in jax.tree.leaves(state, is_leaf=is_mask) if is_mask(n)]


@pytest.mark.long
def test_the_mask_of_any_method_is_that_of_salun() -> None:
    """With random labels the whole run is SalUn's; under surgery the multiplier sees its step."""
    ours = toy.runner("random_labels", saliency_fraction=0.25).run()
    salun = runner("salun").run(fraction=0.25)
    assert_trees_equal(masks_in(ours.start), masks_in(salun.start))
    assert_trees_close(ours.end.params, salun.end.params)
    masked = toy.runner("eupmu", saliency_fraction=0.25)
    run = masked.run(2, **PLAIN)
    mask = flat(masks_in(run.end)).astype(bool)
    change = flat(run.end.params) != flat(run.start.params)
    assert mask.sum() == int(0.25 * mask.size) and np.all(change == mask)
    still = {"multiplier_learning_rate": 1.0, "multiplier_decay": 0.0, "tolerance": -0.5}
    frozen = masked.run(1, saliency_fraction=0.0, **still)  # no weight moves, so no loss does
    assert frozen.metrics[0]["multiplier"] == pytest.approx(1.0, rel=1e-3)
    assert_trees_equal(frozen.end.params, frozen.start.params)


@pytest.mark.long
def test_squared_gradients_of_sfron_are_clipped() -> None:
    """The masks of a bound that none reaches are the usual ones; of a small one they differ."""
    usual = masks_in(runner("sfron").start())
    clipped = toy.runner("sfron", fisher_clip_norm=1.0)
    assert_trees_equal(masks_in(clipped.start(fisher_clip_norm=1e6)), usual)
    assert np.any(flat(masks_in(clipped.start(fisher_clip_norm=0.1))) != flat(usual))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("finetune", {"forget_weight": 0.1}),
        ("famo", {"retain_weight": 0.9}),  # they cancel in its logarithms
        ("sfron", {"joint_batch": True}),
        ("salun", {"saliency_fraction": 0.5}),
        ("finetune", {"keep_weight": 0.1}),
        ("eupmu", {"fisher_clip_norm": 1.0}),
        ("eupmu_budget", {"retain_objective": "match_original"}),  # bounds the cross-entropy
    ],
)
def test_methods_refuse_options_without_a_meaning(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"method {name} has no setting '{next(iter(given))}'"):
        methods.settings(name, given)


def test_models_that_generate_have_no_joint_batches() -> None:
    settings = methods.settings("eupmu", {"joint_batch": True}, generates=True)
    with pytest.raises(InputError, match="joint_batch is true, but must be false for models"):
        methods.build(toy_diffusion.toy(), "eupmu", settings)


@pytest.mark.parametrize("joint_batch", [False, True])
def test_keeping_confidences_adds_their_distance_to_the_retain_loss(joint_batch: bool) -> None:
    """Huber's loss of a distance of 1.5 is 1.5^2 / 2, of 3 it is 2 (3 - 1), and of 0 it is 0."""
    problem, key = toy.problem(), jax.random.key(0)
    forget = toy.nth_batch(problem.forget, 0, toy.FORGET_BATCH)
    retain = toy.nth_batch(problem.retain, 0, toy.RETAIN_BATCH)
    task = toy.WITHOUT_STATISTICS._replace(joint_batch=joint_batch)
    losses, _ = task.losses(problem.params, {}, retain, key, True)
    known = objectives.with_confidences(retain, losses)["original_confidence"]

    def retain_loss(batch: Any, keep_weight: float | None) -> jax.Array:
        pair = objectives.loss_pair(task._replace(keep_weight=keep_weight), objectives.ascent)
        return pair(problem.params, {}, forget, batch, key)[0].retain

    plain = retain_loss(retain, None)
    for offset, distance in ((0.0, 0.0), (1.5, 1.125), (-3.0, 4.0)):
        loss = retain_loss(retain | {"original_confidence": known + offset}, 0.5)
        np.testing.assert_allclose(loss - plain, 0.5 * distance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["scalarization", "sfron", "eupmu_sfron"])
def test_kept_confidences_need_those_of_the_original_model(name: str) -> None:
    with pytest.raises(InputError, match="keep_weight .*add them with objectives.with_confidences"):
        toy.runner(name, keep_weight=0.1).run(1, **PLAIN)


def test_models_that_generate_keep_no_confidences() -> None:
    settings = methods.settings("eupmu", {"keep_weight": 0.1}, generates=True)
    with pytest.raises(InputError, match="keep_weight .*retain_objective to match_original"):
        methods.build(toy_diffusion.toy(), "eupmu", settings)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"joint_batch": True}, "joint_batch is true, but must be false with match_original"),
        ({"keep_weight": 0.1}, "keep_weight compares confidences, but under match_original"),
    ],
)
def test_no_option_takes_a_distance_from_the_original_model_for_a_loss(
    option: dict[str, Any], words: str
) -> None:
    """In a joint batch the forget loss was that distance too, so nothing was forgotten."""
    given = option | {"retain_objective": "match_original"}
    with pytest.raises(InputError, match=words):
        methods.build(toy.TASK, "scalarization", methods.settings("scalarization", given))
