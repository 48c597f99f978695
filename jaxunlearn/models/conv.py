"""Convolutions that stay fast inside compiled loops on CPUs.

XLA's CPU compiler brings convolutions into the layout of its fast kernels only outside of loops,
and training happens in one. So on CPUs a convolution takes one of two other forms:

- In general, a convolution with gradients of its own. The forward pass of a channels-last
  convolution is in the fast layout anyway; its gradients are not, and are written here as
  channels-last convolutions of transposed arrays:

      grad of the images    g (dilated by the stride) * flipped kernel
      grad of the kernel    images * g (dilated by the stride), summed over the batch like channels

- Where the output has up to 2 x 2 pixels, which those kernels are slow for, one matrix product of
  patches: the shifted images side by side `[N H' W', h w C]`, times the kernel `[h w C, F]`.

On other platforms, and for convolutions with dilation or groups, JAX's own form is used.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_MOST_PIXELS, _MOST_SHIFTS = 2 * 2, 9  # of the output and of the kernel, for the patch form
Pairs = tuple[tuple[int, int], ...]


def conv_general_dilated(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for images, in the form that `flax.linen.Conv` calls.

    Args:
        images: `[N, H, W, C]`.
        kernel: `[h, w, C, F]`.
        strides: of rows and columns.
        padding: "SAME", "VALID", or pairs for rows and columns.
        lhs_dilation: of the images.
        rhs_dilation: of the kernel.
        dimension_numbers: must mean channels last.
        feature_group_count: groups of channels.
        precision: of the products.

    Returns:
        `[N, H', W', F]`.

    Example:
        >>> import jax.numpy as jnp
        >>> images, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
        >>> conv_general_dilated(images, kernel, (2, 2), "SAME").shape
        (1, 2, 2, 5)
    """
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if images.ndim != 4 or dilated or feature_group_count != 1:
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
        )
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    pairs = tuple((int(low), int(high)) for low, high in padding)
    strides = (int(strides[0]), int(strides[1]))
    rows, columns = _output_shape(images, kernel, strides, pairs)
    if rows * columns > _MOST_PIXELS or kernel.shape[0] * kernel.shape[1] > _MOST_SHIFTS:
        return _conv(images, kernel, strides, pairs, precision)
    return jax.lax.platform_dependent(
        images,
        kernel,
        cpu=lambda i, k: _by_patches(i, k, strides, pairs, precision),
        default=lambda i, k: _plain(i, k, strides, pairs, precision),
    )


Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def _output_shape(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Pairs
) -> tuple[int, int]:
    rows, columns = (
        (size + low + high - window) // stride + 1
        for size, window, stride, (low, high) in zip(
            images.shape[1:3], kernel.shape[:2], strides, padding, strict=True
        )
    )
    return rows, columns


def _by_patches(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Pairs, precision: Any
) -> jax.Array:
    height, width, channels, features = kernel.shape
    rows, columns = _output_shape(images, kernel, strides, padding)
    down, across = strides
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    shifted = [
        padded[:, i : i + down * (rows - 1) + 1 : down, j : j + across * (columns - 1) + 1 : across]
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.concatenate(shifted, axis=-1).reshape(-1, height * width * channels)
    product = jnp.matmul(patches, kernel.reshape(-1, features), precision=precision)
    return product.reshape(images.shape[0], rows, columns, features)


def _plain(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pairs, precision: Any
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=_LAYOUT, precision=precision
    )


_conv = jax.custom_vjp(_plain, nondiff_argnums=(2, 3, 4))


def _forward(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pairs, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(images, kernel, strides, padding, precision), (images, kernel)


def _backward(
    strides: tuple[int, ...],
    padding: Pairs,
    precision: Any,
    residuals: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def channels_last(
        images: jax.Array, kernel: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return (
            _images_gradient(images, kernel, gradient, strides, padding, precision),
            _kernel_gradient(images, kernel, gradient, strides, padding, precision),
        )

    def native(
        images: jax.Array, kernel: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
            return _plain(images, kernel, strides, padding, precision)

        return jax.vjp(plain, images, kernel)[1](gradient)

    return jax.lax.platform_dependent(*residuals, gradient, cpu=channels_last, default=native)


_conv.defvjp(_forward, _backward)


def _images_gradient(
    images: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    strides: tuple[int, ...],
    padding: Pairs,
    precision: Any,
) -> jax.Array:
    """`[N, H, W, C]`: the gradient, dilated by the stride, meets the kernel turned around."""
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    pads = []
    for size, window, out, stride, (low, _) in zip(
        images.shape[1:3], kernel.shape[:2], gradient.shape[1:3], strides, padding, strict=True
    ):
        before = window - 1 - low
        pads.append((before, size + low - (out - 1) * stride - 1))
    return jax.lax.conv_general_dilated(
        gradient,
        turned,
        (1, 1),
        pads,
        lhs_dilation=strides,
        dimension_numbers=_LAYOUT,
        precision=precision,
    )


def _kernel_gradient(
    images: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    strides: tuple[int, ...],
    padding: Pairs,
    precision: Any,
) -> jax.Array:
    """`[h, w, C, F]`: images meet the gradient as a kernel, with batch and channels exchanged."""
    exchanged = jax.lax.conv_general_dilated(
        images.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=strides,
        dimension_numbers=_LAYOUT,
        precision=precision,
    )
    # A stride that does not divide leaves positions that no window of the forward pass began at.
    rows, columns = kernel.shape[:2]
    return exchanged[:, :rows, :columns].transpose(1, 2, 0, 3)
