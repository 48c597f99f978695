"""Parts that the adapters of modules share: their calls, and nested dictionaries of arrays."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.types import InputError

RNGS, STATE, BUFFERS = "rngs", "state", "buffers"  # entries of the model state
SWITCHES: dict[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "training": lambda train: train,
    "deterministic": lambda train: not train,
    "inference": lambda train: not train,
}


class Call:
    """The arguments that the call of a module takes."""

    def __init__(self, kind: type) -> None:
        self.name = kind.__name__
        parameters = list(inspect.signature(kind.__call__).parameters.values())[1:]
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.named = {p.name: p.default is p.empty for p in named}  # whether it is needed
        self.takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def switches(self, num_inputs: int, train: bool) -> dict[str, bool]:
        """The training switches of a call with some inputs."""
        known = {*SWITCHES, "key", "rngs"}
        others = [*self.named][num_inputs:]
        missing = [name for name in others if self.named[name] and name not in known]
        if missing:
            raise InputError(
                f"{self.name}.__call__ also needs {', '.join(missing)}, but a task passes "
                f"{num_inputs} inputs and train or deterministic; give the others a default."
            )
        names = [name for name in SWITCHES if name in self.named]
        return {name: SWITCHES[name](train) for name in names}


def made_by(make: Any, argument: str, value: Any) -> Any:
    """The result of a class or function whose one argument is usually called `argument`."""
    return make(**{argument: value}) if argument in arguments(make) else make(value)


def arguments(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class or function, by name; a metaclass may hide those of a class."""
    function = make.func if isinstance(make, functools.partial) else make
    if not inspect.isclass(function):
        return inspect.signature(function).parameters
    _, *known = inspect.signature(function.__init__).parameters.items()
    return dict(known)


def no_module(make: Any, made: Any, wanted: str) -> InputError:
    """The error for a function that makes something else than a module."""
    name = getattr(make, "__name__", type(make).__name__)
    return InputError(f"{name} makes a {type(made).__name__}, but must make {wanted}.")


def plain(value: Any) -> jax.Array:
    """An array of a strong type; keys of random numbers as raw data."""
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(value)
    return jnp.asarray(value).astype(value.dtype)


def typed(like: Any, value: jax.Array) -> jax.Array:
    """The inverse of `plain`."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(value, impl=jax.random.key_impl(like))
    return value


def _name(part: Any) -> str:
    """A part of a path of NNX or of JAX, as text."""
    for attribute in ("name", "key", "idx"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)


def nested(leaves: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Nested dictionaries with text as keys, from pairs of a path and a leaf."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves:
        *parents, last = map(_name, path)
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def at(tree: Any, path: Any) -> Any:
    """The leaf of nested dictionaries at a path."""
    for part in map(_name, path):
        tree = tree[part]
    return tree
