"""The state of every run of a study: each word has a folder for which it is true."""

import json
import shutil

from jaxunlearn import training
from jaxunlearn.files import write_record
from jaxunlearn.studies.workspace import Workspace
from tests.shell.commands import QUICK, assert_refused, call, copy, done

pytest_plugins = ["tests.shell.fixtures"]


def states(folder):
    found = json.loads(done("status", folder, "--json"))
    return {each["run"]: (each["state"], each["detail"]) for each in found}


def test_the_runs_of_a_study(finished, tmp_path):
    study = copy(finished.folder, tmp_path / "study")
    assert {state for state, _ in states(study).values()} == {"done"}
    assert len(states(study)) == 2 * (1 + 2 * (3 + 2))
    cell = study / "seed-0" / "random-0.1"
    (cell / "finetune" / "results.json").unlink()
    for path in ("results.json", "done.json"):
        (cell / "tight" / path).unlink()
    shutil.rmtree(cell / "retrain-again")
    write_record(study / "seed-1" / "class-8" / "tight" / "diverged.json", {"reason": "nan."})
    for path in ("results.json", "done.json"):
        (study / "seed-1" / "class-8" / "tight" / path).unlink()
    with Workspace(study / "seed-1" / "pretrain").locked():
        found = states(study)
    assert found["seed-0/random-0.1/finetune"][0] == "not evaluated"
    assert found["seed-0/random-0.1/tight"] == ("stopped", "step 4 of 4")
    assert found["seed-0/random-0.1/retrain-again"] == ("waiting", "")
    assert found["seed-1/class-8/tight"] == ("diverged", "nan.")
    state, detail = found["seed-1/pretrain"]
    assert state == "running" and detail.startswith("step 200 of 200, by process ")
    assert states(study)["seed-1/pretrain"][0] == "done"
    words = done("status", study).split("\n")[0]
    assert words.startswith(f"{study}: 18 done, ")
    assert_refused(call("status", tmp_path), "holds neither a run nor a study")


def test_an_error_that_ends_a_run_is_on_record_until_the_run_succeeds(
    pretrained, tmp_path, monkeypatch
):
    words = ["unlearn", tmp_path / "run", "finetune", "--pretrained", pretrained]
    words += ["--fraction", 0.1, *QUICK]

    def fail(*args, **kwargs):
        raise MemoryError("no room\nat all")

    with monkeypatch.context() as patch:
        patch.setattr(training, "run", fail)
        assert call(*words).status == 4
    assert states(tmp_path / "run") == {"": ("failed", "MemoryError: no room")}
    assert "│ run │ failed │ MemoryError: no room │" in done("status", tmp_path / "run")
    done(*words)
    [(state, seconds)] = states(tmp_path / "run").values()
    assert state == "done" and seconds.endswith("s")
