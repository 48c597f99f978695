"""Where and how hard to forget: Fisher saliency, element-wise masks, adaptive example weights.

    Fisher ratio mask    m = 1[(F_forget + epsilon) / (F_retain + epsilon) >= threshold]   (SFR-on)
    top fraction mask    m = 1[|sum of forget gradients| among the largest]                (SalUn)
    adaptive weights     c_i proportional to 1 / (l_i^exponent + epsilon), with mean 1     (SFR-on)

References:
    Huang et al., Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement
    (SFR-on), NeurIPS 2024, https://arxiv.org/abs/2409.19732

    Fan et al., SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both
    Image Classification and Generation, ICLR 2024, https://arxiv.org/abs/2310.12508
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.transforms._checks import check_like, without_masked
from jaxunlearn.types import InputError


class SaliencyMaskState(NamedTuple):
    """The state of `saliency_mask`.

    Attributes:
        mask: mask of the entries that may move, one byte each.
    """

    mask: optax.Params  # leaves of the shape of the parameters, dtype=jnp.bool_


def saliency_mask(mask: Any = None) -> optax.GradientTransformationExtraArgs:
    """Lets only the salient entries of the updates pass: `updates * mask`, element by element.

    The mask is in the state, so it is an argument of the compiled step, not a constant; checkpoints
    contain it, and `state._replace(mask=...)` replaces it. Put it last in a chain to keep masked
    parameters bit-equal under momentum and weight decay; before the optimizer it masks only
    gradients.

    Args:
        mask: a tree like the parameters with leaves of the same shapes, boolean or 0/1, which is
            copied into the state. None is a mask of ones.

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
        if mask is None:
            return SaliencyMaskState(jax.tree.map(lambda p: jnp.ones(jnp.shape(p), bool), params))
        seen = without_masked(mask, params)
        check_like(seen, params, "the mask", "the parameter tree")
        return SaliencyMaskState(jax.tree.map(lambda m: jnp.array(m, bool, copy=True), seen))

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
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    batches: Any,
    per_example: bool = True,
    *,
    weights: Any = None,
    clip_norm: float | jax.Array | None = None,
) -> Any:
    """The diagonal of the empirical Fisher information of a loss.

        per example    F = sum_i w_i (grad l_i)^2 / sum_i w_i      over all N B examples
        per batch      F = sum_b W_b (grad sum_{i in b} w_i l_i / W_b)^2 / sum_b W_b,
                       W_b = sum_{i in b} w_i                      over N batches (as released)

    Args:
        loss_fn: `loss_fn(params, batch) -> losses`, `[B]`, without randomness or batch statistics.
        params: the parameters, any tree of floating-point arrays.
        batches: a tree of arrays `[N, B, ...]`: N stacked batches of B examples, or of indices that
            `loss_fn` looks up.
        per_example: whether the gradient of each example is squared; otherwise the mean gradient
            of each batch is, and the result depends on the batch size.
        weights: 1 for an example and 0 for padding, `[N, B]`; None for complete batches.
        clip_norm: largest global norm of the gradients that are squared; None does not clip.

    Returns:
        A tree like `params`, float32, non-negative.

    Raises:
        InputError: no batches, leaves without the same two leading axes, weights that are not
            `[N, B]`, or losses that are not `[B]`.

    Example:
        >>> loss_fn = lambda w, x: 0.5 * (w * x) ** 2
        >>> float(fisher_diagonal(loss_fn, jnp.array(1.0), jnp.array([[1.0, 2.0]])))  # (1 + 16) / 2
        8.5

        Three examples in batches of two:

        >>> data, places = jnp.array([1.0, 2.0, 1.0]), jnp.arange(4).reshape(2, 2)
        >>> batches, weights = data[places % 3], places < 3
        >>> fisher = fisher_diagonal(loss_fn, jnp.array(1.0), batches, weights=weights)
        >>> round(float(fisher), 4)  # (1 + 16 + 1) / 3
        6.0
    """
    leading = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(batches)}
    if len(leading) != 1 or len(next(iter(leading))) != 2 or 0 in next(iter(leading)):
        raise InputError(
            f"batches has leaves with the leading axes {sorted(leading)}, but every leaf must be "
            "[N, B, ...] with the same N >= 1 and B >= 1; stack the batches along a new first axis."
        )
    shape = next(iter(leading))
    if weights is not None and jnp.shape(weights) != shape:
        raise InputError(
            f"weights has shape {jnp.shape(weights)}, but must be {shape}, one for each example; "
            "give 1 for an example and 0 for padding."
        )
    counts = jnp.ones(shape, jnp.float32) if weights is None else jnp.asarray(weights, jnp.float32)

    def squared(batch: Any, counts: jax.Array) -> Any:
        """The squared gradient of the mean loss of some examples, times their number."""
        count = jnp.sum(counts)
        within = counts / jnp.where(count > 0, count, 1.0)

        def mean_loss(p: Any) -> jax.Array:
            losses = loss_fn(p, batch)
            if jnp.ndim(losses) != 1:
                raise InputError(
                    f"loss_fn returned shape {jnp.shape(losses)}, but must return one loss per "
                    "example, [B]; leave the mean to fisher_diagonal."
                )
            return jnp.sum(within * losses)

        grads = jax.grad(mean_loss)(params)
        if clip_norm is not None:
            grads, _ = optax.clip_by_global_norm(clip_norm).update(grads, optax.EmptyState())
        return jax.tree.map(
            lambda g: jnp.where(count > 0, count * jnp.square(g.astype(jnp.float32)), 0.0), grads
        )

    def in_chunks(size: int, batch: Any, counts: jax.Array) -> Any:
        """The sum over the examples of a batch, with `size` of them in one gradient."""
        ones = jax.tree.map(lambda x: x.reshape(-1, size, 1, *x.shape[1:]), (batch, counts))

        def of_chunk(chunk: Any) -> Any:
            if size == 1:  # batched products of single examples are tens of times slower on CPUs
                return squared(*jax.tree.map(lambda x: x[0], chunk))
            return jax.tree.map(lambda s: jnp.sum(s, axis=0), jax.vmap(squared)(*chunk))

        return _sum_over(of_chunk, ones, params)

    def of_batch(batch_and_counts: Any) -> Any:
        if not per_example:
            return squared(*batch_and_counts)
        return jax.lax.platform_dependent(
            *batch_and_counts,
            cpu=functools.partial(in_chunks, 1),
            default=functools.partial(in_chunks, _chunk(shape[1], params)),
        )

    total = _sum_over(of_batch, (batches, counts), params)
    return jax.tree.map(lambda t: t / jnp.sum(counts), total)


