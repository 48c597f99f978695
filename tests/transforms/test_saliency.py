"""Masks, Fisher information and adaptive weights against closed forms."""

import math
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


@pytest.mark.parametrize("clip_norm", [None, 1.5])
@pytest.mark.parametrize("per_example", [True, False])
def test_fisher_diagonal_is_the_mean_of_squared_gradients(
    per_example: bool, clip_norm: float | None
) -> None:
    """Against a loop over examples, or over batches: the square goes inside the mean."""
    size = 1 if per_example else 8
    inputs, labels = (x.reshape(-1, size, *x.shape[2:]) for x in BATCHES)
    gradient = jax.jit(jax.grad(lambda p, *batch: jnp.mean(example_losses(p, batch))))
    gradients = [gradient(NETWORK, *batch) for batch in zip(inputs, labels, strict=True)]
    if clip_norm is not None:
        norms = [float(optax.tree.norm(gradient)) for gradient in gradients]
        assert min(norms) < clip_norm < max(norms) or not per_example
        shrink = [min(1.0, clip_norm / norm) for norm in norms]
        gradients = [
            jax.tree.map(lambda x, s=s: s * x, g) for g, s in zip(gradients, shrink, strict=True)
        ]
    ours = jax.jit(
        lambda: fisher_diagonal(example_losses, NETWORK, BATCHES, per_example, clip_norm=clip_norm)
    )()
    for name, diagonal in ours.items():
        expected = np.mean([np.square(gradient[name]) for gradient in gradients], axis=0)
        np.testing.assert_allclose(diagonal, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("padding", [0.0, jnp.nan])
@pytest.mark.parametrize("per_example", [True, False])
def test_a_last_incomplete_batch_counts_by_its_examples(per_example: bool, padding: float) -> None:
    """Seven examples in batches of three, and a batch of padding: w x has the gradient x."""
    data = jnp.arange(1.0, 8.0)
    full = padding if per_example else 0.0  # a batch is differentiated as one
    batches = jnp.concatenate([data, jnp.full(5, full)]).reshape(4, 3)
    weights = (jnp.arange(12) < 7).reshape(4, 3)
    ours = fisher_diagonal(lambda w, x: w * x, 1.0, batches, per_example, weights=weights)
    if per_example:
        expected = np.mean(np.arange(1, 8) ** 2)
    else:
        expected = (3 * 2.0**2 + 3 * 5.0**2 + 1 * 7.0**2) / 7
    assert float(ours) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 47])
def test_the_diagonal_of_47_examples_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    inputs, labels = (x.reshape(-1, *x.shape[2:])[:47] for x in examples(2, 6, 8))
    places = np.arange(-(-47 // batch_size) * batch_size).reshape(-1, batch_size)
    batches = inputs[places % 47], labels[places % 47]
    ours = jax.jit(lambda: fisher_diagonal(example_losses, NETWORK, batches, weights=places < 47))()
    expected = fisher_diagonal(example_losses, NETWORK, (inputs[None], labels[None]))
    for name in expected:
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5, atol=1e-9)


def test_gradients_of_single_examples_are_held_a_few_at_once() -> None:
    """Off CPUs too: 64 of 8 M parameters take 2 GiB, and half of that is allowed."""
    params = {"w": jnp.zeros((4000, 2000))}
    batches = jnp.zeros((1, 64, 4000))
    program = jax.jit(lambda p, b: fisher_diagonal(lambda p, x: jnp.sum(x @ p["w"], axis=1), p, b))
    text = program.trace(params, batches).lower(lowering_platforms=("cuda",)).as_text()
    assert "32x4000x2000xf32" in text and "64x4000x2000xf32" not in text


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
    assert fisher_ratio_mask(forget, retain).tolist() == [True, True, False, True]
    assert fisher_ratio_mask(forget, retain, threshold=3.0).tolist() == [True, False, False, False]
    assert fisher_ratio_mask(forget, retain, threshold=3.1).tolist() == [False] * 4
    assert fisher_ratio_mask(forget, retain, threshold=0.0).tolist() == [True] * 4
    # (3 + 1) / (1 + 1), 1, 1 / 2 and 1
    marked = fisher_ratio_mask(forget, retain, threshold=2.0, epsilon=1.0)
    assert marked.tolist() == [True, False, False, False]
    # Far below epsilon the ratio is 1, whatever it is without.
    assert fisher_ratio_mask(jnp.array([1e-27]), jnp.array([1e-24]), threshold=1.0).tolist() == [
        True
    ]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1 / 3, 0.5, 1.0])
