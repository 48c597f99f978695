"""The cross-entropy against float64, however sure a model is, in every type of its logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.methods.objectives import cross_entropy

SMALLEST = float(np.finfo(np.float32).tiny)  # what is smaller, processors may flush to 0


def by_hand(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses and gradients in float64, where the true class is the likeliest and where not."""
    logits = logits.astype(np.float64)
    rows = np.arange(len(labels))
    true, top = logits[rows, labels], logits.max(axis=1)
    powers = np.exp(logits - top[:, None])
    others = np.where(np.arange(logits.shape[1]) == labels[:, None], 0.0, powers)
    losses = np.where(
        true == top, np.log1p(others.sum(axis=1)), top - true + np.log(powers.sum(axis=1))
    )
    grads = others / powers.sum(axis=1, keepdims=True)
    grads[rows, labels] = -grads.sum(axis=1)
    return losses, grads


def check(logits: np.ndarray, labels: np.ndarray, rtol: float = 2e-6) -> None:
    given = jnp.asarray(logits), jnp.asarray(labels)
    losses, grads = by_hand(logits, labels)
    np.testing.assert_allclose(cross_entropy(*given), losses, rtol=rtol, atol=SMALLEST)
    found = jax.jit(jax.grad(lambda z: cross_entropy(z, given[1]).sum()))(given[0])
    assert found.dtype == given[0].dtype
    np.testing.assert_allclose(np.float64(found), grads, rtol=rtol, atol=SMALLEST)


@pytest.mark.parametrize("gap", [0.0, 1e-3, 1.0, 10.0, 17.0, 20.0, 50.0, 85.0, 90.0, 1e4, 1e30])
@pytest.mark.parametrize("classes", [2, 10])
def test_losses_and_gradients_are_exact(gap: float, classes: int) -> None:
    """For the true class by that much, and against it; shifted too, which changes nothing."""
    logits = np.random.default_rng(0).normal(size=(4, classes)).astype(np.float32)
    labels = np.array([0, 1, 1, 0])
    logits[[0, 1], labels[:2]] = logits[:2].max(axis=1) + np.float32(gap)
    logits[[2, 3], labels[2:]] = logits[2:].min(axis=1) - np.float32(gap)
    check(logits, labels)
    check(np.round(logits) + np.float32(64), labels)


def test_a_loss_has_no_floor_where_log_softmax_rounds_to_zero() -> None:
    logits = jnp.array([[20.0, 0.0, 0.0]])
    assert jax.nn.log_softmax(logits)[0, 0] == 0.0
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([0])), 2 * np.exp(-20), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_logits_have_losses_in_float32(dtype: jnp.dtype) -> None:
    logits = jnp.asarray(np.random.default_rng(1).normal(scale=8, size=(16, 5)), dtype)
    labels = jnp.arange(16) % 5
    losses = cross_entropy(logits, labels)
    assert losses.dtype == jnp.float32
    exact, grads = by_hand(np.asarray(logits, np.float64), np.asarray(labels))
    np.testing.assert_allclose(losses, exact, rtol=2e-6)
    found = jax.grad(lambda z: cross_entropy(z, labels).sum())(logits)
    np.testing.assert_allclose(np.float64(found), grads, rtol=1e-2, atol=1e-7)


def test_one_class_and_excluded_classes_cost_nothing() -> None:
    """And a class whose logit is minus infinity counts as if it were not there."""
    labels = jnp.array([0])
    for logits in ([[3.0]], [[3.0, -jnp.inf]]):
        loss, grads = jax.value_and_grad(lambda z: cross_entropy(z, labels)[0])(jnp.array(logits))
        assert loss == 0.0 and not np.any(grads)


def test_second_derivatives_are_those_of_the_softmax() -> None:
    logits, labels = jnp.array([[2.0, 0.5, -1.0]]), jnp.array([1])
    hessian = jax.hessian(lambda z: cross_entropy(z[None], labels)[0])(logits[0])
    p = jax.nn.softmax(logits[0])
    np.testing.assert_allclose(hessian, jnp.diag(p) - jnp.outer(p, p), atol=1e-6)
