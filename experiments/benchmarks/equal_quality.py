"""Time to equal quality: how long until our runs are as good as a PyTorch loop is at its end?

    pip install '.[bench]'
    python experiments/benchmarks/equal_quality.py RUNS      (about 15 minutes)

RUNS holds an original model, `pretrain`, and one retrained without a random tenth of its data,
`random-0.1/retrain`, of the study fashion12k: 12,000 images of Fashion-MNIST, `resnet10-narrow`.
From the original weights, EUPMU (same-batch) and SFR-on run as plain PyTorch loops
(`torch_unlearning.py`), and then ours: the same method with the same settings, and a form of ours
that a user would choose. Quality is the five-part gap and the JS divergence to the retrained model,
as we measure them for both. Ours is judged at five places along its way, and has reached the
quality at the first place where neither is larger than theirs at its end.

All passes count: steps, Fisher passes, and the losses that objectives look up before. Judging and
compilation do not. One thread; wall time and processor time. `results/equal_quality_cpu.json` keeps
what is done. Delete it to begin again.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
import torch_models
import torch_unlearning
from side_by_side import RESULTS, clock, prepare, prepare_torch
from torch_models import tensor

from jaxunlearn import evaluation, methods
from jaxunlearn.data import ForgetRequest
from jaxunlearn.evaluation.predictions import predict_splits
from jaxunlearn.studies.problem import load_splits, load_task
from jaxunlearn.studies.runs import folder as runs
from jaxunlearn.studies.runs.unseen import with_unseen
from jaxunlearn.training import executable_for, programs
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import Weights

PLACES, SEED = 5, 0
QUALITY = ("five_part_gap", "js_to_retrained")
MEAN, STD = 0.2860, 0.3530
# EUPMU by the numbers of its released code for this study; the rest the best of four blind trials,
# of the ten that the study was tuned by in the end.
EUPMU = {"num_steps": 350, "forget_batch_size": 128, "learning_rate": 0.001, "tolerance": -0.05}
EUPMU |= {"learning_rate_schedule": "constant"}
SFRON = {
    "num_steps": 60,
    "forget_batch_size": 128,
    "mask_batch_size": 128,
    "per_example_fisher": False,
    "learning_rate": 0.0823,
    "alpha": 42.8,
    "forget_learning_rate": 0.0101,
    "learning_rate_schedule": "constant",
}
UNSEEN = {
    "objective": "match_unseen",
    "forget_batch_size": 128,
    "slow_step_size": 0.5,
    "learning_rate": 0.116,
    "forget_learning_rate": 0.378,
}
CHAINED = {"num_steps": 55, "saliency": False, "estimator": "next_batch", "tolerance": 0.0222}
FORMS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "sfron": {
        "the same": ("sfron", SFRON),
        "until unseen, no mask": ("sfron", UNSEEN | {"num_steps": 60, "variant": "FR-on"}),
    },
    "eupmu": {
        "the same": ("eupmu", EUPMU),
        "chained with SFR-on, until unseen": ("eupmu_sfron", UNSEEN | CHAINED),
    },
}


class Study(NamedTuple):
    """The problem, its original model, and how models are judged."""

    task: Any
    splits: Any
    original: Weights
    judge: Callable[[Weights], dict[str, float]]


def load(folder: Path) -> Study:
    """The study in a folder."""
    problem = runs.read_config(folder / "pretrain", "pretrain").problem
    splits = load_splits(problem, SEED, ForgetRequest(fraction=0.1))
    task = load_task(problem)
    retrained = runs.load_weights(folder / "random-0.1" / "retrain", problem)
    oracle = predict_splits(task, retrained, splits)
    of_oracle = evaluation.evaluate(oracle)

    def judge(weights: Weights) -> dict[str, float]:
        found = evaluation.evaluate(predict_splits(task, weights, splits), oracle, of_oracle)
        names = ("forget_accuracy", "retain_accuracy", "test_accuracy", *QUALITY)
        return {name: round(found[name], 4) for name in names}

    return Study(task, splits, runs.load_weights(folder / "pretrain", problem), judge)


def theirs(study: Study, method: str, settings: dict[str, Any]) -> tuple[Weights, np.ndarray]:
    """The weights of the PyTorch loop, and its seconds: wall time and processor time."""
    forward = torch_models.resnet((1, 2, 2, 2))
    running = torch_models.carried(study.original.model_state["batch_stats"])
    for statistic in torch_unlearning.leaves(running):
        statistic.requires_grad_(False)
    parts = {"forget": study.splits.forget, "retain": study.splits.retain}
    images = {k: tensor(part.image).movedim(-1, 1) for k, part in parts.items()}
    labels = {k: tensor(part.label).long() for k, part in parts.items()}
    sizes, steps = {k: len(part) for k, part in parts.items()}, settings["num_steps"]
    batches = settings.get("num_fast_steps", 1)
    draw = np.random.default_rng(SEED)

    def visits(part: str, count: int) -> torch.Tensor:
        """Batches out of one permutation after another."""
        size = settings[f"{part}_batch_size"]
        epochs = -(-count * size // sizes[part])
        order = np.concatenate([draw.permutation(sizes[part]) for _ in range(epochs)])
        return tensor(order[: count * size].reshape(count, size))

    order = {"forget": visits("forget", steps), "retain": visits("retain", steps * batches)}

    def losses(weights: Any, part: str, places: Any, train: bool, state: Any) -> torch.Tensor:
        seen = (images[part][places].float() / 255.0 - MEAN) / STD
        wanted = labels[part][places]
        if train and part == "forget" and method == "eupmu":
            wanted = torch.randint(0, 10, wanted.shape, device=wanted.device)
        return F.cross_entropy(forward(weights, seen, train, state), wanted, reduction="none")

    def fisher(weights: Any, part: str, i: int) -> torch.Tensor:
        size = settings["mask_batch_size"]
        return losses(weights, part, slice(i * size, (i + 1) * size), False, running)

    job = torch_unlearning.Job(
        lambda w, step: losses(w, "forget", order["forget"][step], True, None),
        lambda w, step, i: losses(w, "retain", order["retain"][step * batches + i], True, running),
        fisher,
        {part: -(-size // settings.get("mask_batch_size", size)) for part, size in sizes.items()},
        steps,
    )
    torch.manual_seed(SEED)
    weights = torch_models.carried(study.original.params)
    began = clock()
    if method == "sfron":
        mask = torch_unlearning.saliency(weights, job, settings)
        torch_unlearning.sfron(weights, job, settings, mask)
    else:
        torch_unlearning.eupmu(weights, job, settings)
    seconds = clock() - began
    return Weights(brought_back(weights), {"batch_stats": brought_back(running)}), seconds


def brought_back(tree: Any, name: str = "") -> Any:
    """Tensors as our parameters: what `torch_models.carried` undoes."""
    if isinstance(tree, dict):
        return {key: brought_back(value, key) for key, value in tree.items()}
    array = tree.numpy(force=True)
    if name == "kernel":
        array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
    return jnp.asarray(array)


def ours(
    study: Study, method: str, settings: dict[str, Any], goal: dict[str, float]
) -> list[dict[str, Any]]:
    """How far our run is at places along its way, up to the first that is as good as the goal."""
    program = programs.of_method(study.task, method, settings)
    numbers = {name: jnp.float32(value) for name, value in programs.split(settings).numbers.items()}
    retain = jax.device_put(study.splits.retain.arrays())
    forget, seconds = jax.device_put(study.splits.forget.arrays()), np.zeros(2)
    if settings.get("objective") == "match_unseen":
        unseen = jax.device_put(study.splits.copied.arrays())
        with_unseen(study.task, study.original, unseen, forget)  # compiles
        began = clock()
        forget = with_unseen(study.task, study.original, unseen, forget)
        jax.block_until_ready(forget)
        seconds += clock() - began
    inputs = (numbers, jax.random.key(SEED), *study.original, forget, retain)
    init, _ = executable_for(program.init, *inputs)
    began = clock()
    state = jax.block_until_ready(init(*inputs))
    seconds += clock() - began
    chunk, _ = executable_for(program.chunk, numbers, state, forget, retain, jnp.int32(0))
    way = []
    for place in range(1, PLACES + 1):
        stop = settings["num_steps"] * place // PLACES
        began = clock()
        state, *_ = jax.block_until_ready(chunk(numbers, state, forget, retain, jnp.int32(stop)))
        seconds += clock() - began
        quality = study.judge(Weights(*jax.device_get((state.params, state.model_state))))
        way.append({"steps": stop, "seconds": seconds.round(2).tolist(), **quality})
        print("   ", way[-1], flush=True)
        if all(quality[name] <= goal[name] for name in QUALITY):
            break
    return way


def main() -> None:
    """Measures the missing rows, and prints them."""
    kind = prepare()
    record = prepare_torch(kind) | {"machine": machine()}
    study = load(Path(sys.argv[1]))
    path = RESULTS / f"equal_quality_{kind}.json"
    result = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    result |= record | {"original": study.judge(study.original)}
    for name, forms in FORMS.items():
        row = result["rows"].setdefault(name, {})
        if "theirs" not in row:
            settings = methods.settings(name, forms["the same"][1])
            weights, seconds = theirs(study, name, settings)
            end = study.judge(weights)
            row["theirs"] = {"settings": forms["the same"][1], **end}
            row["theirs"] |= {"seconds": seconds.round(2).tolist()}
            print(name, "theirs", row["theirs"], flush=True)
            path.write_text(json.dumps(result, indent=2) + "\n")
        goal = row["theirs"]
        for form, (method, given) in forms.items():
            if form in row:
                continue
            print(name, form, flush=True)
            way = ours(study, method, methods.settings(method, given), goal)
            reached = all(way[-1][quality] <= goal[quality] for quality in QUALITY)
            wall, cpu = (a / b for a, b in zip(way[-1]["seconds"], goal["seconds"], strict=True))
            ratio = {"wall": round(wall, 3), "cpu": round(cpu, 3)} if reached else None
            row[form] = {"method": method, "settings": given, "ratio": ratio, "way": way}
            print("   ratio", ratio, flush=True)
            path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
