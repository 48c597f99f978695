"""The U-Net of latent diffusion: noisy latents in, noise out, given the timestep and a text.

    h = conv1(silu(norm1(x))) + W silu(e);   y = shortcut(x) + conv2(silu(norm2(h)))

`e` is the embedding of the timestep. A level has several residual blocks, each followed, if the
level is listed, by a transformer whose pixels attend to each other and to the hidden states of the
text. On the way down, levels halve the latents; on the way up they double them, and each block also
takes the matching output of the way down (a skip connection). The last convolution of every block,
of every transformer and of the network starts at zero.

Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022,
section 3.3 and appendix E.2.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import (
    check_divides,
    check_dtype,
    check_flags,
    check_images,
    check_levels,
    check_whole,
    check_wholes,
    refused,
)
from jaxunlearn.models.ddpm_unet import ResidualBlock
from jaxunlearn.models.denoising import Condition, check_timesteps
from jaxunlearn.models.transformer_blocks import ImageTransformer
from jaxunlearn.types import InputError

_EPSILON = 1e-5  # in the norms outside of the transformers


class TextUNet(nn.Module):
    """U-Net over latents, conditioned on a text. The defaults are Stable Diffusion v1.

    Attributes:
        channels: number of channels of the latents.
        widths: channels of each level.
        blocks: number of residual blocks of a level on the way down; the way up has one more.
        attention_levels: levels with transformers, counted from 1; the middle always has one.
        heads: number of attention heads of every transformer; divides every width.
        context_width: width of the hidden states of the text.
        groups: number of groups of the norms; divides every width.
        dtype: type of the computation, float32 or bfloat16.
        remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = TextUNet(widths=(8, 16), blocks=1, attention_levels=(1,), heads=2,
        ...                  context_width=6, groups=4)
        >>> batch = jnp.zeros((2, 7, 7, 4)), jnp.array([0, 999]), jnp.zeros((2, 5, 6))
        >>> noise, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), *batch)
        >>> noise.shape, noise.dtype
        ((2, 7, 7, 4), dtype('float32'))
    """

    channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (1, 2, 3)
    heads: int = 8
    context_width: int = 768
    groups: int = 32
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        check_dtype(self)
        check_flags(self, "remat")
        check_whole(self, "channels", "blocks", "heads", "context_width", "groups")
        check_wholes(self, "widths", (320, 640, 1280, 1280))
        check_wholes(self, "attention_levels", (1, 2, 3), empty=True)
        check_divides(self, "widths", "groups")
        check_divides(self, "widths", "heads")
        check_levels(self)
        if self.widths[0] % 2:
            raise refused(self, "widths", "a tuple that begins with an even width")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, latents: jax.Array, timesteps: jax.Array, context: jax.Array, train: bool = False
    ) -> jax.Array:
        """The noise in a batch, float32 `[B, H, W, channels]`.

        Args:
            latents: noisy, scaled latents `[B, H, W, channels]`, floating-point, of any height and
                width.
            timesteps: timesteps `[B]`, integers or floating-point.
            context: hidden states of the text `[B, L, context_width]`, floating-point.
            train: flag without effect, which all denoisers take.

        Raises:
            InputError: the latents, timesteps or context are of another shape or kind.
        """
        del train
        self._check_inputs(latents, timesteps, context)
        condition = Condition(
            None,
            frequencies=self.widths[0],
            width=4 * self.widths[0],
            cosine_first=True,
            frequency_shift=0,
            kernel_init=nn.initializers.lecun_normal(),
            table_init=None,
            dtype=self.dtype,
            name="condition",
        )(timesteps, None)
        residual_block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        transformer = nn.remat(ImageTransformer) if self.remat else ImageTransformer

        def block(x: jax.Array, level: int, place: str, i: int) -> jax.Array:
            fields = (self.widths[level - 1], self.groups, _EPSILON, self.dtype)
            x = residual_block(*fields, name=f"{place}_block{i}")(x, condition)
            return attend(x, f"{place}_attention{i}") if level in self.attention_levels else x

        def attend(x: jax.Array, name: str) -> jax.Array:
            return transformer(self.heads, self.groups, self.dtype, name=name)(x, context)

        def conv(x: jax.Array, name: str, strides: int = 1) -> jax.Array:
            options = {"strides": strides, "padding": 1, "dtype": self.dtype, "name": name}
            return nn.Conv(x.shape[-1], (3, 3), **options)(x)

        levels = len(self.widths)
        x = nn.Conv(self.widths[0], (3, 3), padding=1, dtype=self.dtype, name="in")(latents)
        skips = [x]
        for level in range(1, levels + 1):
            for i in range(1, self.blocks + 1):
                x = block(x, level, f"down{level}", i)
                skips.append(x)
            if level < levels:
                x = conv(x, f"down{level}_conv", strides=2)
                skips.append(x)

        fields = (self.widths[-1], self.groups, _EPSILON, self.dtype)
        x = residual_block(*fields, name="middle_block1")(x, condition)
        x = attend(x, "middle_attention")
        x = residual_block(*fields, name="middle_block2")(x, condition)

        for level in range(levels, 0, -1):
            for i in range(1, self.blocks + 2):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = block(x, level, f"up{level}", i)
            if level > 1:
                # An odd side was halved upwards, so doubling it gives one pixel too many.
                rows, columns = skips[-1].shape[1:3]
                x = x.repeat(2, axis=1).repeat(2, axis=2)[:, :rows, :columns]
                x = conv(x, f"up{level}_conv")

        x = nn.GroupNorm(self.groups, epsilon=_EPSILON, name="norm")(x.astype(jnp.float32))
        zeros = nn.initializers.zeros
        return nn.Conv(self.channels, (3, 3), padding=1, kernel_init=zeros, name="out")(nn.silu(x))

    def _check_inputs(self, latents: jax.Array, timesteps: jax.Array, context: jax.Array) -> None:
        check_images(self, latents, self.channels)
        batch = latents.shape[0]
        check_timesteps(self, timesteps, (batch,))
        shape = (batch, *context.shape[1:2], self.context_width)
        floating = jnp.issubdtype(context.dtype, jnp.floating)
        if context.ndim != 3 or context.shape != shape or not floating:
            raise InputError(
                f"the context of TextUNet is {context.dtype} of shape {context.shape}, but must be "
                f"floating-point of shape [{batch}, L, {self.context_width}]; give the output of "
                "the text encoder for as many prompts."
            )
