"""Worst-case forget requests: the examples that are hardest to forget.

With g_i the gradient of the original model's loss on training example i (no augmentation, running
statistics as they are), an example's score is

    memorisation    the gain in confidence from learning it: `memorisation.py` trains 16 models on
                    halves of the data
    gradient_norm   |g_i|: large where the model does not fit the example yet; needs no training
    influence       <g_i, mean validation gradient>: to first order, the decrease of the loss on
                    unseen data by one step on the example
    nearest         the largest cosine of g_i and any other training gradient: the nearness of the
                    retain data

The request takes the highest scores. By "nearest", no example is taken together with its nearest
neighbour, which must stay retained.

Cosines are computed on sketches: gradients of more than 1,024 entries are summed with random signs
into 1,024, which keeps inner products right on average and cosines within about 0.03.

Sources: Paul et al., Deep Learning on a Data Diet, NeurIPS 2021 (gradient norms); Pruthi et al.,
Estimating Training Data Influence by Tracing Gradient Descent, NeurIPS 2020; Zhao et al., What
makes unlearning hard and what to do about it, NeurIPS 2024 (why such requests).
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxunlearn.data.examples import to_device
from jaxunlearn.files import write_text
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.names import closest
from jaxunlearn.studies.audits.memorisation import memorisation
from jaxunlearn.studies.problem import (
    check_classifies,
    load_task,
    load_training,
    load_validation,
)
from jaxunlearn.studies.runs import folder
from jaxunlearn.training.devices import placement_of
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import Arrays, InputError, Task, Weights, unvisited

SCORES = ("memorisation", "gradient_norm", "influence", "nearest")
_SKETCH, _AT_ONCE, _ROWS = 1024, 32, 512


class Selection(NamedTuple):
    """A worst-case request.

    Attributes:
        indices: positions in the training split, sorted.     # shape=(F,), dtype=int64
        scores: the score of every training example.          # shape=(N,)
        chosen: the mask of the taken examples.               # shape=(N,), dtype=bool
    """

    indices: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray


def select(
    pretrained: Path, by: str, fraction: float, file: Path, layout: Layout = Layout()
) -> Selection:
    """Chooses the hardest examples, and writes their positions for `ForgetRequest(indices=...)`.

    Args:
        pretrained: the run folder of the original model.
        by: one of `SCORES`.
        fraction: the share of the training examples to take.
        file: the JSON list to write; an existing file must hold the same.
        layout: the devices and the memory of memorisation, which trains models.

    Raises:
        InputError: the score is unknown, the fraction is out of range, influence has no validation
            data, the folder holds no pretraining run, or the file holds something else or cannot be
            written.
    """
    if by not in SCORES:
        raise InputError(
            f"by is {by!r}{closest(by, SCORES)}, but must be one of {', '.join(SCORES)}."
        )
    if by != "memorisation" and layout != Layout():
        raise InputError(
            f"a layout of training is given, but by is {by!r}, which trains nothing; leave out "
            "devices, micro_batch and chunk_steps, or choose memorisation."
        )
    if not 0 < fraction < 1:
        raise InputError(f"fraction is {fraction}, but must be between 0 and 1, such as 0.1.")
    placement = placement_of(layout)
    config = folder.read_pretrained(pretrained)
    check_classifies(config.problem, "select")
    if file.is_dir():
        raise InputError(f"{file} is a folder, but must be a new file; give another name.")
    problem, seed = config.problem, config.seed
    examples = load_training(problem, seed)
    count = round(fraction * len(examples))
    if not 0 < count < len(examples):
        raise InputError(
            f"fraction {fraction} takes {count} of {len(examples)} training examples, but must "
            "take one at least and leave one at least; choose another."
        )
    unseen = load_validation(problem, seed)
    if by == "influence" and len(unseen) == 0:
        raise InputError(
            "influence is measured on validation data, but the model was pretrained with "
            "validation_fraction 0; choose another score, or pretrain with some held out."
        )
    task, weights = load_task(problem), folder.load_weights(pretrained, problem)
    arrays = to_device(examples)
    neighbours = None
    if by == "memorisation":
        scores = memorisation(
            task, problem.training_settings(), arrays, seed=seed, placement=placement
        )
    elif by == "gradient_norm":
        scores = gradient_norms(task, weights, arrays)
    elif by == "influence":
        scores = influences(task, weights, arrays, to_device(unseen))
    else:
        scores, neighbours = nearest_cosines(task, weights, arrays)
    if neighbours is None:
        places = np.argsort(-scores, kind="stable")[:count]
    else:
        places = _apart(scores, neighbours, count)
    chosen = np.zeros(len(examples), bool)
    chosen[places] = True
    indices = np.sort(examples.index[chosen].astype(np.int64))
    text = json.dumps(indices.tolist()) + "\n"
    if file.exists() and file.read_text("utf-8") != text:
        raise InputError(f"{file} holds something else, but must be a new file; give another name.")
    write_text(file, text)
    return Selection(indices, scores, chosen)


def gradient_norms(task: Task, weights: Weights, examples: Arrays) -> np.ndarray:
    """The norm of each example's gradient, float32 `[N]`."""
    return np.asarray(_norms(task, weights, examples))


