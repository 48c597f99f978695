"""What every denoiser promises: made by name, counted, silent at first, told time and class."""

import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxunlearn.models import denoisers
from jaxunlearn.models.denoisers import DiT, available, create
from jaxunlearn.types import InputError

pytestmark = pytest.mark.long

# (classes, shape of the images, parameters); published numbers where there are any.
COUNTS = {
    "ddpm-tiny": (10, (8, 8, 1), 45_321),
    "ddpm-small": (10, (28, 28, 1), 1_334_673),
    "ddpm-cifar10": (10, (32, 32, 3), 35_746_307 + 11 * 512),
    "dit-tiny-test": (10, (8, 8, 1), 14_948),
    "dit-small": (10, (28, 28, 1), 1_869_072),
    "dit-s/2": (1000, (32, 32, 4), 32_865_056),
    "dit-b/2": (1000, (32, 32, 4), 130_315_808),
    "dit-l/2": (1000, (32, 32, 4), 457_840_672),
    "dit-xl/2": (1000, (32, 32, 4), 674_834_720),
}
TINY = {
    "ddpm-tiny": {"widths": (4,), "attention_levels": (1,), "groups": 2},
    "dit-tiny-test": {"width": 8, "depth": 1},
}

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def test_every_name_has_a_count():
    assert available() == tuple(sorted(COUNTS))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name, count):
    classes, shape, expected = COUNTS[name]
    model = create(name, shape, classes, dtype="bfloat16", remat=True)
    whole = jax.ShapeDtypeStruct((2,), jnp.int32)
    batch = jax.ShapeDtypeStruct((2, *shape), jnp.float32), whole, whole
    variables = jax.eval_shape(model.init, jax.random.key(0), *batch)
    assert count(variables) == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    if name == "dit-xl/2":
        out = jax.jit(model.apply).lower(variables, *batch).out_info
        assert (out.shape, out.dtype) == ((2, 32, 32, 8), jnp.float32)


def test_documented_counts_are_the_counts():
    documented = {}
    for name, (n, text) in denoisers.ABOUT.items():
        classes, *shape = re.match(r"(\d+) classes, (\d+)x(\d+)x(\d+)", text).groups()
        documented[name] = (int(classes), tuple(map(int, shape)), n)
    assert documented == COUNTS


@pytest.fixture(scope="module", params=TINY)
def tiny(request, random_variables):
    """A tiny model with random variables, a batch of three and the noise in it."""
    model = create(request.param, (4, 4, 1), num_classes=3, **TINY[request.param])
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    batch = images, jnp.array([0, 10, 999]), jnp.array([0, 2, 3])
    variables = random_variables(model, *batch)
    apply = jit(model.apply)
    return SimpleNamespace(
        name=request.param,
        model=model,
        batch=batch,
        variables=variables,
        apply=apply,
        noise=np.asarray(apply(variables, *batch)),
    )


def test_noise_depends_on_the_image_the_time_and_the_class(tiny):
    images, timesteps, labels = tiny.batch
    noise = tiny.noise
    assert noise.shape == images.shape
    assert noise.dtype == jnp.float32
    assert np.isfinite(noise).all()
    np.testing.assert_array_equal(noise, tiny.apply(tiny.variables, *tiny.batch))
    changed = (
        (images.at[0].multiply(-1), timesteps, labels),
        (images, timesteps.at[0].set(5), labels),
        (images, timesteps, labels.at[0].set(3)),
    )
    for batch in changed:
        difference = np.abs(tiny.apply(tiny.variables, *batch) - tiny.noise).max(axis=(1, 2, 3))
        assert difference[0] > 1e-2
        assert difference[1:].max() < 1e-5  # every example alone


def test_it_begins_silent(tiny):
    silent = "bias$|conv2|^middle_attention/attention/out|modulation|^out"

    @jit
    def begin():
        params = tiny.model.init(jax.random.key(0), *tiny.batch)["params"]
        flat = flatten_dict(params, sep="/")
        return {path: leaf for path, leaf in flat.items() if re.search(silent, path)}

    beginning = begin()
    assert {"out/kernel", "out/bias"} <= beginning.keys()
    for path, leaf in beginning.items():
        assert not leaf.any(), path


def test_remat_wraps_every_block_and_changes_no_gradient(tiny):
    remat = tiny.model.clone(remat=True)
    jaxpr = jax.make_jaxpr(remat.apply)(tiny.variables, *tiny.batch)
    wrapped = [eqn for eqn in jaxpr.eqns if eqn.primitive.name in ("remat2", "checkpoint")]
    if tiny.name == "ddpm-tiny":
        assert len(wrapped) == 5 + 4  # residual blocks and attentions
        return
    assert len(wrapped) == 1

    def gradient(model):
        def loss(variables):
            return jnp.mean((model.apply(variables, *tiny.batch) - 1) ** 2)

        return jit(jax.grad(loss))(tiny.variables)

    plain, again = gradient(tiny.model), gradient(remat)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), again, plain)
    for path, leaf in flatten_dict(plain["params"], sep="/").items():
        # A shift of all keys is nothing that the softmax could see.
        assert path.endswith("key/bias") or np.abs(leaf).max() > 0, path


