"""The U-Net of denoising diffusion: pixels in, noise out, given the timestep and the class.

    h = conv1(silu(norm1(x))) + W silu(e);   y = shortcut(x) + conv2(dropout(silu(norm2(h))))

`e` is the embedding of timestep and class. A level has several residual blocks, each followed by
attention if the level is listed. On the way down, levels halve the image by a convolution of stride
2; on the way up they double it, and each block also takes the matching output of the way down (a
skip connection). The last convolution of every block, of every attention and of the network starts
at zero.

Source: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, appendix B.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import (
    check_choice,
    check_divides,
    check_flags,
    check_levels,
    check_positive,
    check_sides,
    check_whole,
    check_wholes,
    refused,
)
from jaxunlearn.models.denoising import Condition, check_denoiser, check_inputs, ddpm_init, zeros
from jaxunlearn.models.transformer_blocks import PixelAttention

# Rows and columns of zeros before and after; TensorFlow pads even sides asymmetrically.
_DOWNSAMPLING = {"asymmetric": ((0, 1), (0, 1)), "symmetric": ((1, 1), (1, 1))}


class ResidualBlock(nn.Module):
    """Two convolutions, with the timestep and the class, if any, added in between.

    Attributes:
        width: number of output channels.
        groups: number of groups of the norms.
        epsilon: number added to the variance in the norms.
        dtype: type of the computation.
        dropout: rate of dropout before the second convolution.
        kernel_init: initialiser of all kernels but the last.
        out_init: initialiser of the last kernel.
    """

    width: int
    groups: int
    epsilon: float
    dtype: Any
    dropout: float = 0.0
    kernel_init: Any = ddpm_init
    out_init: Any = zeros

    def _norm(self, name: str) -> nn.GroupNorm:
        return nn.GroupNorm(self.groups, epsilon=self.epsilon, dtype=self.dtype, name=name)

    def _conv(self, size: int, init: Any, name: str) -> nn.Module:
        return nn.Conv(
            self.width,
            (size, size),
            padding=size // 2,
            kernel_init=init,
            dtype=self.dtype,
            name=name,
        )

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Map `[B, H, W, C]`, with a condition `[B, E]`, to `[B, H, W, width]`."""
        init = self.kernel_init
        y = self._conv(3, init, "conv1")(nn.silu(self._norm("norm1")(x)))
        if condition is not None:
            shift = nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name="condition")
            y = y + shift(nn.silu(condition))[:, None, None, :]
        y = nn.silu(self._norm("norm2")(y))
        y = nn.Dropout(self.dropout, deterministic=False)(y)
        y = self._conv(3, self.out_init, "conv2")(y)
        if x.shape[-1] != self.width:
            x = self._conv(1, init, "shortcut")(x)
        return x + y


