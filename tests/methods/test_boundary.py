"""Boundary unlearning: the nearest wrong class, and a shadow class that is dropped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.methods._build import Start
from jaxunlearn.methods.boundary import nearest_wrong_labels
from jaxunlearn.tasks.classification import kl_divergence
from jaxunlearn.types import Batch, Task
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal
from tests.methods.cases import runner

PLAIN = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
KEY = jax.random.key(0)


def linear_task() -> Task:
    """Logits are a linear map of float images or, over 255, of uint8 ones: `[B, 5] -> [B, 4]`."""

    def outputs(params: Any, state: Any, batch: Batch, key: Any, train: bool) -> Any:
        assert not train
        images = batch["image"]
        images = images / 255.0 if images.dtype == jnp.uint8 else images
        return images @ params, state

    def losses(params: Any, state: Any, batch: Batch, key: Any, train: bool) -> Any:
        logits, _ = outputs(params, state, batch, key, train)
        labels = batch["label"][:, None]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels, axis=1)[:, 0], state

    def unused(*args: Any) -> Any:
        raise AssertionError

    return Task(unused, losses, unused, 4, outputs, kl_divergence)


def test_labels_are_the_likeliest_wrong_class_after_fgsm() -> None:
    """Against numpy, for uint8 images too, and for more examples than are attacked at once."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 4))
    pixels = rng.integers(0, 256, size=(300, 5)).astype(np.uint8)
    images, labels = pixels / 255, rng.integers(0, 4, size=300)

    def by_hand(attack_size: float) -> np.ndarray:
        p = np.exp(images @ weights)
        p /= p.sum(axis=1, keepdims=True)
        attacked = images + attack_size * np.sign((p - np.eye(4)[labels]) @ weights.T)
        return np.argmax(np.where(np.eye(4)[labels] == 1, -np.inf, attacked @ weights), axis=1)

    params = jnp.asarray(weights, jnp.float32)
    ours = {}
    for attack_size in (0.0, 0.3):
        for kind in (jnp.uint8, jnp.float32):
            arrays = {
                "image": jnp.asarray(pixels if kind == jnp.uint8 else images, kind),
                "label": jnp.asarray(labels, jnp.int32),
                "index": jnp.arange(300, dtype=jnp.int32),
            }
            ours[attack_size] = nearest_wrong_labels(
                linear_task(), Start(KEY, params, {}, arrays, {}), attack_size
            )
            np.testing.assert_array_equal(ours[attack_size], by_hand(attack_size))
    assert not np.any(ours[0.3] == labels)
    assert np.sum(ours[0.3] != ours[0.0]) > 5  # the attack matters


def test_steps_fit_the_forget_data_to_the_new_labels(retain_by_hand: Callable[..., Any]) -> None:
    """Found once, at the original weights, and looked up by the number of the example."""
    problem = toy.problem()
    run = runner("boundary_shrinking").run(3, attack_size=0.5, **PLAIN)
    labels = nearest_wrong_labels(toy.TASK, Start(KEY, *problem), 0.5)
    assert not np.any(labels == problem.forget["label"])
    relabelled = problem.forget | {"label": labels}
    for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        batch = toy.nth_batch(relabelled, n, toy.FORGET_BATCH)
        loss, _, gradient = retain_by_hand(before.params, before.model_state, batch)
        moved = jax.tree.map(lambda x, y: (x - y) / 0.1, before.params, after.params)
        assert_trees_close(moved, gradient, atol=3e-6)
        assert np.isclose(run.metrics[n]["forget_loss"], loss, rtol=1e-4)
    assert_trees_equal(run.end.model_state, run.start.model_state)


def test_the_order_of_the_forget_data_does_not_matter() -> None:
    params, model_state, forget, retain = toy.problem()
    turned = {name: values[::-1] for name, values in forget.items()}
    method = runner("boundary_shrinking")
    numbers, batch = method._all({}), toy.nth_batch(forget, 0, toy.FORGET_BATCH)
    stacked = toy.nth_retain_batches(retain, 0, 1)
    ends = [
        method.step(
            numbers, method.init(numbers, KEY, params, model_state, arrays, retain), batch, stacked
        )
        for arrays in (forget, turned)
    ]
    assert_trees_equal(ends[0][0].params, ends[1][0].params)


def test_steps_descend_the_loss_against_the_shadow_class() -> None:
    """Weights and shadow together, on forget data alone."""
    run = runner("boundary_expanding").run(3, **PLAIN)

    @jax.jit
    def by_hand(both: Any, model_state: Any, batch: Any) -> Any:
        def loss_fn(both: Any) -> jax.Array:
            assert toy.TASK.outputs is not None
            params, (kernel, bias) = both
            logits, _ = toy.TASK.outputs(params, model_state, batch, jax.random.key(0), True)
            shadow = jnp.sum(logits * kernel[None], axis=1) + bias
            everything = jnp.sum(jnp.exp(logits), axis=1) + jnp.exp(shadow)
            return jnp.mean(jnp.log(everything) - shadow)

        return jax.value_and_grad(loss_fn)(both)

    def both_of(state: Any) -> Any:
        shadow = state.opt_state[1]
        return state.params, (shadow["kernel"], shadow["bias"])

    for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        batch = toy.nth_batch(toy.problem().forget, n, toy.FORGET_BATCH)
        loss, gradient = by_hand(both_of(before), before.model_state, batch)
        moved = jax.tree.map(lambda x, y: (x - y) / 0.1, both_of(before), both_of(after))
        assert_trees_close(moved, gradient, atol=3e-6)
        assert np.isclose(run.metrics[n]["forget_loss"], loss, rtol=1e-4)
    assert_trees_equal(run.end.model_state, run.start.model_state)


def test_what_comes_out_is_a_model_of_the_same_classes() -> None:
    """It has forgotten what the shadow class took in: the true class becomes less likely."""
    problem = toy.problem()
    end = runner("boundary_expanding").run(12, **PLAIN).end
    assert jax.tree.structure(end.params) == jax.tree.structure(problem.params)
    batch = problem.forget | {"epoch": jnp.zeros(toy.NUM_FORGET, jnp.int32)}

    def true_class(params: Any) -> float:
        p = toy.TASK.predict(params, problem.model_state, batch)
        assert p.shape == (toy.NUM_FORGET, toy.CLASSES)
        return float(jnp.mean(p[jnp.arange(toy.NUM_FORGET), batch["label"]]))

    assert true_class(end.params) < true_class(problem.params)


def test_the_shadow_is_drawn_by_the_key() -> None:
    first, again, other = (runner("boundary_expanding").start(seed) for seed in (0, 0, 1))
    assert_trees_equal(first.opt_state[1], again.opt_state[1])
    assert np.all(first.opt_state[1]["kernel"] != other.opt_state[1]["kernel"])
    assert float(first.opt_state[1]["bias"]) == 0.0
