"""SFR-on and its ablations, recomputed step by step; the released recipe against its numbers."""

import ast
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.methods._passes import batches_of
from jaxunlearn.transforms import SaliencyMaskState
from jaxunlearn.types import InputError, Task
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal, example_losses, flat
from tests.methods.cases import runner
from tests.methods.test_salun import mask_of
from tests.transforms import golden

NUMBERS = {
    "learning_rate": 0.1,
    "momentum": 0.8,
    "weight_decay": 0.01,
    "alpha": 2.0,
    "clip_norm": 0.5,
    "exponent": 0.7,
}


def retain_batch(n: int) -> Any:
    return toy.nth_batch(toy.problem().retain, n, toy.RETAIN_BATCH)


def sgd(params: Any, gradient: Any, buffer: Any) -> tuple[Any, Any]:
    buffer = jax.tree.map(lambda b, g, p: 0.8 * b + g + 0.01 * p, buffer, gradient, params)
    return jax.tree.map(lambda p, b: p - 0.1 * b, params, buffer), buffer


def clipped(gradient: Any, norm: float) -> Any:
    scale = min(1.0, norm / float(np.linalg.norm(flat(gradient))))
    return jax.tree.map(lambda g: scale * g, gradient)


@pytest.mark.parametrize("case", ["sfron", "sfron, FR-on", "sfron, R-on", "sfron_released"])
def test_every_step_by_hand(case: str, retain_by_hand: Any, weighted_ascent_by_hand: Any) -> None:
    """Mask, clip, forget step, two retain steps; four of T = 4 steps, the first at full alpha."""
    released = case == "sfron_released"
    own = {} if released else {"forget_learning_rate": 0.3}
    run = runner(case).run(4, **NUMBERS, **own)
    exponent = 0.0 if case == "sfron, R-on" else 0.7
    mask = jax.tree.map(np.ones_like, run.start.params)
    if case in ("sfron", "sfron_released"):
        mask = mask_of(run.start.opt_state)
        assert 0 < flat(mask).mean() < 1
    params, model_state = run.start.params, run.start.model_state
    buffer = jax.tree.map(np.zeros_like, params)
    for n in range(4):
        batch = toy.nth_batch(toy.problem().forget, n, toy.FORGET_BATCH)
        loss, gradient = weighted_ascent_by_hand(
            params, model_state, batch, exponent, 1e-15 if released else 0.25
        )
        assert np.isclose(run.metrics[n]["forget_loss"], loss, rtol=1e-4)
        alpha = 2.0 * (0.5 * (1 + math.cos(math.pi * n / 4)) if released else 1 - n / 4)
        gradient = clipped(jax.tree.map(lambda g, m, a=alpha: a * g * m, gradient, mask), 0.5)
        if released:
            params, buffer = sgd(params, gradient, buffer)
        else:
            params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)
        for i in range(2):
            loss, model_state, gradient = retain_by_hand(
                params, model_state, retain_batch(2 * n + i)
            )
            params, buffer = sgd(params, gradient, buffer)
        assert np.isclose(run.metrics[n]["retain_loss"], loss, rtol=1e-4)
        assert_trees_close(run.states[n + 1].params, params, rtol=1e-4, atol=1e-5)
        assert_trees_close(run.states[n + 1].model_state, model_state, rtol=1e-4, atol=1e-5)


def test_the_joint_ablation_by_hand(retain_by_hand: Any, weighted_ascent_by_hand: Any) -> None:
    """One momentum step along both gradients at the same weights; the forget part is clipped."""
    run = runner("sfron, R").run(4, **NUMBERS)
    params, model_state = run.start.params, run.start.model_state
    buffer = jax.tree.map(np.zeros_like, params)
    for n in range(4):
        batch = toy.nth_batch(toy.problem().forget, n, toy.FORGET_BATCH)
        _, forget = weighted_ascent_by_hand(params, model_state, batch, 0.0)
        forget = clipped(jax.tree.map(lambda g, n=n: 2.0 * (1 - n / 4) * g, forget), 0.5)
        loss, model_state, retain = retain_by_hand(params, model_state, retain_batch(n))
        params, buffer = sgd(params, jax.tree.map(np.add, forget, retain), buffer)
        assert np.isclose(run.metrics[n]["retain_loss"], loss, rtol=1e-4)
        assert_trees_close(run.states[n + 1].params, params, rtol=1e-4, atol=1e-5)
        assert_trees_close(run.states[n + 1].model_state, model_state)


