"""The last layers of a model: which they are, and how to train them alone."""

from collections.abc import Callable

import jax
import optax

from jaxunlearn.methods._build import begin, first
from jaxunlearn.methods.objectives import retain_loss
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    Method,
    ModelState,
    Params,
    Task,
    TrainState,
)

# start(key, params, layers) -> the parameters before the first step
Start = Callable[[jax.Array, Params, tuple[str, ...]], Params]


def last_layers(task: Task, num_layers: int) -> tuple[str, ...]:
    """The names of the last layers, in the order in which the model makes them.

    A layer is a top-level entry of the parameters: a convolution, a norm, a whole residual block,
    the head. `task.init` puts each into the dictionary as the model comes to it; that order is
    read while tracing, since JAX sorts the dictionaries that leave a traced function.

    Args:
        task: what is unlearned; its parameters are a dictionary of layers.
        num_layers: how many, from 1 to all.

    Returns:
        Their names, the head last.

    Raises:
        InputError: parameters that are no dictionary, or another number of layers.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("resnet-tiny", 10)
        >>> last_layers(classification(model, image_shape=(8, 8, 1), num_classes=10), 2)
        ('stage2_block1', 'head')
    """
    names: list[str] = []

    def note(key: jax.Array) -> tuple[()]:
        params, _ = task.init(key)
        if not isinstance(params, dict):
            raise InputError(
                f"the parameters are a {type(params).__name__}, but the last layers can only be "
                "told of a dictionary with one entry per layer; choose another method."
            )
        names.extend(params)
        return ()

    jax.eval_shape(note, jax.random.key(0))
    if not 1 <= num_layers <= len(names):
        reason = f"from 1 to {len(names)}, since the layers of this model are {', '.join(names)}"
        if len(names) == 1:
            reason = f"1, since the only layer of this model is {names[0]}"
        raise InputError(f"num_layers is {num_layers}, but must be {reason}.")
    return tuple(names[-num_layers:])


def train_last_layers(
    task: Task, optimizer: optax.GradientTransformation, num_layers: int, start: Start
) -> Method:
    """Descends the retain loss in the last layers; the others are constants, bit for bit.

    The optimizer sees and remembers the last layers only, and the backward pass ends at the first
    of them. Running statistics are written in all layers.

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        num_layers: how many layers are trained.
        start: `start(key, params, layers) -> params`, before the first step.

    Returns:
        A `Method`.

    Raises:
        InputError: as `last_layers`.
    """
    layers = last_layers(task, num_layers)

    def trained(params: Params) -> Params:
        return {name: params[name] for name in layers}

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget, retain
        state = begin(optax.identity(), key, start(key, params, layers), model_state)
        return state._replace(opt_state=optimizer.init(trained(state.params)))

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        del forget
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        last = trained(state.params)
        (loss, model_state), grads = jax.value_and_grad(
            lambda p: retain_loss(task, state.params | p, state.model_state, batch, key),
            has_aux=True,
        )(last)
        updates, opt_state = optimizer.update(grads, state.opt_state, last)
        state = state._replace(
            step=state.step + 1,
            params=state.params | optax.apply_updates(last, updates),
            model_state=model_state,
            opt_state=opt_state,
        )
        return state, {"retain_loss": loss}

    return Method(init, step)
