"""Trees of parameters from safetensors files, and back.

A *naming* maps a path in our tree of parameters to the name of the stored tensor
(`jaxunlearn.models.pretrained.names`). Kernels are stored with other axes:

| parameter              | stored         | ours           |
| ---------------------- | -------------- | -------------- |
| kernel of a dense layer | `[O, I]`       | `[I, O]`       |
| kernel of a convolution | `[O, I, h, w]` | `[h, w, I, O]` |

Layers that are stored apart and joined in ours are joined along the outputs, `O`; a dense layer may
be stored as a convolution of 1x1. Every parameter must have a stored tensor of the right shape, and
every stored tensor must have a parameter or be ignored by name; so the file of another model is
refused. Half-precision and bfloat16 tensors become float32, which holds them exactly. Prefixes that
PyTorch's wrappers add to all names (`module.`, `_orig_mod.`, `model.`) are dropped.
"""

import contextlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxunlearn.files import is_first, replacing, unwritable
from jaxunlearn.models.pretrained.layouts import remedy
from jaxunlearn.models.pretrained.names import Naming
from jaxunlearn.models.published import PICKLES, conversion, read_json, readable
from jaxunlearn.types import InputError

_KERNEL_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}  # our axes in stored order, by rank
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Of data parallelism, compilation and trainers, but not the names of CompVis.
_WRAPPER = re.compile(r"(module|_orig_mod|model(?!\.diffusion_model))\.")
_STEMS = {  # names of other files of the same weights, by the written one
    "diffusion_pytorch_model": "diffusion_(pytorch|flax)_model",
    "model": "(pytorch_|flax_|tf_)?model",
}
_VARIANT = r"(\.(fp16|bf16|fp32|ema|non_ema))?"


def read(
    path: str | os.PathLike[str], shapes: Any, naming: Naming, ignore: Sequence[str] = ()
) -> Any:
    """Reads a tree of float32 parameters with these shapes, nested dictionaries.

    Args:
        path: a safetensors file; an index of several (`*.safetensors.index.json`); or a folder that
            holds one of either.
        shapes: nested dictionaries of leaves with a shape, from `jax.eval_shape`.
        naming: name of the stored tensor, or tensors, of each path in `shapes`, all different.
        ignore: regular expressions for whole names of stored tensors that may be unused.

    Raises:
        InputError: a file is missing or damaged; a tensor is missing, unknown, of another shape, or
            of another type than floating point of at most 32 bits.

    Example:
        >>> import jax, tempfile
        >>> shapes = {"dense": {"kernel": jax.ShapeDtypeStruct((3, 2), "float32")}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "model.safetensors"
        ...     safetensors.numpy.save_file({"dense.weight": np.ones((2, 3), np.float16)}, file)
        ...     tree = read(folder, shapes, lambda path: "dense.weight")
        >>> tree["dense"]["kernel"].shape, tree["dense"]["kernel"].dtype
        ((3, 2), dtype('float32'))
    """
    path = Path(path)
    wanted = _by_name(flatten_dict(shapes), naming)
    leaves: dict[tuple[str, ...], list[np.ndarray]] = {}
    with contextlib.ExitStack() as stack:
        found = _open(path, stack)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise InputError(
                f"{path} lacks the tensor {missing[0]!r}{_others(missing)} of this model; "
                f"{remedy(found)}"
            )
        unknown = [
            name
            for name in sorted(found.keys() - wanted.keys())
            if not any(re.fullmatch(expression, name) for expression in ignore)
        ]
        if unknown:
            raise InputError(
                f"{found[unknown[0]].path} holds the tensor {unknown[0]!r}{_others(unknown)}, "
                f"which this model does not have; {remedy(unknown)}"
            )
        for name, (place, leaf, parts) in wanted.items():
            part = _read_one(found[name], place, leaf.shape, parts)
            leaves.setdefault(place, []).append(part)
    return unflatten_dict({place: _joined(place, parts) for place, parts in leaves.items()})


