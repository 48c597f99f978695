"""Normalisation against its closed form, and the group counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models.layers import FeedForward, Head, Norm, group_count

X = 3 + 2 * np.random.default_rng(0).normal(size=(4, 2, 2, 8)).astype(np.float32)


def test_batch_norm_moves_with_momentum_nine_tenths():
    norm = Norm("batch")
    variables = norm.init(jax.random.key(0), X, train=True)
    mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2))
    y, state = norm.apply(variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(var + 1e-5), rtol=1e-3, atol=1e-5)
    stats = state["batch_stats"]["batch"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-4)

    variables = {**variables, **state}
    _, state = norm.apply(variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(state["batch_stats"]["batch"]["mean"], 0.19 * mean, rtol=1e-4)

    y, state = norm.apply(variables, X, train=False, mutable=["batch_stats"])
    expected = (X - 0.1 * mean) / np.sqrt(0.9 + 0.1 * var + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"]["batch"], stats)


def test_axis_name_averages_over_the_replicas():
    norm = Norm("batch", axis_name="replica")
    variables = Norm("batch").init(jax.random.key(0), X, train=True)
    assert jax.tree.structure(norm.init(jax.random.key(0), X, train=True)) == jax.tree.structure(
        variables
    )
    whole, state = Norm("batch").apply(variables, X, train=True, mutable=["batch_stats"])
    halves, states = jax.vmap(
        lambda x: norm.apply(variables, x, train=True, mutable=["batch_stats"]),
        axis_name="replica",
    )(X.reshape(2, 2, 2, 2, 8))
    np.testing.assert_allclose(halves.reshape(X.shape), whole, rtol=1e-4, atol=1e-5)
    for ours, one in zip(jax.tree.leaves(states), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(ours, np.stack([one, one]), rtol=1e-5)


def test_group_norm_has_no_state_and_sees_one_example():
    norm = Norm("group")
    variables = norm.init(jax.random.key(0), X, train=True)
    assert list(variables) == ["params"]
    y, state = norm.apply(variables, X, train=True, mutable=True)
    assert list(state) == ["params"]
    groups = X.reshape(4, 4, 2, 4)  # 8 channels in 2 groups of 4
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(X.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("features", [1, 3, 4, 6, 8, 16, 20, 64, 96, 100, 128, 512, 2048])
def test_group_count_divides_and_leaves_enough(features):
    groups = group_count(features)
    assert features % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or features // groups >= 4


def test_feed_forward_formula(random_variables):
    x = X[0, 0]
    layer = FeedForward(hidden=5)
    params = random_variables(layer, x)["params"]
    hidden = x @ params["up"]["kernel"] + params["up"]["bias"]
    hidden = hidden * np.asarray(jax.scipy.stats.norm.cdf(hidden))
    expected = hidden @ params["down"]["kernel"] + params["down"]["bias"]
    found = layer.apply({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_head_is_a_mean_and_a_linear_layer_in_float32(random_variables):
    head = Head(num_classes=3)
    low = jnp.asarray(X, jnp.bfloat16)
    variables = random_variables(head, low)
    linear = variables["params"]["linear"]
    expected = np.asarray(low, np.float32).mean((1, 2)) @ linear["kernel"] + linear["bias"]
    logits = head.apply(variables, low)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
