"""Models of Flax linen, Flax NNX and Equinox as pairs of pure functions, `jaxunlearn.types.Model`.

| made by | parameters | model state |
| --- | --- | --- |
| `from_linen` | the collection "params" | the other collections, by name |
| `from_nnx` | all `nnx.Param` | "state": the other variables; "rngs": keys and counters |
| `from_equinox` | floating-point arrays | "state": the `eqx.nn.State`; "buffers": other arrays |

All are nested dictionaries. Their keys are the names of attributes and collections, and the
positions in lists, as text: the path of a parameter is `blocks/0/conv/kernel`, for example.

Random numbers of training, such as dropout, derive from the key that `apply` receives. The "rngs"
of an NNX module are stored, so that weights go back into it, but no step reads or changes them.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from flax import nnx

from jaxunlearn.models._equinox import equinox_weights, filled, from_equinox, is_inexact
from jaxunlearn.models._linen import from_linen
from jaxunlearn.models._modules import BUFFERS, RNGS, STATE, arguments
from jaxunlearn.models._nnx import from_nnx, nnx_state, nnx_weights
from jaxunlearn.types import InputError, Model, Weights

# The argument from which the modules of a framework draw their weights.
RANDOM: dict[str, Callable[..., Model]] = {"rngs": from_nnx, "key": from_equinox}
__all__ = ["as_model", "from_equinox", "from_linen", "from_nnx", "weights_of", "with_weights"]


def as_model(model: Any) -> Model:
    """The `Model` of a linen, NNX or Equinox module; a `Model` is returned as it is.

    Raises:
        InputError: an object of another kind.

    Example:
        >>> from jaxunlearn import models
        >>> as_model(models.create("mlp-tiny", 10)) == as_model(models.create("mlp-tiny", 10))
        True
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, nn.Module):
        return from_linen(model)
    if isinstance(model, nnx.Module):
        return from_nnx(model)
    if _is_equinox(model):
        return from_equinox(model)
    raise InputError(
        f"the model is a {type(model).__name__}, but must be a module of Flax linen, Flax NNX or "
        "Equinox, or a jaxunlearn.types.Model of two pure functions; make one from init and apply."
    )


def construct(name: str, constructor: Callable[..., Any], fields: dict[str, Any]) -> Any:
    """The model that a class or function makes from its fields; `name` names it in errors.

    Constructors of NNX and Equinox modules have an argument `rngs` or `key`, so that they can draw
    new weights; they become a `Model`.
    """
    known = arguments(constructor)
    missing = [
        each.name
        for each in known.values()
        if each.default is each.empty
        and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        and each.name not in (*fields, *RANDOM)
    ]
    if missing:
        advice = (
            "set the diffusion, if it is a denoiser" if "image_shape" in missing else "add them"
        )
        raise InputError(
            f"the model {name!r} also needs {', '.join(missing)}, but model_settings have only "
            f"{', '.join(fields) or 'nothing'}; {advice}."
        )
    adapter = next((RANDOM[each] for each in RANDOM if each in known), None)
    if adapter is not None:
        return adapter(functools.partial(constructor, **fields))
    model = constructor(**fields)
    if isinstance(model, nnx.Module) or _is_equinox(model):
        raise InputError(
            f"the model {name!r} has weights already, but must draw new ones; name a class, or a "
            "function with the argument rngs (NNX) or key (Equinox), which makes the module."
        )
    return as_model(model) and model


def weights_of(module: Any, state: Any = None) -> Weights:
    """The weights of an NNX or Equinox module, as its `Model` holds them.

    Example:
        >>> from flax import nnx
        >>> module = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        >>> sorted(weights_of(module).params)
        ['bias', 'kernel']
    """
    if isinstance(module, nnx.Module):
        return Weights(*nnx_weights(module))
    if _is_equinox(module):
        return Weights(*equinox_weights(module, state))
    raise InputError(
        f"the model is a {type(module).__name__}, but must be an NNX or Equinox module, which "
        "holds its weights; give the weights of other models beside them."
    )


def with_weights(module: Any, weights: Weights, state: Any = None) -> Any:
    """An NNX or Equinox module like `module`, with other weights.

    Args:
        module: the module, which is not modified.
        weights: parameters and model state, as from `weights_of` or from a run.
        state: state of an Equinox module, if it has one.

    Returns:
        The module; for an Equinox module with a state, the pair of both.

    Example:
        >>> from flax import nnx
        >>> module = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        >>> import jax
        >>> import jax.numpy as jnp
        >>> zeros = jax.tree.map(jnp.zeros_like, weights_of(module))
        >>> float(with_weights(module, zeros).kernel.sum())
        0.0
    """
    params, model_state = weights
    if isinstance(module, nnx.Module):
        graph, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
        given = (params, model_state.get(RNGS, {}), model_state.get(STATE, {}))
        pairs = zip(states, given, strict=True)
        return nnx.merge(graph, *(nnx_state(dict(nnx.to_flat_state(s)), v) for s, v in pairs))
    weights_of(module, state)  # raises for other models
    buffers = model_state.get(BUFFERS, {})
    module = filled(module, lambda leaf: params if is_inexact(leaf) else buffers)
    if state is None:
        return module
    return module, filled(state, lambda leaf: model_state[STATE])


def _is_equinox(model: Any) -> bool:
    equinox = sys.modules.get("equinox")  # a model of it has imported it
    return equinox is not None and isinstance(model, equinox.Module)
