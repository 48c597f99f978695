"""Two methods that train only the last k layers, on the retain data.

| method | initial weights of the last k layers | name in the paper |
| --- | --- | --- |
| `cf_k` | original weights | catastrophic forgetting |
| `eu_k` | new weights | exact unlearning |

The other layers stay bit-equal, and so does all that they know about the forget data.

Source: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning
(arXiv 2201.06640), 2022.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxunlearn.methods._build import Metrics, Start, begin, first
from jaxunlearn.methods._limits import Count
from jaxunlearn.methods.objectives import retain_loss
from jaxunlearn.types import Batch, InputError, Method, Params, Task, TrainState

_FRESH_CHILD = 10  # of the run's key


def cf_k(task: Task, optimizer: optax.GradientTransformation, *, num_layers: Count = 2) -> Method:
    """Fine-tunes the last k layers on the retain data; the others stay bit-equal.

        theta_last <- theta_last - opt(grad_last L_r)

    Args:
        task: the unlearning task; its parameters are a dictionary with one entry per layer.
        optimizer: any optax optimizer.
        num_layers: k, counted in top-level entries of the parameters, in the order of the model: 1
            is the head, all of them are fine-tuning.

    Raises:
        InputError: parameters that are no dictionary, or more layers than there are.
    """
    return _train_last(task, optimizer, last_layers(task, num_layers), lambda start: start.params)


def eu_k(task: Task, optimizer: optax.GradientTransformation, *, num_layers: Count = 2) -> Method:
    """Reinitialises the last k layers and trains them on the retain data; the others stay.

        theta_last = fresh;   theta_last <- theta_last - opt(grad_last L_r)

    Args:
        task: the unlearning task; its parameters are a dictionary with one entry per layer.
        optimizer: any optax optimizer.
        num_layers: k, counted in top-level entries of the parameters, in the order of the model: 1
            is the head, all of them are retraining.

    Raises:
        InputError: parameters that are no dictionary, or more layers than there are.
    """
    layers = last_layers(task, num_layers)

    def renewed(start: Start) -> Params:
        fresh, _ = task.init(jax.random.fold_in(start.key, _FRESH_CHILD))
        return start.params | {name: fresh[name] for name in layers}

    return _train_last(task, optimizer, layers, renewed)


def last_layers(task: Task, num_layers: int) -> tuple[str, ...]:
    """The names of the last layers, in the order of the model, the head last.

    A layer is a top-level entry of the parameters: a convolution, a norm, a whole residual block,
    the head. The order is read while `task.init` is traced, since JAX sorts the dictionaries that
    leave a traced function.

    Raises:
        InputError: parameters that are not a dictionary, or an impossible number of layers.

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
                f"the parameters are a {type(params).__name__}, but must be a dictionary with one "
                "entry per layer, so that the last layers are known; choose another method."
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


def _train_last(
    task: Task,
    optimizer: optax.GradientTransformation,
    layers: tuple[str, ...],
    initial: Callable[[Start], Params],
) -> Method:
    """Descends the retain loss in some layers, and updates running statistics in all layers."""

    def trained(params: Params) -> Params:
        return {name: params[name] for name in layers}

    def init(*start: Any) -> TrainState:
        given = Start(*start)
        state = begin(optax.identity(), given.key, initial(given), given.model_state)
        return state._replace(opt_state=optimizer.init(trained(state.params)))

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
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
