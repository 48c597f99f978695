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
and bfloat16 tensors become float32, which holds them exactly. What PyTorch's wrappers put before
all names (`module.`, `_orig_mod.`) is dropped.
"""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxunlearn.files import is_first, replacing, unwritable
from jaxunlearn.models.pretrained.layouts import remedy
from jaxunlearn.models.pretrained.published import PICKLES, conversion, read_json, readable
from jaxunlearn.types import InputError

_AXES = {"linear": (1, 0), "conv": (2, 3, 1, 0)}  # of the stored tensor, in the order of ours
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_WRAPPERS = ("module.", "_orig_mod.")  # of data parallelism and of compilation, in PyTorch
_STEMS = {  # of files of weights in one folder, by the one that is written
    "diffusion_pytorch_model": "diffusion_(pytorch|flax)_model",
    "model": "(pytorch_|flax_|tf_)?model",
}
_VARIANT = r"(\.(fp16|bf16|fp32|ema|non_ema))?"


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
                f"{remedy(found)}"
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
                f"this model has no place for; {remedy(unknown)}"
            )
        for name, (place, kind, leaf) in wanted.items():
            leaves[place] = _read_one(found[name], kind, leaf.shape)
    return unflatten_dict(leaves)


def write(
    path: str | os.PathLike[str],
    tree: Any,
    naming: Naming,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a tree of parameters as one safetensors file, whole or not at all.

    What `read` reads with the same naming is the same to the last bit. Other files of weights of
    the same layout in the folder (shards and their index, half-precision copies, pickles) hold the
    model as it was, and some libraries prefer them: they are deleted.

    Args:
        path: the file; its folder is made.
        tree: nested dictionaries of arrays; they are kept in float32.
        naming: as in `read`.
        metadata: what `stored_metadata` should find.

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
    if not is_first():
        return
    stored = {}
    for name, (_, kind, leaf) in _by_name(flatten_dict(tree), naming).items():
        ours = np.asarray(leaf, np.float32)
        stored[name] = np.ascontiguousarray(ours.transpose(_stored_axes(kind, ours.ndim)))
    # Other libraries refuse a file that does not say whose order of axes it keeps.
    header = {"format": "pt", **(metadata or {})}
    with replacing(path) as file:
        try:
            safetensors.numpy.save_file(stored, file, metadata=header)
        except safetensors.SafetensorError as error:  # how it reports what the disk does not take
            raise OSError(str(error)) from error
    for other in _other_weights(path):
        try:
            other.unlink()
        except OSError as error:
            raise unwritable(other, error) from error


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
        return {name: tuple(f.entry().get_shape()) for name, f in found.items()}


def stored_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What `write` was told to keep beside the tensors.

    Args:
        path: as in `read`.

    Returns:
        Texts by name; those of all files where there are several.

    Raises:
        InputError: a file is missing or damaged.
    """
    with contextlib.ExitStack() as stack:
        files = {id(f.handle): f.handle for f in _open(Path(path), stack).values()}
        return {k: v for handle in files.values() for k, v in (handle.metadata() or {}).items()}


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
            f"the tensor {name!r} in {os.fspath(path)} {found}, but must have {rank} axes; "
            f"{remedy(shapes)}"
        )
    return shape


def weights_of(folder: Path, name: str, *, sharded_first: bool) -> Path:
    """The file that the library of a layout would read in a folder, or the only one that is there.

    Args:
        folder: may hold several files of the same weights, such as a half-precision one.
        name: of the file of all weights in full precision.
        sharded_first: the library prefers an index of several files; it is else the second choice.

    Returns:
        The file or index.

    Raises:
        InputError: there is none, or there are several with other names.
    """
    index = f"{name}.index.json"
    stem = name.removesuffix(".safetensors")
    order = [index, name] if sharded_first else [name, index]
    half = (f"{name}.index.fp16.json", f"{name}.fp16.index.json", f"{stem}.fp16.safetensors")
    there = [folder / file for file in (*order, *half) if (folder / file).is_file()]
    return there[0] if there else _only_file(folder, f"rename the one to be read to {name}.")


class _Stored(NamedTuple):
    path: Path
    handle: Any  # what `safetensors.safe_open` gives
    key: str  # the name in the file

    def entry(self) -> Any:
        return self.handle.get_slice(self.key)


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


