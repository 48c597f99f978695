"""MSG re-draws the weights of least gradients and no others; CT swaps height and width."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods, models, tasks
from jaxunlearn.methods._build import Start
from jaxunlearn.methods.kernels import least_gradients
from jaxunlearn.types import InputError, Task
from tests import toy
from tests.methods.cases import runner

KEY = jax.random.key(0)
PLAIN = {"learning_rate": 0.3, "momentum": 0.0, "weight_decay": 0.0}


@functools.cache
def convolutional() -> Task:
    """A tiny network with convolutions, biases and norms."""
    model = models.create("resnet-tiny", 3)
    return tasks.classification(model, image_shape=(8, 8, 1), num_classes=3)


def sums(params: Any, model_state: Any, arrays: Any) -> Any:
    def total(p: Any) -> jax.Array:
        batch = arrays | {"epoch": 0 * arrays["index"]}
        return jnp.sum(toy.TASK.losses(p, model_state, batch, KEY, False)[0])

    return jax.grad(total)(params)


def test_msg_redraws_exactly_the_least_gradients() -> None:
    """With a retain set as large as the forget set, R_s is all of it, in any order."""
    params, model_state, forget, retain = toy.problem()
    few = {name: leaf[: toy.NUM_FORGET] for name, leaf in retain.items()}
    start = Start(KEY, params, model_state, forget, few)
    gradient = jax.tree.map(jnp.subtract, *(sums(params, model_state, x) for x in (few, forget)))
    mask = least_gradients(toy.TASK, start, fraction=0.3, batch_size=5)
    assert not np.any(mask["head"]["bias"])
    for chosen, g in (
        (mask["kernel"], gradient["kernel"]),
        (mask["head"]["kernel"], gradient["head"]["kernel"]),
    ):
        assert chosen.sum() == round(0.3 * g.size)
        assert np.abs(g)[chosen].max() <= np.abs(g)[~chosen].min()
    method = methods.build(toy.TASK, "msg", methods.settings("msg", {"mask_batch_size": 5}))
    state = method.init(*start)
    for leaf in ("kernel", "bias"):
        moved = state.params["head"][leaf] != params["head"][leaf]
        np.testing.assert_array_equal(moved, mask["head"][leaf])
    fresh = state.params["kernel"][mask["kernel"]]
    assert 0.1 < np.std(fresh) < 2 * np.sqrt(2 / toy.INPUTS)


def test_msg_moves_old_weights_by_a_tenth_of_their_gradient(retain_by_hand: Any) -> None:
    run = runner("msg").run(1, **PLAIN)
    batch = toy.nth_batch(toy.problem().retain, 0, toy.RETAIN_BATCH)
    _, _, grads = retain_by_hand(run.start.params, run.start.model_state, batch)
    mask = run.start.opt_state[1]
    expected = jax.tree.map(
        lambda p, g, m: p - 0.3 * np.where(m, 1.0, 0.1) * g, run.start.params, grads, mask
    )
    for ours, theirs in zip(
        jax.tree.leaves(run.end.params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_ct_swaps_height_and_width_and_nothing_else() -> None:
    task = convolutional()
    params, model_state = task.init(KEY)
    method = methods.build(task, "ct", methods.settings("ct"))
    state = method.init(KEY, params, model_state, {}, {})
    swapped = 0
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        if theirs.ndim == 4 and theirs.shape[0] > 1:
            swapped += 1
            np.testing.assert_array_equal(ours, np.swapaxes(theirs, 0, 1))
            assert np.any(ours != theirs)
        else:
            np.testing.assert_array_equal(ours, theirs)
    assert swapped > 1


def test_ct_refuses_models_without_convolutions() -> None:
    with pytest.raises(InputError, match="method ct needs a model that has square convolutions"):
        methods.build(toy.TASK, "ct", methods.settings("ct"))


def test_msg_refuses_models_whose_kernels_it_does_not_know() -> None:
    """It would re-draw nothing, and train at a tenth of the rate."""
    task = toy.TASK._replace(init=lambda key: ({"w": jnp.ones((3, 2))}, {}))
    with pytest.raises(InputError, match="method msg re-draws .*named kernel or weight"):
        methods.build(task, "msg", methods.settings("msg"))
