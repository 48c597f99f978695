"""VGG with batch normalisation, in the form used for CIFAR.

Stages of 3x3 convolutions, each followed by a norm and a ReLU; 2x2 max-pooling ends a stage; one
linear layer replaces the original three (at 32x32 the last feature map is 1x1).

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, configuration D (VGG-16: 13 convolutions). As in the released PyTorch
models the convolutions have biases, though a norm follows: 14,728,266 parameters with 10 classes
(14,724,042 without the biases).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import check_common, check_images, check_same_length, check_wholes
from jaxunlearn.models.layers import Head, Norm, he_init
from jaxunlearn.types import InputError


class VGG(nn.Module):
    """Plain stack of 3x3 convolutions with max-pooling between stages. The defaults are VGG-16.

    Attributes:
        num_classes: number of logits.
        widths: channels of each stage.
        convs: number of convolutions in each stage.
        norm: "batch", with running statistics in the collection `batch_stats`, or "group", with
            no mutable state.
        axis_name: mapped axis over which BatchNorm averages its statistics.
        dtype: type of the computation, float32 or bfloat16.

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

    def __post_init__(self) -> None:
        check_common(self)
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
                norm = Norm(self.norm, self.axis_name, self.dtype, name=f"stage{i}_norm{j}")
                x = nn.relu(norm(x, train))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return Head(self.num_classes, name="head")(x)