def _read_one(stored: _Stored, kind: str, shape: tuple[int, ...]) -> Any:
    path, handle, name = stored
    stored_axes = _stored_axes(kind, len(shape))
    wanted = [shape[axis] for axis in stored_axes]
    entry = stored.entry()
    if entry.get_shape() != wanted:
        raise InputError(
            f"the tensor {name!r} in {path} has shape {entry.get_shape()}, but this model "
            f"needs {wanted}; give the file of a model of the same size."
        )
    if entry.get_dtype() not in _DTYPES:
        raise InputError(
            f"the tensor {name!r} in {path} is of type {entry.get_dtype()}, but must be one "
            f"of {', '.join(_DTYPES)}; convert it to float32 first."
        )
    array = handle.get_tensor(name).astype(np.float32)
    return jnp.asarray(array.transpose(np.argsort(stored_axes)))


def _others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _open(path: Path, stack: contextlib.ExitStack) -> dict[str, _Stored]:
    """Where each tensor is, by its name without what wrappers put before all names."""
    if path.is_dir():
        path = _only_file(path, "give the path of the file itself.")
    stored = _open_index(path, stack) if path.suffix == ".json" else _open_file(path, stack)
    cut = len(_wrapper(stored))
    return {name[cut:]: found for name, found in stored.items()}


def _other_weights(path: Path) -> list[Path]:
    """The files beside this one that other libraries might read in its place."""
    stem = _STEMS.get(path.stem, re.escape(path.stem))
    weights = rf"{stem}{_VARIANT}(-\d+-of-\d+)?{_VARIANT}\.(safetensors|bin|pth|msgpack|h5)"
    index = rf"({_VARIANT}\.index{_VARIANT}\.json)?"
    return [
        other
        for other in sorted(path.parent.iterdir())
        if other.name != path.name and re.fullmatch(weights + index, other.name)
    ]


def _wrapper(names: Collection[str]) -> str:
    """What all names begin with, of `_WRAPPERS`."""
    prefix = ""
    while names and (
        longer := [
            prefix + wrapper
            for wrapper in _WRAPPERS
            if all(name.startswith(prefix + wrapper) for name in names)
        ]
    ):
        prefix = longer[0]
    return prefix


def _only_file(folder: Path, remedy: str) -> Path:
    """The index in a folder or, where there is none, the safetensors file."""
    names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    indices = [name for name in names if re.search(r"\.safetensors.*\.index.*\.json$", name)]
    files = indices or [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if Path(name).suffix in PICKLES]
    if len(files) == 1:
        return folder / files[0]
    if not files and pickles:
        raise InputError(
            f"{folder} holds its weights as a pickle of PyTorch ({pickles[0]}{_others(pickles)}), "
            f"but must hold a safetensors file; convert it by {conversion(Path(pickles[0]))}."
        )
    if files and all(re.search(r"-\d+-of-\d+\.", name) for name in files):
        remedy = "download its index too (NAME.safetensors.index.json)."
    if not files:
        remedy = "download it, or check the path."
    raise InputError(
        f"{folder} must hold one safetensors file or index, but holds "
        f"{', '.join(files) or 'none'}; {remedy}"
    )


def _open_file(path: Path, stack: contextlib.ExitStack) -> dict[str, _Stored]:
    with readable(path):
        try:
            handle = stack.enter_context(safetensors.safe_open(path, framework="np"))
        except safetensors.SafetensorError as error:
            raise ValueError(str(error)) from error
        return {name: _Stored(path, handle, name) for name in handle.keys()}


def _open_index(path: Path, stack: contextlib.ExitStack) -> dict[str, _Stored]:
    parts = _read_index(path)
    shards = {part: _open_file(path.with_name(part), stack) for part in sorted(set(parts.values()))}
    held = {(name, part) for part, stored in shards.items() for name in stored}
    for name, part in sorted(held ^ set(parts.items())):
        what = "holds a tensor that" if (name, part) in held else "lacks a tensor that"
        does = "does not list" if (name, part) in held else "lists"
        raise InputError(
            f"{path.with_name(part)} {what} {path.name} {does}: {name!r}; download all files of "
            "this model again."
        )
    return {name: shards[part][name] for name, part in parts.items()}


def _read_index(path: Path) -> dict[str, str]:
    """The name of the file, in the folder of the index, that holds each tensor."""
    parts = read_json(path).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise InputError(
            f"{path} has no 'weight_map' of the file that holds each tensor; download it again."
        )
    for name, part in parts.items():
        if (
            not isinstance(part, str)
            or not part.endswith(".safetensors")
            or Path(part).name != part
        ):
            raise InputError(
                f"{path} lists {part!r} for the tensor {name!r}, but it must be a safetensors file "
                "of the same folder; download it again, or the index of the safetensors files."
            )
    return parts
