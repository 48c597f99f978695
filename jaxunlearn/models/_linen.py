"""Flax linen modules as pairs of pure functions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.errors import InvalidRngError

from jaxunlearn.models._modules import Call
from jaxunlearn.types import InputError, Model, ModelState, Params


@functools.lru_cache
def from_linen(module: nn.Module) -> Model:
    """The two functions of a Flax linen module.

    Args:
        module: `module.apply(variables, *inputs) -> outputs`. Its training switch may be `train` or
            `deterministic`, or missing; dropout draws from the stream "dropout".

    Raises:
        InputError: in the functions, a module that needs other arguments or random streams.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxunlearn import models
        >>> model = from_linen(models.create("mlp-tiny", 10))
        >>> params, model_state = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        >>> outputs, model_state = model.apply(params, model_state, jnp.zeros((2, 8, 8, 1)))
        >>> outputs.shape
        (2, 10)
    """
    # The bridge of an NNX class hides its signature.
    call = Call(getattr(module, "nnx_class", type(module)))

    def called(function: Callable[..., Any], *args: Any, inputs: Any, train: bool, **more: Any):
        switches = call.switches(len(inputs), train)
        if not switches and call.takes_any:
            switches = {"train": train}
        try:
            return function(*args, *inputs, **switches, **more)
        except InvalidRngError as error:
            when = "training" if train else "evaluation mode"
            raise InputError(
                f"{call.name} draws random numbers in {when} that a task does not have "
                f"({str(error).split(' (https')[0]}); use only the stream 'dropout', and only in "
                "training."
            ) from error

    def init(key: jax.Array, *inputs: jax.Array) -> tuple[Params, ModelState]:
        variables = dict(called(module.init, key, inputs=inputs, train=False))
        return variables.pop("params", {}), variables

    def apply(
        params: Params,
        model_state: ModelState,
        *inputs: jax.Array,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[Any, ModelState]:
        variables = {"params": params, **model_state}
        if not train:
            return called(module.apply, variables, inputs=inputs, train=False), model_state
        rngs = None if key is None else {"dropout": key}
        mutable = list(model_state)
        return called(
            module.apply, variables, inputs=inputs, train=True, rngs=rngs, mutable=mutable
        )

    return Model(init, apply)
