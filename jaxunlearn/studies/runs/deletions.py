"""The record of deletions: every request that the weights of a model have honoured, in order.

`deletions.jsonl` in a run folder of `unlearn` has one line for each request, the oldest first: the
lines of the run that it started from, and a new one. A line holds the request, the number and the
fingerprint of its examples, the method, the fingerprints of the weights before and after, and the
time; also the hash of the line before, and its own. So an altered, missing or added line is found.
A hash is no signature: the end of the record can be rewritten, unless the newest hash is kept
elsewhere.
"""

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxunlearn.data import ForgetRequest
from jaxunlearn.files import SEAL, fingerprint, sealed, write_text
from jaxunlearn.studies.problem import load_dataset, load_splits
from jaxunlearn.studies.runs.folder import RunConfig, check_data, read_config, read_done
from jaxunlearn.types import InputError

FILE = "deletions.jsonl"


def read_start(run: Path) -> tuple[RunConfig, tuple[ForgetRequest, ...]]:
    """The configuration of a run that unlearning may start from, and its forgotten requests."""
    config = read_config(run, "pretrain", "unlearn")
    check_data(run, load_dataset(config.problem))
    read(run)
    return config, requests(config)


def requests(config: RunConfig) -> tuple[ForgetRequest, ...]:
    """All requests that the weights of a run have honoured, the oldest first."""
    if config.request is None:
        return ()
    return (*(config.earlier or ()), config.request)


def write(run: Path, earlier: list[dict[str, Any]], config: RunConfig, result: str) -> None:
    """Writes the record of a finished run: the lines of the run it started from, and its own."""
    entry = _expected(config, result) | {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "previous": earlier[-1][SEAL] if earlier else None,
    }
    lines = [*earlier, sealed(entry)]
    write_text(run / FILE, "".join(json.dumps(line) + "\n" for line in lines))


def read(run: Path) -> list[dict[str, Any]]:
    """The record of a finished run, with every line checked; empty for the original model."""
    config = read_config(run, "pretrain", "unlearn")
    if config.request is None:
        return []
    path, entries = run / FILE, []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}), but is the only record of the requests that these "
            "weights have honoured; restore it, or unlearn again in another folder."
        ) from error
    before = None
    for number, line in enumerate(lines, start=1):
        entry = _parsed(line)
        content = {key: value for key, value in entry.items() if key != SEAL}
        if entry.get("previous") != before or entry != sealed(content):
            raise _altered(path, f"line {number} does not follow from the line before")
        before = entry[SEAL]
        entries.append(entry)
    asked = [each.name for each in requests(config)]
    if [entry.get("request") for entry in entries] != asked:
        raise _altered(path, f"it does not name the requests {', '.join(asked)} in this order")
    for one, following in itertools.pairwise(entries):
        if one.get("result") != following.get("start"):
            raise _altered(
                path, f"{following.get('request')} did not start from the weights before"
            )
    for key, value in _expected(config, read_done(run)["weights"]).items():
        if entries[-1].get(key) != value:
            raise _altered(path, f"its last line has another {key} than the run")
    return entries


def _expected(config: RunConfig, result: str) -> dict[str, Any]:
    """The entries of a line that follow from the run."""
    request = config.request
    assert request is not None
    chosen = load_splits(config.problem, config.seed, request, config.earlier).forget.index
    return {
        "request": request.name,
        "examples": len(chosen),
        "examples_fingerprint": fingerprint(chosen),
        "method": config.method,
        "start": config.start,
        "result": result,
    }


def _parsed(line: str) -> dict[str, Any]:
    """A line as an entry; an empty entry, without a hash, if it is malformed."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _altered(path: Path, how: str) -> InputError:
    return InputError(f"{path} was altered: {how}; restore it, or unlearn again in another folder.")
