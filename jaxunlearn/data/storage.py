"""Where prepared sets of tfds are, and how tfds reads them, quietly.

`tfds.data_source` reads records by position and needs no TensorFlow.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.home import expanded, user_cache
from jaxunlearn.types import InputError

_BLOCK = 1024  # records read at a time


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds prepared data sets.

    Args:
        data_dir: the folder itself; None takes the environment variable TFDS_DATA_DIR, or else
            `jaxunlearn/data` in the user's cache ($XDG_CACHE_HOME, by default `~/.cache`).

    Returns:
        An absolute path; nothing is created.

    Raises:
        InputError: the home folder is unknown, and no other folder is given.
    """
    given = data_dir if data_dir is not None else os.environ.get("TFDS_DATA_DIR") or None
    if given is not None:
        return expanded(given)
    cache = user_cache()
    if cache is None:
        raise InputError(
            "the home folder is unknown, so there is no place for prepared data; give one with "
            "--data-dir (data_dir=), or set TFDS_DATA_DIR or XDG_CACHE_HOME."
        )
    return cache.absolute() / "jaxunlearn" / "data"


@contextlib.contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Silences the logs, the banners and, unless `bars`, the progress bars of tfds."""
    from absl import logging
    from tensorflow_datasets.core.utils import tqdm_utils

    before, verbosity = tqdm_utils._active, logging.get_verbosity()
    tqdm_utils.display_progress_bar(bars)
    logging.set_verbosity(logging.ERROR)
    try:
        stderr = sys.stderr if bars else io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
            yield
    finally:
        tqdm_utils.display_progress_bar(before)
        logging.set_verbosity(verbosity)


def is_prepared(builder: Any) -> bool:
    """Whether the data of a builder is there, whole."""
    with quiet():
        return bool(builder.is_prepared())


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
            f"the prepared data in {builder.data_dir} cannot be read ({sentence(error)}); if its "
            "files are damaged or not in the format array_record, prepare the data again."
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
