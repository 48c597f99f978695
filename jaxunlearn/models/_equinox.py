"""Equinox modules as pairs of pure functions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.models._modules import (
    BUFFERS,
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


def from_equinox(make: Any, state: Any = None) -> Model:
    """The two functions of an Equinox module, which is mapped over the examples of a batch.

    Args:
        make: a class or function that makes the module from `key`, or the pair of the module and
            its state; or a module, whose own weights are then the initial ones, whatever the key.
            `module(*inputs) -> outputs` receives one example (an image is `[H, W, C]`), then the
            state if it has layers with one, such as BatchNorm; it may take `key`, `train` or
            `inference`, and its `inference` attributes are set.
        state: state of a module, if `make` is one and has one.

    Raises:
        InputError: in the functions, an object that is no Equinox module, or needs other arguments.

    Example:
        >>> import equinox as eqx
        >>> import jax
        >>> import jax.numpy as jnp
        >>> model = from_equinox(lambda key: eqx.nn.MLP(4, 3, 8, 1, key=key))
        >>> params, model_state = model.init(jax.random.key(0))
        >>> params["layers"]["0"]["weight"].shape, model_state
        ((8, 4), {})
        >>> model.apply(params, model_state, jnp.zeros((2, 4)))[0].shape
        (2, 3)
    """
    import equinox as eqx

    def made(key: jax.Array) -> tuple[Any, Any]:
        if isinstance(make, eqx.Module):
            return make, state
        module = made_by(make, "key", key)
        if isinstance(module, tuple) and len(module) == 2:
            return module
        if not isinstance(module, eqx.Module):
            raise no_module(make, module, "an Equinox module")
        module, initial = eqx.nn.make_with_state(lambda: module)()
        return module, initial if jax.tree.leaves(initial) else None

    def init(key: jax.Array, *inputs: jax.Array) -> tuple[Params, ModelState]:
        del inputs
        return equinox_weights(*made(key))

    @functools.cache
    def template() -> tuple[Any, Any, Call, Any]:
        """The module and its state with shapes for arrays, and the axis of its BatchNorm."""
        found: list[Any] = []

        def note(key: jax.Array) -> tuple[()]:
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if eqx.is_array(x) else x,
                made(key),
            )
            found.extend(shapes)
            return ()

        jax.eval_shape(note, jax.random.key(0))
        module, module_state = found
        norms = [
            node.axis_name
            for node in jax.tree.leaves(module, is_leaf=lambda x: hasattr(x, "axis_name"))
            if hasattr(node, "axis_name")
        ]
        return module, module_state, Call(type(module)), next(iter(norms), None)

    def apply(
        params: Params,
        model_state: ModelState,
        *inputs: jax.Array,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[Any, ModelState]:
        module, state, call, axis_name = template()
        buffers = model_state.get(BUFFERS, {})
        module = filled(module, lambda leaf: params if is_inexact(leaf) else buffers)
        module = eqx.nn.inference_mode(module, value=not train)
        has_state = state is not None
        mode = call.switches(len(inputs) + has_state, train)
        size = len(inputs[0])
        keys = jax.random.split(key, size) if train and key is not None else None

        def one(key: Any, state: Any, *inputs: jax.Array) -> tuple[Any, Any]:
            more = {"key": key} if "key" in call.named else {}
            if not has_state:
                return module(*inputs, **more, **mode), None
            return module(*inputs, state, **more, **mode)

        mapped = jax.vmap(
            one,
            in_axes=(None if keys is None else 0, None, *[0] * len(inputs)),
            out_axes=(0, None),
            axis_name=axis_name or "batch",
        )
        if has_state:
            state = filled(state, lambda leaf: model_state[STATE])
        outputs, state = mapped(keys, state, *inputs)
        if not train or not has_state:
            return outputs, model_state
        return outputs, {**model_state, STATE: _arrays(state)}

    return Model(init, apply)


def equinox_weights(module: Any, state: Any) -> tuple[Params, ModelState]:
    """The arrays of a module and of its state, or None."""
    found = {BUFFERS: _arrays(module, lambda leaf: not is_inexact(leaf))}
    found[STATE] = {} if state is None else _arrays(state)
    model_state = {name: tree for name, tree in found.items() if tree or (name == STATE and state)}
    return _arrays(module, is_inexact), model_state


def _arrays(tree: Any, chosen: Callable[[Any], bool] = lambda leaf: True) -> dict[str, Any]:
    """The arrays of a tree, as nested dictionaries."""
    return nested(
        (path, plain(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if _is_array(leaf) and chosen(leaf)
    )


def filled(tree: Any, source: Callable[[Any], Any]) -> Any:
    """The tree, with its arrays replaced by those of nested dictionaries."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: typed(leaf, at(source(leaf), path)) if _is_array(leaf) else leaf, tree
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def is_inexact(leaf: Any) -> bool:
    """Whether an array has gradients."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
