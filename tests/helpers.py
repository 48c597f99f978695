"""Tiny problems and comparisons that several test files share.

- `quadratic`: a retain loss with a known Hessian, whose forget gradient is constant.
- `network` and `example_losses`: the two-layer network of the golden numbers, a dict of arrays.
- `examples`: inputs and labels for it.

Random numbers come from numpy: they cost no compilation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import LossPair


def flat(tree: Any) -> np.ndarray:
    """All entries of a tree as one float64 vector."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def dot(x: Any, y: Any) -> float:
    """The inner product of two trees, in float64."""
    return float(flat(x) @ flat(y))


def cosine(x: Any, y: Any) -> float:
    """The cosine of the angle between two trees."""
    return dot(x, y) / float(np.linalg.norm(flat(x)) * np.linalg.norm(flat(y)))


def relative_error(ours: Any, reference: Any) -> float:
    """The largest absolute difference over the largest absolute entry of the reference.

    Relative to the vector rather than entry by entry: entries that are sums of terms which cancel
    carry the rounding error of the terms, not of the sum.
    """
    ours, reference = flat(ours), flat(reference)
    assert ours.shape == reference.shape
    return float(np.max(np.abs(ours - reference)) / np.max(np.abs(reference)))


def assert_trees_close(ours: Any, reference: Any, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    """Same structure, and every leaf close."""
    assert jax.tree.structure(ours) == jax.tree.structure(reference)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=rtol, atol=atol
        )


def assert_trees_equal(ours: Any, reference: Any) -> None:
    """Same structure, dtypes and bits."""
    assert jax.tree.structure(ours) == jax.tree.structure(reference)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        assert jnp.asarray(x).dtype == jnp.asarray(y).dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


class Quadratic(NamedTuple):
    """`l_r = 1/2 (p - optimum)^T H (p - optimum)` and `l_f = <g, p>`, over a tree of two leaves."""

    hessian: np.ndarray  # [6, 6]
    optimum: dict[str, jax.Array]
    gradient: dict[str, jax.Array]  # of the forget loss, everywhere

    def _offset(self, params: Any) -> jax.Array:
        return jnp.concatenate([params[k].ravel() - self.optimum[k].ravel() for k in ("a", "b")])

    def tree(self, vector: Any) -> dict[str, jax.Array]:
        vector = jnp.asarray(vector, jnp.float32)
        return {"a": vector[:4].reshape(2, 2), "b": vector[4:]}

    def retain_loss(self, params: Any) -> jax.Array:
        offset = self._offset(params)
        return 0.5 * offset @ jnp.asarray(self.hessian, offset.dtype) @ offset

    def retain_grad(self, params: Any, i: Any = None) -> Any:
        del i
        return self.tree(jnp.asarray(self.hessian, jnp.float32) @ self._offset(params))

    def losses(self, params: Any) -> LossPair:
        products = jax.tree.map(lambda g, p: jnp.sum(g * p), self.gradient, params)
        return LossPair(forget=sum(jax.tree.leaves(products)), retain=self.retain_loss(params))


def quadratic(seed: int = 0, largest_curvature: float = 2.0) -> Quadratic:
    """A quadratic retain loss with curvatures from 0.02 up, in a random basis."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    hessian = basis @ np.diag(np.geomspace(0.02, largest_curvature, 6)) @ basis.T
    empty = Quadratic(hessian, {}, {})
    return Quadratic(hessian, empty.tree(rng.normal(size=6)), empty.tree(rng.normal(size=6)))


def logits_fn(params: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """The golden network: `[B, 6] -> [B, 4]`, as tanh between two affine maps."""
    hidden = jnp.tanh(inputs @ params["fc1_weight"].T + params["fc1_bias"][None])
    return hidden @ params["fc2_weight"].T + params["fc2_bias"][None]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """One loss per example, `[B]`.

    By `log_softmax`: the difference `logsumexp - logit` of two numbers of the size of the logits
    would round small losses away, and the adaptive weights `1 / l^2` would blow that up.
    """
    return -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), labels[:, None], axis=1)[:, 0]


def example_losses(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Cross-entropy of the golden network on `(inputs, labels)`, `[B]`."""
    inputs, labels = batch
    return cross_entropy(logits_fn(params, inputs), labels)


def network(seed: int = 0, hidden: int = 8) -> dict[str, jax.Array]:
    """Random parameters of the golden network."""
    rng = np.random.default_rng(seed)
    return {
        "fc1_weight": jnp.asarray(0.4 * rng.normal(size=(hidden, 6)), jnp.float32),
        "fc1_bias": jnp.zeros(hidden),
        "fc2_weight": jnp.asarray(0.4 * rng.normal(size=(4, hidden)), jnp.float32),
        "fc2_bias": jnp.zeros(4),
    }


def examples(seed: int, *leading: int) -> tuple[jax.Array, jax.Array]:
    """Inputs `[*leading, 6]`, and labels by a linear teacher with some noise, `[*leading]`."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(*leading, 6))
    teacher = np.random.default_rng(1234).normal(size=(6, 4))
    labels = np.argmax(inputs @ teacher + 0.5 * rng.normal(size=(*leading, 4)), axis=-1)
    return jnp.asarray(inputs, jnp.float32), jnp.asarray(labels, jnp.int32)
