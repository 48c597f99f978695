"""SCRUB: away from the teacher and back; SCRUB+R: the best round of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal, flat
from tests.methods.cases import runner

PLAIN = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
ROUNDS = {"num_max_steps": 1, "num_min_steps": 2, "num_steps": 13}  # four rounds, and a step
STRONG = {"learning_rate": 1.0, "momentum": 0.0}


@pytest.fixture(scope="module")
def from_teacher() -> Callable[..., Any]:
    """`(params, model_state, batch, t=1) -> (mean KL from the original model, gradient)`."""
    original = toy.problem()

    @jax.jit
    def compute(params: Any, model_state: Any, batch: Any, t: float = 1.0) -> Any:
        assert toy.TASK.outputs is not None
        key = jax.random.key(0)
        teacher, _ = toy.TASK.outputs(original.params, original.model_state, batch, key, False)
        p = jax.nn.softmax(teacher / t)

        def mean_kl(params: Any) -> jax.Array:
            logits, _ = toy.TASK.outputs(params, model_state, batch, key, True)
            q = jax.nn.softmax(logits / t)
            return t**2 * jnp.mean(jnp.sum(p * (jnp.log(p) - jnp.log(q)), axis=1))

        return jax.value_and_grad(mean_kl)(params)

    return compute


def moved(run: toy.Run, n: int) -> Any:
    """What step n added to the weights, over the learning rate."""
    before, after = run.states[n].params, run.states[n + 1].params
    return jax.tree.map(lambda x, y: (y - x) / 0.1, before, after)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_max_step_climbs_the_divergence_on_forget_data(
    temperature: float, from_teacher: Callable[..., Any]
) -> None:
    """It climbs, rather than descends, and writes no running statistics."""
    run = runner("scrub").run(1, temperature=temperature, **PLAIN)
    batch = toy.nth_batch(toy.problem().forget, 0, toy.FORGET_BATCH)
    kl, gradient = from_teacher(run.start.params, run.start.model_state, batch, temperature)
    assert_trees_close(moved(run, 0), gradient, atol=3e-6)
    assert np.isclose(run.metrics[0]["forget_loss"], -kl, rtol=1e-4)
    assert run.metrics[0]["retain_loss"] == 0.0
    assert_trees_equal(run.end.model_state, run.start.model_state)
    assert from_teacher(run.end.params, run.start.model_state, batch, temperature)[0] > kl


def test_a_min_step_descends_divergence_and_loss_on_retain_data(
    from_teacher: Callable[..., Any], retain_by_hand: Callable[..., Any]
) -> None:
    run = runner("scrub").run(2, distillation_weight=0.7, task_weight=0.3, **PLAIN)
    before = run.states[1]
    batch = toy.nth_batch(toy.problem().retain, 1, toy.RETAIN_BATCH)
    kl, toward = from_teacher(before.params, before.model_state, batch)
    loss, model_state, fitting = retain_by_hand(before.params, before.model_state, batch)
    expected = jax.tree.map(lambda a, b: -(0.7 * a + 0.3 * b), toward, fitting)
    assert_trees_close(moved(run, 1), expected, atol=3e-6)
    assert_trees_close(run.end.model_state, model_state)
    assert np.isclose(run.metrics[1]["retain_loss"], 0.7 * kl + 0.3 * loss, rtol=1e-4)
    assert run.metrics[1]["forget_loss"] == run.metrics[0]["forget_loss"]


def test_rounds_begin_with_max_steps_and_end_past_their_share() -> None:
    """Of eight steps, with rounds of 1 + 2 and a share of one half: 0 and 3 are max steps."""
    run = toy.runner("scrub", num_max_steps=1, num_min_steps=2, num_steps=8).run(8, max_share=0.5)
    wrote = [
        bool(np.any(flat(before.model_state) != flat(after.model_state)))
        for before, after in zip(run.states[:-1], run.states[1:], strict=True)
    ]
    assert wrote == [False, True, True, False, True, True, True, True]


def test_min_steps_without_distillation_are_finetuning() -> None:
    """And then the forget data do not matter by one bit."""
    settings = {"max_share": 0.0, "distillation_weight": 0.0}
    ours, reference = runner("scrub").run(**settings), runner("finetune").run()
    assert_trees_close(ours.end.params, reference.end.params)
    assert_trees_close(ours.end.model_state, reference.end.model_state)
    forget = toy.problem().forget
    other = runner("scrub").run(forget=forget | {"image": -forget["image"]}, **settings)
    assert_trees_equal(other.end.params, ours.end.params)


def test_the_teacher_stays_the_original_model() -> None:
    teacher = runner("scrub").run().end.opt_state.teacher
    assert_trees_equal(teacher.params, toy.problem().params)
    assert_trees_equal(teacher.model_state, toy.problem().model_state)


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
    message = "num_steps is 15, but must be at least 16, one round of scrub_r; raise it, or "
    with pytest.raises(InputError, match=message):
        methods.build(toy.TASK, "scrub_r", settings)


def test_the_target_is_a_percentage() -> None:
    with pytest.raises(InputError, match=r"target_accuracy .* is 101.0, but must be in \[0, 100\]"):
        methods.settings("scrub_r", {"target_accuracy": 101})
