"""The blocks of a deep transformer as one loop, so that depth costs no compilation.

    x <- block_i(x),   i = 1, ..., N

Parameters keep one entry a block: a pass stacks them, matrices in the type of the computation. The
backward pass keeps the matrix products of a block and recomputes the rest (norms, activations, the
softmax), as a compiler does without a loop. Initialisation and shallow models have no loop.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

FEWEST = 8  # turns of a loop; fewer blocks compile faster one after another


def in_turn(
    parent: nn.Module,
    kinds: Sequence[partial[Any]],
    names: Sequence[str],
    x: jax.Array,
    *inputs: jax.Array,
    remat: bool = False,
) -> jax.Array:
    """The result of a module's blocks, one after another.

    Args:
        parent: module with a field `dtype`, whose compact method calls this function.
        kinds: kinds of blocks, which alternate: classes with their fields.
        names: names of the blocks in their order.
        x: argument of the first block; every block returns the same shape and type.
        *inputs: further arguments, the same for all blocks.
        remat: whether the backward pass recomputes the products, too.
    """
    if parent.is_initializing() or len(names) // len(kinds) < FEWEST:
        looped: Sequence[str] = ()
    else:
        looped = names[: len(names) // len(kinds) * len(kinds)]
        x = _loop(parent, kinds, looped, x, *inputs, remat=remat)
    for kind, name in zip(itertools.cycle(kinds), names[len(looped) :], strict=False):
        block = nn.remat(kind.func) if remat else kind.func
        x = block(*kind.args, **kind.keywords, name=name)(x, *inputs)
    return x


def _loop(
    parent: Any,
    kinds: Sequence[partial[Any]],
    names: Sequence[str],
    x: jax.Array,
    *inputs: jax.Array,
    remat: bool,
) -> jax.Array:
    def stacked(*leaves: jax.Array) -> jax.Array:
        if leaves[0].ndim > 1:
            leaves = tuple(leaf.astype(parent.dtype) for leaf in leaves)
        return jnp.stack(leaves)

    params = parent.variables["params"]
    apart = [names[first :: len(kinds)] for first in range(len(kinds))]
    layers = [jax.tree.map(stacked, *(params[name] for name in each)) for each in apart]
    blocks: list[Any] = [kind(parent=None) for kind in kinds]

    def turn(x: jax.Array, layers: Sequence[Any]) -> tuple[jax.Array, None]:
        for block, params in zip(blocks, layers, strict=True):
            x = block.apply({"params": params}, x, *inputs)
        return x, None

    kept = None if remat else jax.checkpoint_policies.dots_saveable
    return jax.lax.scan(jax.checkpoint(turn, prevent_cse=False, policy=kept), x, layers)[0]
