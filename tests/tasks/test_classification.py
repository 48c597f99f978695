"""Images in, losses and probabilities out: normalisation, augmentation, running statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxunlearn import tasks
from jaxunlearn.tasks.classification import augmented
from jaxunlearn.types import InputError
from tests.helpers import assert_trees_close, assert_trees_equal

KEY = jax.random.key(0)
SHAPE = (6, 6, 2)
AMID = slice(35, 38)


class Pixels(nn.Module):
    """Logits are three pixel values amid each image, times a parameter that starts at 1."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (1, 1))
        return scale * images.reshape(len(images), -1)[:, AMID]


class Normed(nn.Module):
    """BatchNorm over six features, then a linear layer."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images.reshape(len(images), -1)[:, :6]
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return nn.Dense(3)(x)


def batch_of(size: int, seed: int = 0, dtype: Any = np.uint8) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, (size, *SHAPE)).astype(dtype)
    return {
        "image": jnp.asarray(images if dtype == np.uint8 else images / 255),
        "label": jnp.asarray(rng.integers(0, 3, size), jnp.int32),
        "index": jnp.arange(size, dtype=jnp.int32),
        "epoch": jnp.zeros(size, jnp.int32),
    }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("mean", "std"), [((0.3, 0.6), (0.2, 0.5)), ((0.4,), (0.25,)), ((0.0,), (1.0,))]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_are_normalised_by_channel(dtype: Any, mean: Any, std: Any) -> None:
    """uint8 is scaled to [0, 1] first; floating-point images are there already."""
    task = tasks.classification(Pixels(), image_shape=SHAPE, num_classes=3, mean=mean, std=std)
    params, model_state = task.init(KEY)
    batch = batch_of(4, dtype=dtype)
    pixels = np.asarray(batch["image"], np.float64) / (255 if dtype == np.uint8 else 1)
    logits = ((pixels - np.array(mean)) / np.array(std)).reshape(4, -1)[:, AMID]
    probabilities = task.predict(params, model_state, batch)
    np.testing.assert_allclose(probabilities, np.exp(log_softmax(logits)), rtol=1e-5)
    losses, _ = task.losses(params, model_state, batch, KEY, True)
    np.testing.assert_allclose(
        losses, -log_softmax(logits)[np.arange(4), batch["label"]], rtol=1e-4, atol=1e-6
    )
    assert task.num_classes == 3


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_shifts_and_mirrors(flip: bool) -> None:
    """Every image is one of 81 shifts, all equally likely, mirrored half of the time or never."""
    image = np.asarray(batch_of(1)["image"][0])
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    shifts = [padded[top : top + 6, left : left + 6] for top in range(9) for left in range(9)]
    candidates = {s.tobytes(): i for i, s in enumerate(shifts)}
    candidates |= {s[:, ::-1].tobytes(): 81 + i for i, s in enumerate(shifts)}
    assert len(candidates) == 162
    keys = jax.random.split(KEY, 4050)
    images = augmented(jnp.broadcast_to(jnp.asarray(image), (4050, *SHAPE)), keys, flip)
    assert images.dtype == jnp.uint8 and images.shape == (4050, *SHAPE)
    found = np.array([candidates[result.tobytes()] for result in np.asarray(images)])
    counts = np.bincount(found % 81, minlength=81)
    assert counts.min() > 50 - 5 * 7.1 and counts.max() < 50 + 5 * 7.1
    share = np.mean(found >= 81)
    assert abs(share - 0.5) < 0.04 if flip else share == 0.0


@pytest.fixture(scope="module")
def pixel_losses() -> Any:
    """`(batch, key, train) -> losses`, of a task that augments."""
    task = tasks.classification(
        Pixels(), image_shape=SHAPE, num_classes=3, augmentation="flip_crop"
    )
    params, model_state = task.init(KEY)
    losses = jax.jit(lambda *args: task.losses(params, model_state, *args)[0], static_argnums=2)
    return losses


def test_augmentation_hangs_on_the_example_and_its_visit(pixel_losses: Any) -> None:
    """Not on who else is in the batch; evaluation knows no augmentation at all."""
    batch, chosen = batch_of(16), np.array([11, 3])
    some = {name: values[chosen] for name, values in batch.items()}
    losses = pixel_losses(batch, KEY, True)
    np.testing.assert_allclose(pixel_losses(some, KEY, True), losses[chosen], rtol=1e-6)
    again = pixel_losses(batch | {"epoch": batch["epoch"] + 1}, KEY, True)
    other_run = pixel_losses(batch, jax.random.key(1), True)
    plain = pixel_losses(batch, KEY, False)
    for different in (again, other_run, plain):
        assert np.mean(~np.isclose(different, losses)) > 0.5
    np.testing.assert_array_equal(plain, pixel_losses(batch, jax.random.key(1), False))


def test_without_augmentation_training_sees_the_images_as_they_are() -> None:
    task = tasks.classification(Pixels(), image_shape=SHAPE, num_classes=3)
    params, model_state = task.init(KEY)
    train, evaluation = (
        task.losses(params, model_state, batch_of(4), KEY, train)[0] for train in (True, False)
    )
    np.testing.assert_array_equal(train, evaluation)
    assert model_state == {}
    assert task.losses(params, {}, batch_of(4), KEY, True)[1] == {}


def test_training_moves_running_statistics_and_evaluation_does_not() -> None:
    """`m <- .9 m + .1 batch` for mean and variance, and the batch's own statistics in training."""
    task = tasks.classification(Normed(), image_shape=SHAPE, num_classes=3, mean=(0.5,), std=(0.5,))
    params, model_state = jax.jit(task.init)(KEY)
    batch = batch_of(8)
    losses_fn = jax.jit(task.losses, static_argnums=4)
    losses, trained = losses_fn(params, model_state, batch, KEY, True)
    features = (np.asarray(batch["image"], np.float64).reshape(8, -1)[:, :6] / 255 - 0.5) / 0.5
    expected = {"mean": 0.1 * features.mean(axis=0), "var": 0.9 + 0.1 * features.var(axis=0)}
    assert_trees_close(trained, {"batch_stats": {"norm": expected}}, rtol=1e-5)
    logits = (features - features.mean(axis=0)) / np.sqrt(features.var(axis=0) + 1e-5)
    logits = logits @ np.asarray(params["Dense_0"]["kernel"], np.float64)
    np.testing.assert_allclose(
        losses, -log_softmax(logits)[np.arange(8), batch["label"]], rtol=1e-4
    )
    plain, untouched = losses_fn(params, trained, batch, KEY, False)
    assert_trees_equal(untouched, trained)
    assert not np.allclose(plain, losses)
    probabilities = jax.jit(task.predict)(params, trained, batch)
    np.testing.assert_allclose(
        -np.log(probabilities)[np.arange(8), batch["label"]], plain, rtol=1e-5
    )


def test_bad_arguments_are_refused() -> None:
    arguments = {"image_shape": SHAPE, "num_classes": 3}
    with pytest.raises(InputError, match="augmentation is 'blur', but must be one of none, crop"):
        tasks.classification(Pixels(), augmentation="blur", **arguments)
    for name in ("mean", "std"):
        with pytest.raises(InputError, match=f"{name} has 3 values, but must .* of the 2 channels"):
            tasks.classification(Pixels(), **{name: (0.5, 0.5, 0.5)}, **arguments)
