"""A forget request on disk: the positions of its examples, and the fingerprint of their data.

A run is continued and evaluated on the same examples of the same data, or not at all.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.forget import ForgetRequest
from jaxunlearn.data.splits import Splits
from jaxunlearn.files import read_record, sealed, write_text
from jaxunlearn.types import InputError

FORMAT = 1


def save_request(
    path: str | os.PathLike[str], request: ForgetRequest, dataset: Dataset, splits: Splits
) -> None:
    """Writes a request with the positions it chose and the fingerprint of its data set."""
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
    """Reads the positions of a saved request in `dataset.train`, sorted, int64 `[F]`."""
    path = Path(path)
    content = read_record(path)
    remedy = "; restore it, or begin a new run."
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {content.get('format')!r}, but must have {FORMAT}{remedy}"
        )
    if content.get("fingerprint") != dataset.fingerprint:
        raise InputError(
            f"{path} belongs to other data: data set {content.get('dataset')!r} with fingerprint "
            f"{str(content.get('fingerprint'))[:12]}, but {dataset.name!r} has "
            f"{dataset.fingerprint[:12]}; load the data it was saved for."
        )
    indices, size = content.get("forget"), len(dataset.train)
    whole = isinstance(indices, list) and all(type(index) is int for index in indices)
    if not whole or not indices or len(set(indices)) != len(indices):
        raise InputError(f"{path} holds no list of distinct positions{remedy}")
    if min(indices) < 0 or max(indices) >= size:
        raise InputError(f"{path} holds positions outside 0 to {size - 1}{remedy}")
    return np.sort(np.array(indices, np.int64))
