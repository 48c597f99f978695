"""Checkpoints by orbax: trees of arrays, restored into the structure they must have.

Each checkpoint holds a tree, a small JSON record with the fingerprint of the tree, and the digests
of its own files. The digests are checked before orbax reads it, the fingerprint after.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from jaxunlearn.files import read_json, unwritable, write_json
from jaxunlearn.types import InputError

_CONTENTS = "contents.json"


def fingerprint(tree: Any) -> str:
    """The SHA-256 of all arrays of a tree: paths, shapes, dtypes and bytes.

    Args:
        tree: a tree of arrays.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> fingerprint({"w": np.zeros(2)}) == fingerprint({"w": np.zeros(2)})
        True
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{_name(path)} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class Checkpointer:
    """The checkpoints of one tree in one folder; the newest two are kept.

    Args:
        folder: where they are, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def newest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        if not self.folder.exists():
            return None
        with self._manager(read_only=True) as manager:
            return manager.latest_step()

    def save(self, step: int, tree: Any, record: dict[str, Any]) -> None:
        """Writes a tree and its record; either all of it is there afterwards, or nothing.

        A checkpoint of the same step is replaced.

        Args:
            step: of the tree; not below that of an earlier checkpoint.
            tree: a tree of arrays.
            record: what goes with it, as JSON has it; "fingerprint" is added.

        Raises:
            InputError: the folder cannot be written to.
        """
        record = record | {"fingerprint": fingerprint(tree)}
        items = ocp.args.Composite(
            tree=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record)
        )
        try:
            with self._manager() as manager:
                if step in manager.all_steps():
                    manager.delete(step)
                manager.save(step, args=items)
            place = self.folder / str(step)
            write_json(place / _CONTENTS, _digests(place))
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def restore(self, target: Any) -> tuple[Any, dict[str, Any]]:
        """The newest tree, in the structure, shapes, dtypes and shardings of `target`.

        Args:
            target: a tree of arrays or of `jax.ShapeDtypeStruct`.

        Returns:
            The tree, and the record saved with it.

        Raises:
            InputError: no checkpoint, a damaged one, or one of another model.
        """
        step = self.newest_step()
        if step is None:
            raise InputError(
                f"{self.folder} holds no complete checkpoint; run the stage that writes it first."
            )
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
            except Exception as error:  # orbax and the storage below it raise all kinds
                raise self._damaged(step, str(error)) from error
        if not sound:
            raise self._damaged(step, "its arrays do not match their fingerprint")
        return tree, record

    @contextmanager
    def _manager(self, read_only: bool = False) -> Iterator[ocp.CheckpointManager]:
        """Orbax's manager of the folder; it warns of nothing that `InputError` does not say."""
        handlers = {"tree": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else 2,
                create=not read_only,
                read_only=read_only,
                enable_async_checkpointing=False,
            )
            with ocp.CheckpointManager(
                epath.Path(self.folder), options=options, item_handlers=handlers
            ) as manager:
                yield manager
        finally:
            logging.set_verbosity(verbosity)

    def _check_files(self, step: int) -> None:
        """Compares the files with the digests that were taken of them, if the run got that far."""
        place = self.folder / str(step)
        if not (place / _CONTENTS).exists():
            return
        wanted, found = read_json(place / _CONTENTS), _digests(place)
        for name, digest in wanted.items():
            if name not in found:
                raise self._damaged(step, f"its file {name} is missing")
            if found[name] != digest:
                raise self._damaged(step, f"its file {name} was cut short or altered")

    def _check_kinds(self, manager: ocp.CheckpointManager, step: int, target: Any) -> None:
        """Compares what the checkpoint says it holds with the target, leaf by leaf."""
        try:
            found = _kinds(manager.item_metadata(step)["tree"])
        except Exception as error:
            raise self._damaged(step, str(error)) from error
        if not found:
            raise self._damaged(step, "its metadata is missing")
        wanted = _kinds(target)
        for path in sorted(found.keys() | wanted.keys()):
            if found.get(path) != wanted.get(path):
                raise InputError(
                    f"the checkpoint in {self.folder} is of another model or method: {path} is "
                    f"{found.get(path, 'absent')} there, but {wanted.get(path, 'absent')} here; "
                    "use the configuration it was written with."
                )

    def _damaged(self, step: int, why: str) -> InputError:
        reason = " ".join(why.split())[:200]
        return InputError(
            f"the checkpoint of step {step} in {self.folder} is damaged ({reason}); delete the "
            f"folder {self.folder / str(step)} and run the command that wrote it again: it goes on "
            "from what is left."
        )


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by its path in there."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _CONTENTS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _kinds(tree: Any) -> dict[str, str]:
    """The type and shape of each array, in words, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        _name(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }
