"""Convolutions that stay fast inside compiled loops on CPUs.

XLA's CPU compiler brings convolutions into the layout of its fast kernels only at the top level of
a program, not in the body of a loop, where a convolution takes tens of times as long. Training runs
in loops. So `fast_in_loops` traces a function and replaces every convolution in it, gradients
included, by an equal one in that layout:

    images [N, *spatial, C],  kernel [*spatial, C, F]  ->  [N, *spatial, F]

If the output or the window has at most 2 x 2 pixels, and the other at most 3 x 3, these kernels are
slow too. One matrix product replaces them: the shifted images side by side, `[N H' W', h w C]`,
times the kernel, `[h w C, F]`. The gradient of a strided convolution with such an output is a
product too, whose parts are added at their positions.

Models do not change, as derivatives of either mode are taken before the replacement. On other
platforms nothing changes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core.primitives import conv_general_dilated_p

_FEWEST_PIXELS, _FEW_PIXELS = 2 * 2, 3 * 3  # of output and window, for one matrix product


def fast_in_loops(function: Callable[..., Any]) -> Callable[..., Any]:
    """An equal function of arrays, with convolutions that stay fast inside loops on CPUs.

    Args:
        function: a pure function whose arguments and results are trees of arrays.

    Returns:
        A function with the same results, up to rounding.

    Example:
        >>> def blur(kernel, image):
        ...     return jax.lax.conv(image, kernel, (1, 1), "SAME")
        >>> kernel, images = jnp.ones((1, 1, 3, 3)), jnp.ones((2, 1, 1, 4, 4))
        >>> jax.lax.map(lambda image: fast_in_loops(blur)(kernel, image), images).shape
        (2, 1, 1, 4, 4)
    """

    @functools.wraps(function)
    def fast(*args: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = core.jaxpr_as_fun(_in_parameter(traced))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return fast


def _in_parameter(value: Any) -> Any:
    """A parameter of an operation; convolutions of the programs in it are replaced."""
    if isinstance(value, core.Jaxpr):
        return value.replace(eqns=[_replaced(eqn) for eqn in value.eqns])
    if isinstance(value, core.ClosedJaxpr):  # before JAX 0.12, which has one type for both
        return value.replace(jaxpr=_in_parameter(value.jaxpr))
    if type(value) is tuple:  # the branches of a condition
        return tuple(_in_parameter(each) for each in value)
    return value


def _replaced(eqn: core.JaxprEqn) -> core.JaxprEqn:
    """A convolution as a call of its fast form; other operations with replaced inner programs."""
    if eqn.primitive is not conv_general_dilated_p:
        params = {name: _in_parameter(value) for name, value in eqn.params.items()}
        return eqn.replace(params=params)

    @jax.jit
    def convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.platform_dependent(
            images,
            kernel,
            cpu=lambda i, k: _channels_last(i, k, **eqn.params),
            default=lambda i, k: conv_general_dilated_p.bind(i, k, **eqn.params),
        )

    (call,) = jax.make_jaxpr(convolution)(*(v.aval for v in eqn.invars)).eqns
    return eqn.replace(primitive=call.primitive, params=call.params)


def _channels_last(
    images: jax.Array,
    kernel: jax.Array,
    *,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **options: Any,
) -> jax.Array:
    """A convolution of any layout, computed in the layout of the fast kernels."""
    image_axes, kernel_axes, output_axes = dimension_numbers
    images = images.transpose(image_axes[0], *image_axes[2:], image_axes[1])
    kernel = kernel.transpose(*kernel_axes[2:], kernel_axes[1], kernel_axes[0])
    groups = feature_group_count
    if batch_group_count > 1:  # groups of the batch become groups of the channels
        groups, images = batch_group_count, _groups_to_channels(images, batch_group_count)
    if groups == 1 and images.ndim == 4 and _is_small(images, kernel, **options):
        output = _by_patches(images, kernel, **options)
    elif groups == 1 and images.ndim == 4 and _is_strided_gradient(images, kernel, **options):
        output = _by_scattering(images, kernel, **options)
    else:
        spatial = "XYZ"[: images.ndim - 2]
        layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
        output = jax.lax.conv_general_dilated(
            images, kernel, dimension_numbers=layout, feature_group_count=groups, **options
        )
    placed = (output_axes[0], *output_axes[2:], output_axes[1])
    return output.transpose([placed.index(axis) for axis in range(output.ndim)])


def _groups_to_channels(images: jax.Array, groups: int) -> jax.Array:
    """`[G N, *spatial, C]` as `[N, *spatial, G C]`."""
    size, *spatial, channels = images.shape
    apart = jnp.moveaxis(images.reshape(groups, size // groups, *spatial, channels), 0, -2)
    return apart.reshape(size // groups, *spatial, groups * channels)


def _is_small(images: jax.Array, kernel: jax.Array, **options: Any) -> bool:
    few, more = sorted((math.prod(kernel.shape[:2]), math.prod(_side(images, kernel, **options))))
    return few <= _FEWEST_PIXELS and more <= _FEW_PIXELS


def _is_strided_gradient(images: jax.Array, kernel: jax.Array, **options: Any) -> bool:
    """Whether this is the gradient of a strided convolution with a tiny output."""
    apart = (options["lhs_dilation"], options["rhs_dilation"], options["window_strides"])
    spread, *others = (tuple(each) for each in apart)
    tiny = math.prod(images.shape[1:3]) <= _FEWEST_PIXELS
    few = math.prod(kernel.shape[:2]) <= _FEW_PIXELS
    return tiny and few and spread != (1, 1) and others == [(1, 1), (1, 1)]


def _by_scattering(
    images: jax.Array,
    kernel: jax.Array,
    *,
    precision: Any,
    preferred_element_type: Any,
    **options: Any,
) -> jax.Array:
    """One matrix product of pixels and kernel, whose parts are added at their positions."""
    size, *pixels, channels = images.shape
    height, width, _, features = kernel.shape
    product = jnp.matmul(
        images.reshape(-1, channels),
        kernel.transpose(2, 0, 1, 3).reshape(channels, -1),
        precision=precision,
        preferred_element_type=preferred_element_type,
    ).reshape(size, *pixels, height, width, features)
    side, spread = _side(images, kernel, **options), options["lhs_dilation"]

    def placed(*offset: int) -> jax.Array:
        pads = []
        for axis, (low, _) in enumerate(options["padding"]):
            first = low - offset[axis]
            last = first + (pixels[axis] - 1) * spread[axis]
            pads.append((first, side[axis] - 1 - last, spread[axis] - 1))
        part = product[:, :, :, offset[0], offset[1]]
        return jax.lax.pad(part, part.dtype.type(0), [(0, 0, 0), *pads, (0, 0, 0)])

    return functools.reduce(jnp.add, [placed(i, j) for i in range(height) for j in range(width)])


def _side(
    images: jax.Array,
    kernel: jax.Array,
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    **_: Any,
) -> list[int]:
    """Rows and columns of the output."""
    sizes = zip(
        *(images.shape[1:3], kernel.shape[:2], window_strides, padding, lhs_dilation, rhs_dilation),
        strict=True,
    )
    return [
        ((size - 1) * spread + 1 + low + high - (window - 1) * apart - 1) // stride + 1
        for size, window, stride, (low, high), spread, apart in sizes
    ]


def _by_patches(
    images: jax.Array,
    kernel: jax.Array,
    *,
    precision: Any,
    preferred_element_type: Any,
    **options: Any,
) -> jax.Array:
    """One matrix product of patches and kernel."""
    height, width, channels, features = kernel.shape
    rows, columns = _side(images, kernel, **options)
    down, across = options["window_strides"]
    spread, apart = options["lhs_dilation"], options["rhs_dilation"]
    pads = [(*pair, by - 1) for pair, by in zip(options["padding"], spread, strict=True)]
    padded = jax.lax.pad(images, images.dtype.type(0), [(0, 0, 0), *pads, (0, 0, 0)])
    shifted = [
        padded[:, i : i + down * (rows - 1) + 1 : down, j : j + across * (columns - 1) + 1 : across]
        for i in range(0, height * apart[0], apart[0])
        for j in range(0, width * apart[1], apart[1])
    ]
    patches = jnp.concatenate(shifted, axis=-1).reshape(-1, height * width * channels)
    product = jnp.matmul(
        patches,
        kernel.reshape(-1, features),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    return product.reshape(images.shape[0], rows, columns, features)
