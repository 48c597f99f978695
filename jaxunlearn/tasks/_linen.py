"""Calls of Flax linen models, whose training switch may be `train` or `deterministic`."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.errors import InvalidRngError

from jaxunlearn.types import Batch, InputError, example_keys

_DROPOUT_CHILD = 3  # of the key of an example
_SWITCHES: dict[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "deterministic": lambda train: not train,
}


def caller(model: Any, num_inputs: int) -> Callable[..., Any]:
    """`call(function, variables or key, *inputs, train, **options)`, with the model's own switch.

    `function` is `model.init` or `model.apply`; `model.__call__` takes `num_inputs` inputs and
    optionally `train` or `deterministic`.
    """
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise InputError(
            f"the model is {kind!r}, but must be a Flax linen module; flax.nnx.bridge.to_linen "
            "makes one from an NNX class, and any other model needs a jaxunlearn.types.Task."
        )
    # The bridge of an NNX class hides its signature.
    function = getattr(model, "nnx_class", type(model)).__call__
    parameters = list(inspect.signature(function).parameters.values())[1:]
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    switches = [name for name in _SWITCHES if name in named]
    if not switches and any(p.kind is p.VAR_KEYWORD for p in parameters):
        switches = ["train"]
    missing = [
        p.name
        for p in parameters[num_inputs:]
        if p.name in named and p.default is p.empty and p.name not in _SWITCHES
    ]
    if missing:
        raise InputError(
            f"{type(model).__name__}.__call__ also needs {', '.join(missing)}, but a task passes "
            f"{num_inputs} inputs and train or deterministic; give the others a default."
        )

    def call(function: Callable[..., Any], *inputs: Any, train: bool, **options: Any) -> Any:
        mode = {name: _SWITCHES[name](train) for name in switches}
        try:
            return function(*inputs, **mode, **options)
        except InvalidRngError as error:
            when = "training" if train else "evaluation mode"
            raise InputError(
                f"{type(model).__name__} draws random numbers in {when} that a task does not have "
                f"({str(error).split(' (https')[0]}); use only the stream 'dropout', and only in "
                "training."
            ) from error

    return call


def dropout_rngs(key: jax.Array, batch: Batch, train: bool) -> dict[str, jax.Array] | None:
    """The random streams in training, with a key from the first example and its visit, or None."""
    if not train or "index" not in batch:
        return None
    one = {name: batch[name][:1] for name in ("index", "epoch")}
    return {"dropout": jax.random.fold_in(example_keys(key, one)[0], _DROPOUT_CHILD)}
