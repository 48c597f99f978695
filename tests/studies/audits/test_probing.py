"""Linear probes: the features are those of the last layer, and give away what is in them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import models
from jaxunlearn.evaluation import features as of_models
from jaxunlearn.studies.audits import probing
from jaxunlearn.tasks import classification
from jaxunlearn.types import Weights
from tests import toy


def arrays(count, seed=0):
    """Images whose first pixel is the class, and random labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.normal(size=(count, 4, 4, 1)).astype(np.float32)
    images[:, 0, 0, 0] = 4.0 * labels
    return {
        "image": jnp.asarray(images),
        "label": jnp.asarray(labels, jnp.int32),
        "index": jnp.arange(count, dtype=jnp.int32),
    }


def task_of(name, **fields):
    model = models.create(name, 3, **fields)
    task = classification(model, image_shape=(4, 4, 1), num_classes=3)
    return task, Weights(*task.init(jax.random.key(0)))


def test_features_and_the_last_layer_give_the_predictions(monkeypatch):
    monkeypatch.setattr(of_models, "_CLASSIFIER_BATCH", 4)
    task, weights = task_of("mlp-tiny")
    examples = arrays(10)
    features = of_models.last_features(task, weights, examples)
    last = weights.params["head"]["linear"]
    assert features.shape == (10, last["kernel"].shape[0])
    expected = task.predict(*weights, examples)
    np.testing.assert_allclose(
        jax.nn.softmax(features @ last["kernel"] + last["bias"][None]), expected, atol=1e-5
    )


def test_a_model_that_only_its_last_layer_made_forget_gives_all_away():
    task, weights = task_of("mlp-tiny", hidden=())  # its features are the pixels
    forget, retain = arrays(40), arrays(200, seed=1)
    mute = Weights(jax.tree.map(jnp.zeros_like, weights.params), weights.model_state)
    assert np.ptp(np.asarray(task.predict(*mute, forget))) < 1e-6
    assert probing.probe_accuracy(task, mute, forget, retain) == 100.0


def test_a_model_of_dead_units_has_features_of_0():
    task, weights = task_of("mlp-tiny")
    forget, retain = arrays(40), arrays(200, seed=1)
    weights.params["hidden1"]["bias"] -= 1e4
    assert not of_models.last_features(task, weights, forget).any()
    assert probing.probe_accuracy(task, weights, forget, retain) < 60


def test_features_without_the_classes_give_chance():
    task, weights = task_of("mlp-tiny", hidden=())
    forget, retain = (
        part | {"image": part["image"].at[:, 0, 0, 0].set(0.0)}
        for part in (arrays(300), arrays(900, seed=1))
    )
    assert probing.probe_accuracy(task, weights, forget, retain) < 50


def test_the_probe_is_asked_only_of_examples_that_it_did_not_learn():
    """Labels of forget examples that follow no rule are not recalled."""
    task, weights = task_of("mlp-tiny", hidden=(256,))
    forget, retain = arrays(60), arrays(60, seed=1)
    noise = forget | {"label": jnp.asarray(np.random.default_rng(5).integers(0, 3, 60))}
    assert probing.probe_accuracy(task, weights, noise, retain) < 60


def test_one_example_has_no_halves_and_a_model_of_functions_has_features():
    task, weights = task_of("mlp-tiny")
    one = {name: values[:1] for name, values in arrays(3).items()}
    assert probing.probe_accuracy(task, weights, one, arrays(20)) is None
    params, state, forget, retain = toy.problem()
    assert probing.probe_accuracy(toy.TASK, Weights(params, state), forget, retain) >= 0.0
