"""Checkpoints by orbax: trees of arrays, restored into the structure they must have.

Each checkpoint holds a tree, a small JSON record with the fingerprint of the tree, and the digests
of its own files. The digests are checked before orbax reads them, the fingerprint after. A damaged
checkpoint is reported and skipped; the newest intact one is used.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxunlearn.files import (
    file_digest,
    fingerprint,
    path_name,
    quiet,
    read_json,
    unwritable,
    write_json,
)
from jaxunlearn.names import reason
from jaxunlearn.types import InputError

_CONTENTS = "contents.json"
_PATTERN, _BUCKET = re.compile(r"\\|\[[^\]]+\]"), "gs:"


def masks_of(tree: Any) -> dict[str, Any]:
    """The saliency masks in the state of a method, by their paths; empty where there are none."""
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return {name: leaf for name, leaf in leaves.items() if "mask" in name.split("/")}


def check_place(folder: Path) -> None:
    """Raises an InputError if orbax would read the path of a folder as a pattern or a bucket."""
    place = folder.absolute()
    found = _PATTERN.search(str(place)) or (
        _BUCKET in place.parts and re.search(_BUCKET, str(place))
    )
    if found:
        raise InputError(
            f"{place} contains {found[0]!r}, but the path of checkpoints must not contain [...], a "
            f"backslash or a part {_BUCKET!r}; choose another name."
        )


class _Damage(Exception):
    """A checkpoint differs from what was written; the message names the difference."""


class Checkpointer:
    """The checkpoints of one tree in one folder; the newest two are kept.

    Args:
        folder: a folder that `check_place` accepts.
        say: function that prints a line about each damaged checkpoint that is skipped.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = warnings.warn) -> None:
        check_place(folder)
        self.folder = folder.absolute()
        self.say = say

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, intact or not, in order."""
        if not self.folder.exists():
            return []
        with self._manager(read_only=True) as manager:
            return sorted(manager.all_steps())

    def newest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, tree: Any, record: dict[str, Any]) -> str:
        """Writes a tree and its JSON record atomically; returns the fingerprint of the tree.

        Checkpoints of the same step or later, which `restore` found damaged, are deleted.
        """
        record = record | {"fingerprint": fingerprint(tree)}
        items = ocp.args.Composite(
            tree=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record)
        )
        try:
            with self._manager() as manager:
                for other in manager.all_steps():
                    if other >= step:
                        manager.delete(other)
                manager.save(step, args=items)
            place = self.folder / str(step)
            write_json(place / _CONTENTS, _digests(place))
        except OSError as error:
            raise unwritable(self.folder, error) from error
        except ValueError as error:  # the storage layer of orbax has its own error
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if code is None:
                raise
            reason = OSError(int(code[1]), os.strerror(int(code[1])))
            raise unwritable(self.folder, reason) from error
        return record["fingerprint"]

    def restore(
        self, target: Any, complaint: Callable[[dict[str, Any]], str | None] = lambda record: None
    ) -> tuple[Any, dict[str, Any]]:
        """The newest intact tree, in the structure and shardings of `target`, and its record.

        `complaint(record)` is the fault of other files of a checkpoint, or None.

        Raises:
            InputError: no checkpoint, no intact one, or one of another model.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            try:
                tree, record = self._read(step, target)
                reason = complaint(record)
                if reason is not None:
                    raise _Damage(reason)
            except _Damage as damage:
                reason = " ".join(str(damage).split())[:200]
                damaged.append(
                    f"the checkpoint of step {step} in {self.folder} is damaged ({reason})"
                )
                continue
            for each in damaged:
                self.say(f"{each}; the run continues from step {step}.")
            return tree, record
        if not damaged:
            raise InputError(
                f"{self.folder} holds no complete checkpoint; run the stage that writes it first."
            )
        if len(damaged) == 1:
            raise InputError(
                f"{damaged[0]}; delete the folder {self.folder / str(self.newest_step())} and run "
                "the command that wrote it again, which continues from the previous one."
            )
        raise InputError(
            f"{damaged[0]}, and so are all others; delete the folder {self.folder} and run the "
            "command that wrote it again, which starts from the beginning."
        )

    def stored(self, step: int | None = None) -> Any:
        """The arrays of a checkpoint (default: the newest) of any model, as nested containers.

        Raises:
            InputError: no checkpoint, or a damaged one.
        """
        step = self.newest_step() if step is None else step
        if step is None:
            raise InputError(
                f"{self.folder} holds no complete checkpoint; run the stage that writes it first."
            )
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        try:
            self._check_files(step)
            with self._manager(read_only=True) as manager:
                target = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                    manager.item_metadata(step)["tree"],
                )
                items = ocp.args.Composite(tree=ocp.args.StandardRestore(target))
                return manager.restore(step, args=items)["tree"]
        except Exception as error:  # orbax and its storage layer raise any kind
            raise InputError(
                f"the checkpoint of step {step} in {self.folder} is damaged ({reason(error)})."
            ) from error

    def _read(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
        """The tree of one checkpoint and its record, fully checked."""
        self._check_files(step)
        with self._manager(read_only=True) as manager:
            self._check_kinds(manager, step, target)
            items = ocp.args.Composite(
                tree=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore()
            )
            try:
                restored = manager.restore(step, args=items)
                tree, record = restored["tree"], restored["record"]
                sound = record["fingerprint"] == fingerprint(tree)
            except Exception as error:  # orbax and its storage layer raise any kind
                raise _Damage(str(error)) from error
        if not sound:
            raise _Damage("its arrays do not match their fingerprint")
        return tree, record

    @contextmanager
    def _manager(self, read_only: bool = False) -> Iterator[ocp.CheckpointManager]:
        """Orbax's manager of the folder, without warnings that repeat an `InputError`."""
        handlers = {"tree": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
        with quiet():
            options = ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else 2,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                enable_async_checkpointing=False,
            )
            place = epath.Path(self.folder)
            with ocp.CheckpointManager(place, options=options, item_handlers=handlers) as manager:
                yield manager

    def _check_files(self, step: int) -> None:
        """Compares the files with their digests, unless a kill prevented their writing."""
        place = self.folder / str(step)
        if not (place / _CONTENTS).exists():
            return
        try:
            wanted, found = read_json(place / _CONTENTS), _digests(place)
        except (InputError, OSError) as error:
            raise _Damage(str(error)) from error
        for name, digest in wanted.items():
            if name not in found:
                raise _Damage(f"its file {name} is missing")
            if found[name] != digest:
                raise _Damage(f"its file {name} was cut short or altered")

    def _check_kinds(self, manager: ocp.CheckpointManager, step: int, target: Any) -> None:
        """Compares the metadata of the checkpoint with the target, leaf by leaf."""
        try:
            found = _kinds(manager.item_metadata(step)["tree"])
        except Exception as error:
            raise _Damage(str(error)) from error
        if not found:
            raise _Damage("its metadata is missing")
        wanted = _kinds(target)
        for path in sorted(found.keys() | wanted.keys()):
            if found.get(path) != wanted.get(path):
                raise InputError(
                    f"the checkpoint in {self.folder} is of another model or method: {path} is "
                    f"{found.get(path, 'absent')} there, but must be {wanted.get(path, 'absent')}; "
                    "use the configuration that it was written with."
                )


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by its relative path."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _CONTENTS:
            digests[path.relative_to(folder).as_posix()] = file_digest(path)
    return digests


def _kinds(tree: Any) -> dict[str, str]:
    """The type and shape of each array as text, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        path_name(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }
