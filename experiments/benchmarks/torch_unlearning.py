"""Fine-tuning, EUPMU and SFR-on as plain PyTorch loops, from the equations of our method files.

A `Job` holds two losses per step, and the data of the Fisher pass, and no more. The loops
are what a person would write: autograd, `torch.optim`, one step after the other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Job(NamedTuple):
    """A task of unlearning, with the randomness of every step drawn before.

    Attributes:
        forget: `forget(weights, step) -> losses [B]`, or the values to descend, for EUPMU.
        retain: `retain(weights, step, i) -> losses [B]` of the i-th retain batch of a step.
        fisher: `fisher(weights, part, position) -> loss [1]` of one example of a part of the data.
        sizes: how many examples each part has.
        steps: how many steps.
    """

    forget: Callable[[Any, int], Tensor]
    retain: Callable[[Any, int, int], Tensor]
    fisher: Callable[[Any, str, int], Tensor]
    sizes: dict[str, int]
    steps: int


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree of dictionaries."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for name in sorted(tree) for leaf in leaves(tree[name])]


def optimizer_of(parameters: list[Tensor], settings: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of all methods: SGD, or AdamW."""
    if settings["optimizer"] == "adamw":
        rates = {"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"]}
        return torch.optim.AdamW(parameters, betas=(settings["momentum"], 0.999), **rates)
    return torch.optim.SGD(
        parameters,
        lr=settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )


def finetune(weights: Any, job: Job, settings: dict[str, Any]) -> list[float]:
    """Plain steps on the retain data."""
    optimizer = optimizer_of(leaves(weights), settings)
    history = []
    for step in range(job.steps):
        optimizer.zero_grad()
        retain = job.retain(weights, step, 0).mean()
        retain.backward()
        optimizer.step()
        history.append(retain.detach())
    return [float(retain) for retain in history]


def eupmu(weights: Any, job: Job, settings: dict[str, Any]) -> list[tuple[float, float]]:
    """Same-batch EUPMU: one backward pass of `L_f + lambda L_r`, and one more forward pass."""
    optimizer = optimizer_of(leaves(weights), settings)
    multiplier = leaves(weights)[0].new_zeros(())
    dual = torch.optim.Adam(
        [multiplier],
        lr=settings["multiplier_learning_rate"],
        weight_decay=settings["multiplier_decay"],
    )
    history = []
    for step in range(job.steps):
        optimizer.zero_grad()
        forget, retain = job.forget(weights, step).mean(), job.retain(weights, step, 0).mean()
        (forget + multiplier * retain).backward()
        optimizer.step()
        with torch.no_grad():
            after = job.retain(weights, step, 0).mean()
            fall = torch.log(retain + 1e-8) - torch.log(after + 1e-8)
            multiplier.grad = fall + settings["tolerance"]
            dual.step()
            multiplier.clamp_(min=0.0)
        history.append((forget.detach(), retain.detach()))
    return [(float(forget), float(retain)) for forget, retain in history]


def fisher_diagonal(weights: Any, job: Job, part: str) -> list[Tensor]:
    """The mean over all examples of their squared gradients."""
    parameters = leaves(weights)
    total = [torch.zeros_like(p) for p in parameters]
    for position in range(job.sizes[part]):
        gradients = torch.autograd.grad(job.fisher(weights, part, position).mean(), parameters)
        for t, g in zip(total, gradients, strict=True):
            t.addcmul_(g, g)
    return [t / job.sizes[part] for t in total]


def saliency(weights: Any, job: Job, settings: dict[str, Any]) -> list[Tensor]:
    """`1[F_forget / F_retain >= threshold]`."""
    forget, retain = (fisher_diagonal(weights, job, part) for part in ("forget", "retain"))
    threshold = settings["threshold"]
    return [f / (r + 1e-15) >= threshold for f, r in zip(forget, retain, strict=True)]


def sfron(
    weights: Any, job: Job, settings: dict[str, Any], mask: list[Tensor]
) -> list[tuple[float, float]]:
    """SFR-on with slow weights that follow all the way: a masked forget step, then retain steps."""
    parameters = leaves(weights)
    optimizer = optimizer_of(parameters, settings)
    history = []
    for step in range(job.steps):
        losses = job.forget(weights, step)
        coefficients = 1.0 / (losses.detach() ** settings["exponent"] + 1e-15)
        forget = -(coefficients / coefficients.mean() * losses).mean()
        gradients = torch.autograd.grad(forget, parameters)
        with torch.no_grad():
            alpha = settings["alpha"] * (1.0 - step / job.steps)
            gradients = [alpha * g * m for g, m in zip(gradients, mask, strict=True)]
            norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
            scale = settings["forget_learning_rate"] * (settings["clip_norm"] / norm).clamp(max=1.0)
            for p, g in zip(parameters, gradients, strict=True):
                p -= scale * g
        for i in range(settings["num_fast_steps"]):
            optimizer.zero_grad()
            retain = job.retain(weights, step, i).mean()
            retain.backward()
            optimizer.step()
        history.append((forget.detach(), retain.detach()))
    return [(float(forget), float(retain)) for forget, retain in history]
