"""Whole unlearning jobs beside the same jobs in PyTorch, in turns and in one process.

    pip install '.[bench]'
    python experiments/benchmarks/against_torch.py ['mlp-eupmu eager' ...]

Two methods on five models: EUPMU with the same-batch multiplier, and SFR-on with its Fisher pass.
The PyTorch loops are written from the equations (`torch_models.py`, `torch_unlearning.py`), once as
they are and once with their losses under `torch.compile`. Both programs begin with the same
weights and see the same images, batches, random labels, timesteps and noise; PyTorch gets all that
randomness ready-made. A cell is refused unless all losses and the last weights agree to 1e-3.

A turn is a whole job. Ours and theirs take turns, and ratios are taken turn by turn: of wall time,
and of the processor time of the whole process, which a busy machine disturbs less. On CPUs both
have one thread. Every finished cell is kept in `results/against_torch_cpu.json` and is run again
only if it is named. The table is the `.md` file of that name. On a machine with a GPU the same
command runs both there, in full float32 and with more steps a job, and writes
`against_torch_gpu.json`.
"""

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
import torch_models
import torch_unlearning
from side_by_side import (
    RESULTS,
    TOLERANCE,
    TURNS,
    apart,
    clock,
    prepare,
    prepare_torch,
    quartiles,
    recorded,
    spread,
)
from torch import Tensor
from torch_models import tensor
from torch_unlearning import Job, leaves

from jaxunlearn import methods, models
from jaxunlearn.data.order import visits
from jaxunlearn.models import denoisers
from jaxunlearn.models.diffusion_process import antithetic_timesteps
from jaxunlearn.models.process import Process
from jaxunlearn.tasks import classification, diffusion
from jaxunlearn.training import executable_for, programs
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import example_keys

IMAGE, CLASSES, SIZES = (28, 28, 1), 10, {"forget": 32, "retain": 96}
BATCHES = {"forget_batch_size": 32, "retain_batch_size": 64}
SEED, STEPS_ON_A_GPU = 0, 40
COMMON = {"learning_rate_schedule": "constant", **BATCHES}
METHODS: dict[str, dict[str, Any]] = {
    "eupmu": {"tolerance": 0.01, "multiplier_learning_rate": 0.1},
    "sfron": {"threshold": 1.0, "clip_norm": 1.0},
}


class Model(NamedTuple):
    """One model, here and there.

    Attributes:
        ours: the Flax module.
        theirs: the function in `torch_models`.
        generates: whether it denoises images, or classifies them.
        steps: of a job of EUPMU on a CPU; SFR-on, with five retain steps a step, takes a quarter.
        target: the largest ratio of the time of a step that is meant to hold.
    """

    ours: Any
    theirs: Callable[..., Tensor]
    generates: bool
    steps: int
    target: float


def known_models() -> dict[str, Model]:
    """The five models, by name."""
    create, denoiser = models.create, denoisers.create
    small = {"patch_size": 4, "depth": 4}
    return {
        "mlp": Model(create("mlp", CLASSES), torch_models.mlp, False, 100, 0.4),
        "vit": Model(create("vit-ti", CLASSES, **small), torch_models.vit(3, 4), False, 4, 1.0),
        "resnet": Model(
            create("resnet10-narrow", CLASSES), torch_models.resnet((1, 2, 2, 2)), False, 8, 1.5
        ),
        "unet": Model(
            denoiser("ddpm-small", IMAGE, CLASSES), torch_models.unet(3, 8, (3,)), True, 3, 1.5
        ),
        "dit": Model(denoiser("dit-small", IMAGE, CLASSES), torch_models.dit(4, 4), True, 4, 1.0),
    }


class Cell(NamedTuple):
    """One model and one method: what both programs are given.

    Attributes:
        name: such as "mlp-eupmu".
        model: the model.
        method: the name of the method.
        settings: all its settings.
        task: ours.
        start: our parameters and model state.
        forget: the forget data, as our methods take them.
        retain: the retain data.
    """

    name: str
    model: Model
    method: str
    settings: dict[str, Any]
    task: Any
    start: Any
    forget: Any
    retain: Any


