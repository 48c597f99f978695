"""A part of the parameters, or adapters on them, moves alone; the rest stays bit-equal."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxunlearn import methods, models
from jaxunlearn.tasks import classification
from jaxunlearn.tasks.trainable_subset import trainable_subset
from jaxunlearn.types import InputError
from tests import toy_diffusion
from tests.methods.test_salun import mask_of

pytestmark = pytest.mark.long

KEY = jax.random.key(0)
MODEL = models.create("resnet-tiny", 3)  # it has BatchNorm
TASK = classification(MODEL, image_shape=(8, 8, 1), num_classes=3)
BATCH = {
    "image": jax.random.uniform(KEY, (4, 8, 8, 1)),
    "label": jnp.array([0, 1, 2, 0]),
    "index": jnp.arange(4),
    "epoch": jnp.zeros(4, jnp.int32),
}


@pytest.fixture(scope="module")
def whole():
    params, model_state = jax.jit(TASK.init)(KEY)
    noisy = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(KEY, x.shape), params)
    return noisy, model_state


def after(task, start, steps=3, **settings):
    chosen = methods.settings("sfron", {"num_fast_steps": 1, "mask_batch_size": 4, **settings})
    method = methods.build(task, "sfron", chosen)
    arrays = {name: values for name, values in BATCH.items() if name != "epoch"}
    state = method.init(KEY, *start, arrays, arrays)
    stacked = jax.tree.map(lambda x: x[None], BATCH)
    step = jax.jit(method.step)
    for _ in range(steps):
        state, _ = step(state, BATCH, stacked)
    return state.params, state.model_state


@pytest.mark.parametrize("rank", [0, 2])
def test_splitting_changes_no_answer(whole, rank):
    part = trainable_subset(TASK, "head|conv", rank)
    split = part.split(*whole, KEY)
    chex.assert_trees_all_equal(part.merge(*split), whole)
    chex.assert_trees_all_equal(part.task.predict(*split, BATCH), TASK.predict(*whole, BATCH))
    losses, state = part.task.losses(*split, BATCH, KEY, True)
    expected, expected_state = TASK.losses(*whole, BATCH, KEY, True)
    chex.assert_trees_all_equal(losses, expected)
    chex.assert_trees_all_equal(part.merge(split[0], state)[1], expected_state)


def test_the_rest_stays_bit_equal_and_statistics_are_written(whole):
    part = trainable_subset(TASK, "^head")
    params, model_state = part.merge(*after(part.task, part.split(*whole, KEY), weight_decay=0.1))
    before, now = (flatten_dict(tree, sep="/") for tree in (whole[0], params))
    for path, value in now.items():
        assert np.array_equal(value, before[path]) == (not path.startswith("head")), path
    moved = jax.tree.map(lambda x, y: bool(jnp.any(x != y)), whole[1], model_state)
    assert all(jax.tree.leaves(moved))


def test_moving_everything_is_what_it_is_without(whole):
    part = trainable_subset(TASK, "")
    found = part.merge(*after(part.task, part.split(*whole, KEY)))
    chex.assert_trees_all_close(found, after(TASK, whole), rtol=1e-5, atol=1e-6)


def test_adapters_move_matching_kernels_by_a_low_rank(whole):
    part = trainable_subset(TASK, "block.*conv|head", 2)
    small, state = part.split(*whole, KEY)
    assert sum(x.size for x in jax.tree.leaves(small)) < 0.5 * sum(
        x.size for x in jax.tree.leaves(whole[0])
    )
    params, _ = part.merge(*after(part.task, (small, state), learning_rate=0.1))
    before, now = (flatten_dict(tree, sep="/") for tree in (whole[0], params))
    changed = {path for path in now if not np.array_equal(now[path], before[path])}
    assert changed == {path.rpartition("/")[0] for path in flatten_dict(small, sep="/")}
    for path in changed:
        difference = np.asarray(now[path] - before[path], np.float64)
        values = np.linalg.svd(difference.reshape(-1, difference.shape[-1]), compute_uv=False)
        assert values[2:].max(initial=0.0) < 1e-5 * values[0] + 1e-7


def test_saliency_of_adapters_is_that_of_the_kernels_they_change(whole):
    """Row by row for `down` and column by column for `up`; the losses are the same bits."""
    part = trainable_subset(TASK, "head", 3)
    seen_losses = part.task.saliency_losses
    small, state = part.split(*whole, KEY)
    losses = (f(small, state, BATCH, KEY, False)[0] for f in (part.task.losses, seen_losses))
    chex.assert_trees_all_equal(*losses)
    kernel = jax.grad(lambda p: TASK.losses(p, whole[1], BATCH, KEY, False)[0][0])(whole[0])
    factors = jax.grad(lambda p: seen_losses(p, state, BATCH, KEY, False)[0][0])(small)
    kernel, factors = (flatten_dict(tree, sep="/") for tree in (kernel, factors))
    (path,) = {path.rpartition("/")[0] for path in factors}
    # Both are projections of the kernel's gradient: of rank one for one example, as it is.
    left, right = np.linalg.svd(kernel[path])[0][:, 0], np.linalg.svd(kernel[path])[2][0]
    for name, direction in (("down", left), ("up", right)):
        found = factors[f"{path}/{name}"]
        found = found if name == "down" else found.T
        cosines = np.abs(direction @ found) / np.linalg.norm(found, axis=0)
        np.testing.assert_allclose(cosines, 1.0, rtol=1e-4)
    moved = jax.tree.map(lambda x: x + 0.1, small)
    plain = jax.grad(lambda p: part.task.losses(p, state, BATCH, KEY, False)[0][0])(moved)
    seen = jax.grad(lambda p: seen_losses(p, state, BATCH, KEY, False)[0][0])(moved)
    chex.assert_trees_all_close(plain, seen, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["sfron", "sfron_released", "eupmu_sfron", "salun"])
def test_masks_let_a_part_of_both_factors_through(whole, name):
    part = trainable_subset(TASK, "block.*conv|head", 2)
    settings = methods.settings(name, {"mask_batch_size": 3})
    method = methods.build(part.task, name, settings)
    arrays = {name: values for name, values in BATCH.items() if name != "epoch"}
    forget = {name: values[:3] for name, values in arrays.items()}
    state = jax.jit(method.init)(KEY, *part.split(*whole, KEY), forget, arrays)
    for factor in ("down", "up"):
        leaves = [
            np.ravel(leaf)
            for path, leaf in flatten_dict(mask_of(state.opt_state), sep="/").items()
            if path.endswith(factor)
        ]
        assert 0.05 < np.concatenate(leaves).mean() < 0.95


def test_diffusion_can_be_narrowed_too():
    task = toy_diffusion.toy()
    part = trainable_subset(task, "Embed")
    start = part.split(*task.init(KEY), KEY)
    batch = toy_diffusion.batch_of()
    chex.assert_trees_all_equal(
        part.task.forget_losses(*start, batch, KEY, True)[0],
        task.forget_losses(*task.init(KEY), batch, KEY, True)[0],
    )
    chex.assert_trees_all_equal(
        part.task.outputs(*start, batch, KEY, True)[0],
        task.outputs(*task.init(KEY), batch, KEY, True)[0],
    )


@pytest.mark.parametrize(
    ("pattern", "rank", "words"),
    [
        ("(", 0, "but must be a regular expression"),
        ("tail", 0, "'tail', but must match a parameter of the model: .*[a-z]\\.$"),
        ("bias", 2, "must match a kernel"),
        (
            "head",
            9,
            r"adapter_rank is 9, but must be at most 3 for head/.*kernel of shape \(.*, 3\)",
        ),
    ],
)
def test_what_cannot_move_is_refused(pattern, rank, words):
    with pytest.raises(InputError, match=words):
        trainable_subset(TASK, pattern, rank)