@pytest.mark.parametrize("case", ["sfron", "sfron, FR-on", "sfron, R-on"])
def test_without_alpha_it_is_finetuning(case: str) -> None:
    """K fine-tuning steps for one step: weights, running mean and momentum."""
    ours, reference = runner(case).run(3, alpha=0.0), runner("finetune").run(6)
    assert_trees_close(ours.end.params, reference.end.params)
    assert_trees_close(ours.end.model_state, reference.end.model_state)
    last = [reference.metrics[n]["retain_loss"] for n in (1, 3, 5)]
    assert np.allclose([metrics["retain_loss"] for metrics in ours.metrics], last, rtol=1e-5)


def test_the_joint_ablation_without_alpha_is_finetuning() -> None:
    ours, reference = runner("sfron, R").run(3, alpha=0.0), runner("finetune").run(3)
    assert_trees_close(ours.end.params, reference.end.params)


def test_the_slow_weights_follow_part_of_the_way() -> None:
    """The running mean and the reported loss are those of the fast weights all the same."""
    full, half = (runner("sfron").run(1, slow_step_size=share) for share in (1.0, 0.5))
    expected = jax.tree.map(lambda s, e: s + 0.5 * (e - s), full.start.params, full.end.params)
    assert_trees_close(half.end.params, expected)
    assert_trees_close(half.end.model_state, full.end.model_state)
    assert np.isclose(half.metrics[0]["retain_loss"], full.metrics[0]["retain_loss"])


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("case", ["sfron", "sfron_released"])
def test_the_mask_by_hand(case: str, threshold: float, example_gradients: Any) -> None:
    """Mean squares of the gradients of examples, or of batches of four as released."""
    problem = toy.problem()

    def fisher(arrays: Any) -> np.ndarray:
        gradients = example_gradients(problem.params, problem.model_state, arrays)
        rows = np.concatenate(
            [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(gradients)], axis=1
        )
        if case == "sfron_released":
            rows = rows[batches_of(arrays, 4, jax.random.key(0))[0]].mean(axis=1)
        return np.mean(np.square(rows, dtype=np.float64), axis=0)

    ratio = fisher(problem.forget) / fisher(problem.retain)
    mask = flat(mask_of(runner(case).start(threshold=threshold).opt_state))
    clear = np.abs(ratio - threshold) > 1e-4
    np.testing.assert_array_equal(mask[clear], ratio[clear] >= threshold)
    assert clear.mean() > 0.95 and 0 < mask.mean() < 1


def test_a_threshold_of_zero_masks_nothing() -> None:
    ours, reference = runner("sfron").run(threshold=0.0), runner("sfron, FR-on").run()
    assert_trees_equal(ours.end.params, reference.end.params)


GOLDEN_TASK = Task(
    init=lambda key: ({}, {}),
    losses=lambda params, model_state, batch, key, train: (
        example_losses(params, (batch["image"], batch["label"])),
        model_state,
    ),
    predict=lambda params, model_state, batch: batch["image"],
    num_classes=4,
)


