"""SCRUB+R follows SCRUB to the end, and then takes the best round's weights."""

import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_close, flat

ROUNDS = {"num_max_steps": 1, "num_min_steps": 2, "num_steps": 13}  # four rounds, and a step
STRONG = {"learning_rate": 1.0, "momentum": 0.0}


def test_the_last_step_winds_back_to_the_round_nearest_to_the_target() -> None:
    """Against the same rounds of SCRUB, chosen by hand; two targets choose two rounds."""
    scrub = toy.runner("scrub", **ROUNDS).run(13, **STRONG)
    chosen = set()
    for target in (0.0, 55.0, 100.0):
        run = toy.runner("scrub_r", **ROUNDS).run(13, target_accuracy=target, **STRONG)
        for ours, theirs in zip(run.states[:13], scrub.states[:13], strict=True):
            assert_trees_close(ours.params, theirs.params)
        accuracies = np.array([metrics["forget_accuracy"] for metrics in run.metrics])
        gaps = np.abs(accuracies[:12].reshape(4, 3)[:, 1:].mean(axis=1) - target)
        best = int(np.argmin(gaps))
        chosen.add(best)
        assert_trees_close(run.end.params, scrub.states[3 * best + 3].params)
        assert_trees_close(run.end.model_state, scrub.states[3 * best + 3].model_state)
        assert np.isclose(run.metrics[-1]["accuracy_gap"], gaps.min(), atol=1e-4)
        assert run.metrics[1]["accuracy_gap"] == 101.0
    assert len(chosen) > 1
    assert np.any(flat(run.end.params) != flat(scrub.end.params))


def test_accuracy_is_that_of_the_weights_before_the_step() -> None:
    run = toy.runner("scrub_r", **ROUNDS).run(4, **STRONG)
    for n, metrics in enumerate(run.metrics):
        state, batch = run.states[n], toy.nth_batch(toy.problem().forget, n, toy.FORGET_BATCH)
        predicted = np.argmax(toy.TASK.predict(state.params, state.model_state, batch), axis=1)
        assert np.isclose(metrics["forget_accuracy"], 100 * np.mean(predicted == batch["label"]))


def test_too_few_steps_for_a_round_are_refused() -> None:
    settings = methods.settings("scrub_r", {"num_steps": 15})
    message = "num_steps is 15, but scrub_r needs at least one round of 16; take more steps, or "
    with pytest.raises(InputError, match=message):
        methods.build(toy.TASK, "scrub_r", settings)


def test_the_target_is_a_percentage() -> None:
    with pytest.raises(InputError, match=r"target_accuracy .* is 101.0, but must be in \[0, 100\]"):
        methods.settings("scrub_r", {"target_accuracy": 101})