def test_top_fraction_mask_counts_over_the_whole_tree(fraction: float) -> None:
    mask = top_fraction_mask(NETWORK, fraction)
    size = sum(leaf.size for leaf in jax.tree.leaves(NETWORK))
    values, marked = (
        np.concatenate([np.abs(leaf).ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (NETWORK, mask)
    )
    assert marked.sum() == math.floor(size * fraction)
    if 0 < marked.sum() < size:
        assert values[marked > 0].min() >= values[marked == 0].max()
    assert jax.tree.structure(mask) == jax.tree.structure(NETWORK)


@pytest.mark.long
def test_top_fraction_mask_is_exact_where_float32_counts_no_further() -> None:
    """2^24 + 1 entries, which float32 rounds to 2^24."""
    tree = {"a": jnp.zeros(2**24 - 4).at[7].set(-2.0), "b": jnp.zeros(5)}
    mask = jax.jit(lambda g: top_fraction_mask(g, 1.0))(tree)
    assert all(bool(jnp.all(leaf)) for leaf in mask.values())


def test_top_fraction_mask_holds_no_sorted_copy() -> None:
    """At most seven bytes per entry, in one leaf or in many."""
    for leaves in (1, 8):
        tree = [jnp.zeros((2**10, 2**10 // leaves))] * leaves
        compiled = jax.jit(lambda g: top_fraction_mask(g, 0.3)).lower(tree).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 7 * 2**20


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_top_fraction_mask_is_that_of_a_stable_sort(dtype: Any, fraction: float) -> None:
    """With ties, zeros of both signs and infinities, in leaves of any shape."""
    rng = np.random.default_rng(0)
    values = rng.integers(-3, 4, 61) * 10.0 ** rng.integers(-3, 2, 61)
    values[[5, 17]] = np.inf, -0.0
    tree = {"s": values[0], "m": values[1:41].reshape(5, 8), "v": values[41:]}
    tree = jax.tree.map(
        lambda x: jnp.asarray(x, dtype), {"a": tree["s"], "b": tree["m"], "c": tree["v"]}
    )
    flat = np.concatenate([np.ravel(np.asarray(x, np.float32)) for x in tree.values()])
    order = np.argsort(-np.abs(flat), kind="stable")[: math.floor(fraction * 61)]
    expected = np.isin(np.arange(61), order)
    for function in (top_fraction_mask, jax.jit(top_fraction_mask)):
        ours = function(tree, fraction)
        assert [m.shape for m in ours.values()] == [(), (5, 8), (20,)]
        np.testing.assert_array_equal(
            np.concatenate([np.ravel(m) for m in ours.values()]), expected
        )


def test_top_fraction_mask_breaks_ties_by_position_and_takes_traced_fractions() -> None:
    ties = {"a": jnp.ones(3), "b": -jnp.ones(3)}
    for function in (top_fraction_mask, jax.jit(top_fraction_mask)):
        mask = function(ties, 0.5)
        assert mask["a"].tolist() == [True] * 3 and mask["b"].tolist() == [False] * 3


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
def test_adaptive_weights_by_hand(exponent: float) -> None:
    losses = np.array([0.1, 1.0, 4.0])
    for epsilon in (0.0, 0.25, 3.0):
        coefficients = 1 / (losses**exponent + epsilon)
        ours = adaptive_weights(jnp.array(losses), exponent, epsilon=epsilon)
        np.testing.assert_allclose(ours, coefficients / np.mean(coefficients), rtol=1e-6)


def test_adaptive_weights_carry_no_gradient() -> None:
    gradient = jax.grad(lambda x: jnp.sum(adaptive_weights(x, 1.0, epsilon=0.0) * x))(
        jnp.array([1.0, 3.0])
    )
    np.testing.assert_allclose(gradient, [1.5, 0.5], rtol=1e-6)  # the weights alone


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_adaptive_weights_survive_a_loss_of_zero(dtype: Any) -> None:
    weights = adaptive_weights(jnp.array([0.0, 1.0], dtype), 1.0, epsilon=1e-15)
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


@pytest.mark.parametrize("exponent", [0.5, 1.0])
@pytest.mark.parametrize("others", [1e-6, 0.1, 1.0, 4.0])
@pytest.mark.parametrize("forgotten", [0.0, 1e-13])
def test_examples_without_a_loss_leave_the_others_their_gradient(
    forgotten: float, others: float, exponent: float
) -> None:
    """Two of four: at least 5% of the gradient that the other two have alone.

    The published weights leave them nothing: that is what epsilon is for.
    """

    def share(**settings: Any) -> float:
        def gradient(losses: jax.Array) -> jax.Array:
            weights = adaptive_weights(losses, exponent, **settings)
            return jnp.sum(weights * losses) / jnp.sum(weights > 0) / jnp.max(losses)

        batch = jnp.array([forgotten, forgotten, others, 1.1 * others])
        return float(gradient(batch) / gradient(batch[2:]))

    assert share() > 0.05
    if others >= 0.1:
        assert share(epsilon=1e-15) < 1e-4


def test_a_mask_is_put_into_the_state() -> None:
    """Without one everything passes; another one is a new state, not a new transformation."""
    tx, params = saliency_mask(), {"w": jnp.ones(2)}
    state = tx.init(params)
    assert tx.update(params, state)[0]["w"].tolist() == [1.0, 1.0]
    masked = state._replace(mask={"w": jnp.array([True, False])})
    assert jax.tree.structure(masked) == jax.tree.structure(state)
    assert tx.update(params, masked)[0]["w"].tolist() == [1.0, 0.0]