def influences(task: Task, weights: Weights, examples: Arrays, unseen: Arrays) -> np.ndarray:
    """The inner product of each example's gradient with the mean gradient on unseen examples.

    float32 `[N]`; positive where a step on the example lowers the loss on unseen data.
    """
    return np.asarray(_influences(task, weights, examples, unseen))


def nearest_cosines(
    task: Task, weights: Weights, examples: Arrays
) -> tuple[np.ndarray, np.ndarray]:
    """The largest cosine of each example's gradient with another one, and the neighbour, `[N]`."""
    size = examples["label"].shape[0]
    if size < 2:
        raise InputError(
            f"there are {size} examples, but there must be two or more; give more data."
        )
    sketches = np.asarray(_sketches(task, weights, examples))
    sketches = sketches / np.maximum(np.linalg.norm(sketches, axis=1, keepdims=True), 1e-30)
    cosines, neighbours = np.empty(size, np.float32), np.empty(size, np.int64)
    for first in range(0, size, _ROWS):
        rows = np.arange(first, min(first + _ROWS, size))
        block = sketches[rows] @ sketches.T
        block[np.arange(len(rows)), rows] = -np.inf
        neighbours[rows] = block.argmax(axis=1)
        cosines[rows] = block.max(axis=1)
    return cosines, neighbours


def _apart(scores: np.ndarray, neighbours: np.ndarray, count: int) -> np.ndarray:
    """The positions of the highest scores such that the neighbour of each one stays."""
    chosen: list[int] = []
    taken, stays = (np.zeros(len(scores), bool) for _ in range(2))
    for place in np.argsort(-scores, kind="stable"):
        if len(chosen) < count and not stays[place] and not taken[neighbours[place]]:
            taken[place] = stays[neighbours[place]] = True
            chosen.append(int(place))
    if len(chosen) < count:
        raise InputError(
            f"only {len(chosen)} of {len(scores)} examples can be forgotten while the nearest "
            f"neighbour of each stays, but {count} are requested; choose a smaller fraction."
        )
    return np.array(chosen)


def _each(
    task: Task,
    weights: Weights,
    examples: Arrays,
    function: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """`function(gradient [P])` of every example, stacked."""

    @fast_in_loops
    def one(position: jax.Array) -> jax.Array:
        batch = unvisited(examples, position[None])
        key = jax.random.key(0)  # unused: nothing is random in evaluation

        def loss(params: object) -> jax.Array:
            return task.losses(params, weights.model_state, batch, key, False)[0][0]

        return function(ravel_pytree(jax.grad(loss)(weights.params))[0])

    # On CPUs the products of single examples are slow when batched, by tens of times.
    return jax.lax.platform_dependent(
        jnp.arange(examples["label"].shape[0]),
        cpu=lambda positions: jax.lax.map(one, positions),
        default=lambda positions: jax.lax.map(one, positions, batch_size=_AT_ONCE),
    )


@functools.partial(jax.jit, static_argnums=0)
def _norms(task: Task, weights: Weights, examples: Arrays) -> jax.Array:
    return _each(task, weights, examples, jnp.linalg.norm)


@functools.partial(jax.jit, static_argnums=0)
def _influences(task: Task, weights: Weights, examples: Arrays, unseen: Arrays) -> jax.Array:
    def mean_loss(params: object) -> jax.Array:
        batch = unseen | {"epoch": jnp.zeros_like(unseen["index"])}
        key = jax.random.key(0)
        return jnp.mean(task.losses(params, weights.model_state, batch, key, False)[0])

    reference, _ = ravel_pytree(jax.grad(mean_loss)(weights.params))
    return _each(task, weights, examples, lambda gradient: jnp.vdot(gradient, reference))


@functools.partial(jax.jit, static_argnums=0)
def _sketches(task: Task, weights: Weights, examples: Arrays) -> jax.Array:
    size = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    if size <= _SKETCH:
        return _each(task, weights, examples, lambda gradient: gradient)
    rows = -(-size // _SKETCH)
    signs = jax.random.rademacher(jax.random.key(0), (rows, _SKETCH), jnp.float32)

    def sketch(gradient: jax.Array) -> jax.Array:
        padded = jnp.pad(gradient, (0, rows * _SKETCH - size)).reshape(rows, _SKETCH)
        return jnp.sum(signs * padded, axis=0)

    return _each(task, weights, examples, sketch)
