"""Checkpoints of other programs: trees of arrays, read by name and written back.

| layout | file or folder |
| --- | --- |
| `orbax` | folder of a StandardCheckpointer, a PyTreeCheckpointer or a CheckpointManager |
| `msgpack` | file of `flax.serialization` |
| `npz` | file of `numpy.savez`, with paths such as `params/dense/kernel` for names |
| `safetensors` | file with paths such as `params.dense.kernel` for names |

The path of an array is the tuple of its keys, as text. Nothing is unpickled.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from flax.traverse_util import unflatten_dict

from jaxunlearn.files import file_digest, quiet, replacing, unwritable
from jaxunlearn.models.published import PICKLES, conversion, is_pipeline
from jaxunlearn.names import reason
from jaxunlearn.types import InputError

Key = tuple[str, ...]
_STEP = re.compile(r"(?:.*[_.-])?(\d+)")
SUFFIXES = {"msgpack": ".msgpack", "npz": ".npz", "safetensors": ".safetensors"}  # of files
SMALL = (".json", ".txt")  # suffixes of configurations and vocabularies
_SEPARATORS = {"npz": "/", "safetensors": "."}


class Stored(NamedTuple):
    """The arrays of a checkpoint.

    Attributes:
        layout: name of the layout.
        arrays: arrays by path.
        step: step of the checkpoint, if there are several.
        separator: separator of the keys in names, if the layout has names.
        place: folder of an orbax checkpoint in the folder that was read, such as "700".
        items: names of its trees, unless it is one tree without a name; if there are several, the
            first key of a path is a name.
        lists: paths of lists and tuples; the keys in them are numbers.
    """

    layout: str
    arrays: dict[Key, np.ndarray]
    step: int | None = None
    separator: str | None = None
    place: str = "."
    items: tuple[str, ...] = ()
    lists: tuple[Key, ...] = ()

    @property
    def form(self) -> dict[str, Any]:
        """All but the arrays and the step, as JSON, for `write`."""
        return {
            "layout": self.layout,
            "separator": self.separator,
            "place": self.place,
            "items": list(self.items),
            "lists": [list(key) for key in self.lists],
        }


def read(path: Path, step: int | None = None) -> Stored:
    """Reads a checkpoint in any of the layouts.

    Args:
        path: the file or folder; or a folder of steps.
        step: the step to read, if there are several; the newest by default.

    Raises:
        InputError: there is no checkpoint or no such step; or it is damaged, or a pickle.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder) / "net.npz", **{"dense/kernel": np.ones((2, 3))})
        ...     stored = read(Path(folder) / "net.npz")
        >>> stored.layout, {key: array.shape for key, array in stored.arrays.items()}
        ('npz', {('dense', 'kernel'): (2, 3)})
    """
    place, found = locate(path, step)
    if place.is_dir():
        items = _items(place)
        trees = {name: _reading(item, _read_orbax) for name, item in items.items()}
        tree: Any = trees if len(trees) > 1 else next(iter(trees.values()))
        inside = place.relative_to(path.expanduser().absolute()).as_posix()
        names = tuple(name for name in items if name)
        return Stored("orbax", _flat(tree), found, None, inside, names, tuple(_lists(tree)))
    layout = place.suffix[1:] if place.suffix[1:] in _SEPARATORS else "msgpack"
    if layout == "msgpack":
        return Stored(layout, _flat(_reading(place, _read_msgpack)), found)
    named = _reading(place, _read_npz if layout == "npz" else _read_safetensors)
    separator = "/" if any("/" in name for name in named) else "."
    arrays = {tuple(name.split(separator)): array for name, array in named.items()}
    return Stored(layout, arrays, found, separator)


def write(path: Path, arrays: Mapping[Key, np.ndarray], form: Mapping[str, Any]) -> None:
    """Writes arrays by path in a layout.

    Args:
        path: the file; or the folder for orbax, which must not exist or be empty.
        arrays: arrays by path.
        form: the `form` of a checkpoint that was read; or "layout" alone.

    Raises:
        InputError: the place cannot be written.
    """
    layout = form["layout"]
    if layout == "orbax":
        folder, items = path.absolute() / form.get("place", "."), form.get("items", ())
        tree = _nested(arrays, form.get("lists", ()))
        args: Any = ocp.args.StandardSave(tree)
        if items:
            trees = {items[0]: tree} if len(items) == 1 else tree
            args = {name: ocp.args.StandardSave(each) for name, each in trees.items()}
            args = ocp.args.Composite(**args)
        handler = ocp.CompositeCheckpointHandler if items else ocp.StandardCheckpointHandler
        try:
            if folder.is_dir():
                folder.rmdir()  # empty; orbax makes it
            with quiet(), ocp.Checkpointer(handler()) as writer:
                writer.save(folder, args=args)
        except OSError as error:
            raise unwritable(path, error) from error
        return
    joined = form.get("separator") or _SEPARATORS.get(layout, "")
    named = {joined.join(key): np.ascontiguousarray(array) for key, array in arrays.items()}
    with replacing(path) as place:
        if layout == "msgpack":
            place.write_bytes(serialization.msgpack_serialize(unflatten_dict(dict(arrays))))
        elif layout == "npz":
            with place.open("wb") as file:
                np.savez(file, allow_pickle=False, **named)
        else:
            from safetensors.numpy import save_file

            save_file(named, place)


def digest(path: Path, step: int | None = None) -> str:
    """The SHA-256 of a checkpoint: of its file, or of all files of its folder.

    Of a pipeline of diffusers the files in the folders of its parts count.
    """
    place = path.expanduser()
    if is_pipeline(place):
        files = [file for file in place.glob("*/*") if file.suffix in (*SMALL, ".safetensors")]
    else:
        if not (place.is_dir() and any(place.rglob("*.safetensors"))):  # else of another library
            place, _ = locate(path, step)
        if place.is_file():
            return file_digest(place)
        files = [file for file in place.rglob("*") if file.is_file()]
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(f"{file.relative_to(place).as_posix()} {file_digest(file)}\n".encode())
    return found.hexdigest()


def locate(path: Path, step: int | None = None) -> tuple[Path, int | None]:
    """The file or folder of one checkpoint, and its step, if there are several.

    Raises:
        InputError: there is none, no such step, or only a pickle.
    """
    path = path.expanduser().absolute()
    if not path.exists():
        raise InputError(
            f"the checkpoint {path} does not exist; put its weights there, or check the path."
        )
    steps = {} if path.is_file() or _items(path) else _steps(path)
    if steps:
        if step is not None and step not in steps:
            raise InputError(
                f"step is {step}, but {path} has the steps {', '.join(map(str, sorted(steps)))}; "
                "choose one of them."
            )
        found = max(steps) if step is None else step
        return steps[found], found
    if step is not None:
        raise InputError(f"step is {step}, but {path} is a checkpoint without steps; leave it out.")
    if path.is_file():
        _check_suffix(path)
        return path, None
    if _items(path):
        return path, None
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    known = [file for file in files if file.suffix in SUFFIXES.values()]
    if len(known) == 1:
        return known[0], None
    for file in files:
        if not known and file.suffix in PICKLES:
            _check_suffix(file)
    names = ", ".join(file.name for file in known[:3])
    raise InputError(
        f"{path} holds {f'several files of weights ({names})' if known else 'no checkpoint'}, but "
        "must hold one of orbax, flax.serialization, numpy.savez or safetensors; give its path."
    )


def _check_suffix(path: Path) -> None:
    """Raises if a file is a pickle, or of an unknown kind."""
    if path.suffix in PICKLES or _begins(path, b"\x80"):
        raise InputError(
            f"{path} is a pickle, which may run any code when it is read; convert it where you "
            f"trust it, such as by {conversion(path)}."
        )
    kinds = SUFFIXES.values()
    if path.suffix not in kinds and not _STEP.fullmatch(path.name):
        raise InputError(
            f"the checkpoint {path} is a file of the kind {path.suffix!r}, but must be a folder of "
            f"orbax or one of {', '.join(kinds)}; save the weights in one of these."
        )


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start and path.suffix not in (".msgpack", ".safetensors")


def _is_tree(folder: Path) -> bool:
    """Whether orbax wrote a tree of arrays into a folder."""
    names = ("_METADATA", "manifest.ocdbt", "checkpoint")
    return folder.is_dir() and any((folder / name).is_file() for name in names)


def _items(folder: Path) -> dict[str, Path]:
    """The trees of one checkpoint by name: the folder itself, or the items of a step."""
    if _is_tree(folder):
        return {"": folder}
    if _steps(folder):
        return {}
    return {item.name: item for item in sorted(folder.iterdir()) if _is_tree(item)}


def _is_step(entry: Path) -> bool:
    if entry.is_file():
        return entry.suffix == "" and entry.name.startswith("checkpoint")
    return _is_tree(entry) or any(map(_is_tree, entry.iterdir()))


def _steps(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by step, as of a CheckpointManager."""
    found = ((_STEP.fullmatch(entry.name), entry) for entry in sorted(folder.iterdir()))
    return {int(match[1]): entry for match, entry in found if match and _is_step(entry)}


