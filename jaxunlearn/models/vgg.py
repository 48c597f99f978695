"""VGG with batch normalisation, in the form used for CIFAR, or as published for ImageNet.

Stages of 3x3 convolutions, each followed by a norm and a ReLU; 2x2 max-pooling ends a stage. For
CIFAR one linear layer replaces the original three (at 32x32 the last feature map is 1x1). As
published (`hidden=(4096, 4096)`, and `norm="none"` in the first version) three linear layers follow
an average pooling to 7x7, here without the dropout between them.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, configuration D (VGG-16: 13 convolutions). As in the released PyTorch
models the convolutions have biases, though a norm follows: 14,728,266 parameters with 10 classes
(14,724,042 without the biases).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.models.checks import check_common, check_images, check_same_length, check_wholes
from jaxunlearn.models.layers import Head, Norm, he_init
from jaxunlearn.types import InputError

_POOLED = 7  # side of the feature map before the hidden layers


class VGG(nn.Module):
    """Plain stack of 3x3 convolutions with max-pooling between stages. The defaults are VGG-16.

    Attributes:
        num_classes: number of logits.
        widths: channels of each stage.
        convs: number of convolutions in each stage.
        norm: "batch", with running statistics in the collection `batch_stats`, or "group" or
            "none", with no mutable state.
        axis_name: mapped axis over which BatchNorm averages its statistics.
        dtype: type of the computation, float32 or bfloat16.
        hidden: widths of linear layers before the last one, after an average pooling to 7x7.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = VGG(num_classes=3, widths=(4, 8), convs=(1, 1))
        >>> images = jnp.zeros((2, 8, 8, 1))
        >>> logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        >>> logits.shape, logits.dtype
        ((2, 3), dtype('float32'))
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    convs: tuple[int, ...] = (2, 2, 3, 3, 3)
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_common(self, ("batch", "group", "none"))
        check_wholes(self, "hidden", (4096, 4096), empty=True)
        check_wholes(self, "widths", (64, 128, 256, 512, 512))
        check_wholes(self, "convs", (2, 2, 3, 3, 3))
        check_same_length(self, "widths", "convs")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Map floating-point images `[B, H, W, C]` to float32 logits `[B, num_classes]`.

        With `train`, BatchNorm uses the statistics of the batch and updates the running ones.

        Raises:
            InputError: the images have another shape or type, or sides below 2^stages.
        """
        check_images(self, images)
        smallest = 2 ** len(self.widths)
        if min(images.shape[1:3]) < smallest:
            raise InputError(
                f"images for VGG with {len(self.widths)} stages are {images.shape[1]}x"
                f"{images.shape[2]}, but must be at least {smallest}x{smallest}; use fewer stages."
            )
        x = images
        for i, (width, count) in enumerate(zip(self.widths, self.convs, strict=True), start=1):
            for j in range(1, count + 1):
                x = nn.Conv(
                    width,
                    (3, 3),
                    padding=1,
                    kernel_init=he_init,
                    dtype=self.dtype,
                    name=f"stage{i}_conv{j}",
                )(x)
                if self.norm != "none":
                    norm = Norm(self.norm, self.axis_name, self.dtype, name=f"stage{i}_norm{j}")
                    x = norm(x, train)
                x = nn.relu(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        if self.hidden:
            rows, columns = (jnp.asarray(_averages(side), x.dtype) for side in x.shape[1:3])
            x = jnp.einsum("ah,bw,nhwc->ncab", rows, columns, x, precision="highest").reshape(
                len(x), -1
            )
        for i, width in enumerate(self.hidden, start=1):
            dense = nn.Dense(width, kernel_init=he_init, dtype=self.dtype, name=f"hidden{i}")
            x = nn.relu(dense(x))
        return Head(self.num_classes, name="head")(x)


def _averages(side: int) -> np.ndarray:
    """The average pooling from a side of this length to one of 7, as a matrix `[7, side]`."""
    cell, places = np.arange(_POOLED)[:, None], np.arange(side)
    inside = (places >= cell * side // _POOLED) & (places < -(-(cell + 1) * side // _POOLED))
    return inside / inside.sum(axis=1, keepdims=True)
