"""Whether what lies in a folder is what was written there: all fingerprints, computed anew.

    configuration    config.json by its digest
    data             the data set, by its fingerprint when the run began
    forget request   the examples that it chooses, and its digest
    weights          their fingerprint when training ended, and the digests of their files
    masks            which parameters might move, by their fingerprint when training ended
    checkpoints      the digests of their files
    metrics          metrics.jsonl, by its digest when training ended
    deletions        the record of requests forgotten one after another, line by line
    results          results.json and what it was written with, and that they are of these weights

Folders of older versions lack some of these: that is said, and is no fault.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxunlearn.files import check_digests, fingerprint, is_sealed, read_json
from jaxunlearn.studies.problem import load_dataset, load_splits
from jaxunlearn.studies.runs import deletions
from jaxunlearn.studies.runs.folder import read_done, read_record
from jaxunlearn.studies.runs.request_file import load_request
from jaxunlearn.training.checkpoints import Checkpointer, masks_of
from jaxunlearn.types import InputError, Weights


class Finding(NamedTuple):
    """What came of one check.

    Attributes:
        run: the folder, or the file, that was looked at.
        what: which of the checks above.
        verdict: "matches", "does not match" or "not recorded".
        reason: what is wrong, where it does not match.
    """

    run: Path
    what: str
    verdict: str
    reason: str = ""


def verify(folder: Path) -> list[Finding]:
    """Checks a run folder, or all that lies in the folder of a study.

    Args:
        folder: of a run or a study; nothing is written to it.

    Returns:
        One finding for each check of each run.

    Raises:
        InputError: the folder holds neither a run nor a study.
    """
    study = folder / "study.json"
    if study.is_file():
        places = {path.parent for name in ("config", "results") for path in _records(folder, name)}
        plans = [_sealed(study), *map(_sealed, sorted(folder.glob("*.json")))]
        checked = [found for place in sorted(places) for found in _verify_run(place)]
        return [*dict.fromkeys(plans), *checked]
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds neither a run nor a study; give the folder of one.")
    return list(_verify_run(folder))


def _records(study: Path, name: str) -> list[Path]:
    """The records of that name in a study's run folders."""
    return [*study.glob(f"seed-*/**/{name}.json"), *study.glob(f"classifier/{name}.json")]


def _sealed(path: Path) -> Finding:
    return _finding(path, path.stem, lambda: _check_record(path))


def _verify_run(run: Path) -> Iterator[Finding]:
    """The findings on one run folder; what it never had is left out."""
    done = run / "done.json"
    checks: list[tuple[str, Path, Callable[[], bool]]] = [
        ("configuration", run / "config.json", lambda: _check_configuration(run)),
        ("data", run / "fingerprints.json", lambda: _check_data(run)),
        ("forget request", run / "forget_request.json", lambda: _check_request(run)),
        ("weights", done, lambda: _check_weights(run)),
        ("masks", done, lambda: _check_masks(run)),
        ("checkpoints", run / "checkpoints", lambda: _check_checkpoints(run)),
        ("metrics", done, lambda: _check_files(run, done)),
        ("deletions", run / deletions.FILE, lambda: bool(deletions.read(run))),
        ("results", run / "results.json", lambda: _check_results(run)),
    ]
    for what, path, check in checks:
        if path.exists() and not (what == "masks" and not _has_masks(run)):
            yield _finding(run, what, check)


def _has_masks(run: Path) -> bool:
    """Whether the method of a run has masks; a damaged run may have had them."""
    try:
        recorded = "masks" in read_done(run)
        return recorded or bool(masks_of(Checkpointer(run / "checkpoints").stored()))
    except InputError:
        return False


def _finding(place: Path, what: str, check: Callable[[], bool]) -> Finding:
    """A check says whether there was anything to compare, and raises if it was not the same."""
    try:
        return Finding(place, what, "matches" if check() else "not recorded")
    except InputError as error:
        return Finding(place, what, "does not match", str(error))


def _check_record(path: Path) -> bool:
    read_json(path)
    return is_sealed(path)


def _check_configuration(run: Path) -> bool:
    read_record(run)
    return is_sealed(run / "config.json")


def _check_data(run: Path) -> bool:
    saved = read_json(run / "fingerprints.json").get("data")
    dataset = load_dataset(read_record(run).problem)
    if saved != dataset.fingerprint:
        raise InputError(
            f"{dataset.name} had the fingerprint {str(saved)[:12]} when {run} began, but now has "
            f"{dataset.fingerprint[:12]}."
        )
    return True


def _check_request(run: Path) -> bool:
    config, path = read_record(run), run / "forget_request.json"
    named = load_request(path, load_dataset(config.problem)).tolist()
    if config.request is not None:
        splits = load_splits(config.problem, config.seed, config.request, config.earlier)
        if named != splits.forget.index.tolist():
            raise InputError(f"{path} names other examples than the request chooses.")
    return is_sealed(path)


def _check_weights(run: Path) -> bool:
    tree = Checkpointer(run / "weights").stored()
    found = fingerprint(Weights(tree["params"], tree.get("model_state", {})))
    if found != read_done(run)["weights"]:
        raise InputError(
            f"{run / 'weights'} has the fingerprint {found[:12]}, but training ended with "
            f"{read_done(run)['weights'][:12]}."
        )
    return True


def _check_masks(run: Path) -> bool:
    recorded = read_done(run).get("masks")
    if recorded is None:
        return False
    found = fingerprint(masks_of(Checkpointer(run / "checkpoints").stored()))
    if found != recorded:
        raise InputError(
            f"{run / 'checkpoints'} has masks with the fingerprint {found[:12]}, but training "
            f"ended with {recorded[:12]}."
        )
    return True


def _check_checkpoints(run: Path) -> bool:
    checkpointer = Checkpointer(run / "checkpoints")
    for step in checkpointer.steps():
        checkpointer.stored(step)
    return bool(checkpointer.steps())


def _check_files(run: Path, record: Path) -> bool:
    content = read_json(record)
    check_digests(run, content)
    for name in content.get("digests", {}):
        if not (run / name).exists():
            raise InputError(f"{run / name} is missing.")
    return is_sealed(record) and "digests" in content


def _check_results(run: Path) -> bool:
    path = run / "results.json"
    compared, of = _check_files(run, path), read_json(path).get("weights")
    if of is not None and (run / "done.json").exists() and of != read_done(run)["weights"]:
        raise InputError(
            f"{path} is of weights with the fingerprint {of[:12]}, but training ended with "
            f"{read_done(run)['weights'][:12]}; evaluate the run anew."
        )
    return compared
