"""Tasks that invert a model: its embeddings of labels are trained, and nothing else.

    c* = argmin_c E |out(x_t, t, c) - target|^2     over images of a label

out is the output of the frozen model for a noised image x_t at the time t. An attacker who finds
such a c* for a forgotten class samples the class with it, although the model no longer draws it for
its label. `inversion` trains the embeddings of classes or the hidden states of prompts,
`token_inversion` the embeddings of tokens, from which a text encoder makes these states. Rows of
labels that are not in the batches have no gradient.

Source: Gal et al., An Image is Worth One Word, ICLR 2023; as an attack on forgetting: Pham et al.,
Circumventing Concept Erasure Methods, ICLR 2024.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.methods.wrapped import wrapped
from jaxunlearn.tasks.latent_diffusion import PROMPT_STATES
from jaxunlearn.tasks.trainable_subset import TrainableSubset
from jaxunlearn.types import FROZEN, Batch, InputError, ModelState, Params, Task


def inversion(task: Task) -> TrainableSubset:
    """The task whose parameters are the embeddings of all labels, `[C + 1, ...]`.

    No labels are dropped, so that the row of "no class" does not move.

    Args:
        task: a task of diffusion whose model has embeddings of labels (`Task.conditions`).

    Returns:
        The task, and the functions that split and merge weights; merged weights hold the embeddings
        in their model state, and the parameters as they were.

    Raises:
        InputError: the model has no known embeddings.

    Example:
        >>> from jaxunlearn.models import denoisers
        >>> from jaxunlearn.models.process import Process
        >>> from jaxunlearn.tasks import diffusion
        >>> model = denoisers.create("ddpm-tiny", (8, 8, 1), num_classes=10)
        >>> task = diffusion(model, Process(100), image_shape=(8, 8, 1), num_classes=10)
        >>> embeddings, _ = jax.eval_shape(inversion(task).task.init, jax.random.key(0))
        >>> embeddings.shape
        (11, 32)
    """
    conditions = task.conditions
    if conditions is None:
        raise InputError(
            "the model has no known embeddings of classes to invert, but must be a DDPMUNet or DiT "
            "with classes, or a text-to-image model; choose such a model."
        )

    def write(params: Params, model_state: ModelState, part: Params) -> tuple[Params, ModelState]:
        return params, conditions.write(model_state, part)

    return _replacing(task, conditions.read, write)


def token_inversion(task: Task, tokens: Sequence[int]) -> TrainableSubset:
    """The task whose parameters are the embeddings of these tokens, `[len(tokens), width]`.

    Args:
        task: a task of latent text-to-image diffusion.
        tokens: token ids, such as the ids of a forgotten word.

    Returns:
        The task, and the functions that split and merge weights; merged weights hold the embeddings
        in the text encoder, and no encoded prompts.
    """
    rows = jnp.asarray(tokens, jnp.int32)

    def read(params: Params, model_state: ModelState) -> Params:
        return params["text_encoder"]["tokens"]["embedding"][rows]

    def write(params: Params, model_state: ModelState, part: Params) -> tuple[Params, ModelState]:
        encoder = params["text_encoder"]
        table = encoder["tokens"]["embedding"].at[rows].set(part)
        encoder = {**encoder, "tokens": {"embedding": table}}
        rest = {name: value for name, value in model_state.items() if name != PROMPT_STATES}
        return {**params, "text_encoder": encoder}, rest

    return _replacing(task, read, write)


def _replacing(
    task: Task,
    read: Callable[[Params, ModelState], Params],
    write: Callable[[Params, ModelState, Params], tuple[Params, ModelState]],
) -> TrainableSubset:
    """The task on `read(params, model_state)`, which `write` puts back."""

    def split(params: Params, model_state: ModelState, key: jax.Array) -> tuple[Params, ModelState]:
        del key
        return read(params, model_state), {**model_state, FROZEN: params}

    def merge(part: Params, model_state: ModelState) -> tuple[Params, ModelState]:
        rest = dict(model_state)
        return write(rest.pop(FROZEN), rest, part)

    def of_all(function: Callable[..., Any]) -> Any:
        def of_part(
            part: Params, model_state: ModelState, batch: Batch, *rest: Any
        ) -> tuple[jax.Array, ModelState]:
            return function(*merge(part, model_state), batch, *rest)[0], model_state

        return of_part

    inner = wrapped(task._replace(losses=task.forget_losses or task.losses), of_all)
    inner = inner._replace(init=lambda key: split(*task.init(key), key), conditions=None)
    return TrainableSubset(inner, split, merge)
