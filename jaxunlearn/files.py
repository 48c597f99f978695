"""Files that exist in full or not at all, and errors that name a damaged file.

The package writes all files with `replacing`. Records are JSON objects that hold the digest of
their own content and the digests of the files that belong to them. An altered record is refused.
"""

import contextlib
import hashlib
import json
import os
import reprlib
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from jaxunlearn.types import InputError

SEAL = "sha256_of_the_rest"
DAMAGE = (  # raised when arrays are read from a file cut short, altered, or of another kind
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OSError,
    RuntimeError,
    OverflowError,
    MemoryError,
    SyntaxError,
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the logs of orbax and tfds, whose errors become an `InputError`."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields an empty file that replaces `path`, whose folder is made, when the block ends.

    The file has a name that no other process on any host uses, and is on the disk before it
    replaces the old one. A kill or a power loss leaves the old file or the new one; an error leaves
    the old one.

    Raises:
        InputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "new" / "file.txt"
        ...     with replacing(path) as file:
        ...         _ = file.write_text("text")
        ...     path.read_text()
        'text'
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        with contextlib.suppress(OSError):  # not every file system syncs folders
            sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sync(path: Path) -> None:
    """Waits until a file, or the list of a folder's files, is on the disk."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, on the first of several hosts.

    Raises:
        InputError: the file cannot be written.
    """
    if is_first():
        with replacing(path) as file:
            file.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, like `write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a JSON object with its own digest, like `write_text`."""
    write_json(path, sealed(record))


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the digest of its content."""
    plain = json.loads(json.dumps(record))
    text = json.dumps(plain, sort_keys=True).encode()
    return record | {SEAL: hashlib.sha256(text).hexdigest()}


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digests(folder: Path, record: dict[str, Any]) -> None:
    """Raises an InputError if a file in `folder` does not match its digest in record["digests"].

    Missing files are ignored.
    """
    for name, digest in record.get("digests", {}).items():
        path = folder / name
        if path.exists() and file_digest(path) != digest:
            raise InputError(
                f"{path} was cut short or altered after it was written; restore it, or delete "
                f"{folder} and run again."
            )


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as a compressed `.npz` file, like `write_text`."""
    if is_first():
        with replacing(path) as place, place.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Reads arrays of an `.npz` file by name; all of them if none is named.

    Raises:
        InputError: the file is missing or damaged, or has no array of one of the names.
    """
    try:
        with path.open("rb") as place, np.load(place, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run the stage that writes it first.") from error
    except DAMAGE as error:
        lacking = f" or has no {' and '.join(names)}" if names else ""
        raise InputError(
            f"{path} is damaged{lacking} ({error}); restore it, or delete it and run again."
        ) from error


def read_record(path: Path) -> dict[str, Any]:
    """Reads a file that `write_record` wrote; without its digest it counts as altered."""
    return read_json(path, sealed_only=True)


def read_json(path: Path, sealed_only: bool = False) -> dict[str, Any]:
    """Reads a JSON object, without its digest; `sealed_only` refuses one that has none.

    Raises:
        InputError: the file is missing, does not hold a JSON object, or was altered.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist; run the stage that writes it first.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not readable JSON ({error}); restore it, or delete it and run again."
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"{path} holds {reprlib.repr(value)}, but must hold a JSON object; restore it, or "
            "delete it and run again."
        )
    content = {key: each for key, each in value.items() if key != SEAL}
    if (sealed_only or SEAL in value) and value != sealed(content):
        raise InputError(
            f"{path} was altered after it was written (its content does not match its digest); "
            "restore it, or delete it and run again."
        )
    return content


def unwritable(path: Path, error: OSError) -> InputError:
    """The error for a file or folder that cannot be written."""
    return InputError(
        f"{path} cannot be written ({error.strerror or error}); choose a folder with space that "
        "you may write to."
    )


def is_first() -> bool:
    """Whether this process is the one that writes: the first of several, or the only one."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def whole(array: jax.Array) -> np.ndarray:
    """An array in full, even if it is split over hosts; every host must call this."""
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def path_name(path: tuple[Any, ...]) -> str:
    """The path of a leaf in a tree, such as "params/dense/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def fingerprint(tree: Any) -> str:
    """The SHA-256 of all arrays of a tree: paths, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = whole(leaf)
        digest.update(f"{path_name(path)} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
