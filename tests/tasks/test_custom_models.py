"""Models of one's own: whatever they call their switches, compute in and put out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from jaxunlearn import methods, tasks
from jaxunlearn.models import latent
from jaxunlearn.models.process import Process
from jaxunlearn.types import InputError

KEY = jax.random.key(0)
SHAPE, CLASSES = (2, 2, 1), 3
ARRAYS = {
    "image": jnp.linspace(0.0, 1.0, 24).reshape(6, *SHAPE),
    "label": jnp.arange(6) % CLASSES,
    "index": jnp.arange(6),
}
BATCH = ARRAYS | {"epoch": jnp.zeros(6, jnp.int32)}


def of(model, **kwargs):
    return tasks.classification(model, image_shape=SHAPE, num_classes=CLASSES, **kwargs)


def dense(images, rate, deterministic, outputs=CLASSES, dtype=None):
    hidden = nn.relu(nn.Dense(64, dtype=dtype)(images.reshape(len(images), -1)))
    hidden = nn.Dropout(rate, deterministic=deterministic)(hidden)
    return nn.Dense(outputs, dtype=dtype)(hidden)


class Trains(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return dense(images, 0.5, not train)


class TrainsByKeyword(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=True):
        return dense(images, 0.5, not train)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, images, deterministic=True):
        return dense(images, 0.5, deterministic)


class Both(nn.Module):
    @nn.compact
    def __call__(self, images, train=False, deterministic=True):
        assert train is not deterministic
        return dense(images, 0.5, deterministic)


class AnyKeywords(nn.Module):
    @nn.compact
    def __call__(self, images, **kwargs):
        return dense(images, 0.5, not kwargs["train"])


class Neither(nn.Module):
    @nn.compact
    def __call__(self, images):
        return dense(images, 0.0, True)


class WithAux(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        logits = dense(images, 0.5, not train)
        return logits, {"features": images}


DROPPING = [Trains, TrainsByKeyword, Deterministic, Both, AnyKeywords, WithAux]


@pytest.mark.parametrize("model", DROPPING)
def test_dropout_acts_in_training_alone(model):
    """A new mask at each visit and for each run, the same one for the same; half of it is kept."""
    task = of(model())
    weights = task.init(KEY)
    losses = jax.jit(lambda b, k, train: task.losses(*weights, b, k, train)[0], static_argnums=2)
    trained = losses(BATCH, KEY, True)
    np.testing.assert_array_equal(trained, losses(BATCH, KEY, True))
    later = BATCH | {"epoch": BATCH["epoch"] + 1}
    for other in (losses(later, KEY, True), losses(BATCH, jax.random.key(1), True)):
        assert np.any(trained != other)
    plain = losses(BATCH, KEY, False)
    np.testing.assert_array_equal(plain, losses(later, jax.random.key(1), False))
    assert np.any(plain != trained)
    true = task.predict(*weights, BATCH)[jnp.arange(6), BATCH["label"]]
    np.testing.assert_allclose(plain, -np.log(true), rtol=1e-5)
    many = [losses(BATCH | {"epoch": BATCH["epoch"] + n}, KEY, True) for n in range(200)]
    np.testing.assert_allclose(np.mean(many), np.mean(plain), rtol=0.1)


def stepped(task, method):
    """The state and the metrics after a step."""
    state = method.init(KEY, *task.init(KEY), ARRAYS, ARRAYS)
    stacked = {name: jnp.stack([leaf] * method.retain_batches) for name, leaf in BATCH.items()}
    return method.step(state, BATCH, stacked)


@pytest.mark.parametrize("model", [*DROPPING, Neither])
def test_models_of_any_signature_are_unlearned(model):
    task = of(model())
    method = methods.eupmu_sfron(task, optax.sgd(0.1), num_steps=3, num_fast_steps=1)
    after, metrics = jax.eval_shape(lambda: stepped(task, method))
    assert {"forget_loss", "retain_loss", "multiplier"} < set(metrics)
    assert jax.tree.structure(after.params) == jax.tree.structure(jax.eval_shape(task.init, KEY)[0])


def test_a_bridged_nnx_class_is_a_model():
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, CLASSES, rngs=rngs)
            self.norm = nnx.BatchNorm(CLASSES, rngs=rngs)

        def __call__(self, images, train):
            hidden = self.linear(images.reshape(len(images), -1))
            return self.norm(hidden, use_running_average=not train)

    task = of(nnx.bridge.to_linen(Normed))
    params, model_state = task.init(KEY)
    losses, after = task.losses(params, model_state, BATCH, KEY, True)
    assert losses.shape == (6,) and np.all(np.isfinite(losses))
    moved = jax.tree.map(lambda x, y: bool(np.any(x != y)), model_state, after)
    assert all(jax.tree.leaves(moved))


class Wide(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.outputs)(images.reshape(len(images), -1))


class Unpooled(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(CLASSES)(images)


class Hungry(nn.Module):
    @nn.compact
    def __call__(self, images, train, temperature):
        return dense(images, 0.5, not train) / temperature


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        logits = dense(images, 0.0, True)
        return logits + jax.random.normal(self.make_rng("noise"), logits.shape) if train else logits


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Wide(2), r"logits of a batch have the shape \[1, 2\], but must have \[B, 3\]"),
        (Wide(5), r"logits of a batch have the shape \[1, 5\], but must have \[B, 3\]"),
        (Unpooled(), r"logits of a batch have the shape \[1, 2, 2, 3\], but must have \[B, 3\]"),
        (Hungry(), "Hungry.__call__ also needs temperature, but a task passes 1 inputs and train"),
        (Noisy(), "Noisy draws random numbers in training that .*'dropout', and only in training"),
        (
            lambda x: x,
            "the model is a function, but must be a module of Flax linen, Flax NNX or Equinox",
        ),
    ],
)
def test_what_is_no_classifier_is_refused_in_a_sentence(model, said):
    with pytest.raises(InputError, match=said):
        task = of(model)
        task.losses(*task.init(KEY), BATCH, KEY, True)


def test_outputs_are_checked_where_the_weights_come_from_elsewhere():
    params, _ = of(Wide(CLASSES)).init(KEY)
    wide = {"Dense_0": {"kernel": jnp.zeros((4, 7)), "bias": jnp.zeros(7)}}
    task = tasks.classification(Wide(7), image_shape=SHAPE, num_classes=CLASSES)
    for function in (task.predict, lambda *args: task.outputs(*args, KEY, False)):
        with pytest.raises(InputError, match=r"logits of a batch have the shape \[6, 7\]"):
            function(wide, {}, BATCH)
    assert jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, wide)


class Narrow(nn.Module):
    """Computes in a narrow type, and puts it out."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images, train):
        return dense(images, 0.5, not train, dtype=self.dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["scrub", "unsir", "bad_teacher", "sfron", "eupmu", "scrub_r"])
