"""Convolutions: equal to JAX's own, in the form that stays fast inside loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxunlearn import methods, training
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.tasks import classification
from jaxunlearn.training.devices import make_mesh, replicate
from jaxunlearn.training.programs import split

pytestmark = pytest.mark.long

CHANNELS_LAST = {
    f"[b, {axes}, f]x[{axes}, i, o]->[b, {axes}, f]" for axes in ("0", "0, 1", "0, 1, 2")
}
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
    (3, 3, (1, 1), "SAME"),  # from here on too large for one product
    (8, 3, (2, 2), "SAME"),
    (7, 3, (2, 2), [(1, 1), (1, 1)]),
    (8, 3, (2, 1), [(1, 1), (1, 1)]),
    (9, 2, (2, 2), "VALID"),  # the last row and column belong to no window
    (5, 1, (2, 2), "VALID"),
    (17, 3, (1, 1), [(0, 2), (2, 0)]),
]
IMAGE = (2, 6, 6, 4)
PADDING = [(1, 2), (2, 1)]
FORMS = {  # shapes of images and kernel, and the convolution
    "channels first": ((2, 4, 6, 6), (5, 4, 3, 3), {"dimension_numbers": None}),
    "dilated": (IMAGE, (3, 3, 4, 5), {"rhs_dilation": (2, 2)}),
    "transposed": (IMAGE, (3, 3, 4, 5), {"lhs_dilation": (2, 2), "padding": PADDING}),
    "tiny": (
        *((2, 1, 2, 4), (2, 2, 4, 5)),
        {"rhs_dilation": (2, 1), "lhs_dilation": (2, 3), "padding": PADDING},
    ),
    "tiny, transposed": (
        *((2, 2, 2, 4), (3, 3, 4, 5)),
        {"lhs_dilation": (2, 3), "padding": [(1, 2), (0, -1)]},
    ),
    "grouped": (IMAGE, (3, 3, 2, 6), {"feature_group_count": 2}),
    "depthwise": (IMAGE, (3, 3, 1, 8), {"feature_group_count": 4}),
    "groups of the batch": ((6, 5, 5, 4), (3, 3, 4, 6), {"batch_group_count": 3}),
    "one axis": ((2, 9, 4), (3, 4, 5), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
    "three axes": (
        *((2, 4, 5, 4, 3), (3, 3, 3, 3, 2)),
        {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")},
    ),
}


def convolution(strides=(1, 1), padding="SAME", **options):
    defaults = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        **(defaults | options),
    )


def arrays(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def value_and_gradients(convolve, *weights):
    def loss(*weights):
        return jnp.sum(jnp.sin(convolve(*weights)))

    return convolve(*weights), *jax.grad(loss, argnums=(0, 1))(*weights)


def assert_close(got, wanted):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.max(np.abs(y)))


def layouts(lowered):
    """The layouts of all convolutions of a program."""
    lines = [line for line in lowered.as_text().splitlines() if "stablehlo.convolution" in line]
    return {line.split("dim_numbers = ")[1].split(", window")[0] for line in lines}


@pytest.mark.parametrize(("side", "window", "strides", "padding"), CASES)
def test_values_and_both_gradients_equal_jax(side, window, strides, padding):
    weights = arrays((2, side, side, 3), (window, window, 3, 4))
    function = functools.partial(value_and_gradients, convolution(strides, padding))
    assert_close(jax.jit(fast_in_loops(function))(*weights), function(*weights))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_convolution_equals_jax(form):
    *shapes, options = FORMS[form]
    weights, axes = arrays(*shapes), len(shapes[0]) - 2
    function = functools.partial(value_and_gradients, convolution((1,) * axes, **options))
    compiled = jax.jit(fast_in_loops(function))
    assert_close(compiled(*weights), function(*weights))
    assert layouts(compiled.lower(*weights)) <= CHANNELS_LAST


def test_precision_and_type_of_the_result_are_kept():
    images, kernel = (x.astype(jnp.bfloat16) for x in arrays(IMAGE, (3, 3, 4, 5)))
    for side in (6, 2):
        function = convolution(preferred_element_type=jnp.float32)
        got = fast_in_loops(function)(images[:, :side, :side], kernel)
        assert got.dtype == jnp.float32
        assert_close(got, function(images[:, :side, :side], kernel))


def test_all_that_loops_conditions_and_maps_contain_is_replaced():
    images, kernel = arrays((3, 1, 6, 6, 4), (3, 3, 4, 4))

    def loss(kernel, image):
        return jnp.sum(convolution()(jnp.tanh(convolution()(image, kernel)), kernel) ** 2)

    gradient = jax.checkpoint(jax.grad(loss))

    def descended(kernel, image):
        return jax.lax.fori_loop(0, 2, lambda i, k: k - 1e-3 * gradient(k, image), kernel)

    def function(kernel, images):
        of_each = jax.lax.map(lambda image: descended(kernel, image), images)
        at_once = jax.vmap(gradient, in_axes=(0, None))(of_each, images[0])
        chosen = jax.lax.cond(
            at_once.sum() > 0, lambda: descended(kernel, images[0]), lambda: kernel + 1.0
        )
        return jax.lax.scan(lambda k, image: (gradient(k, image), None), chosen, images)[0], at_once

    fast = jax.jit(fast_in_loops(function))
    assert layouts(fast.lower(kernel, images)) <= CHANNELS_LAST
    assert layouts(jax.jit(function).lower(kernel, images)) - CHANNELS_LAST  # as it can fail
    assert_close(fast(kernel, images), function(kernel, images))


def test_tiny_images_take_matrix_products():
    images, kernel = arrays((2, 2, 2, 4), (3, 3, 4, 4))

    def loss(images, kernel):
        return jnp.sum(convolution()(images, kernel) ** 2)

    gradient = fast_in_loops(jax.grad(loss, argnums=(0, 1)))
    text = jax.jit(gradient).lower(images, kernel).compile().as_text()
    assert "convolution(" not in text


def test_what_is_not_a_convolution_stays_to_the_bit():
    def function(x, tree):
        values = jnp.cumsum(jax.nn.relu(x)) * tree["scale"]
        return {"values": values, "key": jax.random.fold_in(tree["key"], 1), "none": None}

    x, tree = jnp.arange(5.0) - 2.0, {"scale": jnp.float32(3.0), "key": jax.random.key(0)}
    got, wanted = jax.jit(fast_in_loops(function))(x, tree), jax.jit(function)(x, tree)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    np.testing.assert_array_equal(got["values"], wanted["values"])
    assert jax.random.key_data(got["key"]).tolist() == jax.random.key_data(wanted["key"]).tolist()


class Own(nn.Module):
    """A network as users write them."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width, stride in ((4, 1), (6, 2)):
            x = nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(not train)(x))
        return nn.Dense(3)(x.mean((1, 2)))


