"""Fixed weights: scalarisation, and the three baselines that are special cases of it."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxunlearn.methods import objectives
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal, relative_error
from tests.methods.cases import runner

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


def test_one_step_by_hand(weighted_ascent_by_hand: Any) -> None:
    run = runner("gradient_ascent").run(1, learning_rate=0.1, weight_decay=0.0)
    batch = toy.nth_batch(toy.problem().forget, 0, toy.FORGET_BATCH)
    loss, grads = weighted_ascent_by_hand(run.start.params, run.start.model_state, batch, 0.0)
    assert loss < 0 and np.isclose(run.metrics[0]["forget_loss"], loss, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, run.start.params, grads)
    assert_trees_close(run.end.params, expected)


def test_the_forget_loss_rises_and_the_model_state_stays() -> None:
    """The metric is the minimised objective, minus the loss. Three batches make one round."""
    run = runner("gradient_ascent").run(9, learning_rate=0.1)
    rounds = np.reshape([-metrics["forget_loss"] for metrics in run.metrics], (3, 3)).mean(axis=1)
    assert rounds[0] < rounds[1] < rounds[2]
    assert_trees_equal(run.end.model_state, run.start.model_state)


def test_all_retain_is_finetuning() -> None:
    ours, reference = runner("neggrad_plus").run(retain_share=1.0), runner("finetune").run()
    assert_trees_close(ours.end.params, reference.end.params)
    assert_trees_close(ours.end.model_state, reference.end.model_state)


def test_all_forget_is_ascent() -> None:
    ours, reference = runner("neggrad_plus").run(retain_share=0.0), runner("gradient_ascent").run()
    assert_trees_close(ours.end.params, reference.end.params)


def test_neggrad_plus_weighs_both_losses() -> None:
    """From the same weights, its step is the weighted sum of the other two's."""

    def step(case: str, **numbers: float) -> Any:
        run = runner(case).run(1, learning_rate=0.1, **PLAIN, **numbers)
        return jax.tree.map(np.subtract, run.end.params, run.start.params)

    expected = jax.tree.map(
        lambda retain, forget: 0.7 * retain + 0.3 * forget,
        step("finetune"),
        step("gradient_ascent"),
    )
    assert_trees_close(step("neggrad_plus", retain_share=0.7), expected)


def test_random_labels_is_scalarisation_of_weight_one() -> None:
    ours, reference = runner("random_labels").run(), runner("scalarization").run(retain_weight=1.0)
    assert_trees_close(ours.end.params, reference.end.params)
    other = runner("scalarization").run(retain_weight=0.5)
    assert relative_error(ours.end.params, other.end.params) > 1e-4


def test_scalarisation_is_surgery_with_a_multiplier_that_never_moves() -> None:
    fixed = runner("scalarization").run(retain_weight=0.7)
    surgery = runner("eupmu").run(
        initial_multiplier=0.7, multiplier_learning_rate=0.0, multiplier_decay=0.0
    )
    assert_trees_close(surgery.end.params, fixed.end.params)
    assert_trees_close(surgery.end.model_state, fixed.end.model_state)
    for ours, theirs in zip(surgery.metrics, fixed.metrics, strict=True):
        assert np.isclose(ours.pop("multiplier"), 0.7)
        assert np.allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)


@pytest.mark.parametrize("name", ["ascent", "adaptive_ascent", "random_labels"])
def test_objectives_have_names(name: str) -> None:
    assert callable(objectives.named(name))


def test_unknown_objectives_are_refused() -> None:
    with pytest.raises(InputError, match=r"'ascent'\?\), but must be one of ascent, adaptive"):
        toy.runner("scalarization", objective="descent")