class DDPMUNet(nn.Module):
    """U-Net over pixels. The defaults are the published model for CIFAR-10, with classes.

    Attributes:
        num_classes: number of classes, without the null condition; None ignores the labels.
        image_shape: (height, width, channels); the sides are multiples of 2^(levels - 1).
        widths: channels of each level.
        blocks: number of residual blocks of a level on the way down; the way up has one more.
        attention_levels: levels with attention, counted from 1; the middle always has it.
        head_width: channels of an attention head; None means one head over all channels.
        dropout: rate of dropout inside the residual blocks.
        groups: number of groups of the norms; divides every width.
        epsilon: number added to the variance in the norms.
        downsampling: padding of the convolutions of stride 2: "asymmetric", as published, or
            "symmetric".
        cosine_first: whether the timestep's cosines come before its sines.
        frequency_shift: number in the exponents of `jaxunlearn.models.denoising.sinusoid`: 1, as
            published, or 0.
        learn_variance: whether the output has twice the channels, the second half for the variance.
        null_class: whether the table of classes has a row for the null condition, which guidance
            needs; models of other libraries may have none.
        dtype: type of the computation, float32 or bfloat16.
        remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = DDPMUNet(3, (8, 8, 1), widths=(8, 16), blocks=1, groups=4)
        >>> batch = jnp.zeros((2, 8, 8, 1)), jnp.array([0, 999]), jnp.array([2, 3])
        >>> noise, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), *batch)
        >>> noise.shape, noise.dtype
        ((2, 8, 8, 1), dtype('float32'))
    """

    num_classes: int | None
    image_shape: tuple[int, int, int] = (32, 32, 3)
    widths: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (2,)
    head_width: int | None = None
    dropout: float = 0.1
    groups: int = 32
    epsilon: float = 1e-6
    downsampling: str = "asymmetric"
    cosine_first: bool = False
    frequency_shift: int = 1
    learn_variance: bool = False
    null_class: bool = True
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        check_denoiser(self)
        check_wholes(self, "widths", (128, 256, 256, 256))
        check_wholes(self, "attention_levels", (2,), empty=True)
        check_whole(self, "blocks", "groups")
        check_positive(self, "epsilon")
        check_choice(self, "downsampling", tuple(_DOWNSAMPLING))
        check_flags(self, "cosine_first", "null_class")
        if self.head_width is not None:
            check_whole(self, "head_width")
        number = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool)
        if not number or not 0 <= self.dropout < 1:
            raise refused(self, "dropout", "a rate of at least 0 and below 1")
        check_divides(self, "widths", "groups")
        check_levels(self)
        if self.widths[0] % 2 or self.widths[0] < 4:
            raise refused(self, "widths", "a tuple that begins with an even width of at least 4")
        for level in (*self.attention_levels, len(self.widths)):
            if self.head_width is not None and self.widths[level - 1] % self.head_width:
                raise refused(self, "head_width", f"a divisor of the width of level {level}")
        divisor = 2 ** (len(self.widths) - 1)
        check_sides(self, self.image_shape, divisor, "resize them, or choose fewer widths")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        timesteps: jax.Array,
        labels: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The noise in a batch, float32 `[B, H, W, C]`, or `[B, H, W, 2 C]` with `learn_variance`.

        Args:
            images: noisy images `[B, *image_shape]`, floating-point.
            timesteps: timesteps `[B]`, integers or floating-point.
            labels: labels `[B]`, integers from 0 to num_classes, the last for the null condition
                (with `null_class`); optional if num_classes is None.
            train: whether to apply dropout, with random numbers of the collection "dropout".

        Raises:
            InputError: the images, timesteps or labels are of another shape or kind.
        """
        check_inputs(self, images, timesteps, labels)
        condition = Condition(
            self.num_classes,
            frequencies=self.widths[0],
            width=4 * self.widths[0],
            cosine_first=self.cosine_first,
            frequency_shift=self.frequency_shift,
            kernel_init=ddpm_init,
            table_init=nn.initializers.normal(1.0),
            dtype=self.dtype,
            null_class=self.null_class,
            name="condition",
        )(timesteps, labels)
        dropout = self.dropout if train else 0.0
        residual_block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        pixel_attention = nn.remat(PixelAttention) if self.remat else PixelAttention

        def block(x: jax.Array, level: int, name: str) -> jax.Array:
            width = self.widths[level - 1]
            args = (width, self.groups, self.epsilon, self.dtype, dropout)
            return residual_block(*args, name=name)(x, condition)

        def attention(x: jax.Array, name: str) -> jax.Array:
            heads = x.shape[-1] // (self.head_width or x.shape[-1])
            args = (self.groups, heads, self.epsilon, ddpm_init, zeros, self.dtype)
            return pixel_attention(*args, name=name)(x)

        def conv(x: jax.Array, name: str, **options: Any) -> jax.Array:
            options = {"strides": 1, "padding": 1, "kernel_init": ddpm_init, **options}
            return nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name=name, **options)(x)

        levels = len(self.widths)
        stem = nn.Conv(
            self.widths[0],
            (3, 3),
            padding=1,
            kernel_init=ddpm_init,
            dtype=self.dtype,
            name="stem",
        )
        x = stem(images)
        skips = [x]
        for level in range(1, levels + 1):
            for i in range(1, self.blocks + 1):
                x = block(x, level, f"down{level}_block{i}")
                if level in self.attention_levels:
                    x = attention(x, f"down{level}_attention{i}")
                skips.append(x)
            if level < levels:
                padding = _DOWNSAMPLING[self.downsampling]
                x = conv(x, f"down{level}_conv", strides=2, padding=padding)
                skips.append(x)

        x = block(x, levels, "middle_block1")
        x = attention(x, "middle_attention")
        x = block(x, levels, "middle_block2")

        for level in range(levels, 0, -1):
            for i in range(1, self.blocks + 2):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = block(x, level, f"up{level}_block{i}")
                if level in self.attention_levels:
                    x = attention(x, f"up{level}_attention{i}")
            if level > 1:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = conv(x, f"up{level}_conv")

        x = nn.GroupNorm(self.groups, epsilon=self.epsilon, name="norm")(x.astype(jnp.float32))
        channels = self.image_shape[-1] * (2 if self.learn_variance else 1)
        return nn.Conv(channels, (3, 3), padding=1, kernel_init=zeros, name="out")(nn.silu(x))