def make_cell(name: str) -> Cell:
    """Random images and labels: the cost of a step does not depend on them."""
    model_name, method = name.split("-")
    model = known_models()[model_name]
    steps = STEPS_ON_A_GPU if torch_models.DEVICE == "cuda" else model.steps
    steps = steps if method == "eupmu" else max(2, steps // 4)
    given = COMMON | METHODS[method] | {"num_steps": steps}
    if model.generates and method == "eupmu":
        given["objective"] = "match_anchor"
    shape = {"image_shape": IMAGE, "num_classes": CLASSES}
    if model.generates:
        task = diffusion(model.ours, Process(), reduction="mean", **shape)
    else:
        task = classification(model.ours, mean=(0.5,), std=(0.5,), **shape)
    params, model_state = jax.jit(task.init)(jax.random.key(SEED))
    draw = np.random.default_rng(SEED)
    if model.generates:  # they begin with zeros, through which no gradient passes
        params = jax.tree.map(
            lambda p: p + 0.02 * draw.standard_normal(p.shape, np.float32), params
        )

    def examples(first: int, count: int) -> Any:
        return {
            "image": jnp.asarray(draw.integers(0, 256, (count, *IMAGE)), jnp.uint8),
            "label": jnp.asarray(draw.integers(0, CLASSES, count), jnp.int32),
            "index": jnp.arange(first, first + count),
        }

    forget, retain = examples(0, SIZES["forget"]), examples(SIZES["forget"], SIZES["retain"])
    settings = methods.settings(method, given)
    return Cell(name, model, method, settings, task, (params, model_state), forget, retain)


class Ran(NamedTuple):
    """A finished job: seconds (wall, processor) before and in the steps, and its weights."""

    before: tuple[float, float]
    steps: tuple[float, float]
    losses: np.ndarray  # [steps, 2]
    weights: list[np.ndarray]


def now() -> np.ndarray:
    """The clock, once the device is done."""
    if torch_models.DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock()


@functools.lru_cache
def our_job(name: str) -> tuple[Cell, Callable[[], Ran], float]:
    """A cell, a function that runs our job again, and the seconds of compilation."""
    cell = make_cell(name)
    program = programs.of_method(cell.task, cell.method, cell.settings)
    numbers = {k: jnp.float32(v) for k, v in programs.split(cell.settings).numbers.items()}
    inputs = (numbers, jax.random.key(SEED), *cell.start, cell.forget, cell.retain)
    inputs = jax.device_put(inputs, jax.devices()[0])
    init, seconds = executable_for(program.init, *inputs)
    stop = jnp.int32(cell.settings["num_steps"])
    state = init(*inputs)
    args = (inputs[0], state, cell.forget, cell.retain, stop)
    chunk, more = executable_for(program.chunk, *args)

    def go() -> Ran:
        began = now()
        state = jax.block_until_ready(init(*inputs))
        ready = now()
        state, history, _ = jax.block_until_ready(
            chunk(inputs[0], state, cell.forget, cell.retain, stop)
        )
        ended = now()
        losses = np.stack([history["forget_loss"], history["retain_loss"]], 1)
        weights = [t.numpy(force=True) for t in leaves(torch_models.carried(state.params))]
        return Ran(tuple(ready - began), tuple(ended - ready), losses, weights)

    return cell, go, seconds + more


def draws(cell: Cell) -> dict[str, np.ndarray]:
    """Which examples every step visits, and all that is random about them, as our program draws."""
    key, settings = jax.random.key(SEED), cell.settings
    steps, batches = settings["num_steps"], settings.get("num_fast_steps", 1)
    per_step = {"forget": settings["forget_batch_size"], "retain": settings["retain_batch_size"]}
    per_step["retain"] *= batches
    drawn: dict[str, Any] = {}
    for child, part, arrays in ((2, "forget", cell.forget), (3, "retain", cell.retain)):
        order = visits(jax.random.fold_in(key, child), arrays, jnp.int32(0), per_step[part], steps)
        batch = order | {"index": arrays["index"][order["position"]]}
        count = batches if part == "retain" else 1
        batch = jax.tree.map(lambda x, n=count: x.reshape(steps * n, -1), batch)
        drawn[part] = batch["position"]
        drawn[f"{part}_label"] = arrays["label"][batch["position"]]
        if cell.model.generates:
            t, noise, dropped = jax.lax.map(lambda b: noised(key, b), batch)
            drawn |= {f"{part}_time": t, f"{part}_noise": noise}
            if part == "retain":
                labels = drawn["retain_label"]
                drawn["retain_label"] = jnp.where(dropped, CLASSES, labels)
            ones = {"index": arrays["index"], "epoch": jnp.zeros_like(arrays["index"])}
            ones = jax.tree.map(lambda x: x[:, None], ones)
            t, noise, _ = jax.lax.map(lambda b: noised(key, b), ones)
            drawn |= {f"{part}_own_time": t, f"{part}_own_noise": noise}
        elif part == "forget" and cell.method == "eupmu":
            keys = jax.vmap(lambda b: example_keys(jax.random.fold_in(key, 1), b))(batch)
            drawn["forget_label"] = jax.vmap(
                jax.vmap(lambda k: jax.random.randint(k, (), 0, CLASSES))
            )(keys)
    return {name: np.asarray(value) for name, value in drawn.items()}


def noised(key: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Timesteps, noise and which labels are dropped, for a batch of a diffusion task."""
    keys = example_keys(key, {name: batch[name] for name in ("index", "epoch")})
    noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 1), IMAGE))(keys)
    share = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 2)))(keys)
    timesteps = antithetic_timesteps(jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys), 1000)
    return timesteps, noise, share < 0.1


def their_job(cell: Cell, compiled: bool) -> Callable[[], Ran]:
    """A function that runs their job again."""
    given = {name: tensor(value) for name, value in draws(cell).items()}
    given = {n: v.long() if not v.is_floating_point() else v for n, v in given.items()}
    arrays = {"forget": cell.forget, "retain": cell.retain}
    images = {k: tensor(a["image"]).movedim(-1, 1) for k, a in arrays.items()}
    labels = {k: tensor(a["label"]).long() for k, a in arrays.items()}
    losses = (diffusion_losses if cell.model.generates else class_losses)(cell, compiled)

    def forget(weights: Any, step: int) -> Tensor:
        return losses(weights, *batch("forget", step), True)

    def retain(weights: Any, step: int, i: int) -> Tensor:
        return losses(weights, *batch("retain", step * batches + i), False)

    def batch(part: str, i: int) -> tuple[Tensor, ...]:
        chosen = images[part][given[part][i]], given[f"{part}_label"][i]
        if not cell.model.generates:
            return chosen
        return *chosen, given[f"{part}_time"][i], given[f"{part}_noise"][i].movedim(-1, 1)

    def fisher(weights: Any, part: str, i: int) -> Tensor:
        one = images[part][i : i + 1], labels[part][i : i + 1]
        if cell.model.generates:
            noise = given[f"{part}_own_noise"][i].movedim(-1, 1)
            one = (*one, given[f"{part}_own_time"][i], noise)
        return losses(weights, *one, None)

    settings = cell.settings
    batches = settings.get("num_fast_steps", 1)
    job = Job(forget, retain, fisher, SIZES, settings["num_steps"])

    def go() -> Ran:
        weights = torch_models.carried(cell.start[0])
        began = now()
        mask = torch_unlearning.saliency(weights, job, settings) if cell.method == "sfron" else []
        ready = now()
        if cell.method == "sfron":
            history = torch_unlearning.sfron(weights, job, settings, mask)
        else:
            history = torch_unlearning.eupmu(weights, job, settings)
        ended = now()
        found = [t.numpy(force=True) for t in leaves(weights)]
        return Ran(tuple(ready - began), tuple(ended - ready), np.array(history), found)

    return go


def class_losses(cell: Cell, compiled: bool) -> Callable[..., Tensor]:
    """`(weights, images, labels, part) -> losses [B]`; the part None means evaluation mode."""
    forward = cell.model.theirs

    def losses(weights: Any, images: Tensor, labels: Tensor, train: bool) -> Tensor:
        logits = forward(weights, (images.float() / 255.0 - 0.5) / 0.5, train)
        return F.cross_entropy(logits, labels, reduction="none")

    function = torch.compile(losses, dynamic=False) if compiled else losses
    return lambda weights, images, labels, part: function(weights, images, labels, part is not None)


def diffusion_losses(cell: Cell, compiled: bool) -> Callable[..., Tensor]:
    """`(weights, images, labels, timesteps, noise, part) -> losses [B]`."""
    forward = cell.model.theirs
    alphas = tensor(Process().alphas_bar)
    signal, spread = alphas.sqrt().float(), (1.0 - alphas).sqrt().float()
    anchored = cell.method == "eupmu"

    def losses(
        weights: Any, images: Tensor, labels: Tensor, t: Tensor, noise: Tensor, forget: bool
    ) -> Tensor:
        rows = (-1, 1, 1, 1)
        clean = images.float() / 127.5 - 1.0
        noisy = signal[t].reshape(rows) * clean + spread[t].reshape(rows) * noise
        wanted = noise
        if forget:  # as if it were of the next class
            with torch.no_grad():
                wanted = forward(weights, noisy, t, (labels + 1) % CLASSES)
        return ((forward(weights, noisy, t, labels) - wanted) ** 2).mean((1, 2, 3))

    function = torch.compile(losses, dynamic=False) if compiled else losses
    return lambda weights, images, labels, t, noise, part: function(
        weights, images, labels, t, noise, bool(part) and anchored
    )


def difference(ours: Ran, theirs: Ran) -> dict[str, float]:
    """The largest relative difference of a loss, and the difference of all weights together."""
    losses = np.abs(ours.losses - theirs.losses) / (np.abs(theirs.losses) + 1e-3)
    return {"losses": float(losses.max()), "weights": apart(ours.weights, theirs.weights)}


def compare(pairs: list[tuple[Ran, Ran]], steps: int) -> dict[str, Any]:
    """Ratios ours / theirs over the turns, and medians of the milliseconds of both."""
    row: dict[str, Any] = {}
    for i, name in enumerate(("wall", "cpu")):
        row[f"step_{name}"] = quartiles([a.steps[i] / b.steps[i] for a, b in pairs])
        row[f"job_{name}"] = quartiles(
            [(a.before[i] + a.steps[i]) / (b.before[i] + b.steps[i]) for a, b in pairs]
        )
        for who, runs in zip(("our", "their"), zip(*pairs, strict=True), strict=True):
            step = statistics.median(run.steps[i] for run in runs) / steps
            row[f"{who}_ms_per_step_{name}"] = round(1000 * step, 3)
            before = statistics.median(run.before[i] for run in runs)
            row[f"{who}_ms_before_{name}"] = round(1000 * before, 2)
    return row


def measure(name: str, form: str) -> dict[str, Any]:
    """The row of one cell against one form of theirs."""
    cell, ours, our_seconds = our_job(name)
    theirs = their_job(cell, form == "compiled")
    first = ours()
    began = time.perf_counter()
    found = difference(first, theirs())
    compiling = time.perf_counter() - began
    print(name, form, found, flush=True)
    assert max(found.values()) <= TOLERANCE, found
    pairs = [(ours(), theirs()) for _ in range(TURNS)]
    if form == "compiled":
        compiling -= statistics.median(b.before[0] + b.steps[0] for _, b in pairs)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(cell.start[0])),
        "target": cell.model.target,
        "difference": found,
        "steps": cell.settings["num_steps"],
        "turns": TURNS,
        "our_compile_seconds": round(our_seconds, 1),
        "their_compile_seconds": round(compiling, 1) if form == "compiled" else 0.0,
        **compare(pairs, cell.settings["num_steps"]),
    }


def main() -> None:
    """Measures the cells that are missing, and writes the table of all."""
    kind = prepare()
    record = prepare_torch(kind)
    path = RESULTS / f"against_torch_{kind}.json"
    result = recorded(path)
    every = [f"{model}-{method}" for model in known_models() for method in METHODS]
    every = [f"{name} {form}" for form in ("eager", "compiled") for name in every]
    for name in sys.argv[1:] or every:
        if name in sys.argv[1:] or name not in result["rows"]:
            try:
                result["rows"][name] = measure(*name.split())
            except (AssertionError, torch._dynamo.exc.BackendCompilerFailed) as error:
                print(f"{name} failed: {error}", flush=True)  # no equal results, or no C++ compiler
        result |= {"machine": machine(), **record}
        path.write_text(json.dumps(result, indent=2) + "\n")
        table = render({name: result["rows"][name] for name in every if name in result["rows"]})
        path.with_suffix(".md").write_text(table)
    print(table)


def render(cells: dict[str, dict[str, Any]]) -> str:
    """The table, one line a cell."""

    def both(row: dict[str, Any], what: str) -> str:
        return f"{row[f'our_{what}']:.4g}, {row[f'their_{what}']:.4g}"

    lines = [
        "| model, method, their form | a step: wall time | processor time | at most "
        "| the job: wall time | a step, ms | the Fisher pass, ms | compilation, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in cells.items():
        fisher = both(row, "ms_before_wall") if "sfron" in name else ""
        lines.append(
            f"| {name} | {spread(row['step_wall'])} | {spread(row['step_cpu'])} | {row['target']} "
            f"| {spread(row['job_wall'])} | {both(row, 'ms_per_step_wall')} | {fisher} "
            f"| {both(row, 'compile_seconds')} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
