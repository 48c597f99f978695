"""Noise on forget examples: its size, its type, and the same for all models."""

import jax
import numpy as np
import pytest

from jaxunlearn.evaluation import accuracy
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.studies.audits import perturbing
from jaxunlearn.types import Weights
from tests import toy


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_noise_has_the_radius_asked_and_the_type_of_the_images(kind):
    rng = np.random.default_rng(0)
    images = (100 + 20 * rng.standard_normal((200, 8, 8, 1))).astype(kind)
    arrays = {"image": images, "label": np.zeros(200, np.int32)}
    moved = perturbing._perturbed(arrays, 0.5, np.random.default_rng(1))
    added = np.asarray(moved["image"], np.float64) - images
    assert moved["image"].dtype == kind and moved["label"] is arrays["label"]
    assert added.std() == pytest.approx(0.5 * images.std(), rel=0.03)
    assert abs(added.mean()) < 0.3


def test_all_models_see_the_same_noise_and_no_noise_is_the_accuracy():
    _, _, forget, _ = toy.problem()
    weights = Weights(*toy.TASK.init(jax.random.key(0)))
    one, same = (perturbing.perturbed_accuracy(toy.TASK, weights, forget, (0.0, 2.0)) for _ in "ab")
    assert one == same and one[0] != one[1]
    exact = accuracy(predict_with(toy.TASK, weights, forget))
    assert one[0] == exact