def test_narrow_logits_are_unlearned_by_losses_in_float32(dtype, name):
    task = of(Narrow(dtype))
    method = methods.build(task, name, methods.settings(name))
    state, metrics = jax.eval_shape(lambda: stepped(task, method))
    assert all(value.dtype == jnp.float32 for value in metrics.values())
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_logits_become_float32(dtype):
    task = of(Narrow(dtype))
    weights = task.init(KEY)
    losses, outputs, probabilities = jax.jit(
        lambda: (
            task.losses(*weights, BATCH, KEY, False)[0],
            task.outputs(*weights, BATCH, KEY, False)[0],
            task.predict(*weights, BATCH),
        )
    )()
    assert losses.dtype == outputs.dtype == probabilities.dtype == jnp.float32
    true = probabilities[jnp.arange(6), BATCH["label"]]
    np.testing.assert_allclose(losses, -np.log(true), rtol=1e-5)


class Denoiser(nn.Module):
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, timesteps, labels, deterministic=True):
        hidden = images.reshape(len(images), -1) + nn.Embed(CLASSES + 1, 4)(labels)
        hidden = nn.Dropout(0.5, deterministic=deterministic)(hidden)
        return nn.Dense(4, dtype=self.dtype)(hidden).reshape(images.shape)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_denoisers_of_any_signature_and_type(dtype):
    task = tasks.diffusion(
        Denoiser(dtype), Process(10), image_shape=SHAPE, num_classes=CLASSES, label_drop=0.0
    )
    weights = task.init(KEY)
    trained, plain = jax.jit(
        lambda: [task.losses(*weights, BATCH, KEY, train)[0] for train in (True, False)]
    )()
    assert trained.dtype == plain.dtype == jnp.float32 and np.any(trained != plain)
    outputs = jax.eval_shape(lambda: task.outputs(*weights, BATCH, KEY, True)[0])
    assert outputs.dtype == jnp.float32


def test_what_is_no_denoiser_is_refused():
    with pytest.raises(InputError, match="the model is a str, but must be a module of Flax linen"):
        tasks.diffusion("ddpm", Process(10), image_shape=SHAPE, num_classes=CLASSES)


def test_an_autoencoder_that_computes_in_bfloat16_gives_images_back_in_float32():
    model = latent.create_autoencoder("tiny", channels=1, dtype=jnp.bfloat16)
    task = tasks.autoencoding(model, image_shape=(8, 8, 1), num_classes=CLASSES)
    batch = BATCH | {"image": jnp.zeros((6, 8, 8, 1), jnp.uint8)}
    for function in (task.outputs, task.losses):
        found, _ = jax.eval_shape(lambda f=function: f(*task.init(KEY), batch, KEY, True))
        assert found.dtype == jnp.float32
