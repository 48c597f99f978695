"""The types that all rooms of the library share.

A *task* is the problem: a loss per example, and predictions. A *method* solves it: it makes a
training state and steps it with one forget batch and some retain batches. Neither depends on the
other's implementation, so the same method trains a classifier or a diffusion model.

They exchange two kinds of plain dictionaries:

- `Arrays`: a whole set of N examples on the device, with the leaves "image" `[N, ...]`, "label" and
  "index" `[N]`;
- `Batch`: some of them, with `"epoch": [B]` added: the number of earlier visits of the example.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]
Batch = dict[str, jax.Array]
Params = Any
FROZEN = "frozen"  # the entry of the model state that no step writes
ModelState = Any
Metrics = dict[str, jax.Array]
# (params, model_state, batch, key, train) -> (values [B, ...], model_state)
BatchFunction = Callable[[Params, ModelState, Batch, jax.Array, bool], tuple[jax.Array, ModelState]]


class LossPair(NamedTuple):
    """The forget and the retain loss, side by side. Both are minimised.

    Attributes:
        forget: the forget objective: a scalar loss, or a tree of gradients of it.
        retain: the retain loss: a scalar loss, or a tree of gradients of it.

    Example:
        >>> LossPair(forget=0.5, retain=0.1).retain
        0.1
    """

    forget: Any
    retain: Any


class Model(NamedTuple):
    """A network, as pure functions: `jaxunlearn.models` makes them from modules.

    A classifier has one input, images `[B, ...]`, and its outputs are logits `[B, C]`, or a tuple
    that begins with them. A denoiser has three: noisy images `[B, ...]`, timesteps `[B]` and labels
    `[B]`; its outputs are noise `[B, ...]`.

    Attributes:
        init: `init(key, *inputs) -> (params, model_state)`: initial parameters, and a dictionary of
            everything else, such as BatchNorm's running statistics, which may be empty.
        apply: `apply(params, model_state, *inputs, key=None, train=False) -> (outputs,
            model_state)`; `key` is the source of the randomness of training, such as dropout.

    Example:
        >>> def init(key, images):
        ...     return {"w": jax.random.normal(key, (images.shape[1], 10))}, {}
        >>> def apply(params, model_state, images, key=None, train=False):
        ...     return images @ params["w"], model_state
        >>> Model(init, apply).init(jax.random.key(0), jnp.zeros((1, 4)))[0]["w"].shape
        (4, 10)
    """

    init: Callable[..., tuple[Params, ModelState]]
    apply: Callable[..., tuple[Any, ModelState]]


class Conditions(NamedTuple):
    """The embeddings that a model is conditioned on, a row for each label; "no class" is last.

    Attributes:
        read: `read(params, model_state) -> embeddings [C + 1, ...]`: the rows of a table of
            classes, or the hidden states of prompts.
        write: `write(model_state, embeddings) -> model_state`, with which the model uses these
            embeddings in place of its own.
    """

    read: Callable[[Params, ModelState], jax.Array]
    write: Callable[[ModelState, jax.Array], ModelState]


class Task(NamedTuple):
    """The problem, as pure functions.

    Attributes:
        init: `init(key) -> (params, model_state)`. The model state holds everything but the
            parameters, such as BatchNorm's running statistics; it may be an empty dictionary.
        losses: `losses(params, model_state, batch, key, train) -> (losses [B], model_state)`, the
            ordinary training loss of each example. `key` is the key of the whole run, from which
            `example_keys` draws the randomness of each example.
        predict: `predict(params, model_state, batch) -> probabilities [B, C]`; None if the model
            does not classify.
        num_classes: number of classes, C.
        outputs: `outputs(params, model_state, batch, key, train) -> (outputs [B, ...],
            model_state)`: the outputs of the model (logits), with the augmentation and noise of
            `losses`. Methods with a teacher need it.
        divergence: `divergence(teacher outputs, outputs) -> [B]`: the distance of the outputs from
            the teacher's, 0 if they agree (for logits, the KL divergence).
        forget_losses: losses of the forget objectives, if they differ from `losses`, as in
            diffusion, whose forget losses drop no labels.
        objectives: forget objectives that only this task has, as pairs of name and function.
        conditional: whether the outputs for an example depend on its label.
        null_label: label of "no class"; None if the model has none.
        saliency_losses: losses whose gradients measure saliency, if they differ from `losses`: of a
            guided prediction, or of an adapter, where a factor that starts at zero hides the other.
        weights: weights of the gradients of both losses, which leave their values alone; None for
            1 and 1.
        joint_batch: whether the forget and the retain examples of a step pass the model together.
        keep_weight: weight of the distance of the confidences in retain examples from the original
            model's, a part of the retain loss; None without it.
        num_timesteps: number of noise levels of a diffusion, which the leaf "timestep" of a batch
            may choose; None for other tasks.
        conditions: access to the embeddings of labels; None where the model has no known ones.
    """

    init: Callable[[jax.Array], tuple[Params, ModelState]]
    losses: BatchFunction
    predict: Callable[[Params, ModelState, Batch], jax.Array] | None
    num_classes: int
    outputs: BatchFunction | None = None
    divergence: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    forget_losses: BatchFunction | None = None
    objectives: tuple[tuple[str, Callable[..., jax.Array]], ...] = ()
    conditional: bool = True
    null_label: int | None = None
    saliency_losses: BatchFunction | None = None
    weights: LossPair | None = None
    joint_batch: bool = False
    keep_weight: float | jax.Array | None = None
    num_timesteps: int | None = None
    conditions: Conditions | None = None


class TrainState(NamedTuple):
    """Everything that a run needs to continue: the contents of a checkpoint.

    Attributes:
        step: number of finished steps; with `key`, it determines the position in the data.
        params: parameters.
        model_state: running statistics and the like, updated by retain data only.
        opt_state: state of the optimizer: momentum, multiplier, masks, fast weights' momentum.
        key: key of the run, as raw data `[2]` (uint32); it never changes.
    """

    step: jax.Array  # shape=(), dtype=jnp.int32
    params: Params
    model_state: ModelState
    opt_state: Any
    key: jax.Array


class Method(NamedTuple):
    """A way to unlearn, as pure functions.

    Attributes:
        init: `init(key, params, model_state, forget, retain) -> TrainState`, with the key of the
            run and all forget and retain examples as `Arrays` (for saliency masks).
        step: `step(state, forget_batch, retain_batches) -> (state, metrics)`. The leaves of
            `retain_batches` are `[retain_batches, B, ...]`; `metrics` is a flat dictionary of
            scalars with at least `forget_loss` or `retain_loss`.
        retain_batches: number of retain batches in one step.
        optimizer_steps: number of optimizer calls in one step, which the schedule counts.
        scaled_step: `scaled_step(state, forget_batch, retain_batches, scale)`, a step with scaled
            updates, for a method whose state depends on the effect of a step. None means that
            scaling the move of the parameters after `step` is enough.
    """

    init: Callable[[jax.Array, Params, ModelState, Arrays, Arrays], TrainState]
    step: Callable[[TrainState, Batch, Batch], tuple[TrainState, Metrics]]
    retain_batches: int = 1
    optimizer_steps: int = 1
    scaled_step: (
        Callable[[TrainState, Batch, Batch, jax.Array], tuple[TrainState, Metrics]] | None
    ) = None


def example_keys(key: jax.Array, batch: Batch) -> jax.Array:
    """One key per example and visit, `[B]`, whatever the batch size or the number of devices.

    The keys derive from child 0 of `key`, the key of the run. Its other children are independent:
    1 draws labels, 2 and 3 order the data, and single methods use later ones.

    Example:
        >>> import jax.numpy as jnp
        >>> batch = {"index": jnp.array([3, 4]), "epoch": jnp.array([0, 1])}
        >>> example_keys(jax.random.key(0), batch).shape
        (2,)
    """
    child = jax.random.fold_in(key, 0)

    def fold(index: jax.Array, epoch: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(child, index), epoch)

    return jax.vmap(fold)(batch["index"], batch["epoch"])


def unvisited(arrays: Arrays, positions: jax.Array) -> Batch:
    """The batch of the examples at positions `[B]`, on their first visit: "epoch" is 0."""
    batch = {name: values[positions] for name, values in arrays.items()}
    return batch | {"epoch": jnp.zeros_like(batch["index"])}


class InputError(ValueError):
    """A bad argument, configuration, file, checkpoint, forget request, data set or device count.

    Its message is one sentence with the fault, the allowed values and the likely remedy. Commands
    print only this message and exit with status 2.
    """


class Weights(NamedTuple):
    """The result of a stage that trains."""

    params: Params
    model_state: ModelState
