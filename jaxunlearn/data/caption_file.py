"""Images with captions: each distinct caption is a class.

    images/0001.png
    images/0002.png
    images/metadata.jsonl     {"file_name": "0001.png", "text": "a photo of a church"} ...

A file of captions is a CSV file or a file of JSON lines, one image each. The path of an image is in
the first of the columns `file_name`, `file`, `image` and `name`; its caption is in the first of
`text`, `caption` and `prompt`. Paths begin at the file if it is inside the folder of the images,
and otherwise at that folder. Captions are numbered in their sorted order.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxunlearn.home import expanded
from jaxunlearn.names import closest, first_of
from jaxunlearn.types import InputError

_FILES = ("file_name", "file", "image", "name")
_REST = "\0"  # values beyond the last column
_TEXTS = ("text", "caption", "prompt")


def read_captions(path: Path, folder: Path) -> dict[str, str]:
    r"""The caption of each image, by its path below the folder of the images.

    Raises:
        InputError: a file that cannot be read, has no such columns, no rows, an image twice, or a
            path outside the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "captions.csv"
        ...     _ = file.write_text("file_name,text\na.png,a red coat\nb.png,a bag\n")
        ...     read_captions(file, Path(folder))
        {'a.png': 'a red coat', 'b.png': 'a bag'}
    """
    path, folder = expanded(path), expanded(folder)
    below = path.parent.relative_to(folder) if path.is_relative_to(folder) else PurePosixPath()
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path} holds no captions, but must hold one for each image.")
    captions: dict[str, str] = {}
    repeated = Counter[str]()
    for number, row in enumerate(rows, start=1):
        file, text = (_entry(row, names, path, number) for names in (_FILES, _TEXTS))
        given = PurePosixPath(file)
        if given.is_absolute() or ".." in given.parts:
            raise InputError(
                f"entry {number} of {path} names the image {file!r}, but must name a path below "
                "the folder of the images."
            )
        name = (below / given).as_posix()
        if name in captions:
            repeated[name] += 1
        captions[name] = " ".join(text.split())
    if repeated:
        raise InputError(
            f"{path} names {len(repeated)} images more than once ({first_of(repeated)}), but must "
            "give each image one caption."
        )
    return captions


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the captions {path} cannot be read ({error}); give a CSV file or JSON lines, in "
            "UTF-8."
        ) from error
    if text.lstrip()[:1] != "{":
        reader = csv.DictReader(io.StringIO(text, newline=""), restkey=_REST)
        for number, row in enumerate(reader, start=1):
            if _REST in row:
                raise InputError(
                    f"entry {number} of {path} has more values than there are columns, but must "
                    "have as many; put captions with commas into quotes."
                )
            yield row
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"line {number} of {path} is not JSON ({error}); give one object a line."
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"line {number} of {path} is {line[:40]!r}, but must be an object.")
        yield row


def _entry(row: Mapping[str, Any], names: tuple[str, ...], path: Path, number: int) -> str:
    """The value in the first of these columns that a row has."""
    name = next((name for name in names if name in row), None)
    if name is None:
        columns = [str(column) for column in row]
        raise InputError(
            f"{path} has the columns {', '.join(columns)}, but needs one of {', '.join(names)}"
            f"{closest(names[0], columns)}; rename one."
        )
    if not isinstance(row[name], str) or not row[name].strip():
        raise InputError(
            f"entry {number} of {path} has the {name} {row[name]!r}, but must have a text."
        )
    value: str = row[name]
    return value.strip()
