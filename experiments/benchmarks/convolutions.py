"""The cost of convolutions inside compiled loops on a CPU.

    python experiments/benchmarks/convolutions.py     (about three minutes)

First whole steps of `finetune` with models of plain `nn.Conv`: in the loop that `training.run`
compiles (`jaxunlearn/models/convolutions.py`), in the same loop as XLA compiles it by itself, and
one by one, `jax.jit(method.step)` called from Python. Then a 3x3 convolution of stride 1 with both
its gradients in a loop, batches of 64: as matrix products of patches, and in the layout of XLA's
fast kernels; `convolutions.py` chooses by this table. One thread; processor time, ratios in turns.
Writes `results/convolutions_cpu.json` and the tables beside it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from side_by_side import RESULTS, TURNS, clock, prepare, quartiles, spread

from jaxunlearn import methods, models
from jaxunlearn.files import write_json
from jaxunlearn.models import convolutions
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.tasks import classification
from jaxunlearn.training.hosts import machine

BATCH, STEPS = 64, 5
SIZES = {16: (1, 2, 3, 4, 8), 64: (1, 2, 3, 4, 8), 128: (1, 2, 3, 4)}
Job = Callable[[], Any]


class Own(nn.Module):
    """A network as users write them."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits, `[N, 10]`."""
        for width, stride in ((16, 1), (32, 2), (32, 1)):
            x = nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(not train)(x))
        return nn.Dense(10)(x.mean((1, 2)))


MODELS = {  # a model, and the shape of its images
    "three nn.Conv": (Own(), (16, 16, 3)),
    "resnet10-narrow": (models.create("resnet10-narrow", 10), (28, 28, 1)),
    "vgg-tiny": (models.create("vgg-tiny", 10), (32, 32, 3)),
}


def steps_of(module: nn.Module, shape: tuple[int, ...]) -> dict[str, Job]:
    """Some steps of a method in each of the three ways."""
    images = np.random.default_rng(0).integers(0, 255, (BATCH, *shape)).astype(np.uint8)
    batch = {"image": jnp.asarray(images), "label": jnp.arange(BATCH) % 10}
    batch |= {"index": jnp.arange(BATCH), "epoch": jnp.zeros(BATCH, jnp.int32)}
    retain = jax.tree.map(lambda x: x[None], batch)
    task = classification(module, image_shape=shape, num_classes=10)
    settings = methods.settings("finetune", {"num_steps": STEPS, "retain_batch_size": BATCH})
    method = methods.build(task, "finetune", settings)
    weights = jax.jit(task.init)(jax.random.key(0))
    state = jax.jit(method.init)(jax.random.key(0), *weights, batch, batch)
    step = jax.jit(method.step)

    def one_by_one() -> Any:
        moved = state
        for _ in range(STEPS):
            moved, _ = step(moved, batch, retain)
        return moved

    def loop(step: Callable[..., Any]) -> Job:
        @jax.jit
        def steps(state: Any) -> Any:
            return jax.lax.fori_loop(0, STEPS, lambda _, s: step(s, batch, retain)[0], state)

        return functools.partial(steps, state)

    return {
        "ours": loop(fast_in_loops(method.step)),
        "one by one": one_by_one,
        "XLA's loop": loop(method.step),
    }


def convolution(size: int, channels: int) -> dict[str, Job]:
    """Steps down the gradient of a convolution in a loop, in both forms."""
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (BATCH, size, size, channels))
    kernel = 0.1 * jax.random.normal(keys[1], (3, 3, channels, channels))

    def loss(weights: Any) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        found = jax.lax.conv_general_dilated(
            *weights, (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout
        )
        return jnp.sum(found**2)

    @fast_in_loops
    def step(weights: Any) -> Any:
        return jax.tree.map(lambda w, g: w - 1e-9 * g, weights, jax.grad(loss)(weights))

    jobs = {}
    for name, largest in {"patches": 1_000, "layout": 0}.items():
        convolutions._FEWEST_PIXELS = convolutions._FEW_PIXELS = largest  # read when it is traced
        loop = jax.jit(lambda w: jax.lax.fori_loop(0, STEPS, lambda _, w: step(w), w))
        jobs[name] = functools.partial(loop.lower((images, kernel)).compile(), (images, kernel))
    return jobs


def measured(jobs: dict[str, Job]) -> dict[str, Any]:
    """Milliseconds of a step of each job, and how many times as long as the first the others take.

    They take turns.
    """
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        jax.block_until_ready(job())  # compiles
    for _ in range(TURNS):
        for name, job in jobs.items():
            began = clock()
            jax.block_until_ready(job())
            taken[name].append(float((clock() - began)[1]) / STEPS * 1e3)
    first = next(iter(taken))
    ratios = {
        name: quartiles([a / b for a, b in zip(each, taken[first], strict=True)])
        for name, each in taken.items()
        if name != first
    }
    return {"ms": {name: quartiles(each)[1] for name, each in taken.items()}, "ratios": ratios}


def row(cells: list[str], result: dict[str, Any]) -> list[str]:
    """A row of a table, printed as soon as it is measured."""
    ms = ", ".join(f"{value:.2f}" for value in result["ms"].values())
    found = [*cells, *map(spread, result["ratios"].values()), ms]
    print(*found, sep=" | ", flush=True)
    return found


def main() -> None:
    """Measures, and prints the tables."""
    kind, rows = prepare(), {}
    models, layers = [], []
    for name, (module, shape) in MODELS.items():
        rows[name] = measured(steps_of(module, shape))
        models.append(row([name], rows[name]))
    for channels, size in [(count, side) for count, sides in SIZES.items() for side in sides]:
        name = f"{channels} channels, {size} x {size}"
        rows[name] = measured(convolution(size, channels))
        layers.append(row([str(channels), f"{size} x {size}"], rows[name]))
    titles = ["model", "one by one / ours", "XLA's loop / ours", "ms a step"]
    lines = [*markdown_table(titles, models), ""]
    lines += markdown_table(["channels", "output", "layout / patches", "ms a step"], layers)
    path = RESULTS / f"convolutions_{kind}.json"
    write_json(path, {"machine": machine(), "batch": BATCH, "turns": TURNS, "rows": rows})
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
