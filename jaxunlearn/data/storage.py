"""Where prepared data lies, and how it is prepared and read with tfds, quietly.

`tfds.data_source` reads records by position and needs no TensorFlow. Preparing writes into a folder
of another name and renames it at the end, so a data set is there whole or not at all.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.types import InputError

_BLOCK = 1024  # records read at a time


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds prepared data sets.

    Args:
        data_dir: the folder itself; None takes the environment variable TFDS_DATA_DIR, or else
            `jaxunlearn/data` in the user's cache ($XDG_CACHE_HOME, by default `~/.cache`).

    Returns:
        An absolute path; nothing is created.
    """
    if data_dir is not None:
        return Path(data_dir).expanduser().absolute()
    if os.environ.get("TFDS_DATA_DIR"):
        return Path(os.environ["TFDS_DATA_DIR"]).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "jaxunlearn" / "data"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs, banners and progress bars of tfds; exceptions say what went wrong."""
    from absl import logging
    from tensorflow_datasets.core.utils import tqdm_utils

    bars, verbosity = tqdm_utils._active, logging.get_verbosity()
    tqdm_utils.display_progress_bar(False)
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        tqdm_utils.display_progress_bar(bars)
        logging.set_verbosity(verbosity)


def open_builder(builder_class: Any, place: Path, **settings: Any) -> Any:
    """Make a tfds builder.

    Args:
        builder_class: the builder.
        place: the folder of prepared data.
        **settings: what else the builder takes.

    Returns:
        The builder; its data may or may not be prepared.

    Raises:
        InputError: the description of the prepared data is damaged.
    """
    try:
        with quiet():
            return builder_class(data_dir=place, **settings)
    except Exception as error:
        raise InputError(
            f"the description of the data in {place / builder_class.name} is damaged "
            f"({sentence(error)}); remove that folder and load again"
        ) from error


def is_prepared(builder: Any) -> bool:
    """Whether the data of a builder is there, whole."""
    with quiet():
        return bool(builder.is_prepared())


def prepare(builder_class: Any, place: Path, **settings: Any) -> Any:
    """Prepare a data set unless it is prepared already.

    Args:
        builder_class: the tfds builder.
        place: the folder of prepared data.
        **settings: what else the builder takes.

    Returns:
        A builder whose data is prepared.

    Raises:
        InputError: the folder cannot be written, or holds something else.
    """
    builder = open_builder(builder_class, place, **settings)
    if is_prepared(builder):
        return builder
    try:
        with quiet():
            builder.download_and_prepare(file_format="array_record")
    except OSError as error:
        # Another process may have finished the same data set first: then all is well.
        if not is_prepared(open_builder(builder_class, place, **settings)):
            raise InputError(
                f"cannot prepare the data set in {builder.data_dir} ({error}); choose a folder "
                "that can be written with data_dir="
            ) from error
    builder = open_builder(builder_class, place, **settings)
    if not is_prepared(builder):
        raise InputError(
            f"{builder.data_dir} exists but holds no complete data set; remove that folder, or "
            "choose another with data_dir="
        )
    return builder


def read(builder: Any, split: str, names: tuple[str, ...]) -> list[np.ndarray]:
    """Read some features of a whole split into memory.

    Args:
        builder: a tfds builder whose data is prepared.
        split: the split's name.
        names: the features to read, the image first.

    Returns:
        One array `[N, ...]` for each name, in the order the records are stored.

    Raises:
        InputError: the records cannot be read, or the images differ in shape.
    """
    columns: list[list[np.ndarray]] = [[] for _ in names]
    shapes: set[tuple[int, ...]] = set()
    try:
        with quiet():
            source = builder.as_data_source(split=split)
            for start in range(0, len(source), _BLOCK):
                positions = list(range(start, min(start + _BLOCK, len(source))))
                records = _records(source, positions)
                shapes |= {np.shape(record[names[0]]) for record in records}
                if len(shapes) > 1:
                    break
                for column, name in zip(columns, names, strict=True):
                    column.append(np.stack([record[name] for record in records]))
    except Exception as error:
        raise InputError(
            f"the prepared data in {builder.data_dir} cannot be read ({sentence(error)}); remove "
            "that folder and prepare the data again, in the format array_record"
        ) from error
    if len(shapes) > 1:
        raise InputError(
            f"images of {builder.name!r} must all have one shape, got "
            f"{' and '.join(str(shape) for shape in sorted(shapes)[:2])}; resize them first"
        )
    return [np.concatenate(column) if column else np.zeros(0) for column in columns]


def _records(source: Any, positions: list[int]) -> list[dict[str, Any]]:
    """The records at these positions; far faster in one call than one by one."""
    try:
        return list(source.__getitems__(positions))
    except TypeError:
        # The sources of tfds.testing.mock_data read one record at a time only.
        return [source[position] for position in positions]


def sentence(error: Exception) -> str:
    """The first line of an error, after its type."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
