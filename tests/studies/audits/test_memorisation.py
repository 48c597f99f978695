"""Memorisation: examples that only learning by heart gets right stand out."""

import jax.numpy as jnp
import numpy as np

from jaxunlearn import methods
from jaxunlearn.studies.audits.memorisation import memorisation
from tests import toy


def test_a_wrong_label_is_memorised_and_a_plain_case_is_not():
    rng = np.random.default_rng(0)
    labels = np.arange(24) % toy.CLASSES
    images = 0.3 * rng.normal(size=(24, toy.INPUTS))
    images[np.arange(24), labels] += 3.0
    images[23, 5] += 6.0  # the last one can be told from the others, and has a label of its own
    labels[23] = (labels[23] + 1) % toy.CLASSES
    examples = {
        "image": jnp.asarray(images, jnp.float32),
        "label": jnp.asarray(labels, jnp.int32),
        "index": jnp.arange(24, dtype=jnp.int32),
    }
    settings = methods.settings(
        "retrain", {"num_steps": 80, "retain_batch_size": 12, "learning_rate": 0.3}
    )
    scores = memorisation(toy.TASK, settings, examples, num_models=8)
    assert scores.shape == (24,)
    assert scores.argmax() == 23 and scores[23] > 0.5
    assert np.abs(scores[:23]).max() < 0.4
    again = memorisation(toy.TASK, settings, examples, num_models=8)
    np.testing.assert_array_equal(scores, again)
