"""Run folders: their records, checked when they are opened.

A run folder holds `config.json` (the configuration), `fingerprints.json` (of the data, and its
place), `forget_request.json` (the examples), `metrics.jsonl`, `checkpoints/` (to resume),
`weights/` (the result), `kept/` (of pretraining: the weights of earlier steps), `deletions.jsonl`
(of unlearning: every request that the weights have honoured), `adopted.json` and `source/` (of
adopted weights), `done.json` (the cost) or `diverged.json` (the reason why there is no result), and
after evaluation `results.json` and `predictions.npz`. A folder belongs to one configuration and one
data set for good, wherever both are moved.
"""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxunlearn import data, methods, models, plugins
from jaxunlearn.data import Dataset, Splits
from jaxunlearn.data.own import own_kind
from jaxunlearn.files import read_record, write_record
from jaxunlearn.models import denoisers
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.plans import PLACES
from jaxunlearn.studies.problem import data_places, load_dataset, load_shapes
from jaxunlearn.studies.runs.request_file import load_request, save_request
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.runs.schema import Done, check_record
from jaxunlearn.studies.runs.source import TOKENIZER
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.types import InputError, Weights

DIVERGED = "diverged.json"
FAILED = ".failed.json"  # hidden, so that a folder without a run stays free


def read_started(run: Path) -> RunConfig:
    """The configuration of a run, finished or not, with the place of its data if that exists."""
    there = (run / "fingerprints.json").exists()
    recorded = read_record(run / "fingerprints.json") if there else {}
    _check_plugins(run, recorded.get("plugins", {}))
    config = from_dict(RunConfig, read_record(run / "config.json"), f"{run / 'config.json'}")
    places = {name: recorded.get(name) for name in PLACES}
    own = own_kind(config.problem.data) is not None  # without a place it has no name at all
    found = {
        name: place for name, place in places.items() if place and (own or Path(place).exists())
    }
    if (run / TOKENIZER).is_dir():
        found["tokenizer"] = str((run / TOKENIZER).absolute())
    return replace(config, problem=replace(config.problem, **found))


def _check_plugins(run: Path, recorded: dict[str, dict[str, str]]) -> None:
    """Raises unless everything is known that a run needs and a plug-in has registered."""
    known = {
        *(f"method {name}" for name in methods.choices()),
        *(f"model {name}" for name in (*models.available(), *denoisers.available())),
        *(f"data set {name}" for name in data.available()),
    }
    for what, entry in recorded.items():
        if what not in known:
            raise InputError(
                f"{run} needs the {what} of the plug-in {entry['plugin']}, which is not loaded; "
                f"add --plugin {entry['plugin']}."
            )


def needed_plugins(problem: Problem, method: str) -> dict[str, dict[str, str]]:
    """The plug-ins that a run of a method needs: see `jaxunlearn.plugins.needed`."""
    used = [("method", method), ("model", problem.model), ("data set", problem.data)]
    return plugins.needed(used)


def read_config(run: Path, *stages: str) -> RunConfig:
    """The configuration of a finished run."""
    wanted = " or ".join(filter(None, (", ".join(stages[:-1]), stages[-1])))
    exported = (run / "model_index.json").exists() or any(run.glob("*.safetensors"))
    if exported and not (run / "fingerprints.json").exists():
        raise InputError(
            f"{run} holds weights in the layout of another library, not a run; scripts read them "
            f"by jaxunlearn.models.pretrained, commands take the folder of a finished {wanted}."
        )
    if not (run / "config.json").is_file():
        raise InputError(f"{run} holds no run; give the folder of a finished {wanted}.")
    config = read_started(run)
    if config.stage not in stages:
        raise InputError(f"{run} is a run of {config.stage}, but must be a run of {wanted}.")
    if not is_finished(run):
        if (run / DIVERGED).exists():
            raise InputError(
                f"the run of {config.stage} in {run} diverged: "
                f"{read_record(run / DIVERGED)['reason']} Delete the folder before another try."
            )
        raise InputError(
            f"the run of {config.stage} in {run} is not finished; run the command that started it "
            "again, and it continues where it stopped."
        )
    return config


def is_finished(run: Path) -> bool:
    """Whether a run has its result; deleted weights are made again from a checkpoint."""
    return (run / "done.json").exists() and Checkpointer(run / "weights").newest_step() is not None