def test_bfloat16_computes_low_and_puts_out_float32(tiny):
    low = tiny.model.clone(dtype="bfloat16")

    @jit
    def layers(variables):
        return low.apply(variables, *tiny.batch, capture_intermediates=True, mutable=True)

    out, state = layers(tiny.variables)
    outputs = flatten_dict(state["intermediates"], sep="/")
    last = ("norm/", "out/", "modulation/", "LayerNorm_0/", "__call__")
    for path, (output,) in outputs.items():
        wanted = jnp.float32 if path.startswith(last) else jnp.bfloat16
        assert output.dtype == wanted, path
    assert out.dtype == jnp.float32
    assert 1e-6 < np.abs(out - tiny.noise).max() / np.abs(tiny.noise).max() < 0.1


def test_learned_variance_doubles_the_channels(tiny):
    twice = tiny.model.clone(learn_variance=True)
    out = jax.eval_shape(twice.init_with_output, jax.random.key(0), *tiny.batch)[0]
    assert out.shape == (3, 4, 4, 2)


def test_inputs_that_do_not_fit(tiny):
    images, timesteps, labels = tiny.batch
    apply = partial(jax.eval_shape, tiny.model.apply, tiny.variables)
    with pytest.raises(
        InputError, match=r"have shape \(2, 4, 1\), but must have shape \(4, 4, 1\)"
    ):
        apply(images[:, :2], timesteps, labels)
    with pytest.raises(InputError, match="are uint8, but must be normalised floating-point"):
        apply(images.astype(jnp.uint8), timesteps, labels)
    with pytest.raises(
        InputError, match=r"timesteps .* have shape \(\), but must have shape \(3,\).*jnp.full"
    ):
        apply(images, timesteps[0], labels)
    with pytest.raises(
        InputError,
        match=r"labels .* are float32 of shape \(3,\), but must be integers .* give 3 for",
    ):
        apply(images, timesteps, labels.astype(jnp.float32))
    with pytest.raises(
        InputError,
        match=r"labels .* are int32 of shape \(2,\), but must be integers of shape \(3,\)",
    ):
        apply(images, timesteps, labels[:2])


def test_overrides_may_come_from_json():
    plain = {"widths": [4, 8], "groups": 2, "dtype": "float32"}
    model = create("ddpm-tiny", [8, 8, 1], num_classes=2, **plain)
    assert model.widths == (4, 8)
    assert model.image_shape == (8, 8, 1)
    assert hash(model) == hash(create("ddpm-tiny", (8, 8, 1), num_classes=2, **plain))


def test_unknown_name():
    with pytest.raises(InputError, match="did you mean 'dit-s/2'.*known denoisers are ddpm-cifar"):
        create("dit-s2", (32, 32, 4), num_classes=10)


def test_unknown_field():
    with pytest.raises(InputError, match="did you mean 'attention_levels'.*its fields are widths"):
        create("ddpm-tiny", (8, 8, 1), num_classes=10, attention_level=(1,))
    with pytest.raises(InputError, match="no field 'dropout'.*its fields are patch_size"):
        create("dit-small", (28, 28, 1), num_classes=10, dropout=0.1)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("ddpm-tiny", {"dtype": "float16"}, "DDPMUNet.dtype is 'float16'.*float32, bfloat16"),
        ("dit-small", {"dtype": None}, "DiT.dtype is None"),
        ("dit-small", {"dtype": "half a float"}, "DiT.dtype is"),
        ("dit-small", {"remat": 1}, "DiT.remat is 1, but must be True or False"),
        ("dit-small", {"frequency_shift": 2}, "DiT.frequency_shift is 2.*0 or 1"),
        ("dit-small", {"depth": 0}, "DiT.depth is 0"),
        ("dit-small", {"epsilon": 0.0}, "DiT.epsilon is 0.0"),
        ("ddpm-tiny", {"widths": ()}, r"DDPMUNet.widths is \(\)"),
        ("ddpm-tiny", {"groups": 16}, r"DDPMUNet.widths is \(8, 16\).*multiple of the 16 groups"),
        (
            "ddpm-tiny",
            {"widths": (3, 8), "groups": 1},
            "is .3, 8.*begins with an even width of at least 4",
        ),
        ("ddpm-tiny", {"attention_levels": (3,)}, "but must be levels from 1 to 2"),
        ("ddpm-tiny", {"head_width": 6}, "is 6, but must be a divisor of the width of level 2"),
        ("ddpm-tiny", {"dropout": 1.0}, "DDPMUNet.dropout is 1.0.*below 1"),
        ("ddpm-tiny", {"downsampling": "same"}, "one of 'asymmetric', 'symmetric'"),
        ("ddpm-tiny", {"cosine_first": "no"}, "True or False"),
        ("ddpm-tiny", {"blocks": 0}, "DDPMUNet.blocks is 0"),
    ],
)
def test_bad_values(name, overrides, message):
    with pytest.raises(InputError, match=message):
        create(name, (28, 28, 1), num_classes=10, **overrides)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1, 1), (8, 0, 1), 8])
def test_bad_image_shapes(shape):
    with pytest.raises(InputError, match="image_shape is"):
        create("ddpm-tiny", shape, num_classes=10)


@pytest.mark.parametrize("num_classes", [0, 2.0, "10", True])
def test_bad_numbers_of_classes(num_classes):
    with pytest.raises(InputError, match="num_classes"):
        create("ddpm-tiny", (8, 8, 1), num_classes)
    with pytest.raises(InputError, match="DiT.num_classes is None"):
        DiT(None)
