"""Processes that are at work on one folder at the same time, as the jobs of an array are."""

import json
import subprocess

import pytest

from jaxunlearn.studies.report import write_report
from tests.shell.commands import assert_same_run, copy, snapshot, start, wait

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

# A report that is read, and written once the test says so.
EARLY = """
import sys
from pathlib import Path
from jaxunlearn.studies import report

read = report.read_study

def read_and_wait(folder):
    found = read(folder)
    print("read", flush=True)
    sys.stdin.readline()
    return found

report.read_study = read_and_wait
report.write_report(Path(sys.argv[1]))
"""
# A report of later, which says when it has to wait, and else when it is written.
LATE = """
import fcntl, sys
from pathlib import Path
from jaxunlearn.studies import report

lock = fcntl.flock

def tell_and_lock(*args):
    print("waits", flush=True)
    return lock(*args)

fcntl.flock = tell_and_lock
report.write_report(Path(sys.argv[1]))
print("written", flush=True)
"""


def test_the_last_report_is_of_all_that_was_there(finished, tmp_path):
    """The shard that read first writes last, unless it keeps the other from reading meanwhile."""
    study, cache = copy(finished.folder, tmp_path / "study"), tmp_path / "cache"
    last, hidden = study / "seed-1" / "class-8" / "tight", tmp_path / "tight"
    last.rename(hidden)
    early = start(study, cache=cache, program=("-c", EARLY), stdin=subprocess.PIPE)
    assert early.stdout.readline() == "read\n"
    hidden.rename(last)  # the last run has finished
    late = start(study, cache=cache, program=("-c", LATE))
    assert late.stdout.readline() in ("waits\n", "written\n")
    early.communicate("\n", timeout=120)
    assert (early.returncode, wait(late).status) == (0, 0)
    found = json.loads((study / "results.json").read_text())
    assert found["unfinished"] == []
    assert found["requests"]["class-8"]["runs"]["tight"]["seeds"] == 2
    before = (study / "results.json").read_bytes()
    write_report(study)
    assert (study / "results.json").read_bytes() == before


def test_two_shards_at_once_are_one_study(finished, study_text, tmp_path):
    config, folder = tmp_path / "study.toml", tmp_path / "study"
    text = study_text.replace("seeds = [0, 1]", "seeds = [0]")
    config.write_text(text.replace("[[requests]]\nclasses = [8]\n", ""))
    words = ["compare", folder, "--config", config, "--shard"]
    processes = [start(*words, f"{i}/2", cache=tmp_path / "cache") for i in (1, 2)]
    for process in processes:
        ended = wait(process)
        assert (ended.status, ended.err) == (0, ""), ended
    cell = folder / "seed-0" / "random-0.1"
    for name in ("retrain", "retrain-again", "finetune", "tight"):
        assert_same_run(cell / name, finished.folder / "seed-0" / "random-0.1" / name)
    found = json.loads((folder / "results.json").read_text())
    assert found["unfinished"] == []
    assert set(found["requests"]["random-0.1"]["runs"]) == {p.name for p in cell.iterdir()}
    assert json.loads((folder / "study.json").read_text())["methods"] == ["finetune", "tight"]
    assert not [name for name in snapshot(folder) if name.split("/")[-1].startswith(".results")]
