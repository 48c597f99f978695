"""Unlearning in one call: any model, arrays or batches, with or without a folder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxunlearn import tasks
from jaxunlearn.models.process import Process
from jaxunlearn.studies import unlearn_model
from jaxunlearn.types import InputError, Model

SETTINGS = {"num_steps": 6, "forget_batch_size": 8, "retain_batch_size": 8}
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(60, 5)).astype(np.float32), RNG.integers(0, 3, 60)
FORGET, RETAIN, TEST = ((IMAGES[s], LABELS[s]) for s in (slice(10), slice(10, 50), slice(50, 60)))


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(x)


class NnxLinear(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(x)


def apply(params, model_state, images, key=None, train=False):
    return images @ params["head"]["kernel"] + params["head"]["bias"][None], model_state


PURE = Model(lambda key, images: (HEAD, {}), apply)
HEAD = {"head": {"kernel": jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), "bias": jnp.zeros(3)}}


def call(model=PURE, weights=(HEAD, {}), forget=FORGET, retain=RETAIN, **more):
    more = {"method": "eupmu", "settings": SETTINGS} | more
    return unlearn_model(model, weights, forget, retain, **more)


@pytest.fixture(scope="module")
def plain():
    return call(test=TEST, retrained=(HEAD, {}))


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_all_kinds_of_models_and_data_give_the_same(plain):
    batches = [{"image": RETAIN[0][s], "label": RETAIN[1][s]} for s in (slice(25), slice(25, 40))]
    linen = call(Linear(), {"params": HEAD}, retain=iter(batches))
    module = NnxLinear(nnx.Rngs(0))
    module.head.kernel.set_value(HEAD["head"]["kernel"])
    module.head.bias.set_value(HEAD["head"]["bias"])
    for other in (linen, call(module, None, forget=[FORGET])):
        for ours, theirs in zip(*map(jax.tree.leaves, (plain.weights, other.weights)), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert {"forget_accuracy", "retain_accuracy", "seconds"} == set(linen.metrics)


def test_the_metrics_are_those_of_an_evaluation(plain):
    head = jax.tree.map(np.asarray, plain.weights.params["head"])
    logits = FORGET[0] @ head["kernel"] + head["bias"][None]
    right = 100.0 * np.mean(np.argmax(logits, axis=1) == FORGET[1])
    assert plain.metrics["forget_accuracy"] == pytest.approx(right)
    assert plain.metrics["js_to_retrained"] > 0.0 and plain.metrics["five_part_gap"] >= 0.0
    assert "five_part_gap" not in plain.retrained
    assert plain.retrained["test_accuracy"] >= 0.0
    assert np.any(plain.weights.params["head"]["kernel"] != HEAD["head"]["kernel"])


def test_whole_classes_are_evaluated_apart():
    forget, retain = ((IMAGES[part], LABELS[part]) for part in (LABELS == 1, LABELS != 1))
    found = call(forget=forget, retain=retain, test=(IMAGES, LABELS))
    assert found.metrics["test_forget_accuracy"] == found.metrics["forget_accuracy"]


def test_a_folder_makes_it_resumable(plain, tmp_path):
    first = call(folder=tmp_path / "run")
    assert_same(first.weights, plain.weights)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert_same(call(folder=tmp_path / "run").weights, plain.weights)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines
    with pytest.raises(InputError, match="holds another unlearned model: seed is 0 there, but 1"):
        call(folder=tmp_path / "run", seed=1)


def test_unseen_data_are_for_objectives_that_need_them():
    settings = SETTINGS | {"objective": "match_unseen"}
    with pytest.raises(InputError, match="compares forget data with unseen data, but validation"):
        call(settings=settings)
    lone = TEST[0][:1], TEST[1][:1]
    with pytest.raises(InputError, match="validation has no class with two examples; give"):
        call(settings=settings, validation=lone)
    assert "validation_accuracy" in call(settings=settings, validation=TEST).metrics


def test_kept_confidences_hold_the_weights_back():
    settings = SETTINGS | {"objective": "ascent", "learning_rate": 0.01}
    near, far = (
        call(method="scalarization", settings=settings | keep).weights.params["head"]["kernel"]
        for keep in ({"keep_weight": 10.0}, {})
    )
    start = HEAD["head"]["kernel"]
    assert 0.0 < np.linalg.norm(near - start) < 0.9 * np.linalg.norm(far - start)


def test_the_average_of_the_weights_is_the_result():
    """A decay of 0 averages the last weights alone."""
    plain, last, average = (
        call(method="retrain", settings=SETTINGS | ema).weights
        for ema in ({}, {"ema": 0.0}, {"ema": 0.9})
    )
    assert_same(last, plain)
    assert np.any(average.params["head"]["kernel"] != plain.params["head"]["kernel"])


def test_a_task_without_classes():
    class Denoiser(nn.Module):
        @nn.compact
        def __call__(self, images, timesteps, labels):
            return nn.Dense(1)(images) + nn.Embed(4, 1)(labels)[:, None, None]

    shape = (2, 2, 1)
    task = tasks.diffusion(Denoiser(), Process(10), image_shape=shape, num_classes=3)
    data = RNG.normal(size=(16, *shape)).astype(np.float32), LABELS[:16]
    weights = task.init(jax.random.key(0))
    found = unlearn_model(task, weights, data, data, method="neggrad_plus", settings=SETTINGS)
    assert {"forget_loss", "retain_loss", "seconds"} == set(found.metrics)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"weights": {"w": 1}},
            r"weights are a dict, but must be the pair \(params, model_state\)",
        ),
        ({"weights": ({"head": {"kernel": jnp.zeros((5, 3))}}, {})}, "bias is missing, but must"),
        ({"weights": None}, "the model is a Model, but must be an NNX or Equinox module"),
        ({"retrained": ({"head": HEAD["head"] | {"bias": jnp.zeros(4)}}, {})}, r"is \(4,\), but"),
        ({"forget": (IMAGES[:4], LABELS[:3])}, "labels have the shape"),
        ({"forget": []}, "the forget data are 'list', but must be a pair of images and labels"),
        ({"forget": (IMAGES[:0], LABELS[:0])}, "the forget data are empty"),
        ({"retain": (IMAGES[:, :4], LABELS)}, r"retain images have the shape \(4,\), but must"),
        (
            {"retain": (IMAGES, LABELS + 1)},
            "retain labels are from 1 to 3, but must be from 0 to 2",
        ),
        ({"method": "eupmuu"}, "eupmuu"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(given, said, tmp_path):
    with pytest.raises(InputError, match=said):
        call(folder=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