def _chunk(batch_size: int, params: Any) -> int:
    """The number of gradients in memory: a divisor of the batch, and at most 1 GiB of them."""
    room = 2**28 // max(sum(jnp.size(leaf) for leaf in jax.tree.leaves(params)), 1)
    return max(n for n in range(1, batch_size + 1) if batch_size % n == 0 and n <= max(room, 1))


def _sum_over(function: Callable[[Any], Any], stacked: Any, like: Any) -> Any:
    """The sum of a function over stacked inputs, one after the other: float32 trees like `like`."""
    zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.float32), like)

    def add(total: Any, each: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(each)), None

    return jax.lax.scan(add, zeros, stacked)[0]


def fisher_ratio_mask(
    forget_fisher: Any,
    retain_fisher: Any,
    *,
    threshold: float | jax.Array = 1.0,
    epsilon: float | jax.Array = 1e-15,
) -> Any:
    """Marks the parameters that matter more for the forget data.

        m = 1[(F_f + epsilon) / (F_r + epsilon) >= threshold]

    An entry that matters for neither has the ratio 1, so a threshold of 1 marks it.

    Args:
        forget_fisher: Fisher diagonal on the forget data, a tree.
        retain_fisher: Fisher diagonal on the retain data, a tree.
        threshold: smallest ratio of a salient entry; 0 marks all entries.
        epsilon: number that is added to both diagonals.

    Returns:
        A tree of boolean arrays, for `saliency_mask`.

    Raises:
        InputError: trees that differ in structure or shapes.

    Example:
        >>> fisher_ratio_mask(jnp.array([2.0, 1.0, 0.0]), jnp.array([1.0, 2.0, 0.0])).tolist()
        [True, False, True]
    """
    check_like(forget_fisher, retain_fisher, "forget_fisher", "retain_fisher")
    return jax.tree.map(
        lambda f, r: (f + epsilon) / (r + epsilon) >= threshold, forget_fisher, retain_fisher
    )


