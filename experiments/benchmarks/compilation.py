"""Compilation and steps of transformers: their blocks as one loop, beside one after another.

    python experiments/benchmarks/compilation.py [vit-b ...]

A program is one step of gradient descent. For each model, seconds of processor time for tracing,
lowering and compiling, the memory for temporaries, and the ratio of the processor times of a step,
loop / no loop, in turns. Both programs are refused unless they compute the same new weights. Models
have a loop from `depth.FEWEST` blocks; here all have one. Every finished row is kept in
`results/compilation_cpu.json` (`_gpu`), and the table is the `.md` file of that name.
"""

import itertools
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import (
    RESULTS,
    TOLERANCE,
    TURNS,
    apart,
    clock,
    prepare,
    quartiles,
    recorded,
    spread,
)

from jaxunlearn import models
from jaxunlearn.models import denoisers, depth, latent
from jaxunlearn.training.hosts import machine

RATE = 1e-3


class Case(NamedTuple):
    """A model and its batch.

    Attributes:
        module: the Flax module.
        inputs: shapes and types of its inputs.
        runs: whether the program is compiled and timed; large ones are only traced and lowered.
    """

    module: Any
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    runs: bool = True


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """Inputs that are numbers."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape: int) -> jax.ShapeDtypeStruct:
    """Inputs that are timesteps, labels or ids."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def known_cases() -> dict[str, Case]:
    """All cases, by name."""

    def dit(name: str, batch: int, runs: bool, **fields: Any) -> Case:
        module = denoisers.create(name, (32, 32, 4), 1000, **fields)
        return Case(module, (floats(batch, 32, 32, 4), integers(batch), integers(batch)), runs)

    return {
        "vit-ti, depth 4": Case(
            models.create("vit-ti", 10, patch_size=4, depth=4), (floats(32, 28, 28, 1),)
        ),
        "dit, width 128, depth 28": dit("dit-xl/2", 2, True, width=128, heads=4),
        "text encoder": Case(latent.create_text_encoder("sd-v1"), (integers(2, 77),)),
        "dit-xl/2": dit("dit-xl/2", 32, False, dtype="bfloat16"),
    }


def built(case: Case, fewest: int) -> tuple[Any, dict[str, float]]:
    """The compiled step with loops of at least so many turns, and what it took, in seconds."""
    depth.FEWEST = fewest

    def step(variables: Any, *inputs: Any) -> Any:
        def loss(variables: Any) -> jax.Array:
            return jnp.mean(case.module.apply(variables, *inputs) ** 2)

        return jax.tree.map(lambda p, g: p - RATE * g, variables, jax.grad(loss)(variables))

    jax.clear_caches()
    shapes = jax.eval_shape(case.module.init, jax.random.key(0), *case.inputs)
    times = [clock()]
    traced = jax.jit(step).trace(shapes, *case.inputs)
    times.append(clock())
    lowered = traced.lower()
    times.append(clock())
    compiled = lowered.compile() if case.runs else None
    times.append(clock())
    spent = [round(float(after[1] - before[1]), 2) for before, after in itertools.pairwise(times)]
    row = dict(zip(("tracing", "lowering", "compiling"), spent, strict=True))
    if compiled is None:
        del row["compiling"]
    else:
        row["temporary_mb"] = round(compiled.memory_analysis().temp_size_in_bytes / 2**20)
    return compiled, row


def measure(case: Case) -> dict[str, Any]:
    """The row of a case."""
    loop, ours = built(case, 1)
    unrolled, theirs = built(case, sys.maxsize)
    row: dict[str, Any] = {"loop": ours, "unrolled": theirs}
    if not case.runs:
        return row
    draw = np.random.default_rng(0)

    def filled(shape: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(shape.dtype, jnp.integer):
            return jnp.asarray(draw.integers(0, 9, shape.shape), shape.dtype)
        return jnp.asarray(draw.standard_normal(shape.shape, np.float32) / 20, shape.dtype)

    variables = jax.eval_shape(case.module.init, jax.random.key(0), *case.inputs)
    args = jax.tree.map(filled, (variables, *case.inputs))

    def seconds(step: Callable[..., Any]) -> float:
        began = clock()
        jax.block_until_ready(step(*args))
        return float(clock()[1] - began[1])

    changes = [
        [np.asarray(b - a) for a, b in zip(*map(jax.tree.leaves, (args[0], f(*args))), strict=True)]
        for f in (loop, unrolled)
    ]
    row["difference"] = apart(*changes)
    assert row["difference"] <= TOLERANCE, row
    pairs = [(seconds(loop), seconds(unrolled)) for _ in range(TURNS)]
    row["ratio"] = quartiles([a / b for a, b in pairs])
    row["step"] = [round(1000 * statistics.median(each), 1) for each in zip(*pairs, strict=True)]
    return row


def main() -> None:
    """Measures the cases that are missing, or those named, and writes the table of all."""
    path = RESULTS / f"compilation_{prepare()}.json"
    result = recorded(path)
    for name, case in known_cases().items():
        if name in sys.argv[1:] or not (sys.argv[1:] or name in result["rows"]):
            result["rows"][name] = measure(case)
            print(name, result["rows"][name], flush=True)
            path.write_text(json.dumps(result | {"machine": machine()}, indent=2) + "\n")
    path.with_suffix(".md").write_text(render(result["rows"]))
    print(render(result["rows"]))


def render(rows: dict[str, dict[str, Any]]) -> str:
    """The table, one line a model: loop, no loop."""
    wanted = ("tracing", "lowering", "compiling", "temporary_mb")
    lines = [
        "| model | tracing, s | lowering, s | compiling, s | temporaries, MB | step, ms | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        pairs = [f"{row['loop'].get(k, '')}, {row['unrolled'].get(k, '')}" for k in wanted]
        pairs += (
            ["{}, {}".format(*row["step"]), spread(row["ratio"])] if "step" in row else ["", ""]
        )
        lines.append(f"| {name} | {' | '.join(pairs)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
