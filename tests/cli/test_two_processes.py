"""Processes that are at work on one folder at the same time, as the jobs of an array are."""

import fcntl
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from jaxunlearn.studies import report
from jaxunlearn.studies.report import write_report
from tests.shell.commands import assert_same_run, copy, snapshot, start, wait

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]


def test_the_last_report_is_of_all_that_was_there(finished, tmp_path, monkeypatch):
    """The shard that read first writes last, unless it keeps the other from reading meanwhile."""
    study = copy(finished.folder, tmp_path / "study")
    last, hidden = study / "seed-1" / "class-8" / "tight", tmp_path / "tight"
    last.rename(hidden)
    read, lock, late, waits = report.read_study, fcntl.flock, [], Event()

    def tell_and_lock(*args):
        waits.set()
        return lock(*args)

    def read_and_start_another(folder):
        found = read(folder)
        hidden.rename(last)  # the last run has finished
        monkeypatch.setattr(report, "read_study", read)
        monkeypatch.setattr(fcntl, "flock", tell_and_lock)
        late.append(pool.submit(write_report, study))
        late[0].add_done_callback(lambda _: waits.set())
        waits.wait()  # until the other has to wait, or is written
        return found

    monkeypatch.setattr(report, "read_study", read_and_start_another)
    with ThreadPoolExecutor() as pool:
        write_report(study)
    assert late[0].result()
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
