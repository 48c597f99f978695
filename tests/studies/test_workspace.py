"""Locks on folders: one process at a time, gone with the process, honest where there are none."""

import errno
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.types import InputError

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1] + "/.lock", "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""  # what `locked` does, in a process that starts at once


def hold(folder):
    """A process that holds the lock of a folder."""
    folder.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_refused_until_the_first_is_killed(tmp_path):
    folder = tmp_path / "new" / "run"
    process = hold(folder)
    try:
        for part in ("", "1-of-2"):
            with pytest.raises(InputError, match="another process is at work in .*new/run; wait"):
                with Workspace(folder).locked(part):
                    raise AssertionError("both hold it")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with Workspace(folder).locked():
        pass
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_parts_work_side_by_side(tmp_path):
    with Workspace(tmp_path).locked("1-of-2"):
        with Workspace(tmp_path).locked("2-of-2"):
            for part in ("", "1-of-2"):
                with pytest.raises(InputError, match="another process is at work"):
                    with Workspace(tmp_path).locked(part):
                        raise AssertionError("both hold it")
    with Workspace(tmp_path).locked():
        pass


def test_processes_take_turns_at_a_piece(tmp_path):
    done, order = threading.Event(), []

    def second():
        with Workspace(tmp_path).in_turn("seed-0"):
            order.append("second")
        done.set()

    with Workspace(tmp_path).locked("1-of-2"), Workspace(tmp_path).in_turn("seed-0"):
        threading.Thread(target=second, daemon=True).start()
        with Workspace(tmp_path).in_turn("seed-1"):  # another piece waits for nobody
            assert not done.wait(0.2)
        order.append("first")
    assert done.wait(10) and order == ["first", "second"]


@pytest.mark.parametrize("name", ["lr=[0.1]", "a*b", "what?", "a\\b", "gs:", "\udcff"])
def test_a_path_that_checkpoints_cannot_take_is_refused(tmp_path, name):
    for folder in (tmp_path / name, tmp_path / name / "runs" / "mine"):
        with pytest.raises(InputError, match="so checkpoints cannot be written there"):
            Workspace(folder).is_claimed()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "ä", "猫", "a:b", "{a}", "a'b", "~", "%20", "a,b=3"])
def test_other_paths_are_free(tmp_path, name):
    assert Workspace(tmp_path / name).is_claimed() is False
    checkpointer = Checkpointer(tmp_path / name / "run")
    checkpointer.save(3, {"a": np.ones(3, np.float32)}, {})
    assert (checkpointer.stored()["a"] == 1).all()


def test_an_error_in_the_block_ends_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with Workspace(tmp_path).locked():
            raise ZeroDivisionError
    with Workspace(tmp_path).locked():
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked, so a second process may write"):
        with Workspace(tmp_path).locked():
            pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/run cannot be written .* choose a folder"):
        with Workspace(tmp_path / "file" / "run").locked():
            raise AssertionError
