"""Loggers: every step once, whatever was interrupted; the run itself stays the same."""

import csv
import json
import math
import shutil
import sys
from pathlib import Path

import pytest

from jaxunlearn.training import loggers
from jaxunlearn.types import InputError
from tests.shell.commands import QUICK, assert_refused, call, copy, done, weights

pytest_plugins = ["tests.shell.fixtures"]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "logs" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def logged(pretrained, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("logged") / "run"
    words = ["unlearn", run, "finetune", "--pretrained", pretrained, "--fraction", 0.1, *QUICK]
    done(*words, "--log", "csv", "--validate-every", 3)
    return run


def test_a_csv_file_has_metrics_rates_and_validation_accuracy(logged, unlearned):
    found = rows(logged)
    assert [row["step"] for row in found] == ["1", "2", "3", "4"]
    columns = {"step", "retain_loss", "gradient_norm", "learning_rate", "validation_accuracy"}
    assert set(found[0]) == columns
    rates = [0.01 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert [float(row["learning_rate"]) for row in found] == pytest.approx(rates)
    assert [bool(row["validation_accuracy"]) for row in found] == [False, False, True, False]
    assert 80 < float(found[2]["validation_accuracy"]) <= 100
    config = json.loads((logged / "config.json").read_text())
    assert config == json.loads((unlearned / "config.json").read_text())
    for ours, theirs in zip(weights(logged), weights(unlearned), strict=True):
        assert (ours == theirs).all()


def test_a_run_that_continues_has_each_step_once(logged, pretrained, tmp_path):
    """Its last steps and its result are lost; a logger of other steps is replaced."""
    run = copy(logged, tmp_path / "run")
    for lost in ("weights", "checkpoints"):
        shutil.rmtree(run / lost)
    (run / "done.json").unlink()
    before = rows(run)
    words = ["unlearn", run, "finetune", "--pretrained", pretrained, "--fraction", 0.1, *QUICK]
    done(*words, "--log", "csv", "--validate-every", 3)
    assert rows(run) == before


def test_the_rate_is_logged_at_the_first_call_of_each_step():
    from jaxunlearn import methods, models, tasks

    task = tasks.classification(models.create("mlp-tiny", 3), image_shape=(2, 2, 1), num_classes=3)
    chosen = methods.settings(
        "sfron",
        {"num_steps": 4, "num_fast_steps": 2, "learning_rate_schedule": "linear"},
    )
    rates = methods.learning_rates(task, "sfron", chosen)
    expected = [chosen["learning_rate"] * (1 - step / 4) for step in range(4)]
    assert rates == pytest.approx(expected)


class Board:
    """A stand-in for W&B: it keeps what a run logs."""

    Error = type("Error", (Exception,), {})

    def __init__(self, step: int) -> None:
        self.step, self.lines = step, []

    def login(self, prompt):
        return False

    def Settings(self, **given):
        return given

    def init(self, **given):
        self.given = given
        return self

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.finished = True


def test_an_online_run_of_wandb_is_resumed_after_its_last_step(tmp_path, monkeypatch):
    board = Board(step=2)
    monkeypatch.setitem(sys.modules, "wandb", board)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with loggers.opened(["wandb"], tmp_path, {"seed": 0}, []) as write:
        for step in (1, 2, 3):
            write(step, {"loss": 0.5})
    assert board.lines == [(2, {"loss": 0.5}), (3, {"loss": 0.5})] and board.finished
    assert board.given["config"] == {"seed": 0} and board.given["resume"] == "allow"

    def unreachable(**given):
        raise Board.Error("no route\nto host")

    monkeypatch.setattr(board, "init", unreachable, raising=False)
    with pytest.raises(InputError, match=r"W&B cannot be reached \(no route\); set WANDB_MODE to"):
        with loggers.opened(["wandb"], tmp_path, {}, []):
            pass
    with pytest.raises(InputError, match="W&B is online but has no API key; run `wandb login`"):
        loggers.check_loggers(["wandb"])


def test_tensorboard_receives_every_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # a run that was resumed begins with all steps
        with loggers.opened(["tensorboard"], tmp_path, {}, []) as write:
            for step in (1, 2):
                write(step, {"loss": step / 2})
    found = EventAccumulator(str(tmp_path / "logs" / "tensorboard")).Reload()
    assert [(x.step, x.value) for x in found.Scalars("loss")] == [(1, 0.5), (2, 1.0)]


def test_loggers_that_are_not_there_are_refused_at_the_door(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = ["pretrain", tmp_path / "run", "--model", "mlp-tiny", "--log"]
    assert_refused(call(*words, "tensorboard"), "the logger tensorboard needs the package tensor")
    assert_refused(call(*words, "csvs"), "--log is 'csvs' (did you mean 'csv'?), but must be one")
    words = [*words[:-1], "--validation-fraction=0", "--validate-every", "5"]
    assert_refused(call(*words), "validate_every is given, but there are no validation data")
    assert not list(tmp_path.iterdir())
