"""Models that generate, in bfloat16 with rematerialisation, lowered for eight devices.

Tiny ones of each kind; those of published size: `experiments/published_sizes.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods, programs
from jaxunlearn.diffusion import Process
from jaxunlearn.layout import Layout
from jaxunlearn.models import denoisers, latent
from jaxunlearn.parallel import PARAMETERS, make_mesh, shardings
from jaxunlearn.tasks import diffusion, latent_diffusion

DEVICES, BATCH, SHAPE = 8, 8, (8, 8, 4)
HALF = {"dtype": "bfloat16", "remat": True}
METHODS = {
    "eupmu": {"multiplier": "next_batch", "objective": "match_anchor"},
    "sfron": {"objective": "match_anchor", "per_example_fisher": False},
}


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
    own = {"forget_batch_size": BATCH, "retain_batch_size": BATCH, "num_steps": 1}
    settings = methods.settings(method, METHODS[method] | own)
    data = {
        "image": jax.ShapeDtypeStruct((16, *SHAPE), jnp.float32),
        "label": jax.ShapeDtypeStruct((16,), jnp.int32),
        "index": jax.ShapeDtypeStruct((16,), jnp.int32),
    }
    numbers = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in programs.numbers(settings)}
    key = jax.eval_shape(jax.random.key, 0)
    start = jax.eval_shape(task.init, key)
    largest = max(jax.tree.leaves(start), key=lambda leaf: leaf.size)
    for parameters in PARAMETERS:
        program = programs.of_method(task, method, settings, Layout(DEVICES, parameters))
        state = jax.eval_shape(program.init, numbers, key, *start, data, data)
        places = shardings(state, make_mesh(DEVICES, parameters))
        given = jax.tree.map(lambda leaf, place: leaf.update(sharding=place), state, places)
        stop = jax.ShapeDtypeStruct((), jnp.int32)
        lowered = program.chunk.lower(numbers, given, data, data, stop)
        assert "bf16" in lowered.as_text()
        after = jax.tree.map(jnp.shape, lowered.out_info[0])
        assert after == jax.tree.map(jnp.shape, state)
        held = [
            np.prod(place.shard_shape(leaf.shape)) / leaf.size
            for leaf, place in zip(
                jax.tree.leaves(state.params), jax.tree.leaves(places.params), strict=True
            )
            if leaf.shape == largest.shape
        ]
        assert held == [1 / DEVICES if parameters == "sharded" else 1.0] * len(held)