def _reading(path: Path, function: Callable[[Path], Any]) -> Any:
    """The content of a file or folder; its library raises errors of any kind if it is damaged."""
    try:
        return function(path)
    except ImportError as error:
        raise InputError(
            f"{path} needs the package {error.name}; install jaxunlearn[pipeline]."
        ) from error
    except Exception as error:
        raise InputError(
            f"the checkpoint {path} is damaged or holds more than arrays ({reason(error)}); "
            "save it again."
        ) from error


def _read_orbax(folder: Path) -> Any:
    with quiet(), ocp.PyTreeCheckpointer() as reader:
        described = reader.metadata(folder).item_metadata
        if described is None:
            return reader.restore(folder)
        kinds = {"StringMetadata": str}
        arguments = jax.tree.map(
            lambda leaf: ocp.RestoreArgs(kinds.get(type(leaf).__name__, np.ndarray)),
            described.tree,
        )
        return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=arguments))


def _read_msgpack(file: Path) -> Any:
    return serialization.msgpack_restore(file.read_bytes())


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(file)


def _flat(tree: Any, key: Key = ()) -> dict[Key, np.ndarray]:
    """The arrays of nested dictionaries and lists; texts and missing values are left out."""
    if isinstance(tree, Mapping):
        children = ((str(name), child) for name, child in tree.items())
    elif isinstance(tree, list | tuple):
        children = ((str(number), child) for number, child in enumerate(tree))
    elif hasattr(tree, "dtype") and hasattr(tree, "shape"):
        return {key: np.asarray(tree)}
    else:
        return {}
    return {k: leaf for name, child in children for k, leaf in _flat(child, (*key, name)).items()}


def _lists(tree: Any, key: Key = ()) -> Iterator[Key]:
    """The paths of the lists and tuples in a tree."""
    if isinstance(tree, list | tuple):
        yield key
        tree = dict(enumerate(tree))
    for name, child in tree.items() if isinstance(tree, Mapping) else ():
        yield from _lists(child, (*key, str(name)))


def _nested(arrays: Mapping[Key, np.ndarray], lists: Iterable[Iterable[str]]) -> Any:
    """The tree of arrays by path, with None for the elements of lists that have no arrays."""
    tree: Any = unflatten_dict({("", *key): array for key, array in arrays.items()})
    for path in sorted(map(tuple, lists), key=len, reverse=True):  # the innermost first
        *above, name = ("", *path)
        node = tree
        for key in above:
            node = node.get(key, {})
        if name in node:
            child = node[name]
            node[name] = [child.get(str(number)) for number in range(1 + max(map(int, child)))]
    return tree[""]
