"""Inception-v3: the features of the Fréchet distance of images, and logits.

The network is a stem of convolutions and eleven blocks, each of which joins the channels of
parallel branches. A branch is a chain of layers, written here as a table:

    Layer("branch5x5_2", 64, (5, 5))     convolution, norm with running statistics, relu
    (layer, layer)                       two layers of one input, channels joined
    "mean", "max"                        3x3 pooling of stride 1
    "halve"                              3x3 max-pooling of stride 2, without padding

There are two variants. In torchvision's, mean-pooling counts the zeros beyond the border. The
network of the Fréchet distance (`frechet=True`, published by TensorFlow in 2015) does not count
them, takes the largest value instead of the mean in the last block, and has 1008 outputs.

Images are square, 299 pixels a side (`resize`), with values in [-1, 1]: bytes are mapped by
x / 127.5 - 1. The network is for inference: its norms read running statistics (`batch_stats`) and
never write them.

    module, params, model_state = load_inception(folder, frechet=True)  # models.pretrained
    described = module.apply({"params": params, **model_state}, resize(images))
    described.features, described.logits                               # [B, 2048], [B, 1008]

Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for
Computer Vision", CVPR 2016; the Fréchet distance is Heusel et al., NeurIPS 2017.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import (
    check_common,
    check_flags,
    check_images,
    check_whole,
    refused,
)
from jaxunlearn.models.layers import he_init
from jaxunlearn.types import InputError

SIDE = 299  # pixels of the images that the published weights were trained on
_SMALLEST_SIDE = 75  # with one pixel after all layers without padding


class Layer(NamedTuple):
    """A convolution with its norm and relu.

    Attributes:
        name: name in the published layouts.
        features: number of output channels.
        kernel: height and width of the kernel.
        stride: stride; layers of stride 2 have no padding.
        padded: whether a layer of stride 1 keeps the size.
    """

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


def _block_a(pooled: int) -> tuple:
    return (
        (Layer("branch1x1", 64),),
        (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))),
        (
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, (3, 3)),
            Layer("branch3x3dbl_3", 96, (3, 3)),
        ),
        ("mean", Layer("branch_pool", pooled)),
    )


def _block_c(inner: int) -> tuple:
    return (
        (Layer("branch1x1", 192),),
        (
            Layer("branch7x7_1", inner),
            Layer("branch7x7_2", inner, (1, 7)),
            Layer("branch7x7_3", 192, (7, 1)),
        ),
        (
            Layer("branch7x7dbl_1", inner),
            Layer("branch7x7dbl_2", inner, (7, 1)),
            Layer("branch7x7dbl_3", inner, (1, 7)),
            Layer("branch7x7dbl_4", inner, (7, 1)),
            Layer("branch7x7dbl_5", 192, (1, 7)),
        ),
        ("mean", Layer("branch_pool", 192)),
    )


def _block_e(pooling: str) -> tuple:
    return (
        (Layer("branch1x1", 320),),
        (
            Layer("branch3x3_1", 384),
            (Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Layer("branch3x3dbl_1", 448),
            Layer("branch3x3dbl_2", 384, (3, 3)),
            (Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pooling, Layer("branch_pool", 192)),
    )


_STEM = (
    Layer("Conv2d_1a_3x3", 32, (3, 3), stride=2),
    Layer("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    Layer("Conv2d_2b_3x3", 64, (3, 3)),
    "halve",
    Layer("Conv2d_3b_1x1", 80),
    Layer("Conv2d_4a_3x3", 192, (3, 3), padded=False),
    "halve",
)
_BLOCK_B = (
    (Layer("branch3x3", 384, (3, 3), stride=2),),
    (
        Layer("branch3x3dbl_1", 64),
        Layer("branch3x3dbl_2", 96, (3, 3)),
        Layer("branch3x3dbl_3", 96, (3, 3), stride=2),
    ),
    ("halve",),
)
_BLOCK_D = (
    (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), stride=2)),
    (
        Layer("branch7x7x3_1", 192),
        Layer("branch7x7x3_2", 192, (1, 7)),
        Layer("branch7x7x3_3", 192, (7, 1)),
        Layer("branch7x7x3_4", 192, (3, 3), stride=2),
    ),
    ("halve",),
)
_BLOCKS = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _BLOCK_B,
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _BLOCK_D,
    "Mixed_7b": _block_e("mean"),
    "Mixed_7c": _block_e("mean"),
}


class ConvNorm(nn.Module):
    """Convolution, norm with running statistics, relu."""

    layer: Layer
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H', W', features]`."""
        padded = self.layer.padded and self.layer.stride == 1
        x = nn.Conv(
            self.layer.features,
            self.layer.kernel,
            strides=self.layer.stride,
            padding="SAME" if padded else "VALID",
            use_bias=False,
            kernel_init=he_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        norm = nn.BatchNorm(True, epsilon=1e-3, dtype=self.dtype, name="norm")
        return nn.relu(norm(x))


class Block(nn.Module):
    """Parallel branches, with joined channels.

    Attributes:
        branches: chains of steps, in the order of their channels.
        divisor: divisor of all numbers of channels.
        count_padding: whether mean-pooling counts the zeros beyond the border.
        dtype: type of the computation.
    """

    branches: tuple
    divisor: int
    count_padding: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H', W', C']`, C' the sum over the branches."""
        ends = []
        for branch in self.branches:
            end = x
            for step in branch:
                end = _run(step, end, self)
            ends.append(end)
        return jnp.concatenate(ends, axis=-1)


class Description(NamedTuple):
    """Features and logits of images.

    Attributes:
        features: mean over the positions of the last block.      # shape=(B, 2048), float32
        logits: logits of the classes.                            # shape=(B, num_classes), float32
    """

    features: jax.Array
    logits: jax.Array


class InceptionV3(nn.Module):
    """Inception-v3 for inference, without the auxiliary classifier; see the top of the file.

    Attributes:
        num_classes: number of logits; the network of the Fréchet distance has 1008.
        frechet: whether to pool like the network of the Fréchet distance; otherwise like
            torchvision's.
        divisor: divisor of all numbers of channels: 1, 2, 4, 8 or 16.
        dtype: type of the computation, float32 or bfloat16.
    """

    num_classes: int = 1000
    frechet: bool = False
    divisor: int = 1
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_common(self)
        check_whole(self, "divisor")
        if 16 % self.divisor:
            raise refused(self, "divisor", "1, 2, 4, 8 or 16")
        check_flags(self, "frechet")
        super().__post_init__()

    @property
    def count_padding(self) -> bool:
        """Whether mean-pooling counts the zeros beyond the border."""
        return not self.frechet

    @nn.compact
    def __call__(self, images: jax.Array) -> Description:
        """Features and logits of floating-point images `[B, H, W, 3]` in [-1, 1].

        Images have at least 75 pixels a side; the published weights need 299 (`resize`).

        Raises:
            InputError: the images are not floating-point `[B, H, W, C]`, or too small.
        """
        check_images(self, images)
        if min(images.shape[1:3]) < _SMALLEST_SIDE:
            raise InputError(
                f"images for InceptionV3 are {images.shape[1]}x{images.shape[2]}, but must be at "
                f"least {_SMALLEST_SIDE}x{_SMALLEST_SIDE}; resize them to {SIDE} pixels a side."
            )
        x = images
        for step in _STEM:
            x = _run(step, x, self)
        for name, branches in _BLOCKS.items():
            if self.frechet and name == "Mixed_7c":
                branches = _block_e("max")
            x = Block(branches, self.divisor, self.count_padding, self.dtype, name=name)(x)
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        return Description(features, nn.Dense(self.num_classes, name="fc")(features))


def resize(images: jax.Array, side: int = SIDE) -> jax.Array:
    """Images `[B, side, side, C]`, resized by bilinear interpolation.

    Pixels are areas: the centre of the first is half a pixel from the border. Nothing is smoothed
    before images shrink, as in PyTorch's `interpolate` without `align_corners` and `antialias`.

    Example:
        >>> import jax.numpy as jnp
        >>> resize(jnp.array([[0.0, 4.0]]).reshape(1, 1, 2, 1), 4)[0, 0, :, 0].tolist()
        [0.0, 1.0, 3.0, 4.0]
    """
    shape = (images.shape[0], side, side, images.shape[3])
    return jax.image.resize(images, shape, "bilinear", antialias=False)


def _run(step: Any, x: jax.Array, module: Any) -> jax.Array:
    """One step of a branch, with parameters of `module`."""
    if step == "halve":
        return nn.max_pool(x, (3, 3), (2, 2))
    if step == "max":
        return nn.max_pool(x, (3, 3), padding="SAME")
    if step == "mean":
        return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=module.count_padding)
    if isinstance(step, Layer):
        layer = step._replace(features=step.features // module.divisor)
        return ConvNorm(layer, module.dtype, name=step.name)(x)
    return jnp.concatenate([_run(inner, x, module) for inner in step], axis=-1)
