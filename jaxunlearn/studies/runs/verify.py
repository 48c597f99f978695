"""Verification of a folder: all its fingerprints and digests, computed again.

configuration    the digest of config.json
data             the fingerprint of the data set when the run began
plug-ins         the digests of the plug-ins when the run began
forget request   the examples that it chooses, and its digest
adoption         the digests of adopted.json and of the files of the source
weights          the fingerprint of the weights when training ended, the digests of their files
masks            the fingerprint of the saliency masks when training ended
checkpoints      the digests of their files
kept steps       the same of the weights that a pretraining kept
metrics          the digest of metrics.jsonl when training ended
deletions        the record of requests forgotten one after another, line by line
results          results.json with the files and the weights that it belongs to
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jaxunlearn.files import check_digests, fingerprint, read_record
from jaxunlearn.studies.problem import load_dataset, load_splits
from jaxunlearn.studies.runs import adopt, deletions, folder
from jaxunlearn.studies.runs.folder import read_done, read_started
from jaxunlearn.studies.runs.request_file import load_request
from jaxunlearn.studies.study import CLASSIFIER
from jaxunlearn.training.checkpoints import Checkpointer, masks_of
from jaxunlearn.types import InputError, Weights


class Finding(NamedTuple):
    """The result of one check of a folder or file: "matches", or "does not match" and why."""

    run: Path
    what: str
    verdict: str
    reason: str = ""


def verify(folder: Path) -> list[Finding]:
    """Checks a run folder, or everything in the folder of a study; nothing is written."""
    study = folder / "study.json"
    if study.is_file():
        names = ("config", "results")
        places = {path.parent for name in names for path in _records(folder, name)}
        plans = dict.fromkeys([study, *sorted(folder.glob("*.json"))])
        findings = [_finding(path, path.stem, partial(read_record, path)) for path in plans]
        return [*findings, *(found for place in sorted(places) for found in _verify_run(place))]
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds neither a run nor a study; give the folder of one.")
    return list(_verify_run(folder))


def _records(study: Path, name: str) -> list[Path]:
    """The records of that name in a study's run folders."""
    return [*study.glob(f"seed-*/**/{name}.json"), *study.glob(f"{CLASSIFIER}/{name}.json")]


def _verify_run(run: Path) -> Iterator[Finding]:
    """The findings on one run folder; files that it never had are left out."""
    done = run / "done.json"
    checks: list[tuple[str, Path, Callable[[], object]]] = [
        ("configuration", run / "config.json", lambda: read_started(run)),
        ("data", run / "fingerprints.json", lambda: _check_data(run)),
        ("plug-ins", run / "fingerprints.json", lambda: folder.check_versions(run)),
        ("forget request", run / "forget_request.json", lambda: _check_request(run)),
        ("adoption", run / adopt.FILE, lambda: _check_adoption(run)),
        ("weights", done, lambda: _check_weights(run)),
        ("masks", done, lambda: _check_masks(run)),
        ("checkpoints", run / "checkpoints", lambda: _check_checkpoints(run / "checkpoints")),
        ("kept steps", run / "kept", lambda: _check_checkpoints(*(run / "kept").iterdir())),
        ("metrics", done, lambda: _check_files(run, done)),
        ("deletions", run / deletions.FILE, lambda: deletions.read(run)),
        ("results", run / "results.json", lambda: _check_results(run)),
    ]
    for what, path, check in checks:
        is_absent = {"masks": _has_no_masks, "plug-ins": _has_no_plugins}.get(what)
        if path.exists() and not (is_absent and is_absent(run)):
            yield _finding(run, what, check)


def _has_no_masks(run: Path) -> bool:
    """Whether the method of a run has no masks; a damaged run may have had them."""
    try:
        recorded = "masks" in read_done(run)
        return not (recorded or masks_of(Checkpointer(run / "checkpoints").stored()))
    except InputError:
        return True


def _has_no_plugins(run: Path) -> bool:
    """Whether a run needs no plug-ins; a damaged run may have needed them."""
    try:
        return not folder.read_plugins(run)
    except InputError:
        return True


def _finding(place: Path, what: str, check: Callable[[], object]) -> Finding:
    try:
        check()
    except InputError as error:
        return Finding(place, what, "does not match", str(error))
    return Finding(place, what, "matches")


def _check_adoption(run: Path) -> None:
    check_digests(run, read_record(run / adopt.FILE))


def _check_data(run: Path) -> None:
    folder.check_data(run, load_dataset(read_started(run).problem))


def _check_request(run: Path) -> None:
    config, path = read_started(run), run / "forget_request.json"
    named = load_request(path, load_dataset(config.problem)).tolist()
    if config.request is not None:
        splits = load_splits(config.problem, config.seed, config.request, config.earlier)
        if named != splits.forget.index.tolist():
            raise InputError(f"{path} names other examples than the request chooses; restore it.")


def _check_weights(run: Path) -> None:
    tree = Checkpointer(run / "weights").stored()
    _check_trained(
        run / "weights", fingerprint(Weights(tree["params"], tree.get("model_state", {}))), run
    )


def _check_trained(place: Path, found: str | None, run: Path, key: str = "weights") -> None:
    """Raises unless a fingerprint is the one recorded at the end of training."""
    wanted = read_done(run).get(key)
    if found != wanted:
        raise InputError(
            f"{place} has {key} with the fingerprint {str(found)[:12]}, but training ended with "
            f"{str(wanted)[:12]}; restore it."
        )


def _check_masks(run: Path) -> None:
    masks = masks_of(Checkpointer(run / "checkpoints").stored())
    _check_trained(run / "checkpoints", fingerprint(masks), run, "masks")


def _check_checkpoints(*folders: Path) -> None:
    for checkpointer in map(Checkpointer, sorted(folders)):
        for step in checkpointer.steps():
            checkpointer.stored(step)


def _check_files(run: Path, record: Path) -> None:
    content = read_record(record)
    check_digests(run, content)
    for name in content.get("digests", {}):
        if not (run / name).exists():
            raise InputError(f"{run / name} is missing; restore it.")


def _check_results(run: Path) -> None:
    path = run / "results.json"
    _check_files(run, path)
    if (run / "done.json").exists():
        _check_trained(path, read_record(path).get("weights"), run)
