"""Two processes as two hosts; the long form is `experiments/verification/hosts.py`."""

import socket

import numpy as np
import pytest

from jaxunlearn import files
from jaxunlearn.training import hosts
from tests.helpers import relative_error
from tests.shell.commands import assert_refused, call, done, problem_words, start, wait, weights

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

STEPS = {"num_steps": 3}


@pytest.fixture
def two_hosts(monkeypatch):
    """The variables by which two processes with two devices each find one another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")


def test_two_processes_train_what_one_does(two_hosts, data_dir, tmp_path, monkeypatch):
    """Parameters lie on both; both write checkpoints; the first alone writes and speaks."""
    run, words = tmp_path / "run", problem_words(data_dir, **STEPS)
    layout = ["--distributed", "--devices", 4, "--parameters", "sharded"]
    both = []
    for number in ("0", "1"):
        monkeypatch.setenv("JAX_PROCESS_ID", number)
        both.append(start("pretrain", run, *words, *layout, cache=tmp_path / number))
    first, second = (wait(process) for process in both)
    assert (first.status, second.status) == (0, 0), (first.err, second.err)
    assert "3 steps in " in first.out and not second.out
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    kept = run / "checkpoints" / "3" / "tree"
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= {path.name for path in kept.iterdir()}
    done("pretrain", tmp_path / "one", *words)
    assert relative_error(weights(run), weights(tmp_path / "one")) < 1e-6


def test_hosts_that_are_not_there(monkeypatch, data_dir, tmp_path):
    for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    ended = call("pretrain", tmp_path / "run", *problem_words(data_dir), "--distributed")
    assert_refused(ended, "the other hosts cannot be found", "JAX_COORDINATOR_ADDRESS")
    assert not (tmp_path / "run").exists()


def test_a_study_runs_on_one_host(tmp_path):
    ended = call("compare", tmp_path, "--config", "study.toml", "--distributed")
    assert_refused(ended, "a study runs on one host")


def test_one_process_alone_is_the_first_and_waits_for_nobody():
    assert files.is_first()
    hosts.barrier("nowhere")
    assert hosts.any_process(True) and not hosts.any_process(False)
    assert isinstance(files.whole(np.ones(2)), np.ndarray)