@pytest.mark.parametrize("case", [2, 3])
def test_the_released_recipe_against_its_own_numbers(case: int) -> None:
    """From the released mask to the released final weights, through the method itself."""
    numbers = golden.load("sfron_trajectory")
    config = ast.literal_eval(str(numbers[f"case{case}_config"]))
    assert config["optimizer"] == "sgd" and config["slow_step_size"] == 1.0
    every, total = config["forget_every"], config["num_steps"]

    def rate(count: jax.Array) -> jax.Array:
        cycle, within = jnp.divmod(count, every + 1)
        reference_step = cycle * every + jnp.maximum(within - 1, 0)
        return config["learning_rate"] * 0.5 * (1 + jnp.cos(jnp.pi * reference_step / total))

    method = methods.sfron_released(
        GOLDEN_TASK,
        optax.chain(
            optax.add_decayed_weights(config["weight_decay"]),
            optax.sgd(rate, momentum=config["momentum"]),
        ),
        num_steps=total // every,
        alpha=config["alpha"],
        clip_norm=config["clip_norm"],
        exponent=config["exponent"],
        threshold=config["mask_threshold"],
        num_fast_steps=every,
        mask_batch_size=8,
    )
    batches = [
        dict(zip(("image", "label"), golden.batches(numbers, part), strict=True))
        for part in ("forget", "retain")
    ]
    mask = jax.tree.map(lambda m: m != 0, golden.weights(numbers, f"case{case}_mask"))
    pick: Callable[[Any, Any], Any] = lambda stacked, n: jax.tree.map(  # noqa: E731
        lambda x: x[n % x.shape[0]], stacked
    )

    @jax.jit
    def run(params: Any) -> Any:
        flattened = [
            {k: v.reshape(-1, *v.shape[2:]) for k, v in b.items()}
            | {"index": jnp.arange(b["label"].size)}
            for b in batches
        ]
        state = method.init(jax.random.key(0), params, {}, *flattened)
        state = jax.tree.map(
            lambda node: node._replace(mask=mask) if isinstance(node, SaliencyMaskState) else node,
            state,
            is_leaf=lambda node: isinstance(node, SaliencyMaskState),
        )

        def step(state: Any, cycle: jax.Array) -> tuple[Any, None]:
            retain = pick(batches[1], cycle * every + jnp.arange(every))
            return method.step(state, pick(batches[0], cycle), retain)[0], None

        return jax.lax.scan(step, state, jnp.arange(total // every))[0].params

    params = run(jax.tree.map(jnp.asarray, golden.weights(numbers, "init")))
    expected = golden.weights(numbers, f"case{case}_final")
    np.testing.assert_allclose(flat(params), flat(expected), rtol=1e-4, atol=1e-5)


def test_unknown_variants_and_too_few_fast_steps_are_refused() -> None:
    with pytest.raises(InputError, match="'S-on', but must be one of SFR-on, FR-on, R-on, R"):
        methods.sfron(toy.TASK, optax.sgd(0.1), num_steps=1, variant="S-on")
    with pytest.raises(InputError, match="num_fast_steps is 0"):
        methods.sfron(toy.TASK, optax.sgd(0.1), num_steps=1, num_fast_steps=0)
    with pytest.raises(InputError, match="schedule is 'up', but must be one of constant, cosine"):
        methods.sfron(toy.TASK, optax.sgd(0.1), num_steps=1, alpha_schedule="up")


def test_a_forget_optimizer_of_its_own_is_adam_along_the_forget_gradient() -> None:
    """Without retain steps, the first step moves each salient weight by alpha times the rate."""
    numbers = {"learning_rate": 0.0, "forget_learning_rate": 1e-3, "alpha": 0.5}
    run = runner("sfron, two optimizers").run(1, **numbers)
    moved = flat(run.end.params) - flat(run.start.params)
    salient = np.abs(moved) > 0
    assert 0.2 < salient.mean() < 1.0
    np.testing.assert_allclose(np.abs(moved[salient]), 5e-4, rtol=1e-2)
    for shared, words in (
        ({"share_optimizer": True}, "share"),
        ({"variant": "R"}, "the variant R"),
    ):
        with pytest.raises(InputError, match=f"is 'adam', but must be 'sgd' with {words}"):
            toy.runner("sfron", forget_optimizer="adam", **shared)