def write(
    path: str | os.PathLike[str],
    tree: Any,
    naming: Naming,
    metadata: Mapping[str, str] | None = None,
    pointwise: str = "",
) -> None:
    """Writes a tree of parameters as one safetensors file in float32, whole or not at all.

    `read` with the same naming returns the same bits; `metadata` are texts by name, for
    `stored_metadata`; stored names that match `pointwise` are convolutions of 1x1. The folder is
    created. Other files of the same weights in it (shards and
    their index, half-precision copies, pickles) hold the earlier model, and some libraries prefer
    them: they are deleted.
    """
    path = Path(path)
    stored: dict[str, np.ndarray] = {}
    for path_in_tree, leaf in flatten_dict(tree).items():
        whole = to_stored(path_in_tree, leaf)
        names = _names(naming, path_in_tree)
        for name, part in zip(names, np.split(whole, len(names)), strict=True):
            assert name not in stored, f"two parameters are both named {name!r}"
            one_by_one = pointwise and re.fullmatch(pointwise, name)
            stored[name] = part[..., None, None] if one_by_one else part
    write_all(path, stored, metadata)


def write_all(
    path: Path, stored: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors by name, like `write`."""
    if not is_first():
        return
    stored = {name: np.asarray(array, order="C") for name, array in stored.items()}
    # Other libraries refuse a file without the order of its axes.
    header = {"format": "pt", **(metadata or {})}
    with replacing(path) as file:
        try:
            safetensors.numpy.save_file(stored, file, metadata=header)
        except safetensors.SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error
    for other in _other_weights(path):
        try:
            other.unlink()
        except OSError as error:
            raise unwritable(other, error) from error


def read_all(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file or folder by name, float32."""
    with contextlib.ExitStack() as stack:
        found = _open(path, stack)
        return {name: f.handle.get_tensor(f.key).astype(np.float32) for name, f in found.items()}


def to_stored(place: tuple[str, ...], leaf: Any) -> np.ndarray:
    """A leaf of our tree with the stored axes, float32."""
    ours = np.asarray(leaf, np.float32)
    return ours.transpose(_stored_axes(place, ours.ndim))


def from_stored(place: tuple[str, ...], stored: np.ndarray) -> Any:
    """The inverse of `to_stored`."""
    return jnp.asarray(stored.transpose(np.argsort(_stored_axes(place, stored.ndim))))


def stored_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """The shape of each stored tensor by its name, which gives the size of a model."""
    with contextlib.ExitStack() as stack:
        found = _open(Path(path), stack)
        return {name: tuple(f.entry().get_shape()) for name, f in found.items()}


def stored_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts that `write` stored beside the tensors, by name."""
    with contextlib.ExitStack() as stack:
        files = {id(f.handle): f.handle for f in _open(Path(path), stack).values()}
        return {k: v for handle in files.values() for k, v in (handle.metadata() or {}).items()}


def stored_shape(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]], name: str, rank: int
) -> tuple[int, ...]:
    """The shape of one tensor out of `stored_shapes`, which must have this rank and no zeros."""
    shape = shapes.get(name, ())
    if len(shape) != rank or 0 in shape:
        found = f"is of shape {list(shape)}" if name in shapes else "is missing"
        raise InputError(
            f"the tensor {name!r} in {os.fspath(path)} {found}, but must have {rank} axes; "
            f"{remedy(shapes)}"
        )
    return shape


def weights_of(folder: Path, name: str, *, sharded_first: bool) -> Path:
    """The file or index that the library of a layout reads in a folder, or else the only one.

    `name` is the file of all weights in full precision; with `sharded_first` the library prefers an
    index of several files to it.
    """
    index = f"{name}.index.json"
    stem = name.removesuffix(".safetensors")
    order = [index, name] if sharded_first else [name, index]
    half = (f"{name}.index.fp16.json", f"{name}.fp16.index.json", f"{stem}.fp16.safetensors")
    there = [folder / file for file in (*order, *half) if (folder / file).is_file()]
    return there[0] if there else _only_file(folder, f"rename the one to be read to {name}.")


class _Stored(NamedTuple):
    path: Path
    handle: Any  # from `safetensors.safe_open`
    key: str  # name in the file

    def entry(self) -> Any:
        return self.handle.get_slice(self.key)


def _names(naming: Naming, path: tuple[str, ...]) -> tuple[str, ...]:
    stored = naming(path)
    return (stored,) if isinstance(stored, str) else stored


def _by_name(
    leaves: Mapping[tuple[str, ...], Any], naming: Naming
) -> dict[str, tuple[tuple[str, ...], Any, int]]:
    """The path, the leaf, and the number of tensors that make it, by the name of each of these."""
    by_name: dict[str, Any] = {}
    for path, leaf in leaves.items():
        names = _names(naming, path)
        for name in names:
            assert name not in by_name, f"{path} and {by_name[name][0]} are both named {name!r}"
            by_name[name] = (path, leaf, len(names))
    return by_name


def _stored_axes(place: tuple[str, ...], rank: int) -> tuple[int, ...]:
    """Our axes, in stored order."""
    return _KERNEL_AXES[rank] if place[-1] == "kernel" else tuple(range(rank))


def _read_one(
    stored: _Stored, place: tuple[str, ...], shape: tuple[int, ...], parts: int
) -> np.ndarray:
    """One of the tensors that make a leaf, float32 with the stored axes."""
    path, handle, name = stored
    wanted = [shape[axis] for axis in _stored_axes(place, len(shape))]
    wanted[:1] = [size // parts for size in wanted[:1]]
    entry = stored.entry()
    as_conv = [*wanted, 1, 1] if place[-1] == "kernel" and len(wanted) == 2 else None
    if entry.get_shape() not in (wanted, as_conv):
        raise InputError(
            f"the tensor {name!r} in {path} has shape {entry.get_shape()}, but must have {wanted} "
            "for this model; give the file of a model of the same size."
        )
    if entry.get_dtype() not in _DTYPES:
        raise InputError(
            f"the tensor {name!r} in {path} is of type {entry.get_dtype()}, but must be one "
            f"of {', '.join(_DTYPES)}; convert it to float32 first."
        )
    array: np.ndarray = handle.get_tensor(name).astype(np.float32).reshape(wanted)
    return array


def _joined(place: tuple[str, ...], parts: list[np.ndarray]) -> Any:
    return from_stored(place, parts[0] if len(parts) == 1 else np.concatenate(parts))


def _others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _open(path: Path, stack: contextlib.ExitStack) -> dict[str, _Stored]:
    """The place of each tensor, by its name without the prefix of a wrapper."""
    if path.is_dir():
        path = _only_file(path, "give the path of the file itself.")
    stored = _open_index(path, stack) if path.suffix == ".json" else _open_file(path, stack)
    cut = len(_wrapper(stored))
    return {name[cut:]: found for name, found in stored.items()}


def _other_weights(path: Path) -> list[Path]:
    """Files beside this one that other libraries might read instead."""
    stem = _STEMS.get(path.stem, re.escape(path.stem))
    weights = rf"{stem}{_VARIANT}(-\d+-of-\d+)?{_VARIANT}\.(safetensors|bin|pth|msgpack|h5)"
    index = rf"({_VARIANT}\.index{_VARIANT}\.json)?"
    return [
        other
        for other in sorted(path.parent.iterdir())
        if other.name != path.name and re.fullmatch(weights + index, other.name)
    ]


def _wrapper(names: Collection[str]) -> str:
    """The prefix of PyTorch's wrappers that all names have."""
    prefix = ""
    while names and (more := _WRAPPER.match(next(iter(names)), len(prefix))):
        if not all(name.startswith(more[0], len(prefix)) for name in names):
            break
        prefix += more[0]
    return prefix


def _only_file(folder: Path, remedy: str) -> Path:
    """The index in a folder or, if there is none, the safetensors file."""
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
        f"{folder} holds {', '.join(files) or 'no safetensors file'}, but must hold one "
        f"safetensors file or index; {remedy}"
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
    """The name of the file of each tensor."""
    parts = read_json(path).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise InputError(
            f"{path} has no 'weight_map', but must have one from tensors to files; download it "
            "again."
        )
    for name, part in parts.items():
        if (
            not isinstance(part, str)
            or not part.endswith(".safetensors")
            or Path(part).name != part
        ):
            raise InputError(
                f"the file of the tensor {name!r} in {path} is {part!r}, but must be a safetensors "
                "file of the same folder; download the index of the safetensors files."
            )
    return parts