TASK = classification(Own(), image_shape=(6, 6, 1), num_classes=3)
SETTINGS = {"num_steps": 2, "forget_batch_size": 4, "retain_batch_size": 4}


def examples(count):
    """Images of noise, with labels."""
    images = np.random.default_rng(0).integers(0, 255, (count, 6, 6, 1)).astype(np.uint8)
    return {"image": images, "label": np.arange(count) % 3, "index": np.arange(count)}


@pytest.mark.parametrize("method", ["finetune", "sfron"])
def test_runs_of_an_own_model_loop_over_fast_convolutions(method):
    """Fast steps and the pass over single examples before the first step, too."""
    settings = methods.settings(method, SETTINGS)
    numbers = split(settings).numbers
    sizes = {name: size for name, size in SETTINGS.items() if name != "num_steps"}
    mesh = make_mesh(1)
    program = training.compile_program(
        lambda given: methods.build(TASK, method, settings | given),
        chunk_steps=2,
        mesh=mesh,
        **sizes,
    )
    start, data = TASK.init(jax.random.key(0)), replicate(examples(8), mesh)
    inputs = (numbers, jax.random.key(0), *start, data, data)
    assert layouts(program.init.lower(*inputs)) <= CHANNELS_LAST
    state = jax.eval_shape(program.init, *inputs)
    lowered = program.chunk.lower(numbers, state, data, data, jnp.int32(2))
    assert layouts(lowered) and layouts(lowered) <= CHANNELS_LAST
