"""The text transformer of CLIP: token ids in, one hidden state per token out.

    x = table[id] + position;   x <- x + attention(norm(x));   x <- x + W2 f(W1 norm(x));   norm(x)

A token attends only to itself and earlier tokens, so its hidden state does not depend on later
ones. `f` is GELU, or its quick approximation `x sigmoid(1.702 x)`.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, section 2.4.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import (
    check_choice,
    check_divides,
    check_dtype,
    check_flags,
    check_positive,
    check_whole,
)
from jaxunlearn.models.depth import in_turn
from jaxunlearn.models.layers import Linear, transformer_init
from jaxunlearn.models.transformer_blocks import Attention
from jaxunlearn.types import InputError


def quick_gelu(x: jax.Array) -> jax.Array:
    """GELU with the logistic function in place of the normal one: `x sigmoid(1.702 x)`."""
    return x * nn.sigmoid(1.702 * x)


def _gelu(x: jax.Array) -> jax.Array:
    return nn.gelu(x, approximate=False)


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _gelu,
    "quick_gelu": quick_gelu,
}


class Block(nn.Module):
    """Pre-norm transformer block with causal attention."""

    heads: int
    hidden: int
    activation: str
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, L, width]` to the same shape."""
        init = transformer_init
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm1")(x)
        attention = Attention(
            self.heads, causal=True, kernel_init=init, dtype=self.dtype, name="attention"
        )
        x = x + attention(y)
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm2")(x)
        y = Linear(self.hidden, kernel_init=init, dtype=self.dtype, name="up")(y)
        y = _ACTIVATIONS[self.activation](y)
        return x + Linear(x.shape[-1], kernel_init=init, dtype=self.dtype, name="down")(y)


class TextEncoder(nn.Module):
    """Causal text transformer. The defaults are the text half of CLIP ViT-L/14.

    Attributes:
        vocabulary: number of token ids.
        length: largest number of tokens of a prompt.
        width: size of a hidden state.
        depth: number of blocks.
        heads: number of attention heads; divides the width.
        hidden: width between the two feed-forward layers of a block.
        activation: "quick_gelu", as published, or "gelu".
        epsilon: number added to the variance in the norms.
        dtype: type of the computation, float32 or bfloat16.
        remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = TextEncoder(vocabulary=9, length=5, width=8, depth=1, heads=2, hidden=16)
        >>> ids = jnp.array([[0, 3, 4, 1, 1]])
        >>> states, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), ids)
        >>> states.shape, states.dtype
        ((1, 5, 8), dtype('float32'))
    """

    vocabulary: int = 49408
    length: int = 77
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        check_dtype(self)
        check_flags(self, "remat")
        check_whole(self, "vocabulary", "length", "width", "depth", "heads", "hidden")
        check_divides(self, "width", "heads")
        check_choice(self, "activation", tuple(_ACTIVATIONS))
        check_positive(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Hidden states of a batch of prompts after the final norm, float32 `[B, L, width]`.

        Args:
            ids: token ids `[B, L]`, integers from 0 to vocabulary - 1, with L at most `length`.

        Raises:
            InputError: the ids are not integers `[B, L]`, or too long.
        """
        self._check_ids(ids)
        init = transformer_init
        x = nn.Embed(
            self.vocabulary, self.width, embedding_init=init, dtype=self.dtype, name="tokens"
        )(ids)
        position = self.param("position", init, (self.length, self.width))
        x = x + position[None, : ids.shape[1]].astype(x.dtype)
        block = partial(Block, self.heads, self.hidden, self.activation, self.epsilon, self.dtype)
        names = [f"block{i + 1}" for i in range(self.depth)]
        x = in_turn(self, [block], names, x, remat=self.remat)
        return nn.LayerNorm(epsilon=self.epsilon, name="norm")(x.astype(jnp.float32))

    def _check_ids(self, ids: jax.Array) -> None:
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise InputError(
                f"token ids for TextEncoder are {ids.dtype} of shape {ids.shape}, but must be "
                "integers of shape [B, L]; give the result of a tokenizer's encode."
            )
        if ids.shape[1] > self.length:
            raise InputError(
                f"prompts for TextEncoder have {ids.shape[1]} tokens, but must have at most "
                f"{self.length}; give the model and the tokenizer the same length."
            )
