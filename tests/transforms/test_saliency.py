"""Masks, Fisher information and adaptive weights against closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import (
    adaptive_weights,
    fisher_diagonal,
    fisher_ratio_mask,
    saliency_mask,
    top_fraction_mask,
)
from tests.helpers import example_losses, examples, network

NETWORK, BATCHES = network(hidden=5), examples(1, 3, 8)


@pytest.mark.parametrize("per_example", [True, False])
def test_fisher_diagonal_is_the_mean_of_squared_gradients(per_example: bool) -> None:
    """Against a loop over examples, or over batches: the square goes inside the mean."""
    size = 1 if per_example else 8
    inputs, labels = (x.reshape(-1, size, *x.shape[2:]) for x in BATCHES)
    gradient = jax.jit(jax.grad(lambda p, *batch: jnp.mean(example_losses(p, batch))))
    gradients = [gradient(NETWORK, *batch) for batch in zip(inputs, labels, strict=True)]
    ours = jax.jit(lambda: fisher_diagonal(example_losses, NETWORK, BATCHES, per_example))()
    for name, diagonal in ours.items():
        expected = np.mean([np.square(gradient[name]) for gradient in gradients], axis=0)
        np.testing.assert_allclose(diagonal, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("per_example", [True, False])
def test_fisher_diagonal_per_example_does_not_depend_on_the_batch_size(per_example: bool) -> None:
    """24 examples as 3 batches of 8 or 8 of 3; squared batch means do depend on it."""
    data = jnp.arange(24.0)
    ours = [
        float(fisher_diagonal(lambda w, x: w * x, 1.0, data.reshape(shape), per_example))
        for shape in ((3, 8), (8, 3))
    ]
    assert (ours[0] == pytest.approx(ours[1], rel=1e-5)) == per_example


def test_fisher_diagonal_takes_indices_and_half_precision() -> None:
    """Batches may be positions that the loss looks up; the sum is always float32."""
    data = jnp.arange(6.0)
    looked_up = fisher_diagonal(
        lambda w, i: w * data[i], jnp.ones([], jnp.bfloat16), jnp.arange(6)[None]
    )
    assert looked_up.dtype == jnp.float32
    assert float(looked_up) == pytest.approx(float(jnp.mean(data**2)), rel=1e-2)


def test_fisher_ratio_mask_by_hand() -> None:
    forget, retain = jnp.array([3.0, 1.0, 0.0, 0.0]), jnp.array([1.0, 1.0, 1.0, 0.0])
    assert fisher_ratio_mask(forget, retain).tolist() == [True, True, False, False]
    assert fisher_ratio_mask(forget, retain, 3.0).tolist() == [True, False, False, False]
    assert fisher_ratio_mask(forget, retain, 3.1).tolist() == [False] * 4
    assert fisher_ratio_mask(forget, retain, 0.0).tolist() == [True] * 4
    assert fisher_ratio_mask(forget, retain, 1.0, epsilon=1.0).tolist() == [True] + [False] * 3


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1 / 3, 0.5, 1.0])
def test_top_fraction_mask_counts_over_the_whole_tree(fraction: float) -> None:
    mask = top_fraction_mask(NETWORK, fraction)
    size = sum(leaf.size for leaf in jax.tree.leaves(NETWORK))
    values, marked = (
        np.concatenate([np.abs(leaf).ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (NETWORK, mask)
    )
    assert marked.sum() == int(np.floor(np.float32(size) * np.float32(fraction)))
    if 0 < marked.sum() < size:
        assert values[marked > 0].min() >= values[marked == 0].max()
    assert jax.tree.structure(mask) == jax.tree.structure(NETWORK)


def test_top_fraction_mask_breaks_ties_by_position_and_takes_traced_fractions() -> None:
    ties = {"a": jnp.ones(3), "b": -jnp.ones(3)}
    for function in (top_fraction_mask, jax.jit(top_fraction_mask)):
        mask = function(ties, 0.5)
        assert mask["a"].tolist() == [True] * 3 and mask["b"].tolist() == [False] * 3


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
def test_adaptive_weights_by_hand(exponent: float) -> None:
    losses = np.array([0.1, 1.0, 4.0])
    expected = losses**-exponent / np.mean(losses**-exponent)
    np.testing.assert_allclose(adaptive_weights(jnp.array(losses), exponent), expected, rtol=1e-6)


def test_adaptive_weights_carry_no_gradient() -> None:
    gradient = jax.grad(lambda x: jnp.sum(adaptive_weights(x, 1.0) * x))(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(gradient, [1.5, 0.5], rtol=1e-6)  # the weights alone


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_adaptive_weights_survive_a_loss_of_zero(dtype: Any) -> None:
    weights = adaptive_weights(jnp.array([0.0, 1.0], dtype), 1.0)
    assert np.all(np.isfinite(np.asarray(weights, np.float32)))
    np.testing.assert_allclose(np.asarray(weights, np.float32), [2.0, 0.0], atol=1e-2)


def test_a_mask_before_the_optimizer_masks_gradients_and_after_it_the_step() -> None:
    """Momentum and weight decay move masked entries in the first order and not in the second."""
    params, grads = {"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([1.0, 1.0])}
    mask = saliency_mask({"w": jnp.array([True, False])})
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    for tx, moves in ((optax.chain(mask, optimizer), True), (optax.chain(optimizer, mask), False)):
        updates, _ = tx.update(grads, tx.init(params), params)
        assert (float(updates["w"][1]) != 0.0) == moves
        assert float(updates["w"][0]) != 0.0


def test_masked_out_non_finite_updates_are_stopped() -> None:
    """A selection, not a product: NaN times zero would still be NaN."""
    tx = saliency_mask({"w": jnp.array([True, False])})
    updates, _ = tx.update({"w": jnp.array([1.0, jnp.nan])}, tx.init({"w": jnp.ones(2)}))
    assert updates["w"].tolist() == [1.0, 0.0]


def test_a_mask_costs_one_byte_per_parameter_and_is_an_argument() -> None:
    """It lives in the state as booleans; the compiled step holds no copy of it as a constant."""
    params = {"w": jnp.ones((300, 200))}
    mask = np.random.default_rng(0).integers(0, 2, (300, 200))
    tx = saliency_mask({"w": mask.astype(np.float32)})
    state = tx.init(params)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == 300 * 200
    text = jax.jit(lambda u, s: tx.update(u, s)).lower(params, state).as_text()
    assert len(text) < 10_000
