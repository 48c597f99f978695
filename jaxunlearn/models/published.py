"""Files of other libraries: read, or refused with an error that gives the fault and the remedy."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxunlearn.names import reason
from jaxunlearn.types import InputError

PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")  # usual suffixes of PyTorch's pickles
_BEGINNINGS = {  # of files whose content does not match their name
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; run `git lfs pull`.",
    b"<!DOCTYPE": "is a web page, not the file itself; download the file.",
    b"<html": "is a web page, not the file itself; download the file.",
}
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns the errors of reading a file within into `InputError`s of one sentence."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist; check the path.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} {_fault(path, error)}") from error


def read_text(path: Path) -> str:
    """Reads a text in UTF-8, with or without a byte order mark."""
    with readable(path):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object."""
    text = read_text(path)
    with readable(path):
        value = json.loads(text)
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object; download it again.")
    return value


def is_pipeline(path: Path) -> bool:
    """Whether a folder is a pipeline of diffusers, with a folder for each part."""
    return (path / "model_index.json").is_file() or (path / "text_encoder").is_dir()


def conversion(path: Path) -> str:
    """The code that converts a pickle of PyTorch to a safetensors file.

    Example:
        >>> print(conversion(Path("net.pth")))
        `safetensors.torch.save_file(torch.load("net.pth", map_location="cpu"), "net.safetensors")`
    """
    load = f'torch.load("{path.name}", map_location="cpu")'
    load += '["state_dict"]' * (path.suffix == ".ckpt")
    return f'`safetensors.torch.save_file({load}, "{path.stem}.safetensors")`'


def _fault(path: Path, error: Exception) -> str:
    beginning = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        beginning = file.read(64)
    for known, fault in _BEGINNINGS.items():
        if beginning.startswith(known):
            return fault
    if path.suffix in PICKLES or beginning.startswith(_PICKLED):
        return (
            "is a pickle of PyTorch, but must be a safetensors file; convert it by "
            f"{conversion(path)}."
        )
    return f"is damaged or unreadable ({reason(error)}); download it again."
