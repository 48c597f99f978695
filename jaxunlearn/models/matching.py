"""Arrays of a checkpoint for the weights of a model, found by name.

The parameters may be at any place of the checkpoint, such as `params` of a train state. So may the
collections of the model state, such as `batch_stats`. The place that holds most of the names is
taken; of several, the one called `params`, then the one with the shortest path.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxunlearn.models.checkpoints import Key, Stored
from jaxunlearn.names import closest, first_of
from jaxunlearn.types import InputError, Weights

_BOX = "value"  # the last key of the variables of NNX and of other boxed arrays
_MOMENTS = ("mu", "nu", "trace")  # of optax's optimizers, with the names of the parameters


class Fitted(NamedTuple):
    """The weights of a model, out of a checkpoint.

    Attributes:
        weights: the weights; entries of the model state other than floating-point numbers, such
            as random keys, may be missing.
        keys: path of each array in the checkpoint, by its path in the weights.
        place: path of the parameters in the checkpoint.
        others: paths of other trees of the same parameters.
    """

    weights: Weights
    keys: dict[Key, Key]
    place: Key
    others: tuple[Key, ...]


def fit(stored: Stored, shapes: Weights, params_key: str | None, name: str) -> Fitted:
    """Finds the weights of a model in a checkpoint.

    Args:
        stored: the arrays of the checkpoint.
        shapes: shapes and types of the weights.
        params_key: path of the parameters in the checkpoint, such as "state.ema_params"; found by
            their names by default.
        name: name of the checkpoint in errors.

    Raises:
        InputError: arrays are missing, have another shape or type, or are not of this model;
            or several places hold the parameters.

    Example:
        >>> arrays = {("state", "params", "kernel"): np.ones((2, 3))}
        >>> kernel = np.zeros((2, 3), np.float32)
        >>> fitted = fit(Stored("npz", arrays), Weights({"kernel": kernel}, {}), None, "net.npz")
        >>> fitted.place, fitted.weights.params["kernel"].dtype
        (('state', 'params'), dtype('float32'))
    """
    unboxed = {key[:-1] if key[-1] == _BOX else key: key for key in stored.arrays}
    if len(unboxed) < len(stored.arrays):
        unboxed = {key: key for key in stored.arrays}
    params, state = (_flatten(tree) for tree in shapes)
    place, others = _place_of_params(unboxed, params, params_key, name)
    keys = {("params", *key): (*place, *key) for key in params}
    inside = {place}
    for collection in dict.fromkeys(key[0] for key in state):
        own = [key for key in state if key[0] == collection]
        cut, root = _place_of_state(unboxed, own, place)
        keys |= {("state", *key): (*root, *key[cut:]) for key in own}
        inside.add((*root, *own[0][: 1 - cut]))
    wanted = {("params", *key): leaf for key, leaf in params.items()}
    wanted |= {("state", *key): leaf for key, leaf in state.items()}
    optional = [key for key, leaf in wanted.items() if not _is_learned(leaf)]
    keys = {key: there for key, there in keys.items() if there in unboxed or key not in optional}
    arrays = {key: stored.arrays[unboxed[there]] for key, there in keys.items() if there in unboxed}
    _check(unboxed, arrays, wanted, keys, inside, name)
    leaves = {key: array.astype(wanted[key].dtype) for key, array in arrays.items()}
    trees = (
        unflatten_dict({key[1:]: leaf for key, leaf in leaves.items() if key[0] == part})
        for part in ("params", "state")
    )
    return Fitted(
        Weights(*trees), {key: unboxed[there] for key, there in keys.items()}, place, others
    )


def _flatten(tree: Any) -> dict[Key, Any]:
    return {tuple(map(str, key)): leaf for key, leaf in flatten_dict(tree).items()}


def _places(stored: Iterable[Key], wanted: Iterable[Key]) -> Counter[Key]:
    """The number of the wanted paths that each place holds."""
    endings = set(wanted)
    lengths = {len(key) for key in endings}
    return Counter(
        key[:-length] for key in stored for length in lengths if key[-length:] in endings
    )


def _place_of_params(
    stored: Mapping[Key, Key], wanted: Mapping[Key, Any], given: str | None, name: str
) -> tuple[Key, tuple[Key, ...]]:
    """The place of the parameters, and the others that hold as many of them."""
    if given is not None:
        place = tuple(given.split("."))
        if not any(key[: len(place)] == place for key in stored):
            tops = [".".join(top) for top in dict.fromkeys(key[: len(place)] for key in stored)]
            raise InputError(
                f"params_key is {given!r}{closest(given, tops)}, but {name} has only "
                f"{first_of(tops)}; choose the place of the parameters, or leave it out."
            )
        return place, ()
    counts = _places(stored, wanted)
    most = max(counts.values(), default=0)
    found = sorted((key for key, count in counts.items() if count == most), key=_order)
    if not found:
        return (), ()
    if len(found) > 1 and _order(found[0]) == _order(found[1]):
        raise InputError(
            f"{name} holds these parameters at {first_of('.'.join(key) for key in found)}; choose "
            "one by params_key (--params-key)."
        )
    return found[0], tuple(key for key in found[1:] if key[-1:] not in [(m,) for m in _MOMENTS])


def _order(place: Key) -> tuple[bool, int]:
    return (place != () and place[-1] != "params", len(place))


def _place_of_state(stored: Mapping[Key, Key], wanted: list[Key], params: Key) -> tuple[int, Key]:
    """The place of a collection of the model state, and whether its name is left out there (1)."""
    best: tuple[Any, ...] = ()
    for cut in (0, 1):
        for place, count in _places(stored, [key[cut:] for key in wanted]).items():
            near = place == (params[:-1] if cut == 0 else params)
            rank = (count, near, -cut, -len(place))
            best = max(best, (rank, cut, place))
    return (best[1], best[2]) if best else (0, params[:-1])


def _is_learned(leaf: Any) -> bool:
    return bool(np.issubdtype(leaf.dtype, np.floating)) or leaf.dtype.name == "bfloat16"


def _check(
    stored: Mapping[Key, Key],
    arrays: Mapping[Key, np.ndarray],
    wanted: Mapping[Key, Any],
    keys: Mapping[Key, Key],
    inside: set[Key],
    name: str,
) -> None:
    """Raises one error about all arrays that are missing, misshapen, unknown or not finite."""
    text = {key: ".".join(key) for key in stored}
    missing = [".".join(there) for key, there in keys.items() if key not in arrays]
    used = set(keys.values())
    extra = [
        text[key]
        for key in stored
        if key not in used and any(key[: len(place)] == place for place in inside)
    ]
    shapes = [
        f"{'.'.join(keys[key])} is {list(array.shape)} there, but must be {list(wanted[key].shape)}"
        for key, array in arrays.items()
        if array.shape != wanted[key].shape
    ]
    hints = [each + closest(each, extra or text.values()) for each in missing[:1]] + missing[1:]
    faults = [
        f"lacks {len(missing)} of the {len(keys)} arrays of the model: {first_of(hints)}",
        f"holds {len(shapes)} of another shape: {first_of(shapes, 1)}",
        f"holds {len(extra)} that the model does not have: {first_of(extra)}",
    ]
    found = [fault for fault, some in zip(faults, (missing, shapes, extra), strict=True) if some]
    if found:
        raise InputError(
            f"{name} {', and '.join(found)}; give the model and the settings that it was trained "
            "with."
        )
    for key, array in arrays.items():
        kinds = (np.floating,) if _is_learned(wanted[key]) else (np.integer, np.bool_)
        number = _is_learned(array) if kinds == (np.floating,) else array.dtype.kind in "iub"
        if not number:
            raise InputError(
                f"{'.'.join(keys[key])} in {name} is of type {array.dtype}, but must be of type "
                f"{wanted[key].dtype}; save the weights as such numbers."
            )
        with np.errstate(over="ignore"):
            finite = not _is_learned(array) or np.isfinite(array.astype(np.float32)).all()
        if not finite:
            raise InputError(
                f"{'.'.join(keys[key])} in {name} has values that are not finite; give weights of "
                "a training that did not diverge."
            )
