"""Flax NNX modules as pairs of pure functions."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxunlearn.models._modules import (
    RNGS,
    STATE,
    Call,
    at,
    made_by,
    nested,
    no_module,
    plain,
    typed,
)
from jaxunlearn.types import Model, ModelState, Params


def from_nnx(make: nnx.Module | Callable[..., nnx.Module]) -> Model:
    """The two functions of a Flax NNX module, by `nnx.split` and `nnx.merge`.

    Args:
        make: a class or function that makes the module from `rngs`; or a module, whose own weights
            are then the initial ones, whatever the key. `module(*inputs) -> outputs` may also take
            `train`, `deterministic` or `rngs`; `module.train()` and `module.eval()` are called.

    Raises:
        InputError: in the functions, an object that is no NNX module, or needs other arguments.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> model = from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
        >>> params, model_state = model.init(jax.random.key(0))
        >>> params["kernel"].shape, model_state
        ((4, 3), {})
        >>> model.apply(params, model_state, jnp.zeros((2, 4)))[0].shape
        (2, 3)
    """

    def made(key: jax.Array) -> nnx.Module:
        if isinstance(make, nnx.Module):
            return make
        module = made_by(make, "rngs", nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise no_module(make, module, "an NNX module")
        return module

    def init(key: jax.Array, *inputs: jax.Array) -> tuple[Params, ModelState]:
        del inputs
        return nnx_weights(made(key))

    @functools.cache
    def template() -> tuple[Any, tuple[dict[Any, nnx.Variable], ...], Call]:
        """The graph of the module, its three kinds of variables, and its call."""
        found: list[Any] = []

        def note(key: jax.Array) -> tuple[()]:
            module = made(key)
            graph, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
            found.extend((graph, states, Call(type(module))))
            return ()

        jax.eval_shape(note, jax.random.key(0))
        graph, states, call = found
        return graph, tuple(dict(nnx.to_flat_state(state)) for state in states), call

    def apply(
        params: Params,
        model_state: ModelState,
        *inputs: jax.Array,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[Any, ModelState]:
        graph, (of_params, of_rngs, of_state), call = template()
        rngs = model_state.get(RNGS, {})
        if train and key is not None:
            rngs = _reseeded(of_rngs, key)
        module = nnx.merge(
            graph,
            nnx_state(of_params, params),
            nnx_state(of_rngs, rngs),
            nnx_state(of_state, model_state.get(STATE, {})),
        )
        mode: dict[str, Any] = call.switches(len(inputs), train)
        if "rngs" in call.named and train and key is not None:
            mode["rngs"] = nnx.Rngs(key)
        (nnx.Module.train if train else nnx.Module.eval)(module)
        outputs = module(*inputs, **mode)
        if not train or not of_state:
            return outputs, model_state
        after = dict(nnx.to_flat_state(nnx.state(module)))
        state = nested((path, plain(after[path].get_value())) for path in of_state)
        return outputs, {**model_state, STATE: state}

    return Model(init, apply)


def nnx_weights(module: nnx.Module) -> tuple[Params, ModelState]:
    """The parameters of a module, and its other variables."""
    _, params, *others = nnx.split(module, nnx.Param, nnx.RngState, ...)

    def arrays(state: Any) -> dict[str, Any]:
        flat = nnx.to_flat_state(state)
        return nested((path, plain(leaf.get_value())) for path, leaf in _ordered(module, flat))

    found = dict(zip((RNGS, STATE), map(arrays, others), strict=True))
    return arrays(params), {name: tree for name, tree in found.items() if tree}


def _ordered(module: nnx.Module, flat: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Variables in the order in which the modules around them were defined."""

    def places(path: tuple[Any, ...]) -> list[int]:
        node: Any = module
        found = []
        for part in path:
            names = list(vars(node)) if hasattr(node, "__dict__") else []
            found.append(names.index(str(part)) if str(part) in names else 0)
            if isinstance(node, Mapping | list | tuple):
                node = node[part]
            else:
                node = getattr(node, str(part), None)
        return found

    return sorted(flat, key=lambda each: places(each[0]))


def nnx_state(template: Mapping[Any, nnx.Variable], values: Any) -> nnx.State:
    """The variables of a template with the values of a nested dictionary."""
    return nnx.from_flat_state(
        [
            (path, leaf.replace(typed(leaf.get_value(), at(values, path))))
            for path, leaf in template.items()
        ]
    )


def _reseeded(template: Mapping[Any, nnx.Variable], key: jax.Array) -> dict[str, Any]:
    """Keys and counters of random streams that begin again, each with a key of its own."""
    return nested(
        (
            path,
            jax.random.key_data(jax.random.fold_in(key, number))
            if isinstance(leaf, nnx.RngKey)
            else jnp.zeros((), jnp.uint32),
        )
        for number, (path, leaf) in enumerate(template.items())
    )
