"""Two methods that train only the last k layers, on the retain data.

| method | initial weights of the last k layers | name in the paper |
| --- | --- | --- |
| `cf_k` | original weights | catastrophic forgetting |
| `eu_k` | new weights | exact unlearning |

The other layers stay bit-equal, and so does all that they know about the forget data.

Source: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning
(arXiv 2201.06640), 2022.
"""

import functools
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
        task: the unlearning task; its parameters are nested dictionaries.
        optimizer: any optax optimizer.
        num_layers: k, counted in entries of the parameters, in the order of the model: 1 is the
            head, all of them are fine-tuning.

    Raises:
        InputError: parameters that are no dictionary, or more layers than there are.
    """
    return _train_last(task, optimizer, last_layers(task, num_layers), lambda start: start.params)


def eu_k(task: Task, optimizer: optax.GradientTransformation, *, num_layers: Count = 2) -> Method:
    """Reinitialises the last k layers and trains them on the retain data; the others stay.

        theta_last = fresh;   theta_last <- theta_last - opt(grad_last L_r)

    Args:
        task: the unlearning task; its parameters are nested dictionaries.
        optimizer: any optax optimizer.
        num_layers: k, counted in entries of the parameters, in the order of the model: 1 is the
            head, all of them are retraining.

    Raises:
        InputError: parameters that are no dictionary, more layers than there are, or a model that
            draws no new weights.
    """
    layers = last_layers(task, num_layers)
    if not _draws(task):
        raise InputError(
            "the model is a module with weights of its own, but eu_k draws new ones; give the "
            "class or function that makes it, such as models.from_nnx(MyNet)."
        )

    def renewed(start: Start) -> Params:
        fresh, _ = task.init(jax.random.fold_in(start.key, _FRESH_CHILD))
        return put(start.params, taken(fresh, layers))

    return _train_last(task, optimizer, layers, renewed)


def last_layers(task: Task, num_layers: int) -> tuple[str, ...]:
    """The paths of the last layers, in the order of the model, the head last.

    A layer is a top-level entry of the parameters: a convolution, a norm, a whole residual block,
    the head. If all are below a single entry, such as "layers" of a sequence, a layer is an entry
    of that, "layers/0". The order is read while `task.init` is traced, since JAX sorts the
    dictionaries that leave a traced function.

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
        prefix = ""
        while len(params) == 1:
            ((name, inner),) = params.items()
            if not isinstance(inner, dict) or not all(isinstance(x, dict) for x in inner.values()):
                break
            prefix, params = f"{prefix}{name}/", inner
        names.extend(f"{prefix}{name}" for name in params)
        return ()

    jax.eval_shape(note, jax.random.key(0))
    if not 1 <= num_layers <= len(names):
        reason = f"from 1 to {len(names)}, since the layers of this model are {', '.join(names)}"
        if len(names) == 1:
            reason = f"1, since the only layer of this model is {names[0]}"
        raise InputError(f"num_layers is {num_layers}, but must be {reason}.")
    return tuple(names[-num_layers:])


def _draws(task: Task) -> bool:
    """Whether the initial weights depend on the key."""
    jaxpr = jax.make_jaxpr(task.init)(jax.random.key(0)).jaxpr
    drawn = set(map(id, jaxpr.invars))
    for equation in jaxpr.eqns:
        if drawn.intersection(map(id, equation.invars)):
            drawn.update(map(id, equation.outvars))
    return bool(drawn.intersection(map(id, jaxpr.outvars)))


def taken(params: Params, paths: tuple[str, ...]) -> Params:
    """The entries at some paths."""
    return {
        path: functools.reduce(lambda tree, k: tree[k], path.split("/"), params) for path in paths
    }


def put(params: Params, entries: Params) -> Params:
    """The parameters with other entries at some paths."""
    for path, entry in entries.items():
        name, _, rest = path.partition("/")
        params = params | {name: put(params[name], {rest: entry}) if rest else entry}
    return params


def _train_last(
    task: Task,
    optimizer: optax.GradientTransformation,
    layers: tuple[str, ...],
    initial: Callable[[Start], Params],
) -> Method:
    """Descends the retain loss in some layers, and updates running statistics in all layers."""

    def init(*start: Any) -> TrainState:
        given = Start(*start)
        state = begin(optax.identity(), given.key, initial(given), given.model_state)
        return state._replace(opt_state=optimizer.init(taken(state.params, layers)))

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        del forget
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        last = taken(state.params, layers)
        (loss, model_state), grads = jax.value_and_grad(
            lambda p: retain_loss(task, put(state.params, p), state.model_state, batch, key),
            has_aux=True,
        )(last)
        updates, opt_state = optimizer.update(grads, state.opt_state, last)
        state = state._replace(
            step=state.step + 1,
            params=put(state.params, optax.apply_updates(last, updates)),
            model_state=model_state,
            opt_state=opt_state,
        )
        return state, {"retain_loss": loss}

    return Method(init, step)
