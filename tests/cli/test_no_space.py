"""A disk that is full, at every moment: one clear sentence, nothing lost, and it can continue."""

import contextlib
import resource

import pytest

from jaxunlearn.studies.runs.verify import verify
from tests.shell.commands import QUICK, assert_refused, assert_same_run, call, copy, done, snapshot

pytest_plugins = ["tests.shell.fixtures"]

# Where one array cannot be written, orbax closes its event loop while others are being written.
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings(
        "ignore:(?s).*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
    ),
]


@contextlib.contextmanager
def largest_file(size):
    """No file may grow beyond so many bytes: to the program that is a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The files of a run in the order of their writing need about: config.json 900 bytes, metrics.jsonl
# 400, forget_request.json 6,000, a checkpoint 9,000.
@pytest.mark.parametrize("size", [0, 300, 2000, 7000])
def test_training_without_space(pretrained, unlearned, tmp_path, size):
    run, before = tmp_path / "run", snapshot(pretrained)
    words = ["unlearn", run, "--pretrained", pretrained, "--fraction", 0.1, "finetune"]
    words += [*QUICK]
    with largest_file(size):
        assert_refused(call(*words), str(run), "cannot be written (", "choose a folder with space")
    assert snapshot(pretrained) == before
    assert not (run / "done.json").exists()
    if (run / "config.json").exists():
        assert "does not match" not in {finding.verdict for finding in verify(run)}
    done(*words)
    assert_same_run(run, unlearned)


@pytest.mark.parametrize("size", [0, 2000])
def test_evaluating_without_space(retrained, tmp_path, size):
    run = copy(retrained, tmp_path / "run")
    before = snapshot(run)
    with largest_file(size):
        assert_refused(call("evaluate", run), str(run), "cannot be written (")
    assert snapshot(run) == before
