"""Autoencoder of latent diffusion: images to small latents with a Gaussian each, and back.

    encode(x) = (m, log v):   z = m + sqrt(v) n,  n ~ N(0, 1);      decode(z) = x approximately

Each level is a row of residual blocks; between levels the encoder halves the image and the decoder
doubles it, and in the middle all pixels attend to each other. There are no skip connections: the
decoder sees the latents alone.

Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022,
section 3.1 and appendix G (the autoencoder with the KL penalty).
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
    check_positive,
    check_sides,
    check_whole,
    check_wholes,
)
from jaxunlearn.models.ddpm_unet import ResidualBlock
from jaxunlearn.models.transformer_blocks import PixelAttention

_EPSILON = 1e-6  # of every norm
_LOG_VARIANCES = (-30.0, 20.0)  # limits


class Coder(nn.Module):
    """The encoder, or the decoder, which has the levels in reverse.

    Attributes:
        channels: number of output channels.
        widths: channels of each level, in order of computation.
        blocks: number of residual blocks of each level.
        down: whether levels halve the image (the encoder) instead of doubling it (the decoder),
            except for the last one.
        groups: number of groups of the norms.
        dtype: type of the computation.
        remat: whether the backward pass recomputes the blocks.
    """

    channels: int
    widths: tuple[int, ...]
    blocks: int
    down: bool
    groups: int
    dtype: Any
    remat: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H', W', channels]`, float32."""
        x = self._conv(self.widths[0], "in")(x)
        if self.down:
            x = self._levels(x)
        width = x.shape[-1]
        x = self._block(width, "middle_block1")(x)
        attention = nn.remat(PixelAttention) if self.remat else PixelAttention
        x = attention(self.groups, dtype=self.dtype, name="middle_attention")(x)
        x = self._block(width, "middle_block2")(x)
        if not self.down:
            x = self._levels(x)
        x = nn.GroupNorm(self.groups, epsilon=_EPSILON, name="norm")(x.astype(jnp.float32))
        return nn.Conv(self.channels, (3, 3), padding=1, name="out")(nn.silu(x))

    def _levels(self, x: jax.Array) -> jax.Array:
        for level, width in enumerate(self.widths, start=1):
            for i in range(1, self.blocks + 1):
                x = self._block(width, f"level{level}_block{i}")(x)
            if level == len(self.widths):
                return x
            name = f"level{level}_conv"
            if self.down:
                x = self._conv(width, name, strides=2, padding=((0, 1), (0, 1)))(x)
            else:
                x = self._conv(width, name)(x.repeat(2, axis=1).repeat(2, axis=2))
        return x

    def _block(self, width: int, name: str) -> nn.Module:
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        init = nn.initializers.lecun_normal()
        return block(width, self.groups, _EPSILON, self.dtype, 0.0, init, init, name=name)

    def _conv(self, width: int, name: str, **options: Any) -> nn.Module:
        return nn.Conv(width, (3, 3), dtype=self.dtype, name=name, **{"padding": 1, **options})


class AutoencoderKL(nn.Module):
    """Autoencoder with a Gaussian in latent space. The defaults have the published factor 8.

    `encode` and `decode` are methods: `model.apply(variables, images, method="encode")`. The model
    does not scale latents; training multiplies them by `scaling_factor` after encoding, and
    divides by it before decoding.

    Attributes:
        channels: number of channels of the images.
        latent_channels: number of channels of the latents.
        widths: channels of each level; the sides of the latents are smaller by 2^(levels - 1).
        blocks: number of residual blocks of a level of the encoder; the decoder has one more.
        groups: number of groups of the norms; divides every width.
        scaling_factor: inverse of the standard deviation of the latents.
        dtype: type of the computation, float32 or bfloat16.
        remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = AutoencoderKL(channels=1, widths=(8, 8, 8), blocks=1, groups=2)
        >>> images = jnp.zeros((2, 28, 28, 1))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
        >>> encode = lambda variables: model.apply(variables, images, method="encode")
        >>> mean, log_variance = jax.eval_shape(encode, variables)
        >>> mean.shape, mean.dtype
        ((2, 7, 7, 4), dtype('float32'))
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    scaling_factor: float = 0.18215
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        check_dtype(self)
        check_flags(self, "remat")
        check_whole(self, "channels", "latent_channels", "blocks", "groups")
        check_wholes(self, "widths", (128, 256, 512, 512))
        check_divides(self, "widths", "groups")
        check_positive(self, "scaling_factor")
        super().__post_init__()

    @property
    def factor(self) -> int:
        """The ratio of the sides of images and latents."""
        return int(2 ** (len(self.widths) - 1))

    def setup(self) -> None:
        """Make the encoder, the decoder and the convolutions of the latents."""
        shared = {"groups": self.groups, "dtype": self.dtype, "remat": self.remat}
        moments = 2 * self.latent_channels
        self.encoder = Coder(moments, self.widths, self.blocks, down=True, **shared)
        self.moments = nn.Conv(moments, (1, 1))
        self.latents = nn.Conv(self.latent_channels, (1, 1))
        self.decoder = Coder(
            self.channels, self.widths[::-1], self.blocks + 1, down=False, **shared
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images that are encoded to the means of their latents and decoded."""
        return self.decode(self.encode(images)[0])

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The Gaussian in latent space of each image, `(mean, log_variance)`.

        Args:
            images: images `[B, H, W, channels]`, floating-point in [-1, 1]; H and W are multiples
                of `factor`.

        Returns:
            Two arrays `[B, H / factor, W / factor, latent_channels]`, float32, without scaling. The
            log variance is clipped to [-30, 20].

        Raises:
            InputError: the images are of another shape, or integers.
        """
        check_images(self, images, self.channels)
        remedy = "resize them, or choose fewer widths"
        check_sides(self, images.shape[1:], self.factor, remedy)
        mean, log_variance = jnp.split(self.moments(self.encoder(images)), 2, axis=-1)
        return mean, jnp.clip(log_variance, *_LOG_VARIANCES)

    def decode(self, latents: jax.Array) -> jax.Array:
        """The images of latents.

        Args:
            latents: latents `[B, h, w, latent_channels]`, floating-point, without scaling.

        Returns:
            Images `[B, factor * h, factor * w, channels]`, float32, about in [-1, 1].

        Raises:
            InputError: the latents are of another shape, or integers.
        """
        check_images(self, latents, self.latent_channels)
        return self.decoder(self.latents(latents))
