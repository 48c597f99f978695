"""The cost of a step of the core beside a plain training step on the same batches.

    make bench        (about 5 minutes on two cores)

For an MLP, a ViT and a ResNet: FLOPs of the compiled step from the cost analysis, and wall time,
each as a ratio to the plain step `grad (L_f + L_r)` with the same optimizer. `fast_slow` with K
fast steps is compared with K + 1 plain steps on one batch. Wall time is paired: the two programs
take turns, and the ratio is taken pair by pair. Writes `results/overhead.json` and
`results/overhead.md` beside this file.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import (
    LossPair,
    fast_slow,
    implicit_surgery,
    models,
    surgery_value_and_grad,
    unilateral_surgery,
)
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.training.hosts import machine

BATCH, NUM_FAST_STEPS, PAIRS = 64, 3, 20
RESULTS = Path(__file__).parent / "results"
# The largest ratios that are meant to hold: FLOPs, and time where one is set.
TARGETS = {
    "next_batch": (1.02, 1.05),
    "same_batch": (1.40, None),
    "exact": (1.10, None),
    "fast_slow": (1.02, None),
}


class Problem(NamedTuple):
    """A model with one forget and several retain batches; `loss(params, batch) -> scalar`."""

    name: str
    params: Any
    loss: Callable[[Any, Any], jax.Array]
    forget: Any
    retain: Any


def make_problem(name: str, model: str, image: tuple[int, int, int], **fields: Any) -> Problem:
    """Random images and labels are enough: the cost of a step does not depend on them."""
    module = models.create(model, 10, **fields)
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.jit(lambda key: module.init(key, jnp.zeros((1, *image))))(keys[0])["params"]

    def batch(key: jax.Array, count: int) -> Any:
        images = jax.random.normal(key, (count, BATCH, *image))
        return images, jax.random.randint(key, (count, BATCH), 0, 10)

    def loss(params: Any, batch: Any) -> jax.Array:
        logits = module.apply({"params": params}, batch[0], train=True)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]))

    forget = jax.tree.map(lambda x: x[0], batch(keys[1], 1))
    return Problem(name, params, loss, forget, batch(keys[2], NUM_FAST_STEPS))


def plain_steps(problem: Problem) -> dict[str, Any]:
    """The plain step on forget + retain, and the plain step on one batch, with arguments."""
    tx = optax.sgd(1e-3, momentum=0.9)
    one = jax.tree.map(lambda x: x[0], problem.retain)

    def both(params: Any, state: Any, forget: Any, retain: Any) -> Any:
        grads = jax.grad(lambda p: problem.loss(p, forget) + problem.loss(p, retain))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def single(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(jax.grad(problem.loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(problem.params)
    return {
        "both": (jax.jit(both), (problem.params, state, problem.forget, one)),
        "single": (jax.jit(single), (problem.params, state, one)),
    }


def surgery_step(problem: Problem, estimator: str) -> Any:
    """A step of implicit surgery."""
    surgery = implicit_surgery(optax.adam(0.1), estimator=estimator)
    tx = optax.chain(optax.sgd(1e-3, momentum=0.9), surgery)
    losses_and_grads = surgery_value_and_grad(
        lambda p, forget, retain: LossPair(problem.loss(p, forget), problem.loss(p, retain)),
        surgery,
    )

    def step(params: Any, state: Any, forget: Any, retain: Any) -> Any:
        losses, grads = losses_and_grads(params, forget, retain, state=state)
        updates, state = tx.update(
            grads,
            state,
            params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: problem.loss(p, retain),
        )
        return optax.apply_updates(params, updates), state

    one = jax.tree.map(lambda x: x[0], problem.retain)
    return jax.jit(step), (problem.params, tx.init(problem.params), problem.forget, one)


def exact_step(problem: Problem) -> Any:
    """A step of exact unilateral surgery: two gradients on two batches."""
    tx = optax.chain(unilateral_surgery(), optax.sgd(1e-3, momentum=0.9))

    def step(params: Any, state: Any, forget: Any, retain: Any) -> Any:
        forget_grads, retain_grads = (
            jax.grad(problem.loss)(params, batch) for batch in (forget, retain)
        )
        updates, state = tx.update(forget_grads, state, params, retain_grads=retain_grads)
        return optax.apply_updates(params, updates), state

    one = jax.tree.map(lambda x: x[0], problem.retain)
    return jax.jit(step), (problem.params, tx.init(problem.params), problem.forget, one)


def fast_slow_step(problem: Problem, num_fast_steps: int) -> Any:
    """A forget step followed by fast steps."""
    tx = optax.chain(
        optax.sgd(1e-3, momentum=0.9),
        fast_slow(optax.sgd(1e-3, momentum=0.9), num_fast_steps=num_fast_steps),
    )

    def step(params: Any, state: Any, forget: Any, retain: Any) -> Any:
        def grad_fn(p: Any, i: jax.Array) -> Any:
            return jax.grad(problem.loss)(p, jax.tree.map(lambda x: x[i], retain))

        grads = jax.grad(problem.loss)(params, forget)
        updates, state = tx.update(grads, state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    return jax.jit(step), (problem.params, tx.init(problem.params), problem.forget, problem.retain)


def flops(program: Any) -> float:
    """FLOPs of the compiled program; the body of a loop counts once, however often it runs."""
    function, arguments = program
    return function.lower(*arguments).compile().cost_analysis()["flops"]


def paired_times(program: Any, plain: Any, plain_count: int = 1) -> list[float]:
    """Wall time of `program` divided by the time of `plain_count` plain steps, in turns."""

    def seconds(function: Any, arguments: Any, count: int) -> float:
        clock = time.perf_counter()
        for _ in range(count):
            result = function(*arguments)
        jax.block_until_ready(result)
        return time.perf_counter() - clock

    for function, arguments in (program, plain):
        seconds(function, arguments, 2)
    once = max(seconds(*plain, plain_count), 1e-4)
    repeat = max(1, round(0.05 / once))  # at least 50 ms a measurement
    return [seconds(*program, repeat) / seconds(*plain, plain_count * repeat) for _ in range(PAIRS)]


def measure(problem: Problem) -> list[dict[str, Any]]:
    """One row per transformation."""
    plain = plain_steps(problem)
    rows = []
    for name, program in (
        ("next_batch", surgery_step(problem, "next_batch")),
        ("same_batch", surgery_step(problem, "same_batch")),
        ("exact", exact_step(problem)),
    ):
        ratio = flops(program) / flops(plain["both"])
        rows.append(row(problem, name, ratio, paired_times(program, plain["both"])))
    # The loop's body is counted once: a program of K steps has the FLOPs of none plus K bodies.
    program = fast_slow_step(problem, NUM_FAST_STEPS)
    without = flops(fast_slow_step(problem, 0))
    total = without + NUM_FAST_STEPS * (flops(program) - without)
    ratio = total / ((NUM_FAST_STEPS + 1) * flops(plain["single"]))
    times = paired_times(program, plain["single"], NUM_FAST_STEPS + 1)
    rows.append(row(problem, "fast_slow", ratio, times))
    return rows


def row(problem: Problem, name: str, flop_ratio: float, times: list[float]) -> dict[str, Any]:
    """A row of the table."""
    low, middle, high = statistics.quantiles(times, n=4)
    print(f"{problem.name:8s} {name:12s} FLOPs {flop_ratio:.3f}  time {middle:.3f}", flush=True)
    return {
        "model": problem.name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(problem.params)),
        "step": name,
        "flops": round(flop_ratio, 4),
        "time_median": round(middle, 4),
        "time_quartiles": [round(low, 4), round(high, 4)],
        "pairs": PAIRS,
    }


def main() -> None:
    """Measures everything and writes the two result files."""
    problems = (
        make_problem("MLP", "mlp", (28, 28, 1)),
        make_problem("ViT", "vit-ti", (32, 32, 3), patch_size=8, depth=4),
        make_problem("ResNet", "resnet10-narrow", (32, 32, 3), norm="group"),
    )
    rows = [entry for problem in problems for entry in measure(problem)]
    RESULTS.mkdir(exist_ok=True)
    result = {
        "machine": machine(),
        "batch": BATCH,
        "fast_steps": NUM_FAST_STEPS,
        "targets": TARGETS,
        "rows": rows,
    }
    (RESULTS / "overhead.json").write_text(json.dumps(result, indent=2) + "\n")
    cells = []
    for entry in rows:
        flop_target, time_target = TARGETS[entry["step"]]
        low, high = entry["time_quartiles"]
        cells.append(
            [entry["model"], entry["step"], f"{entry['flops']:.3f}", f"{flop_target:.2f}"]
            + [f"{entry['time_median']:.3f} ({low:.3f} to {high:.3f})"]
            + ["" if time_target is None else f"{time_target:.2f}"]
        )
    titles = ["model", "step", "FLOPs", "at most", "time: median (quartiles)", "at most"]
    text = "\n".join(markdown_table(titles, cells)) + "\n"
    (RESULTS / "overhead.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
