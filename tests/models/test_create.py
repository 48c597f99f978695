"""What every model promises: made by name, counted, trained one step, computed in bfloat16."""

import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from jaxunlearn import models
from jaxunlearn.models import available, create
from jaxunlearn.types import InputError

pytestmark = pytest.mark.long

# Published parameter counts where there are any: (classes, side of the image, parameters).
COUNTS = {
    "mlp": (10, 32, 855_050),
    "mlp-tiny": (10, 32, 98_666),
    "resnet-tiny": (10, 32, 5_266),
    "resnet10-narrow": (10, 32, 308_826),
    "resnet18": (10, 32, 11_173_962),
    "resnet34": (10, 32, 21_282_122),
    "resnet50": (10, 32, 23_520_842),
    "vgg-tiny": (10, 32, 6_474),
    "vgg16": (10, 32, 14_728_266),
    "vit-tiny-test": (10, 32, 29_482),
    "vit-ti": (1000, 224, 5_717_416),
    "vit-s": (1000, 224, 22_050_664),
    "vit-b": (1000, 224, 86_567_656),
    "swin-tiny-test": (10, 32, 34_886),
    "swin-t": (1000, 224, 28_288_354),
}

# Arrays here are tiny: compiling is what takes time.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

TINY = {
    "mlp-tiny": ("mlp-tiny", {}),
    "resnet-tiny": ("resnet-tiny", {}),
    "resnet-tiny-group": ("resnet-tiny", {"norm": "group"}),
    "vgg-tiny": ("vgg-tiny", {}),
    "vit-tiny-test": ("vit-tiny-test", {}),
    "swin-tiny-test": ("swin-tiny-test", {}),
}


def test_every_name_has_a_count():
    assert available() == tuple(sorted(COUNTS))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name, shapes, count):
    classes, side, expected = COUNTS[name]
    variables = shapes(create(name, num_classes=classes), side, side, 3)
    assert count(variables["params"]) == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_documented_counts_are_the_counts():
    documented = {
        name: (int(text.split(" classes")[0]), n) for name, (n, text) in models.ABOUT.items()
    }
    assert documented == {name: (classes, n) for name, (classes, _, n) in COUNTS.items()}


