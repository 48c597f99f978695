"""The beginning of a command: the machine, a folder that is overwritten, or a dry run."""

import secrets
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from jaxunlearn.cli.output import trained
from jaxunlearn.studies.console import duration, outcome, say, show
from jaxunlearn.studies.problem import find_data_in
from jaxunlearn.studies.runs import rewind, train
from jaxunlearn.studies.runs.estimate import estimate
from jaxunlearn.studies.runs.folder import is_finished
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training import hosts
from jaxunlearn.training.devices import Placement, placement_of
from jaxunlearn.training.layout import Layout
from jaxunlearn.training.rehearsal import Rehearsal
from jaxunlearn.types import InputError


@dataclass(frozen=True)
class Begin:
    """The beginning of a command.

    Attributes:
        overwrite: whether a folder that holds a run or study already is deleted first, after all
            checks.
        dry_run: whether the runs are only checked and listed, with their time and memory by a few
            steps of each; nothing is written.
    """

    overwrite: bool = False
    dry_run: bool = False


def ready(data_dir: str | None, layout: dict[str, Any] | None = None) -> Layout:
    """Finds the other hosts, if any, the devices and the data, before any computation."""
    laid = Layout(**(layout or {}))
    if laid.distributed:
        hosts.join()
    hosts.check_devices()
    find_data_in(data_dir)
    return laid


def train_one(
    kind: str,
    run: Path,
    config: RunConfig,
    layout: Layout,
    begin: Begin,
    pretrained: Path | None = None,
    keep: Collection[float] = (),
) -> None:
    """Trains one run, or estimates it, and prints the outcome."""
    placement = placement_of(layout)

    def check(place: Path) -> None:
        train.check_run(place, config, placement)
        rewind.missing(place, config, keep)

    start_over(Workspace(run), begin, check, pretrained)
    if begin.dry_run:
        check(_free(run) if begin.overwrite else run)
        waiting = {run: config} if begin.overwrite or not is_finished(run) else {}
        dry_run(waiting, placement, lambda run: pretrained)
        return
    before = is_finished(run)
    train.train_run(run, config, placement, pretrained, keep)
    trained(kind, run, before)


def start_over(
    workspace: Workspace, begin: Begin, check: Callable[[Path], object], *needed: Path | None
) -> None:
    """Deletes the folder of a command that overwrites, if `check` accepts a free folder.

    Raises:
        InputError: the folder holds anything else, a process works in it, or it has one of the
            `needed` files and folders.
    """
    folder = workspace.folder
    if not begin.overwrite or not workspace.is_claimed():
        return
    for each in needed:
        if each is not None and each.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{folder} has {each}, which the command needs, so it cannot be overwritten; name "
                "another folder."
            )
    check(_free(folder))
    if begin.dry_run:
        return
    with workspace.locked():
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        folder.rename(old)
    shutil.rmtree(old)


def dry_run(
    runs: Mapping[Path, RunConfig],
    placement: Placement,
    pretrained_of: Callable[[Path], Path | None],
) -> None:
    """Prints the runs of a command with their time and memory, and the total.

    Runs of one program, which differ in seeds and numbers, are estimated once.
    """
    known: dict[str, Rehearsal | None] = {}
    table, rows, total = Table("run", "method", "steps", "time", "memory"), [], 0.0
    for run, config in runs.items():
        whole = {k: v for k, v in config.settings.items() if not isinstance(v, float)}
        request = config.request.name if config.request else None
        key = repr((config.method, whole, request, config.problem, config.aim))
        if key not in known:
            known[key] = estimate(config, placement, pretrained_of(run))
        found = known[key]
        total += found.seconds if found else 0.0
        steps = config.settings.get("num_steps", 0)
        time = duration(found.seconds) if found else ""
        memory = f"{found.memory / 2**20:,.1f} MiB" if found else ""
        table.add_row(Text(str(run)), Text(config.method), f"{steps:,}", time, memory)
        rows.append(
            {
                "run": run,
                "method": config.method,
                "steps": steps,
                "seconds": found and found.seconds,
                "memory": found and found.memory,
            }
        )
    runs_of_all = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    compiling = sum(found.compile_seconds for found in known.values() if found)
    show(table)
    say(
        f"{runs_of_all} would train for {duration(total)}, after {duration(compiling)} of "
        "compilation, evaluations not included; nothing was written"
    )
    outcome({"runs": rows, "seconds": total, "compile_seconds": compiling})


def _free(folder: Path) -> Path:
    """A folder that does not exist, beside another one."""
    return folder.with_name(f".{folder.name}.new")
