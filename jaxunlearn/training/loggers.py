"""Loggers of a run besides its JSON lines: a CSV file, TensorBoard, Weights & Biases.

A logger begins with the steps that the JSON lines have, in place of anything that it wrote before.
So a resumed run has each step once, and a logger that is added to a stopped run has all steps. All
files are in `logs/` in the folder of the run.
"""

import csv
import hashlib
import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jaxunlearn.files import is_first, unwritable
from jaxunlearn.types import InputError

LOGGERS = ("csv", "tensorboard", "wandb")
Write = Callable[[int, Mapping[str, float]], None]  # write(step, values)
_SECONDS_TO_ANSWER = 30


def check_loggers(names: Sequence[str]) -> None:
    """Raises an InputError if a logger is unknown, or needs a package or a key that is missing."""
    for name in names:
        if name not in LOGGERS:
            raise InputError(f"log is {name!r}, but must be one of {', '.join(LOGGERS)}.")
        if name != "csv":
            try:
                package = importlib.import_module(name)
            except ImportError as error:
                raise InputError(
                    f"the logger {name} needs the package {error.name}, which is not installed; "
                    f"install jaxunlearn[{name}], or use --log csv."
                ) from error
            if name == "wandb" and not _is_offline():
                _check_login(package)


def _check_login(wandb: Any) -> None:
    try:
        has_key = wandb.login(prompt=False)
    except wandb.Error as error:
        raise _unreachable(error) from error
    if not has_key:
        raise InputError(
            "W&B is online but has no API key; run `wandb login`, or set WANDB_MODE to offline."
        )


def _unreachable(error: Exception) -> InputError:
    return InputError(
        f"W&B cannot be reached ({str(error).splitlines()[0].rstrip('.')}); set WANDB_MODE to "
        "offline, or leave --log wandb out."
    )


@contextmanager
def opened(
    names: Sequence[str], run: Path, config: Mapping[str, Any], columns: Sequence[str]
) -> Iterator[Write]:
    """A function that gives the values of a step to all loggers, which the block's end closes.

    Args:
        names: names of loggers, which `check_loggers` has accepted.
        run: run folder.
        config: configuration of the run, for W&B.
        columns: names of values that not every step has.
    """
    opening = {"csv": _csv, "tensorboard": _tensorboard, "wandb": _wandb}
    with ExitStack() as held:
        place, writers = run / "logs", []
        for name in dict.fromkeys(names) if is_first() else ():
            try:
                place.mkdir(exist_ok=True)
                writers.append(held.enter_context(opening[name](place, config, columns)))
            except OSError as error:
                raise unwritable(place, error) from error

        def write(step: int, values: Mapping[str, float]) -> None:
            for writer in writers:
                writer(step, values)

        yield write


@contextmanager
def _csv(place: Path, config: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Write]:
    with (place / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        rows: csv.DictWriter[str] = csv.DictWriter(file, [], restval="", extrasaction="ignore")

        def write(step: int, values: Mapping[str, float]) -> None:
            if not rows.fieldnames:
                rows.fieldnames = list(dict.fromkeys(["step", *values, *columns]))
                rows.writeheader()
            rows.writerow({"step": step, **values})
            file.flush()

        yield write


@contextmanager
def _tensorboard(place: Path, config: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Write]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    shutil.rmtree(place / "tensorboard", ignore_errors=True)
    file = EventFileWriter(str(place / "tensorboard"), flush_secs=10)

    def write(step: int, values: Mapping[str, float]) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        file.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=scalars)))

    try:
        yield write
    finally:
        file.close()


@contextmanager
def _wandb(place: Path, config: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Write]:
    import wandb

    if _is_offline():
        shutil.rmtree(place / "wandb", ignore_errors=True)
    run = place.absolute().parent
    try:
        board = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jaxunlearn"),
            name="/".join(run.parts[-3:]).lstrip("/"),
            id=hashlib.sha256(f"{run} {config}".encode()).hexdigest()[:16],
            resume="allow",
            dir=place,
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True, init_timeout=_SECONDS_TO_ANSWER),
        )
    except wandb.Error as error:
        raise _unreachable(error) from error
    first = board.step  # of an online run that is resumed

    def write(step: int, values: Mapping[str, float]) -> None:
        if step >= first:
            board.log(dict(values), step=step)

    try:
        yield write
    finally:
        board.finish()


def _is_offline() -> bool:
    return os.environ.get("WANDB_MODE", "online") in ("offline", "disabled", "dryrun")
