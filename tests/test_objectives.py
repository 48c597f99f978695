"""Forget objectives against closed forms, and random labels against what "random" promises."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import objectives
from jaxunlearn.types import Batch, InputError, Task
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal

KEY = jax.random.key(0)


def task_of(losses: Any, num_classes: int = 5) -> Task:
    """A task whose losses are `losses(params, batch)`."""
    return Task(
        init=lambda key: (jnp.ones(()), {}),
        losses=lambda params, state, batch, key, train: (losses(params, batch), state),
        predict=lambda params, state, batch: batch["image"],
        num_classes=num_classes,
    )


LINEAR = task_of(lambda params, batch: params * batch["image"])  # l_i = p x_i
BATCH = {"image": jnp.array([0.5, 1.0, 4.0])}


def value_and_slope(objective: objectives.Objective, p: float = 2.0) -> tuple[float, float]:
    value, slope = jax.value_and_grad(lambda p: objective(LINEAR, p, {}, BATCH, KEY))(p)
    return float(value), float(slope)


def test_ascent() -> None:
    value, slope = value_and_slope(objectives.ascent)
    assert np.isclose(value, -2.0 * 5.5 / 3) and np.isclose(slope, -5.5 / 3)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_adaptive_ascent(exponent: float) -> None:
    """`-mean c_i l_i` with `c_i` held fixed: no gradient flows through the weights."""
    losses = 2.0 * np.array([0.5, 1.0, 4.0])
    weights = losses**-exponent / np.mean(losses**-exponent)
    value, slope = value_and_slope(objectives.adaptive_ascent(exponent))
    assert np.isclose(value, -np.mean(weights * losses), rtol=1e-6)
    assert np.isclose(slope, -np.mean(weights * losses) / 2.0, rtol=1e-6)


def test_adaptive_ascent_without_exponent_is_ascent() -> None:
    assert np.allclose(
        value_and_slope(objectives.adaptive_ascent(0.0)), value_and_slope(objectives.ascent)
    )


def test_adaptive_ascent_over_a_mapped_axis() -> None:
    """Weights have mean 1 over the whole batch, whatever part of it is here."""
    whole = {"image": jnp.array([0.5, 1.0, 4.0, 0.25])}
    halves = {"image": whole["image"].reshape(2, 2)}

    def value(objective: objectives.Objective, batch: Batch) -> jax.Array:
        return objective(LINEAR, 2.0, {}, batch, KEY)

    mapped = jax.vmap(
        lambda half: value(objectives.adaptive_ascent(1.0, axis_name="i"), half), axis_name="i"
    )(halves)
    alone = jax.vmap(lambda half: value(objectives.adaptive_ascent(1.0), half))(halves)
    assert np.isclose(mapped.mean(), value(objectives.adaptive_ascent(1.0), whole))
    assert not np.isclose(alone.mean(), mapped.mean())


CLASSES = 5
REVEALING = task_of(lambda params, batch: params * batch["label"], CLASSES)


def drawn(
    index: np.ndarray, epoch: int = 0, label: Any = 0, seed: int = 0, **options: Any
) -> np.ndarray:
    """The labels that are drawn: the gradient of `mean_i p_i label_i` by p, times B."""
    size = len(index)
    batch = {
        "index": jnp.asarray(index),
        "epoch": jnp.full(size, epoch),
        "label": jnp.broadcast_to(jnp.asarray(label, jnp.int32), (size,)),
    }
    objective = objectives.random_labels(**options)
    gradient = jax.grad(lambda p: objective(REVEALING, p, {}, batch, jax.random.key(seed)))
    return np.rint(size * np.asarray(gradient(jnp.ones(size)))).astype(int)


def test_labels_are_drawn_anew_at_every_visit_or_once() -> None:
    index = np.arange(5000)
    first, second = drawn(index, 0), drawn(index, 1)
    assert 0.15 < np.mean(first == second) < 0.25  # one in five by chance
    once = [drawn(index, epoch, redraw="once") for epoch in (0, 1, 7)]
    np.testing.assert_array_equal(once[0], once[1])
    np.testing.assert_array_equal(once[0], once[2])
    np.testing.assert_array_equal(once[0], first)
    assert np.mean(first == drawn(index, 0, seed=1)) < 0.25


def test_a_label_hangs_on_its_example_alone() -> None:
    """Neither batch size nor order matters."""
    index = np.arange(5000)
    everything = drawn(index, 3)
    some = np.array([71, 5, 42])
    np.testing.assert_array_equal(drawn(some, 3), everything[some])
    np.testing.assert_array_equal(drawn(index[::-1], 3), everything[::-1])


@pytest.mark.parametrize("exclude", [False, True])
def test_labels_are_uniform(exclude: bool) -> None:
    """Over all classes, or over all but the true one, whichever that is."""
    label = np.tile(np.arange(CLASSES), 1000)
    labels = drawn(np.arange(label.size), label=label, exclude_true_label=exclude)
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (label, labels), 1 / 1000)
    expected = np.full((CLASSES, CLASSES), 0.2)
    if exclude:
        expected = (1 - np.eye(CLASSES)) / 4
        assert not np.any(labels == label)
    assert np.max(np.abs(table - expected)) < 4 * np.sqrt(0.25 * 0.75 / 1000)


def test_only_the_labels_are_replaced() -> None:
    """Augmentation still goes by the true visit, although labels are drawn once."""
    task = task_of(lambda params, batch: batch["epoch"] + 10.0 * batch["image"])
    batch = BATCH | {name: jnp.full(3, 2) for name in ("index", "epoch", "label")}
    value = objectives.random_labels("once")(task, 1.0, {}, batch, KEY)
    assert np.isclose(value, 2.0 + 55.0 / 3)


def test_a_loss_pair_is_both_losses_and_the_retain_state() -> None:
    problem = toy.problem()
    forget = toy.nth_batch(problem.forget, 0, 4)
    retain = toy.nth_batch(problem.retain, 0, 6)
    losses_fn = objectives.loss_pair(toy.TASK, objectives.ascent)
    pair, state = losses_fn(problem.params, problem.model_state, forget, retain, KEY)
    expected = toy.TASK.losses(problem.params, problem.model_state, forget, KEY, True)[0]
    assert np.isclose(pair.forget, -expected.mean())
    losses, kept = toy.TASK.losses(problem.params, problem.model_state, retain, KEY, True)
    assert np.isclose(pair.retain, losses.mean())
    assert_trees_equal(state, kept)
    other = forget | {"image": forget["image"] + 1.0}
    other_pair, other_state = losses_fn(problem.params, problem.model_state, other, retain, KEY)
    assert_trees_equal(state, other_state)
    assert other_pair.forget != pair.forget and other_pair.retain == pair.retain


def test_objectives_by_name() -> None:
    assert objectives.named("ascent") is objectives.ascent
    ours, plain = (
        value_and_slope(objectives.named("adaptive_ascent", exponent)) for exponent in (2.0, 0.0)
    )
    assert np.allclose(ours, value_and_slope(objectives.adaptive_ascent(2.0)))
    assert not np.allclose(ours, plain)
    problem = toy.problem()
    batch = toy.nth_batch(problem.forget, 0, 4)
    values = [
        objective(toy.TASK, problem.params, problem.model_state, batch, KEY)
        for objective in (objectives.named("random_labels"), objectives.random_labels())
    ]
    assert_trees_close(*values)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(InputError, match="redraw is 'daily', but must be 'every_epoch' or 'once'"):
        objectives.random_labels("daily")
    with pytest.raises(InputError, match="objective is 'forget', but must be one of ascent, adap"):
        objectives.named("forget")