@pytest.fixture(scope="module", params=TINY)
def tiny(request):
    """A tiny model with its initial variables and jitted functions over a batch of four."""
    name, overrides = TINY[request.param]
    model = create(name, num_classes=3, **overrides)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    labels = jnp.array([0, 1, 2, 1])

    @jit
    def init(seed):
        # This generator compiles several times faster than the default one.
        return model.init(jax.random.key(seed, impl="unsafe_rbg"), images)

    @jit
    def train(params, stats):
        def loss_fn(params):
            variables = {"params": params, **stats}
            logits, new = model.apply(variables, images, train=True, mutable=list(stats))
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (logits, new)

        (loss, (logits, new)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return loss, logits, new, grads

    @jit
    def evaluate(variables, images):
        return model.apply(variables, images, train=False, mutable=["batch_stats"])

    variables = jax.device_get(init(0))
    stats = {name: value for name, value in variables.items() if name != "params"}
    return SimpleNamespace(
        name=request.param,
        model=model,
        images=images,
        init=init,
        variables=variables,
        params=variables["params"],
        stats=stats,
        train=train,
        evaluate=evaluate,
    )


def test_logits(tiny):
    _, logits, _, _ = tiny.train(tiny.params, tiny.stats)
    evaluated, _ = tiny.evaluate(tiny.variables, tiny.images)
    for out in (logits, evaluated):
        assert out.shape == (4, 3)
        assert out.dtype == jnp.float32
        assert np.isfinite(out).all()
        assert np.ptp(out, axis=0).min() > 0  # the images matter


def test_initialisation_is_a_function_of_the_key(tiny):
    again, other = tiny.init(0), tiny.init(1)
    jax.tree.map(np.testing.assert_array_equal, again, tiny.variables)
    kernels = flatten_dict(other["params"], sep="/")
    for path, leaf in flatten_dict(tiny.params, sep="/").items():
        if path.endswith("kernel"):
            assert not np.array_equal(leaf, kernels[path]), path


def test_gradient_is_finite_reaches_everything_and_descends(tiny):
    loss, _, _, grads = tiny.train(tiny.params, tiny.stats)
    for path, leaf in flatten_dict(grads, sep="/").items():
        assert np.isfinite(leaf).all(), path
        # A norm removes the bias of the convolution before it.
        if not re.search(r"conv\d/bias", path):
            assert np.abs(leaf).max() > 0, path
    grads = jax.device_get(grads)
    scale = 1e-2 / np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
    downhill = jax.tree.map(lambda p, g: p - scale * g, tiny.params, grads)
    uphill = jax.tree.map(lambda p, g: p + scale * g, tiny.params, grads)
    assert tiny.train(downhill, tiny.stats)[0] < loss < tiny.train(uphill, tiny.stats)[0]


def test_only_training_moves_the_running_statistics(tiny):
    _, evaluated = tiny.evaluate(tiny.variables, tiny.images)
    _, _, trained, _ = tiny.train(tiny.params, tiny.stats)
    if tiny.name not in ("resnet-tiny", "vgg-tiny"):
        assert list(tiny.variables) == ["params"]
        assert not jax.tree.leaves((evaluated, trained))
        return
    jax.tree.map(np.testing.assert_array_equal, evaluated["batch_stats"], tiny.stats["batch_stats"])
    before, after = (flatten_dict(s["batch_stats"], sep="/") for s in (tiny.stats, trained))
    assert before.keys() == after.keys()
    for path in before:
        assert not np.array_equal(before[path], after[path]), path


def test_evaluation_treats_every_example_alone_and_repeats_itself(tiny):
    logits, _ = tiny.evaluate(tiny.variables, tiny.images)
    again, _ = tiny.evaluate(tiny.variables, tiny.images)
    np.testing.assert_array_equal(logits, again)
    others = np.array(tiny.images)
    others[1:] = -2.0
    alone, _ = tiny.evaluate(tiny.variables, others)
    difference = np.abs(np.asarray(alone) - np.asarray(logits)).max(axis=1)
    assert difference[0] <= 1e-5
    assert difference[1:].min() > 1e-4


def test_bfloat16_computes_low_and_keeps_parameters_and_logits_float32(tiny):
    name, overrides = TINY[tiny.name]
    low = create(name, num_classes=3, dtype="bfloat16", **overrides)
    as_shapes = jax.eval_shape(low.init, jax.random.key(0), tiny.images)
    assert as_shapes == jax.eval_shape(tiny.init, 0)

    def layers(variables, images):
        _, state = low.apply(variables, images, capture_intermediates=True, mutable=True)
        return state["intermediates"]

    outputs = flatten_dict(jax.eval_shape(layers, tiny.variables, tiny.images), sep="/")
    for path, (output,) in outputs.items():
        in_head = path.startswith(("head", "__call__"))
        assert output.dtype == (jnp.float32 if in_head else jnp.bfloat16), path

    logits = jit(low.apply)(tiny.variables, tiny.images)
    exact, _ = tiny.evaluate(tiny.variables, tiny.images)
    assert logits.dtype == jnp.float32
    difference = np.abs(logits - exact).max() / np.abs(exact).max()
    assert 1e-6 < difference < 0.1


def test_remat_wraps_every_block_and_changes_nothing(tiny):
    if tiny.name not in ("resnet-tiny", "vit-tiny-test"):
        return
    remat = tiny.model.clone(remat=True)
    jaxpr = jax.make_jaxpr(remat.apply)(tiny.variables, tiny.images)
    blocks = {path[0] for path in flatten_dict(tiny.params) if "block" in path[0]}
    assert sum(eqn.primitive.name in ("remat2", "checkpoint") for eqn in jaxpr.eqns) == len(blocks)

    @jit
    def train(params):
        def loss_fn(params):
            logits, new = remat.apply(
                {"params": params, **tiny.stats}, tiny.images, True, mutable=list(tiny.stats)
            )
            labels = jnp.array([0, 1, 2, 1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

        return jax.grad(loss_fn, has_aux=True)(params)

    (grads, new), (_, _, stats, expected) = train(tiny.params), tiny.train(tiny.params, tiny.stats)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, (grads, new), (expected, stats))


def test_convolutions_start_at_he_and_transformers_at_a_truncated_normal(tiny):
    for path, leaf in flatten_dict(tiny.params, sep="/").items():
        if path.endswith("/bias"):
            assert not leaf.any(), path
        if path.endswith("kernel") and leaf.size >= 512:
            if tiny.name.startswith(("vit", "swin")):
                assert np.abs(leaf).max() <= 0.04, path
                assert leaf.std() == pytest.approx(0.0176, rel=0.1), path  # .02, cut at two sigma
            else:
                he = np.sqrt(2 / np.prod(leaf.shape[:-1]))
                assert leaf.std() == pytest.approx(he, rel=0.1), path


def test_overrides_may_come_from_json():
    plain = {"widths": [4, 8], "blocks": [1, 1], "strides": [1, 2], "dtype": "float32"}
    model = create("resnet-tiny", num_classes=2, **plain)
    assert model.widths == (4, 8)
    assert hash(model) == hash(create("resnet-tiny", num_classes=2, **plain))
    assert create("vit-s", num_classes=2, patch_size=4).width == 384
    assert create("resnet18", num_classes=2, axis_name="batch").axis_name == "batch"


def test_unknown_name():
    with pytest.raises(InputError, match="did you mean 'resnet18'.*known models are.*vit-s"):
        create("resnet-18", num_classes=10)
    with pytest.raises(InputError, match="unknown model 'xyz'; known models are mlp"):
        create("xyz", num_classes=10)


def test_unknown_field():
    with pytest.raises(InputError, match="no field 'axis'.*its fields are stem_width.*axis_name"):
        create("resnet18", num_classes=10, axis="batch")
    with pytest.raises(InputError, match="did you mean 'patch_size'"):
        create("vit-s", num_classes=10, patchsize=4)
    for reserved in ("parent", "norm"):
        with pytest.raises(InputError, match="its fields are hidden, activation, dtype"):
            create("mlp", num_classes=10, **{reserved: None})


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mlp", {"hidden": (16, 0)}, r"MLP.hidden is \(16, 0\).*whole numbers"),
        ("mlp", {"hidden": 16}, "MLP.hidden is 16"),
        ("mlp", {"activation": "swish"}, "one of 'relu', 'gelu', 'tanh', 'silu'"),
        ("mlp", {"dtype": "float16"}, "MLP.dtype is 'float16'.*float32, bfloat16"),
        ("mlp", {"dtype": "half a float"}, "MLP.dtype is"),
        ("mlp", {"dtype": None}, "MLP.dtype is None"),
        ("resnet18", {"stem_width": 0}, "ResNet.stem_width is 0"),
        ("resnet18", {"stem_stride": 1.5}, "ResNet.stem_stride is 1.5"),
        ("resnet18", {"stem_stride": True}, "ResNet.stem_stride is True"),
        ("resnet18", {"blocks": ()}, r"ResNet.blocks is \(\)"),
        ("resnet18", {"strides": (1, 2, 2, -2)}, "ResNet.strides"),
        ("resnet18", {"widths": (64, 128)}, "widths has 2, blocks has 4, strides has 4"),
        ("resnet18", {"block": "wide"}, "one of 'basic', 'bottleneck'"),
        ("resnet18", {"norm": "layer"}, "one of 'batch', 'group'"),
        ("resnet18", {"axis_name": 3}, "ResNet.axis_name is 3"),
        ("vgg16", {"convs": (1, 1)}, "widths has 5, convs has 2"),
        ("vit-s", {"heads": 5}, "is 384, but must be a multiple of the 5 heads"),
        ("vit-s", {"mlp_ratio": 0}, "ViT.mlp_ratio is 0"),
        ("vit-s", {"mlp_ratio": float("nan")}, "ViT.mlp_ratio is nan"),
        ("vit-s", {"pooling": "max"}, "one of 'cls', 'mean'"),
        ("swin-t", {"heads": (3, 6, 12)}, "depths has 4, heads has 3"),
        ("swin-t", {"heads": (3, 6, 12, 7)}, "the heads of stage 4 must divide its width, 768"),
        ("swin-t", {"window": "7"}, "Swin.window is '7'"),
    ],
)
def test_bad_values(name, overrides, message):
    with pytest.raises(InputError, match=message):
        create(name, num_classes=10, **overrides)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, "10", None, True])
def test_bad_number_of_classes(num_classes):
    with pytest.raises(InputError, match="num_classes"):
        create("mlp", num_classes=num_classes)


@pytest.mark.parametrize("name", ["mlp-tiny", "resnet-tiny", "vgg-tiny", "vit-tiny-test"])
def test_bad_images(name):
    model = create(name, num_classes=3)
    with pytest.raises(
        InputError, match=r"have shape \(8, 8, 3\), but must have shape \[B, H, W, C\]"
    ):
        model.init(jax.random.key(0), jnp.zeros((8, 8, 3)))
    with pytest.raises(InputError, match="are uint8, but must be normalised floating-point"):
        model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8))
