"""Models that generate, in bfloat16 with rematerialisation, lowered for eight devices.

Tiny ones of each kind; those of published size: `experiments/published_sizes.py`.
"""

import numpy as np
import pytest

from experiments.published_sizes import DEVICES, HALF, lowered
from jaxunlearn.diffusion import Process
from jaxunlearn.models import denoisers, latent
from jaxunlearn.parallel import PARAMETERS
from jaxunlearn.tasks import diffusion, latent_diffusion

SHAPE = (8, 8, 4)


def task_of(model):
    if model == "latent-tiny":
        encoder = latent.create_text_encoder("tiny", **HALF)
        unet = latent.create_text_unet("tiny", widths=(8,), attention_levels=(1,), **HALF)
        ids = np.zeros((3, 8), np.int32)
        return latent_diffusion(encoder, unet, Process(), ids=ids, latent_shape=SHAPE)
    module = denoisers.create(model, SHAPE, 10, **HALF)
    return diffusion(module, Process(), image_shape=SHAPE, num_classes=10)


@pytest.mark.parametrize(
    ("model", "method"),
    [("ddpm-tiny", "eupmu"), ("dit-tiny-test", "sfron"), ("latent-tiny", "eupmu")],
)
def test_an_unlearning_step_lowers_with_and_without_sharded_parameters(model, method):
    task = task_of(model)
    found = {each: lowered(task, SHAPE, method, each) for each in PARAMETERS}
    assert found["replicated"]["held_of_parameters"] == 1.0
    assert found["replicated"]["held_of_state"] == 1.0
    assert found["sharded"]["held_of_parameters"] < 1.5 / DEVICES
    assert found["sharded"]["held_of_state"] < 2.0 / DEVICES
