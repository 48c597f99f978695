"""Trees of parameters from safetensors files, and back.

A *naming* takes a path in our tree of parameters to the stored tensor: its name, and its kind,
which says in what order its axes are stored.

| kind   | stored         | ours           |
| ------ | -------------- | -------------- |
| plain  | any            | the same       |
| linear | `[O, I]`       | `[I, O]`       |
| conv   | `[O, I, h, w]` | `[h, w, I, O]` |

Every parameter must be found with the right shape, and every stored tensor must be used or named as
one that may be left; so a file of another model cannot be mistaken for one of this. Half-precision
and bfloat16 tensors become float32, which holds them exactly.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxunlearn.files import replacing
from jaxunlearn.types import InputError

_AXES = {"linear": (1, 0), "conv": (2, 3, 1, 0)}  # of the stored tensor, in the order of ours
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Tensor(NamedTuple):
    """A stored tensor.

    Attributes:
        name: what the file calls it.
        kind: "plain", "linear" or "conv": the order of its axes.
    """

    name: str
    kind: str = "plain"


Naming = Callable[[tuple[str, ...]], Tensor]


def read(
    path: str | os.PathLike[str], shapes: Any, naming: Naming, ignore: Sequence[str] = ()
) -> Any:
    """Reads a tree of parameters.

    Args:
        path: a safetensors file; an index of several (`*.safetensors.index.json`); or a folder that
            holds one of either.
        shapes: nested dictionaries with leaves that have a shape, as `jax.eval_shape` gives them.
        naming: takes each path in `shapes` to its stored tensor, no two to the same.
        ignore: regular expressions; stored tensors whose whole name matches one may be left unused.

    Returns:
        Nested dictionaries like `shapes`, of float32 arrays.

    Raises:
        InputError: a file is missing or damaged; a tensor is missing, unknown, of another shape or
            not of floating-point numbers of at most 32 bits.

    Example:
        >>> import jax, tempfile
        >>> def naming(path):
        ...     return Tensor(".".join(path) + ".weight", "linear")
        >>> shapes = {"dense": jax.ShapeDtypeStruct((3, 2), "float32")}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "model.safetensors"
        ...     safetensors.numpy.save_file({"dense.weight": np.ones((2, 3), np.float16)}, file)
        ...     tree = read(folder, shapes, naming)
        >>> tree["dense"].shape, tree["dense"].dtype
        ((3, 2), dtype('float32'))
    """
    path = Path(path)
    wanted = _by_name(flatten_dict(shapes), naming)
    leaves = {}
    with contextlib.ExitStack() as stack:
        found = _open(path, stack)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise InputError(
                f"{path} has no tensor {missing[0]!r}{_others(missing)} that this model needs; "
                "give the file of a model of the same kind and size."
            )
        may_be_left = [re.compile(expression) for expression in ignore]
        unknown = [
            name
            for name in sorted(found.keys() - wanted.keys())
            if not any(expression.fullmatch(name) for expression in may_be_left)
        ]
        if unknown:
            raise InputError(
                f"{found[unknown[0]].path} holds the tensor {unknown[0]!r}{_others(unknown)} that "
                "this model has no place for; give the file of a model of the same kind and size."
            )
        for name, (place, kind, leaf) in wanted.items():
            leaves[place] = _read_one(found[name], name, kind, leaf.shape)
    return unflatten_dict(leaves)


def write(path: str | os.PathLike[str], tree: Any, naming: Naming) -> None:
    """Writes a tree of parameters as one safetensors file, whole or not at all.

    What `read` reads with the same naming is the same to the last bit.

    Args:
        path: the file; its folder is made.
        tree: nested dictionaries of arrays; they are kept in float32.
        naming: as in `read`.

    Raises:
        InputError: it cannot be written.

    Example:
        >>> import tempfile
        >>> tree = {"dense": np.ones((3, 2), np.float32)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "model.safetensors"
        ...     write(file, tree, lambda path: Tensor("dense.weight", "linear"))
        ...     safetensors.numpy.load_file(file)["dense.weight"].shape
        (2, 3)
    """
    path = Path(path)
    stored = {}
    for name, (_, kind, leaf) in _by_name(flatten_dict(tree), naming).items():
        ours = np.asarray(leaf, np.float32)
        stored[name] = np.ascontiguousarray(ours.transpose(_stored_axes(kind, ours.ndim)))
    # Other libraries refuse a file that does not say whose order of axes it keeps.
    metadata = {"format": "pt"}
    with replacing(path) as file:
        try:
            safetensors.numpy.save_file(stored, file, metadata=metadata)
        except safetensors.SafetensorError as error:  # how it reports what the disk does not take
            raise OSError(str(error)) from error


def stored_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """The shape of each stored tensor, by its name: enough to tell the size of a model.

    Args:
        path: as in `read`.

    Returns:
        Shapes as they are stored.

    Raises:
        InputError: a file is missing or damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "model.safetensors"
        ...     safetensors.numpy.save_file({"fc.weight": np.ones((2, 3), np.float16)}, file)
        ...     stored_shapes(file)
        {'fc.weight': (2, 3)}
    """
    with contextlib.ExitStack() as stack:
        found = _open(Path(path), stack)
        return {name: tuple(f.handle.get_slice(name).get_shape()) for name, f in found.items()}


def stored_shape(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]], name: str, rank: int
) -> tuple[int, ...]:
    """The shape of one stored tensor, which tells a size of the model.

    Args:
        path: where `shapes` were found.
        shapes: what `stored_shapes` found.
        name: of the tensor.
        rank: how many axes it has in this family of models.

    Returns:
        Its shape, without zeros.

    Raises:
        InputError: the tensor is missing, empty or of another rank.

    Example:
        >>> classes, features = stored_shape("model.safetensors", {"fc": (10, 512)}, "fc", rank=2)
        >>> classes
        10
    """
    shape = shapes.get(name, ())
    if len(shape) != rank or 0 in shape:
        found = f"is of shape {list(shape)}" if name in shapes else "is missing"
        raise InputError(
            f"the tensor {name!r} in {os.fspath(path)} {found}, but must have {rank} axes; give "
            "the file of a network of this family."
        )
    return shape


class _File(NamedTuple):
    path: Path
    handle: Any  # what `safetensors.safe_open` gives


def _by_name(leaves: Mapping[tuple[str, ...], Any], naming: Naming) -> dict[str, Any]:
    """`(path, kind, leaf)` of each leaf, by the name of its stored tensor."""
    by_name: dict[str, Any] = {}
    for path, leaf in leaves.items():
        name, kind = naming(path)
        assert name not in by_name, f"{path} and {by_name[name][0]} are both named {name!r}"
        by_name[name] = (path, kind, leaf)
    return by_name


def _stored_axes(kind: str, rank: int) -> tuple[int, ...]:
    """The axes of ours, in the order in which they are stored."""
    axes = tuple(range(rank)) if kind == "plain" else _AXES[kind]
    assert len(axes) == rank, f"a tensor of kind {kind!r} has {len(axes)} axes, not {rank}"
    return tuple(axes.index(axis) for axis in range(rank))


def _read_one(file: _File, name: str, kind: str, shape: tuple[int, ...]) -> Any:
    stored_axes = _stored_axes(kind, len(shape))
    wanted = [shape[axis] for axis in stored_axes]
    entry = file.handle.get_slice(name)
    if entry.get_shape() != wanted:
        raise InputError(
            f"the tensor {name!r} in {file.path} has shape {entry.get_shape()}, but this model "
            f"needs {wanted}; give the file of a model of the same size."
        )
    if entry.get_dtype() not in _DTYPES:
        raise InputError(
            f"the tensor {name!r} in {file.path} is of type {entry.get_dtype()}, but must be one "
            f"of {', '.join(_DTYPES)}; convert it to float32 first."
        )
    stored = file.handle.get_tensor(name).astype(np.float32)
    return jnp.asarray(stored.transpose(np.argsort(stored_axes)))


def _others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _open(path: Path, stack: contextlib.ExitStack) -> dict[str, _File]:
    """The file that holds each tensor, by the tensor's name."""
    if path.is_dir():
        path = _only_file(path)
    if not path.name.endswith(".json"):
        file = _open_file(path, stack)
        return dict.fromkeys(file.handle.keys(), file)
    parts = _read_index(path)
    files = {part: _open_file(path.with_name(part), stack) for part in sorted(set(parts.values()))}
    held = {(name, part) for part, file in files.items() for name in file.handle.keys()}
    for name, part in sorted(held ^ set(parts.items())):
        what = "holds a tensor that" if (name, part) in held else "lacks a tensor that"
        does = "does not list" if (name, part) in held else "lists"
        raise InputError(
            f"{path.with_name(part)} {what} {path.name} {does}: {name!r}; get all files of this "
            "model anew."
        )
    return {name: files[part] for name, part in parts.items()}


def _only_file(folder: Path) -> Path:
    """The index in a folder or, where there is none, the safetensors file."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    files = indices or sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise InputError(
            f"{folder} must hold one safetensors file or index, but holds {found}; give the path "
            "of the file itself."
        )
    return files[0]


def _open_file(path: Path, stack: contextlib.ExitStack) -> _File:
    with _readable(path):
        return _File(path, stack.enter_context(safetensors.safe_open(path, framework="np")))


def _read_index(path: Path) -> dict[str, str]:
    """The name of the file, in the folder of the index, that holds each tensor."""
    with _readable(path):
        index = json.loads(path.read_text(encoding="utf-8"))
    parts = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(parts, dict) or not parts:
        raise InputError(
            f"{path} has no 'weight_map' that says which file holds which tensor; get it anew."
        )
    for name, part in parts.items():
        if (
            not isinstance(part, str)
            or not part.endswith(".safetensors")
            or Path(part).name != part
        ):
            raise InputError(
                f"{path} says that the tensor {name!r} is in {part!r}, but it must be in a "
                "safetensors file of the same folder; get it anew."
            )
    return parts


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what can go wrong while reading a file into one sentence."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist; check the path.") from error
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged or unreadable ({reason}); get it anew.") from error
