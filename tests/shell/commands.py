"""Calling the command line, in this process or in one of its own, and comparing what it leaves."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxunlearn.cli import main as cli
from jaxunlearn.files import read_json, write_record
from jaxunlearn.studies.runs.folder import load_weights, read_config
from jaxunlearn.training.checkpoints import Checkpointer

TRAINING = {"num_steps": 200, "retain_batch_size": 64}
# Runs of one method with equal whole numbers and choices share one compiled program.
QUICK = ["--num-steps=4", "--forget-batch-size=32", "--retain-batch-size=32"]


class Result(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def call(*words: object) -> Result:
    """Runs the command line in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(word) for word in words])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Result(status, out.getvalue(), err.getvalue())


def done(*words: object) -> str:
    """Runs a command that must succeed; returns what it printed."""
    result = call(*words)
    assert result.status == 0, result.err
    return result.out


def start(
    *words: object, cache: Path, program: tuple[str, ...] = ("-m", "jaxunlearn"), **options: Any
) -> subprocess.Popen[str]:
    """Starts the command as a process of its own, whose compiled programs go to `cache`.

    With `program`, Python runs that in its place.
    """
    own = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment = own | {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XDG_CACHE_HOME": str(cache),
    }
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def wait(process: subprocess.Popen[str]) -> Result:
    """Waits for a process that was started."""
    out, err = process.communicate(timeout=600)  # a machine may be busy
    return Result(process.returncode, out, err)


def assert_refused(result: Result, *fragments: str) -> None:
    """The command ended with status 2 and one sentence on what was wrong."""
    assert result.status == 2, result
    assert result.err.startswith("jaxunlearn: ") and result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err
    assert len(result.err) < 600, result.err
    for fragment in fragments:
        assert fragment in result.err, (fragment, result.err)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder, with what the files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def copy(run: Path, where: Path) -> Path:
    """A copy of a folder, to be written to."""
    shutil.copytree(run, where)
    return where


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a record and its digest, so that it is not damaged but says something else."""
    record = read_json(path)
    change(record)
    write_record(path, record)


def weights(run: Path) -> list[np.ndarray]:
    """The final weights of a run."""
    config = read_config(run, "pretrain", "retrain", "unlearn")
    tree = load_weights(run, config.problem)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_run(one: Path, other: Path) -> None:
    """Both runs ended with the same bits, in the weights, the last state and the metrics."""
    for ours, theirs in zip(weights(one), weights(other), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    fingerprints = [last_fingerprint(run) for run in (one, other)]
    assert fingerprints[0] == fingerprints[1]


def last_fingerprint(run: Path) -> str:
    """Of the whole state (optimizer, multiplier, key) in the newest checkpoint."""
    folder = run / "checkpoints"
    record = folder / str(Checkpointer(folder).newest_step()) / "record" / "metadata"
    return json.loads(record.read_text())["fingerprint"]


def problem_words(data_dir: Path, **training: object) -> list[object]:
    """The flags of `pretrain` that all tests use."""
    given = [f"--training.{name}={value}" for name, value in (TRAINING | training).items()]
    return ["--data-dir", data_dir, "--model", "mlp-tiny", *given]