def top_fraction_mask(gradients: Any, fraction: float | jax.Array) -> Any:
    """Marks the given fraction of entries with the largest absolute gradient over the whole tree.

    Nothing is sorted: bisection over its bits finds the smallest marked value, and then the last
    marked position among equal values.

    Args:
        gradients: a tree of arrays, summed over the forget data; fewer than 2^32 entries.
        fraction: fraction of marked entries, in [0, 1]: exactly `floor(fraction * size)` of them
            (of equal values, the first ones). An array has only the precision of float32.

    Returns:
        A tree of boolean arrays, for `saliency_mask`.

    Raises:
        InputError: a fraction outside [0, 1].

    Example:
        >>> top_fraction_mask(jnp.array([0.1, -3.0, 2.0, 0.0]), 0.5).tolist()
        [False, True, True, False]
    """
    if isinstance(fraction, int | float) and not 0 <= fraction <= 1:
        raise InputError(f"fraction is {fraction}, but must be in [0, 1].")
    leaves, structure = jax.tree.flatten(gradients)
    flat = [jnp.ravel(leaf).astype(jnp.float32) for leaf in leaves]
    sizes = [leaf.size for leaf in flat]
    wanted = (
        jnp.uint32(math.floor(fraction * sum(sizes)))
        if isinstance(fraction, int | float)
        else jnp.floor(float(sum(sizes)) * fraction).astype(jnp.uint32)
    )
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def count(masks: list[jax.Array]) -> jax.Array:
        return sum((jnp.sum(mask, dtype=jnp.uint32) for mask in masks), start=jnp.uint32(0))

    def at_least(bits: jax.Array) -> list[jax.Array]:
        value = _float(bits)
        return [(leaf >= value) | (leaf <= -value) for leaf in flat]

    def marked(bits: jax.Array, end: jax.Array) -> list[jax.Array]:
        """The entries above a value, and the equal ones before a position in the tree."""
        value = _float(bits)

        def of_leaf(leaf: jax.Array, start: int) -> jax.Array:
            before = jnp.where(end > start, end - start, 0)
            place = jax.lax.iota(jnp.uint32, leaf.size)
            larger, equal = (leaf > value) | (leaf < -value), (leaf == value) | (leaf == -value)
            return larger | (equal & (place < before))

        return [of_leaf(*each) for each in zip(flat, starts, strict=True)]

    least = _last(lambda bits: count(at_least(bits)) >= wanted, 0x7F800000)  # infinity
    end = _last(lambda place: count(marked(least, place)) <= wanted, sum(sizes))
    masks = zip(marked(least, end), leaves, strict=True)
    return jax.tree.unflatten(structure, [mask.reshape(jnp.shape(leaf)) for mask, leaf in masks])


def _float(bits: jax.Array) -> jax.Array:
    """The number with these bits; non-negative numbers are ordered like their bits."""
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _last(holds: Callable[[jax.Array], jax.Array], end: int) -> jax.Array:
    """The largest uint32 up to `end` with `holds`, true at 0 and false above some number."""
    highest = end.bit_length() - 1

    def bit(i: jax.Array, found: jax.Array) -> jax.Array:
        higher = found + (jnp.uint32(1) << (highest - i).astype(jnp.uint32))
        return jnp.where((higher <= end) & holds(higher), higher, found)

    return jax.lax.fori_loop(0, highest + 1, bit, jnp.uint32(0))


def adaptive_weights(
    losses: jax.Array,
    exponent: float | jax.Array,
    axis_name: str | None = None,
    *,
    epsilon: float | jax.Array = 0.25,
) -> jax.Array:
    """Gives forgotten examples less weight.

        c_i = 1 / (stop_gradient(l_i)^exponent + epsilon), scaled to mean 1

    Without epsilon, one example with a loss of 0, which has no gradient, would take all the weight
    from the others. With the default, an example with loss 0 weighs five times as much as one with
    loss 1. If half of a batch has loss 0, at least 5% of the gradient of the other half remains, up
    to a loss of `4.5^(1 / exponent)` there. The released code has 1e-15.

    Args:
        losses: non-negative losses of single examples, `[B]`.
        exponent: exponent of the losses; 0 weighs all alike.
        axis_name: mapped axis of the batch in `pmap` or `shard_map`, over which the mean is 1.
        epsilon: number that limits a coefficient to `1 / epsilon`.

    Returns:
        Weights `[B]` without gradient.

    Raises:
        InputError: losses that are not `[B]`.

    Example:
        >>> [round(float(w), 3) for w in adaptive_weights(jnp.array([0.0, 1.0]), 1.0)]
        [1.667, 0.333]
    """
    if jnp.ndim(losses) != 1:
        raise InputError(
            f"losses has shape {jnp.shape(losses)}, but must be one loss per example, [B]."
        )
    losses = jnp.asarray(losses)
    wide = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))  # float16 has no 1e-15
    coefficients = 1.0 / (jax.lax.stop_gradient(wide) ** exponent + epsilon)
    mean = jnp.mean(coefficients)
    weights = coefficients / (mean if axis_name is None else jax.lax.pmean(mean, axis_name))
    return weights.astype(losses.dtype)
