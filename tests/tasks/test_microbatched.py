"""Micro-batches: the same numbers as the whole batch, for whatever a method makes of the losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import models, multiplier
from jaxunlearn.tasks import classification
from jaxunlearn.tasks.microbatched import check_micro_batch, microbatched
from jaxunlearn.tasks.trainable_subset import trainable_subset
from jaxunlearn.training.devices import make_mesh, replicate, split_batch
from jaxunlearn.types import InputError
from tests import toy, toy_diffusion
from tests.helpers import assert_trees_close, assert_trees_equal, relative_error

KEY = jax.random.key(0)
CLASSIFIER, DENOISER = toy.WITHOUT_STATISTICS, toy_diffusion.toy()


def batch_of(size):
    return toy.nth_batch(toy.problem().retain, 0, size)


@pytest.mark.parametrize(
    ("task", "batch", "names"),
    [
        (CLASSIFIER, batch_of(12), ("losses", "outputs", "predict")),
        (DENOISER, toy_diffusion.batch_of(12), ("forget_losses",)),
    ],
    ids=["classifier", "denoiser"],
)
def test_values_and_gradients_are_those_of_the_whole_batch(task, batch, names):
    """Under any weights of the examples; what is drawn for an example is drawn all the same."""
    params, _ = task.init(KEY)

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(task, params):
        def value(name):
            rest = () if name == "predict" else (KEY, True)
            return lambda p: jax.tree.leaves(getattr(task, name)(p, {}, batch, *rest))[0]

        found = {}
        for name in names:
            values, pull = jax.vjp(value(name), params)
            weights = jnp.cos(jnp.arange(values.size, dtype=jnp.float32)).reshape(values.shape)
            found[name] = values, *pull(weights)
        return found

    whole = values_and_gradients(task, params)
    assert_trees_close(values_and_gradients(microbatched(task, 4), params), whole)


def test_a_batch_that_is_no_multiple_is_computed_whole():
    params, batch = toy.problem().params, batch_of(7)
    for size in (2, 7, 9):
        small = microbatched(CLASSIFIER, size)
        assert_trees_equal(small.predict(params, {}, batch), CLASSIFIER.predict(params, {}, batch))


@functools.cache
def eupmu(micro_batch):
    task = microbatched(CLASSIFIER, micro_batch) if micro_batch else CLASSIFIER
    return toy.Runner("eupmu", {"estimator": "same_batch"}, task)


def test_a_step_is_that_of_the_whole_batch():
    """Forget batches of 4 and retain batches of 6, by two examples at once.

    `experiments/benchmarks/memory.py` compares the steps of all methods.
    """
    whole, small = (eupmu(size).run(tolerance=-1.0).end for size in (0, 2))
    assert relative_error(small.params, whole.params) < 1e-6
    found, expected = multiplier(small.opt_state), multiplier(whole.opt_state)
    assert expected > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_micro_batches_are_split_over_devices():
    """No example moves to another device for it: there is no collective but reductions."""
    mesh, split = make_mesh(2), eupmu(2)
    numbers = {name: jnp.float32(value) for name, value in split.numbers.items()}
    forget = toy.nth_batch(toy.problem().forget, 0, toy.FORGET_BATCH)
    retain = toy.nth_retain_batches(toy.problem().retain, 0, 1)

    @jax.jit
    def step(state, forget, retain):
        batches = split_batch(forget, mesh), split_batch(retain, mesh, axis=1)
        return split.build(numbers).step(state, *batches)[0].params

    args = replicate((split.start(), forget, retain), mesh)
    compiled = step.lower(*args).compile()
    text = compiled.as_text()
    assert "all-reduce" in text
    assert not any(word in text for word in ("all-to-all", "collective-permute", "all-gather"))
    assert relative_error(compiled(*args), split.run(1).end.params) < 1e-6


def test_parts_of_a_model_move_in_micro_batches_too():
    part, batch = trainable_subset(CLASSIFIER, "head"), batch_of(8)
    start = part.split(toy.problem().params, {}, KEY)
    losses, state = microbatched(part.task, 4).losses(*start, batch, KEY, False)
    assert_trees_close(losses, part.task.losses(*start, batch, KEY, False)[0])
    assert_trees_equal(state, start[1])


def test_memory_is_that_of_a_micro_batch():
    """The hidden layer, of 8 units here, is the largest array."""
    params, batch = toy.problem().params, batch_of(2**16)

    def temporary(task):
        def loss(params):
            return jnp.mean(task.losses(params, {}, batch, KEY, False)[0])

        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(microbatched(CLASSIFIER, 64)) < 0.5 * temporary(CLASSIFIER)


def test_what_has_no_micro_batches_is_refused():
    resnet = classification(models.create("resnet-tiny", 3), image_shape=(8, 8, 1), num_classes=3)
    with pytest.raises(
        InputError, match="micro_batch is 4, but must be 0 .* statistics .* norm=group"
    ):
        microbatched(resnet, 4)
    with pytest.raises(InputError, match="micro_batch is 3, but must be even .* take 4"):
        microbatched(DENOISER, 3)
    with pytest.raises(InputError, match="micro_batch is -1, but must be 1 or more"):
        microbatched(CLASSIFIER, -1)


def test_batches_are_whole_numbers_of_micro_batches_or_smaller():
    check_micro_batch(16, forget_batch_size=8, retain_batch_size=48)
    check_micro_batch(0, forget_batch_size=7)
    with pytest.raises(
        InputError, match="retain_batch_size is 40, .* of micro_batch, 16, or .* 32"
    ):
        check_micro_batch(16, forget_batch_size=8, retain_batch_size=40)
