"""Where and how hard to forget: Fisher saliency, element-wise masks, adaptive example weights.

    Fisher ratio mask    m = 1[F_forget / (F_retain + epsilon) >= threshold]      (SFR-on)
    top fraction mask    m = 1[|sum of forget gradients| among the largest]       (SalUn)
    adaptive weights     c_i proportional to 1 / l_i^exponent, with mean 1        (SFR-on)

Sources: Huang et al. (SFR-on, arXiv 2409.19732), NeurIPS 2024; Fan et al. (SalUn), ICLR 2024.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.transforms._checks import check_like
from jaxunlearn.types import InputError


class SaliencyMaskState(NamedTuple):
    """What `saliency_mask` remembers.

    Attributes:
        mask: which entries of the parameters may move, one byte each.
    """

    mask: optax.Params  # leaves of the shape of the parameters, dtype=jnp.bool_


def saliency_mask(mask: Any) -> optax.GradientTransformationExtraArgs:
    """Lets only the salient entries of the updates through: `updates * mask`, element by element.

    The mask is copied into the state: it is an argument of the compiled step rather than a constant
    in it, is saved in checkpoints, and survives the donation of the state. Stand it last in a chain
    to keep masked parameters bit-equal under momentum and weight decay; before the optimizer it
    masks gradients only.

    Args:
        mask: a tree like the parameters with leaves of the same shapes, boolean or 0/1.

    Returns:
        A transformation that ignores extra keywords.

    Raises:
        InputError: in `init`, a mask whose structure or shapes differ from the parameters'.

    Example:
        >>> tx = saliency_mask({"w": jnp.array([True, False])})
        >>> params = {"w": jnp.ones(2)}
        >>> tx.update(params, tx.init(params))[0]["w"].tolist()
        [1.0, 0.0]
    """

    def init_fn(params: optax.Params) -> SaliencyMaskState:
        check_like(mask, params, "the mask", "the parameter tree")
        return SaliencyMaskState(jax.tree.map(lambda m: jnp.array(m, bool, copy=True), mask))

    def update_fn(
        updates: optax.Updates,
        state: SaliencyMaskState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SaliencyMaskState]:
        del params, extra
        masked = jax.tree.map(lambda u, m: jnp.where(m, u, jnp.zeros_like(u)), updates, state.mask)
        return masked, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def fisher_diagonal(
    loss_fn: Callable[[Any, Any], jax.Array], params: Any, batches: Any, per_example: bool = True
) -> Any:
    """The diagonal of the empirical Fisher information of a loss.

        per example    F = mean over all N B examples of (grad l_i)^2
        per batch      F = mean over N batches of (grad of the batch-mean loss)^2   (as released)

    Args:
        loss_fn: `loss_fn(params, batch) -> losses`, `[B]`, without randomness or batch statistics.
        params: the parameters, any tree of floating-point arrays.
        batches: a tree of arrays `[N, B, ...]`: N stacked batches of B examples. Index arrays do,
            if `loss_fn` looks the examples up.
        per_example: square each example's gradient; otherwise each batch's mean gradient.

    Returns:
        A tree like `params`, float32, non-negative.

    Raises:
        InputError: no batches, leaves without the two leading axes or that disagree on them, or
            losses that are not `[B]`.

    Example:
        >>> loss_fn = lambda w, x: 0.5 * (w * x) ** 2
        >>> float(fisher_diagonal(loss_fn, jnp.array(1.0), jnp.array([[1.0, 2.0]])))  # (1 + 16) / 2
        8.5
    """
    leading = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(batches)}
    if len(leading) != 1 or len(next(iter(leading))) != 2 or 0 in next(iter(leading)):
        raise InputError(
            f"batches has leaves with the leading axes {sorted(leading)}, but every leaf must be "
            "[N, B, ...] with the same N >= 1 and B >= 1; stack the batches along a new first axis."
        )
    num_batches, batch_size = next(iter(leading))

    def mean_loss(p: Any, batch: Any) -> jax.Array:
        losses = loss_fn(p, batch)
        if jnp.ndim(losses) != 1:
            raise InputError(
                f"loss_fn returned shape {jnp.shape(losses)}, but must return one loss per "
                "example, [B]; leave the mean to fisher_diagonal."
            )
        return jnp.mean(losses)

    def squared(p: Any, batch: Any) -> Any:
        gradient = jax.grad(mean_loss)(p, batch)
        return jax.tree.map(lambda g: jnp.square(g.astype(jnp.float32)), gradient)

    zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.float32), params)

    def all_at_once(p: Any, ones: Any) -> Any:
        return jax.tree.map(
            lambda s: jnp.sum(s, axis=0), jax.vmap(squared, in_axes=(None, 0))(p, ones)
        )

    def one_by_one(p: Any, ones: Any) -> Any:
        return jax.lax.fori_loop(
            0,
            batch_size,
            lambda i, total: jax.tree.map(
                jnp.add, total, squared(p, jax.tree.map(lambda x: x[i], ones))
            ),
            zeros,
        )

    def of_batch(batch: Any) -> Any:
        if not per_example:
            return squared(params, batch)
        ones = jax.tree.map(lambda x: x[:, None], batch)  # B batches of one example
        # On CPUs the products of single examples are slow when batched, by tens of times.
        total = jax.lax.platform_dependent(params, ones, cpu=one_by_one, default=all_at_once)
        return jax.tree.map(lambda s: s / batch_size, total)

    def add(total: Any, batch: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_batch(batch)), None

    total, _ = jax.lax.scan(add, zeros, batches)
    return jax.tree.map(lambda t: t / num_batches, total)


def fisher_ratio_mask(
    forget_fisher: Any,
    retain_fisher: Any,
    threshold: float | jax.Array = 1.0,
    epsilon: float = 1e-15,
) -> Any:
    """Marks what matters more to the forget data: `F_f / (F_r + epsilon) >= threshold`.

    Args:
        forget_fisher: a tree of Fisher diagonals on the forget data.
        retain_fisher: the same on the retain data.
        threshold: the least ratio to be salient; 0 marks everything.
        epsilon: added to the denominator.

    Returns:
        A tree of boolean arrays, for `saliency_mask`.

    Raises:
        InputError: trees that differ in structure or shapes.

    Example:
        >>> fisher_ratio_mask(jnp.array([2.0, 1.0]), jnp.array([1.0, 2.0])).tolist()
        [True, False]
    """
    check_like(forget_fisher, retain_fisher, "forget_fisher", "retain_fisher")
    return jax.tree.map(lambda f, r: f / (r + epsilon) >= threshold, forget_fisher, retain_fisher)


def top_fraction_mask(gradients: Any, fraction: float | jax.Array) -> Any:
    """Marks the given fraction of entries with the largest absolute gradient over the whole tree.

    Args:
        gradients: a tree of arrays, summed over the forget data.
        fraction: the share of entries to mark, in [0, 1]; exactly `floor(fraction * size)` are (of
            equal values, the first ones).

    Returns:
        A tree of boolean arrays, for `saliency_mask`.

    Raises:
        InputError: a fraction outside [0, 1].

    Example:
        >>> top_fraction_mask(jnp.array([0.1, -3.0, 2.0, 0.0]), 0.5).tolist()
        [False, True, True, False]
    """
    if isinstance(fraction, int | float) and not 0 <= fraction <= 1:
        raise InputError(f"fraction is {fraction}, but must lie in [0, 1].")
    leaves, structure = jax.tree.flatten(gradients)
    flat = jnp.concatenate([jnp.abs(leaf).astype(jnp.float32).ravel() for leaf in leaves])
    order = jnp.argsort(-flat, stable=True)
    kept = jnp.arange(flat.size) < jnp.floor(flat.size * fraction).astype(jnp.int32)
    marked = jnp.zeros(flat.shape, bool).at[order].set(kept)
    masks, start = [], 0
    for leaf in leaves:
        masks.append(marked[start : start + leaf.size].reshape(leaf.shape))
        start += leaf.size
    return jax.tree.unflatten(structure, masks)


def adaptive_weights(
    losses: jax.Array, exponent: float | jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Weighs examples that are already forgotten down.

        c_i = 1 / (stop_gradient(l_i)^exponent + 1e-15), scaled to mean 1

    Args:
        losses: non-negative losses of single examples, `[B]`.
        exponent: 0 weighs all alike; larger values leave examples with a large loss alone.
        axis_name: the mapped axis that the batch is split over in `pmap` or `shard_map`, so that
            the mean is 1 over the whole batch.

    Returns:
        Weights `[B]` without gradient.

    Raises:
        InputError: losses that are not `[B]`.

    Example:
        >>> adaptive_weights(jnp.array([1.0, 3.0]), 1.0).tolist()
        [1.5, 0.5]
    """
    if jnp.ndim(losses) != 1:
        raise InputError(
            f"losses has shape {jnp.shape(losses)}, but must be one loss per example, [B]."
        )
    losses = jnp.asarray(losses)
    wide = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))  # float16 has no 1e-15
    coefficients = 1.0 / (jax.lax.stop_gradient(wide) ** exponent + 1e-15)
    mean = jnp.mean(coefficients)
    weights = coefficients / (mean if axis_name is None else jax.lax.pmean(mean, axis_name))
    return weights.astype(losses.dtype)
