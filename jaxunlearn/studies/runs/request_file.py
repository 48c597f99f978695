"""A forget request on disk: which examples were forgotten, and of exactly which data.

The file is JSON. Beside the request it holds the positions themselves and the fingerprint of the
data set, so that a run is continued and judged on the same examples of the same data or not at all.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.forget import ForgetRequest
from jaxunlearn.data.splits import Splits
from jaxunlearn.files import sealed, unsealed, write_text
from jaxunlearn.types import InputError

FORMAT = 1


def save_request(
    path: str | os.PathLike[str], request: ForgetRequest, dataset: Dataset, splits: Splits
) -> None:
    """Write a request with the positions it chose and the fingerprint of its data set.

    The file appears whole or not at all.

    Args:
        path: the file to write; its folder is made.
        request: what was asked for.
        dataset: the data set.
        splits: what `split` made of both.

    Raises:
        InputError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "name": request.name,
        "request": asdict(request),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "counts": {name: len(examples) for name, examples in splits._asdict().items()},
        "forget": splits.forget.index.tolist(),
        "validation": splits.validation.index.tolist(),
    }
    write_text(Path(path), json.dumps(sealed(content)) + "\n")


def load_request(path: str | os.PathLike[str], dataset: Dataset) -> np.ndarray:
    """Read the positions of a saved request.

    Args:
        path: a file that `save_request` wrote.
        dataset: the data set; it must be the one the request was saved for, to the last pixel.

    Returns:
        int64 `[F]`, sorted positions in `dataset.train`.

    Raises:
        InputError: the file is missing, malformed or altered, or belongs to other data.
    """
    what = f"saved forget request {os.fspath(path)!r}"
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{what} cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is malformed ({error}); write it anew by a new run") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{what} is malformed (no format {FORMAT}); write it anew by a new run")
    content = unsealed(Path(path), content)
    if content.get("fingerprint") != dataset.fingerprint:
        raise InputError(
            f"{what} belongs to other data: data set {content.get('dataset')!r} with fingerprint "
            f"{str(content.get('fingerprint'))[:12]}, but {dataset.name!r} has "
            f"{dataset.fingerprint[:12]}; load the data it was saved for"
        )
    indices = content.get("forget")
    whole = isinstance(indices, list) and all(type(index) is int for index in indices)
    if not whole or not indices or len(set(indices)) != len(indices):
        raise InputError(f"{what} is malformed (no list of positions); write it anew by a new run")
    if min(indices) < 0 or max(indices) >= len(dataset.train):
        raise InputError(
            f"{what} is malformed (positions outside 0 to {len(dataset.train) - 1}); write it anew "
            "by a new run"
        )
    return np.sort(np.array(indices, np.int64))