def read_done(run: Path) -> dict[str, Any]:
    """The record of a finished run: "steps", "seconds", "compile_seconds", "weights"."""
    done = read_record(run / "done.json")
    check_record(run / "done.json", done, Done)
    return done


def note_failure(run: Path, error: Exception) -> None:
    """Records the error that ended a run, for `jaxunlearn status`."""
    text = str(error).partition("\n")[0]
    reason = text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
    write_record(run / FAILED, {"reason": reason})


def read_pretrained(run: Path) -> RunConfig:
    """The configuration of a finished pretraining run, after a check of its data."""
    config = read_config(run, "pretrain")
    check_data(run, load_dataset(config.problem))
    return config


def load_weights(run: Path, problem: Problem) -> Weights:
    """The final weights of a finished run, checked against the model of the problem."""
    weights, record = restored(Checkpointer(run / "weights"), problem)
    if record["fingerprint"] != read_done(run)["weights"]:
        raise InputError(
            f"the weights in {run / 'weights'} belong to another run; restore them, or delete "
            "that folder and run the same command again."
        )
    return weights


def restored(checkpointer: Checkpointer, problem: Problem) -> tuple[Weights, dict[str, Any]]:
    """The newest weights of a model of the problem, and their record."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        load_shapes(problem),
    )
    weights, record = checkpointer.restore(target)
    return weights, record


def check_folder(run: Path, config: RunConfig, dataset: Dataset, splits: Splits | None) -> None:
    """Raises unless a folder is free for a run, or holds that very run on the same data.

    Nothing is written. Settings that the method did not have yet count as their defaults, and a
    `start` of None is unknown.
    """
    workspace = Workspace(run)
    there = workspace.read()
    if there is None:
        return
    present = methods.completed(there)
    if config.start is None:
        present = present | {"start": None}
    workspace.check_same(present, _plain(config))
    if (run / "fingerprints.json").exists():
        check_data(run, dataset)
        if not is_finished(run):
            check_versions(run)
    path = run / "forget_request.json"
    if splits is not None and path.exists():
        if load_request(path, dataset).tolist() != splits.forget.index.tolist():
            raise InputError(
                f"{path} names other examples than the request does now; name a new folder, or "
                "delete this one."
            )


def claim_folder(run: Path, config: RunConfig, dataset: Dataset, splits: Splits | None) -> None:
    """Claims a locked folder for a run, unless it belongs to the run already."""
    check_folder(run, config, dataset, splits)
    if not (run / "config.json").exists():
        write_record(run / "config.json", _plain(config))
    if not (run / "fingerprints.json").exists():
        places = {name: place for name, place in data_places(config.problem).items() if place}
        needed = needed_plugins(config.problem, config.method)
        of_plugins = {"plugins": needed} if needed else {}
        write_record(run / "fingerprints.json", {"data": dataset.fingerprint} | places | of_plugins)
    path = run / "forget_request.json"
    if config.request is not None and splits is not None and not path.exists():
        save_request(path, config.request, dataset, splits)


def read_plugins(run: Path) -> dict[str, dict[str, str]]:
    """The plug-ins on record: "plugin" and "digest" of what the run needs of them."""
    found: dict[str, dict[str, str]] = read_record(run / "fingerprints.json").get("plugins", {})
    return found


def check_versions(run: Path) -> None:
    """Raises unless a run was begun with the loaded versions of its plug-ins."""
    recorded = read_plugins(run)
    used = [what.rpartition(" ")[::2] for what in recorded]
    for what, entry in plugins.needed(used).items():
        if recorded[what]["digest"] != entry["digest"]:
            raise InputError(
                f"{run} was begun with another version of the plug-in {entry['plugin']}, which has "
                f"the {what}; restore that version, or begin again in another folder."
            )


def check_data(run: Path, dataset: Dataset) -> None:
    """Raises InputError unless a run was trained on this data set."""
    saved, present = read_record(run / "fingerprints.json").get("data"), dataset.fingerprint
    if saved != present:
        raise InputError(
            f"{run} was trained on other data: {dataset.name} had the fingerprint "
            f"{str(saved)[:12]}, but now has {present[:12]}; restore the data, give its folder "
            "(--data-dir), or begin again in another folder."
        )


def _plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain JSON, without the place of the data."""
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain | {"problem": config.problem.identity()}
