"""Convolutions: equal to JAX's own, in the forms that stay fast inside loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models.conv import conv_general_dilated

CASES = [
    # image side, kernel side, strides, padding
    (2, 3, (1, 1), "SAME"),
    (4, 3, (2, 2), "SAME"),
    (3, 3, (2, 2), [(1, 1), (1, 1)]),
    (2, 3, (2, 1), [(1, 1), (1, 1)]),
    (4, 2, (2, 2), "VALID"),
    (5, 2, (2, 2), "VALID"),  # the last row and column belong to no window
    (3, 1, (2, 2), "VALID"),
    (2, 3, (1, 1), [(0, 2), (2, 0)]),
    (3, 3, (1, 1), "SAME"),  # from here on too large for patches
    (8, 3, (1, 1), "SAME"),
    (8, 3, (2, 2), "SAME"),
    (7, 3, (2, 2), [(1, 1), (1, 1)]),
    (8, 3, (2, 1), [(1, 1), (1, 1)]),
    (8, 2, (2, 2), "VALID"),
    (9, 2, (2, 2), "VALID"),  # the last row and column belong to no window
    (5, 1, (2, 2), "VALID"),
    (6, 3, (1, 1), [(0, 2), (2, 0)]),
    (16, 3, (1, 1), "SAME"),
    (17, 3, (1, 1), [(1, 1), (1, 1)]),
    (31, 3, (2, 2), [(1, 1), (1, 1)]),
    (32, 3, (2, 1), [(1, 1), (1, 1)]),
    (32, 2, (2, 2), "VALID"),
    (33, 2, (2, 2), "VALID"),  # the last row and column belong to no window
    (17, 3, (1, 1), [(0, 2), (2, 0)]),
]


def _arrays(side, window):
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (2, side, side, 3))
    return images, jax.random.normal(keys[1], (window, window, 3, 4))


def _plain(strides, padding):
    return functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize(("side", "window", "strides", "padding"), CASES)
def test_values_and_both_gradients_equal_jax(side, window, strides, padding):
    images, kernel = _arrays(side, window)

    def loss(convolve, images, kernel):
        return jnp.sum(jnp.sin(convolve(images, kernel)))

    ours = functools.partial(conv_general_dilated, strides=strides, padding=padding)
    theirs = _plain(strides, padding)
    np.testing.assert_allclose(ours(images, kernel), theirs(images, kernel), rtol=1e-5, atol=1e-5)
    for got, wanted in zip(
        jax.grad(loss, argnums=(1, 2))(ours, images, kernel),
        jax.grad(loss, argnums=(1, 2))(theirs, images, kernel),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("side", [2, 16])
def test_per_example_and_second_gradients(side):
    images, kernel = _arrays(side, 3)
    ours = functools.partial(conv_general_dilated, strides=(1, 1), padding="SAME")

    def loss(convolve, kernel, image):
        return jnp.sum(convolve(image[None], kernel) ** 3)

    def per_example(convolve):
        return jax.vmap(jax.grad(loss, argnums=1), (None, None, 0))(convolve, kernel, images)

    theirs = _plain((1, 1), "SAME")
    np.testing.assert_allclose(per_example(ours), per_example(theirs), rtol=1e-4, atol=1e-4)

    def norm_of_gradient(convolve, kernel):
        return jnp.sum(jax.grad(loss, argnums=1)(convolve, kernel, images[0]) ** 2)

    got, wanted = (jax.grad(norm_of_gradient, argnums=1)(f, kernel) for f in (ours, theirs))
    np.testing.assert_allclose(got, wanted, rtol=1e-3)


def test_a_tiny_image_takes_no_convolution_on_a_cpu_and_has_forward_mode_derivatives():
    images, kernel = _arrays(2, 3)
    ours = functools.partial(conv_general_dilated, strides=(1, 1), padding="SAME")

    def loss(kernel):
        return jnp.sum(ours(images, kernel) ** 2)

    text = jax.jit(jax.grad(loss)).lower(kernel).compile().as_text()
    assert "convolution(" not in text
    tangent = jnp.ones_like(kernel)
    curvature = jax.jvp(jax.grad(loss), (kernel,), (tangent,))[1]
    wanted = jax.grad(lambda k: jnp.vdot(jax.grad(loss)(k), tangent))(kernel)
    np.testing.assert_allclose(curvature, wanted, rtol=1e-4, atol=1e-3)


def test_every_convolution_of_the_gradient_is_channels_last():
    images, kernel = _arrays(16, 3)

    def loss(convolve, images, kernel):
        return jnp.sum(convolve(images, kernel) ** 2)

    def layouts(convolve):
        gradient = jax.jit(jax.grad(functools.partial(loss, convolve), argnums=(0, 1)))
        text = gradient.lower(images, kernel).as_text()
        lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        return {line.split("dim_numbers = ")[1].split(", window")[0] for line in lines}, len(lines)

    ours = functools.partial(conv_general_dilated, strides=(1, 1), padding="SAME")
    forward = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert layouts(ours) == ({forward}, 3)
    assert layouts(_plain((1, 1), "SAME"))[0] != {forward}  # so this test can fail


def test_dilation_and_groups_are_left_to_jax():
    images, kernel = _arrays(8, 3)
    wanted = jax.lax.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        "SAME",
        rhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    got = conv_general_dilated(
        images,
        kernel,
        (1, 1),
        "SAME",
        rhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_array_equal(got, wanted)
