"""Fixed weights: scalarisation, and the two baselines that are special cases of it."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxunlearn.methods import objectives
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_close, relative_error
from tests.methods.cases import runner

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


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
    with pytest.raises(InputError, match="'descent', but must be one of ascent, adaptive_ascent"):
        toy.runner("scalarization", objective="descent")
