"""Do the published models that generate take a step of unlearning, sharded over eight devices?

    python experiments/verification/sharded_sizes.py                  # all that is not done yet
    python experiments/verification/sharded_sizes.py dit-xl/2         # one of them, again

For the published size of each kind of model the loop of EUPMU (next-batch multiplier) and of
SFR-on, in bfloat16 with rematerialisation, is traced and lowered for batches of eight on eight
devices: with all parameters on each, and with a share of them. Only shapes are at work: no weights
are made, and nothing is compiled or run. Noted are the seconds, and the part of the parameters and
of the whole state that one device holds.

Writes `experiments/results/sharded_sizes.json` and `sharded_sizes.md`.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import methods
from jaxunlearn.files import read_json, write_json, write_text
from jaxunlearn.models import denoisers, latent
from jaxunlearn.models.process import Process
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.tasks import diffusion
from jaxunlearn.tasks.latent_diffusion import latent_diffusion
from jaxunlearn.training import programs
from jaxunlearn.training.devices import PARAMETERS, placement_of, shardings
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import Task

RESULTS = Path(__file__).parents[1] / "results" / "sharded_sizes.json"
DEVICES, BATCH, EXAMPLES = 8, 8, 16
DENOISERS = {
    "ddpm-cifar10": (10, (32, 32, 3)),
    "dit-xl/2": (1000, (32, 32, 4)),
}
LATENT, WORDS = "latent-sd-v1", 77
HALF = {"dtype": "bfloat16", "remat": True}
METHODS = {
    "eupmu": {"estimator": "next_batch", "objective": "match_anchor"},
    "sfron": {"objective": "match_anchor", "per_example_fisher": False},
}


def task_of(name: str) -> tuple[Task, tuple[int, int, int]]:
    """The task of a published size, and the shape of its input."""
    if name == LATENT:
        encoder = latent.create_text_encoder("sd-v1", **HALF)
        unet = latent.create_text_unet("sd-v1", **HALF)
        shape, ids = (64, 64, 4), np.zeros((3, WORDS), np.int32)
        process = Process(schedule="scaled_linear")
        return latent_diffusion(encoder, unet, process, ids=ids, latent_shape=shape), shape
    classes, shape = DENOISERS[name]
    learned = "learned_range" if name.startswith("dit") else "small"
    model = denoisers.create(name, shape, classes, **HALF)
    process = Process(variance=learned)
    return diffusion(model, process, image_shape=shape, num_classes=classes), shape


def held(tree: Any, places: Any) -> float:
    """The part of the entries of a tree that one device holds."""
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(places), strict=True))
    whole = sum(leaf.size for leaf, _ in pairs)
    return sum(int(np.prod(place.shard_shape(leaf.shape))) for leaf, place in pairs) / whole


def lowered(
    task: Task, shape: tuple[int, int, int], method: str, parameters: str
) -> dict[str, Any]:
    """One program of a task that denoises images of a shape, lowered."""
    clock = time.perf_counter()
    own = {"forget_batch_size": BATCH, "retain_batch_size": BATCH, "num_steps": 1}
    settings = methods.settings(method, METHODS[method] | own)
    placement = placement_of(Layout(DEVICES, parameters))
    program = programs.of_method(task, method, settings, placement)
    numbers = {
        key: jax.ShapeDtypeStruct((), jnp.float32) for key in programs.split(settings).numbers
    }
    data = {
        "image": jax.ShapeDtypeStruct((EXAMPLES, *shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((EXAMPLES,), jnp.int32),
        "index": jax.ShapeDtypeStruct((EXAMPLES,), jnp.int32),
    }
    key = jax.eval_shape(jax.random.key, 0)
    params, model_state = jax.eval_shape(task.init, key)
    state = jax.eval_shape(program.init, numbers, key, params, model_state, data, data)
    places = shardings(state, placement.mesh)
    given = jax.tree.map(lambda leaf, place: leaf.update(sharding=place), state, places)
    stop = jax.ShapeDtypeStruct((), jnp.int32)
    result = program.chunk.lower(numbers, given, data, data, stop)
    text = result.as_text()
    assert "bf16" in text
    after = result.out_info[0]
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "held_of_parameters": held(state.params, places.params),
        "held_of_state": held(state, places),
        "megabytes_of_program": len(text) / 1e6,
        "seconds": time.perf_counter() - clock,
    }


def table(results: dict[str, Any]) -> str:
    """The lowered programs, as Markdown."""
    titles = ["model", "method", "layout", "parameters", "parameters on a device", "state", "s"]
    rows = [
        [name, *program.split(", ")]
        + [f"{row['parameters']:,}", f"{row['held_of_parameters']:.4f}"]
        + [f"{row['held_of_state']:.4f}", f"{row['seconds']:.0f}"]
        for name, found in results.items()
        for program, row in found.items()
    ]
    lines = [
        "# Published sizes, lowered for eight devices",
        "",
        f"The loop of one unlearning step, batches of {BATCH}, bfloat16, rematerialisation.",
        "",
        *markdown_table(titles, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="sizes to lower again")
    chosen = parser.parse_args().names
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    kept = read_json(RESULTS)["found"] if RESULTS.exists() else {}
    for each in chosen or [*DENOISERS, LATENT]:
        if each in kept and not chosen:
            continue
        kept[each] = {
            f"{method}, {parameters}": lowered(*task_of(each), method, parameters)
            for method in METHODS
            for parameters in PARAMETERS
        }
        print(each, kept[each], flush=True)
        write_json(RESULTS, {"machine": machine(), "found": kept})
        write_text(RESULTS.with_suffix(".md"), table(kept))
