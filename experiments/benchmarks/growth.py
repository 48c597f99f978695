"""How the cost of a step grows: with parameters, batch, data, forget examples and methods.

    python experiments/benchmarks/growth.py            (about 5 minutes)

Whole runs of EUPMU on an MLP, as `training.run` does them: a step costs the difference between a
run of 300 steps and one of 100, by 200, so what a run costs once cancels. Of both the least
processor time of ten, on one thread, counts; the values of a quantity take turns. Each quantity is
varied alone, the others stay at `BASE`. What a run does once an epoch, a permutation of the data,
is in these differences where an epoch is short: the largest data are not gone through once.

Slopes are of the logarithms: 0 means that the cost does not grow, 1 that it doubles with the
quantity. The Fisher pass of SFR-on, which may grow with the data, is reported beside. Writes
`results/growth.json` and `results/growth.png`.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from side_by_side import RESULTS, clock, prepare

from jaxunlearn import methods, models, training
from jaxunlearn.tasks import classification
from jaxunlearn.training import programs
from jaxunlearn.training.hosts import machine

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

SHORT, LONG, ROUNDS = 100, 300, 10
BASE = {"width": 128, "batch": 64, "data": 4096, "forget": 256, "methods": 1}
VARIED = {
    "width": (32, 128, 512),
    "batch": (16, 64, 256),
    "data": (4096, 16384, 65536),
    "forget": (256, 1024, 4096),
    "methods": (1, 2, 4),
}
FISHER = (256, 1024, 4096)
SAID = {
    "width": "parameters",
    "batch": "examples in a retain batch (half as many to forget)",
    "data": "retain examples",
    "forget": "forget examples",
    "methods": "methods, a step of each",
    "fisher": "examples in the Fisher pass",
}
IN_TURN = ("eupmu", "random_labels", "neggrad_plus", "finetune")


def processor_ms(go: Callable[[], Any]) -> float:
    """Milliseconds of processor time of a call."""
    began = clock()
    jax.block_until_ready(go())
    return float(1000 * (clock() - began)[1])


def examples(count: int) -> Any:
    """Random images of the size of Fashion-MNIST."""
    draw = np.random.default_rng(count)
    return {
        "image": jnp.asarray(draw.integers(0, 256, (count, 28, 28, 1)), jnp.uint8),
        "label": jnp.asarray(draw.integers(0, 10, count), jnp.int32),
        "index": jnp.arange(count),
    }


@functools.lru_cache
def begun(width: int) -> Any:
    """The task of an MLP of that width, and weights to start from."""
    module = models.create("mlp", 10, hidden=(width, width))
    task = classification(module, image_shape=(28, 28, 1), num_classes=10)
    return task, jax.jit(task.init)(jax.random.key(0))


def job(method: str, at: dict[str, int]) -> Callable[[int], Any]:
    """A function that runs so many steps of a method."""
    task, start = begun(at["width"])
    sizes = {"forget_batch_size": at["batch"] // 2, "retain_batch_size": at["batch"]}
    settings = methods.settings(method, {"num_steps": LONG, **sizes})
    program, numbers = programs.of_method(task, method, settings), programs.split(settings).numbers
    data = examples(at["forget"]), examples(at["data"])

    def go(num_steps: int) -> Any:
        return training.run(program, numbers, start, *data, num_steps=num_steps, seed=0).state

    return go


def least_ms(jobs: list[Callable[[], Any]]) -> list[float]:
    """The least processor time of each job, which take turns."""
    for go in jobs:
        jax.block_until_ready(go())
    return [
        min(times)
        for times in zip(*([processor_ms(go) for go in jobs] for _ in range(ROUNDS)), strict=True)
    ]


def steps_ms(every: list[dict[str, int]]) -> list[float]:
    """The cost of a step at each of some places, of all methods together."""
    jobs = [[job(name, at) for name in IN_TURN[: at["methods"]]] for at in every]
    long, short = (
        least_ms([lambda g=group, n=n: [go(n) for go in g] for group in jobs])
        for n in (LONG, SHORT)
    )
    return [(a - b) / (LONG - SHORT) for a, b in zip(long, short, strict=True)]


def fisher_pass(count: int) -> Callable[[], Any]:
    """A function that does the Fisher pass of SFR-on over so many forget and retain examples."""
    task, start = begun(BASE["width"])
    settings = methods.settings("sfron", {"num_steps": LONG})
    program = programs.of_method(task, "sfron", settings)
    numbers = {name: jnp.float32(value) for name, value in programs.split(settings).numbers.items()}
    data = examples(count // 2), examples(count - count // 2)
    return lambda: program.init(numbers, jax.random.key(0), *start, *data)


def slope(rows: list[dict[str, float]]) -> float:
    """The slope of log(cost) against log(quantity), by least squares."""
    x, y = (np.log([row[key] for row in rows]) for key in ("quantity", "ms"))
    return float(np.polyfit(x, y, 1)[0])


def draw(found: dict[str, list[dict[str, float]]], slopes: dict[str, float]) -> None:
    """One panel a quantity, both axes logarithmic, the upright ones over two decades."""
    figure, panels = plt.subplots(2, 3, figsize=(12, 6.5), layout="constrained")
    for panel, (name, rows) in zip(panels.flat, found.items(), strict=True):
        x, y = [row["quantity"] for row in rows], [row["ms"] for row in rows]
        panel.loglog(x, y, "o-", color="#1f5fa8")
        panel.set(xlabel=SAID[name], title=f"slope {slopes[name]:.2f}")
        panel.set_ylabel("ms a pass" if name == "fisher" else "ms a step")
        panel.set_xticks(x, [f"{quantity:,}" for quantity in x])
        panel.xaxis.set_minor_locator(NullLocator())
        middle = (min(y) * max(y)) ** 0.5
        panel.set_ylim(middle / 10, middle * 10)
        panel.grid(which="major", alpha=0.3)
    figure.savefig(RESULTS / "growth.png", dpi=100)


def main() -> None:
    """Measures everything, and writes the figures and the picture."""
    prepare()
    found: dict[str, list[dict[str, float]]] = {}

    def note(name: str, quantity: int, ms: float) -> None:
        found.setdefault(name, []).append({"quantity": quantity, "ms": round(ms, 4)})
        print(name, quantity, f"{ms:.3f} ms", flush=True)

    for name, values in VARIED.items():
        for value, ms in zip(values, steps_ms([BASE | {name: v} for v in values]), strict=True):
            params = begun(value)[1][0] if name == "width" else ()
            note(name, sum(leaf.size for leaf in jax.tree.leaves(params)) or value, ms)
    for value, ms in zip(FISHER, least_ms([fisher_pass(v) for v in FISHER]), strict=True):
        note("fisher", value, ms)
    slopes = {name: round(slope(rows), 3) for name, rows in found.items()}
    result = {"machine": machine(), "base": BASE, "rounds": ROUNDS, "slopes": slopes, "rows": found}
    (RESULTS / "growth.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(found, slopes)
    print(slopes)


if __name__ == "__main__":
    main()
