"""Models that generate, in bfloat16 with rematerialisation, lowered for eight devices.

Tiny ones of each kind; those of published size: `experiments/verification/sharded_sizes.py`.
"""

import jax
import numpy as np
import pytest

from experiments.verification.sharded_sizes import DEVICES, HALF, held, lowered
from jaxunlearn.models import denoisers, latent
from jaxunlearn.models.process import Process
from jaxunlearn.tasks import diffusion, latent_diffusion
from jaxunlearn.training.devices import PARAMETERS, make_mesh, shardings

pytestmark = pytest.mark.long

SHAPE = (8, 8, 4)


def task_of(model):
    if model == "latent-tiny":
        encoder = latent.create_text_encoder("tiny", **HALF)
        unet = latent.create_text_unet("tiny", widths=(8,), attention_levels=(), **HALF)
        ids = np.zeros((3, 8), np.int32)
        return latent_diffusion(encoder, unet, Process(), ids=ids, latent_shape=SHAPE)
    small = {"widths": (8,), "attention_levels": ()} if model == "ddpm-tiny" else {}
    module = denoisers.create(model, SHAPE, 10, **small, **HALF)
    return diffusion(module, Process(), image_shape=SHAPE, num_classes=10)


@pytest.mark.parametrize(
    ("model", "method", "layouts"),
    [
        ("ddpm-tiny", "eupmu", ["sharded"]),
        ("dit-tiny-test", "sfron", PARAMETERS),
        ("latent-tiny", "eupmu", ["sharded"]),
    ],
)
def test_an_unlearning_step_lowers_for_eight_devices(model, method, layouts):
    task = task_of(model)
    params, _ = jax.eval_shape(task.init, jax.eval_shape(jax.random.key, 0))
    largest = max(jax.tree.leaves(params), key=lambda leaf: leaf.size).shape
    for parameters in layouts:
        places = shardings(params, make_mesh(DEVICES, parameters))
        found = lowered(task, SHAPE, method, parameters)
        assert found["held_of_parameters"] == held(params, places)
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(places), strict=True)
        leaves, theirs = zip(*(pair for pair in pairs if pair[0].shape == largest), strict=True)
        assert held(leaves, theirs) == (1 / DEVICES if parameters == "sharded" else 1.0)
