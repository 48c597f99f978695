"""Which form of a convolution is faster inside a compiled loop on a CPU, by the size of its output.

    python experiments/benchmarks/convolutions.py     (about four minutes)

A 3x3 convolution of stride 1 with both its gradients, batches of 64: as one product of patches, and
in XLA's form with gradients in its fast layout (`jaxunlearn/models/conv.py`, which chooses by this
table). One thread; processor time of ten steps in one loop, the ratio of the two in turns. Writes
`results/convolutions_cpu.json` and the table beside it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from side_by_side import RESULTS, TURNS, clock, prepare, quartiles, spread

from jaxunlearn.files import write_json
from jaxunlearn.models import conv
from jaxunlearn.setting import machine

BATCH, STEPS = 64, 10
SIZES = {16: (1, 2, 3, 4, 8, 14), 64: (1, 2, 3, 4, 8, 14), 128: (1, 2, 3, 4, 8)}
FORMS = {"patches": conv._by_patches, "layout": conv._conv}


def job(form: Callable[..., jax.Array], size: int, channels: int) -> Callable[[], Any]:
    """Steps down the gradient of a convolution, compiled as one loop."""
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (BATCH, size, size, channels))
    kernel = 0.1 * jax.random.normal(keys[1], (3, 3, channels, channels))

    def loss(weights: Any) -> jax.Array:
        return jnp.sum(form(*weights, (1, 1), ((1, 1), (1, 1)), None) ** 2)

    def step(weights: Any, _: None) -> tuple[Any, None]:
        moved = jax.tree.map(lambda w, g: w - 1e-9 * g, weights, jax.grad(loss)(weights))
        return moved, None

    loop = jax.jit(lambda weights: jax.lax.scan(step, weights, length=STEPS)[0])
    work = functools.partial(loop, (images, kernel))
    jax.block_until_ready(work())  # compiles
    return work


def measured(size: int, channels: int) -> dict[str, Any]:
    """The ratio of the two forms in turns, and the milliseconds of each."""
    jobs = {name: job(form, size, channels) for name, form in FORMS.items()}
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(TURNS):
        for name, work in jobs.items():
            began = clock()
            jax.block_until_ready(work())
            taken[name].append(float((clock() - began)[1]) / STEPS * 1e3)
    ratio = quartiles([a / b for a, b in zip(*taken.values(), strict=True)])
    ms = {name: quartiles(each)[1] for name, each in taken.items()}
    return {"channels": channels, "size": size, "ratio": ratio, "ms": ms}


def main() -> None:
    """Measures, and prints the table."""
    kind, rows = prepare(), []
    lines = ["| channels | output | patches / layout | ms a step |", "| ---: | --- | --- | --- |"]
    for channels, size in [(count, side) for count, sides in SIZES.items() for side in sides]:
        row = measured(size, channels)
        rows.append(row)
        of_forms = ", ".join(f"{value:.2f}" for value in row["ms"].values())
        lines.append(f"| {channels} | {size} x {size} | {spread(row['ratio'])} | {of_forms} |")
        print(lines[-1], flush=True)
    path = RESULTS / f"convolutions_{kind}.json"
    write_json(path, {"machine": machine(), "batch": BATCH, "turns": TURNS, "rows": rows})
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
