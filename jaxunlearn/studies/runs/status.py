"""The state of every run of a study, or of one run, from the files in its folder.

done          trained, and evaluated where a study evaluates it
running       a process holds the lock of its folder
not evaluated trained; the next compare evaluates it
stopped       begun; the same command continues it
diverged      a loss or a weight became NaN or infinite
failed        an error ended it
waiting       not begun
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxunlearn.files import read_record
from jaxunlearn.studies.console import duration
from jaxunlearn.studies.runs.folder import DIVERGED, FAILED, is_finished, read_done
from jaxunlearn.studies.study import CLASSIFIER
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.types import InputError


class State(NamedTuple):
    """The state of one run: the name of its folder, a word, and the reason or the progress."""

    run: str
    state: str
    detail: str = ""


def status(folder: Path) -> list[State]:
    """The states of all runs that a study plans, in their order, or the state of one run.

    Raises:
        InputError: the folder holds neither a study nor a run.
    """
    if (folder / "study.json").is_file():
        plan = read_record(folder / "study.json")
        return [_state(folder, name) for name in _planned(plan)]
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds neither a run nor a study; give the folder of one.")
    return [_state(folder, "")]


def _planned(plan: dict[str, Any]) -> Iterator[str]:
    """The folders of the runs of a study, by its plan."""
    configuration = plan["configuration"]
    generates = configuration.get("classifier") is not None
    if generates:
        yield CLASSIFIER
    references = (
        *(("retrain",) if configuration.get("oracle", True) else ()),
        "original",
        *(() if generates else ("retrain-again",)),
    )
    for seed in plan["seeds"]:
        yield f"seed-{seed}/pretrain"
        for request in plan["requests"]:
            yield from (f"seed-{seed}/{request}/{run}" for run in (*references, *plan["methods"]))


def _state(folder: Path, name: str) -> State:
    run = folder / name
    evaluated = (run / "results.json").exists()
    alone = not name or run.name in ("pretrain", CLASSIFIER)  # a study does not evaluate these
    owner = Workspace(run).held_by()
    if owner:
        return State(name, "running", f"{_progress(run)}, by {owner}".removeprefix(", "))
    if is_finished(run) or run.name == "original":
        if evaluated or (alone and is_finished(run)):
            took = duration(read_done(run)["seconds"]) if is_finished(run) else ""
            return State(name, "done", took)
        return State(name, "not evaluated" if is_finished(run) else "waiting")
    for file, state in ((DIVERGED, "diverged"), (FAILED, "failed")):
        if (run / file).exists():
            return State(name, state, read_record(run / file)["reason"])
    return State(name, "stopped" if (run / "config.json").exists() else "waiting", _progress(run))


def _progress(run: Path) -> str:
    """The steps that a run has recorded."""
    if not (run / "metrics.jsonl").exists():
        return ""
    steps = read_record(run / "config.json")["settings"].get("num_steps")
    lines = (run / "metrics.jsonl").read_bytes().count(b"\n")
    return f"step {lines} of {steps}"
