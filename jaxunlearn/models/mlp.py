"""Multilayer perceptron: flattened images, or features, through dense layers.

    x_0 = flatten(image),   x_{i+1} = activation(W_i x_i + b_i),   logits = W x_n + b

With no hidden layer this is multinomial logistic regression, whose loss is convex.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import check_choice, check_common, check_images, check_wholes
from jaxunlearn.models.layers import Head, he_init

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "gelu": partial(nn.gelu, approximate=False),
    "tanh": nn.tanh,
    "silu": nn.silu,
}


class MLP(nn.Module):
    """Dense layers over flattened images.

    Attributes:
        num_classes: number of logits.
        hidden: width of each hidden layer; `()` is logistic regression.
        activation: activation of hidden layers: "relu", "gelu", "tanh" or "silu".
        dtype: type of the computation, float32 or bfloat16.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = MLP(num_classes=3, hidden=(8,))
        >>> images = jnp.zeros((2, 4, 4, 1))
        >>> variables = model.init(jax.random.key(0), images)
        >>> model.apply(variables, images, train=False).shape
        (2, 3)
    """

    num_classes: int
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_common(self)
        check_wholes(self, "hidden", (256, 256), empty=True)
        check_choice(self, "activation", tuple(_ACTIVATIONS))
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Map floating-point images `[B, H, W, C]` or features `[B, F]` to float32 logits.

        `train` has no effect; all models take it. Logits are `[B, num_classes]`.

        Raises:
            InputError: the images have another shape or type.
        """
        del train
        check_images(self, images, features=True)
        activation = _ACTIVATIONS[self.activation]
        x = images.reshape(images.shape[0], -1)
        for i, width in enumerate(self.hidden):
            layer = nn.Dense(width, kernel_init=he_init, dtype=self.dtype, name=f"hidden{i + 1}")
            x = activation(layer(x))
        return Head(self.num_classes, name="head")(x)
