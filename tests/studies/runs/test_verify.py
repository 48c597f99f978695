"""`jaxunlearn verify`: every kind of damage is found and named, and nothing else is."""

import shutil

import numpy as np
import pytest

from jaxunlearn.files import read_json, write_json
from jaxunlearn.studies.runs.verify import verify
from jaxunlearn.training.checkpoints import Checkpointer
from tests.shell.commands import QUICK, assert_refused, call, copy, done, rewrite, snapshot

pytest_plugins = ["tests.shell.fixtures"]

CHECKS = ["configuration", "data", "forget request", "weights", "checkpoints", "metrics", "results"]


@pytest.fixture(scope="module")
def masked(tmp_path_factory, pretrained):
    """A run of a method with a saliency mask."""
    run = tmp_path_factory.mktemp("masked") / "run"
    words = ["--pretrained", pretrained, "--fraction", 0.1, "salun"]
    done("unlearn", run, *words, *QUICK)
    return run


def verdicts(folder):
    return {finding.what: finding.verdict for finding in verify(folder)}


def test_what_was_not_touched_matches(retrained, masked):
    before = snapshot(retrained)
    assert verdicts(retrained) == dict.fromkeys(CHECKS, "matches")
    assert snapshot(retrained) == before
    wanted = ["configuration", "data", "forget request", "weights", "masks", "checkpoints"]
    assert verdicts(masked) == dict.fromkeys([*wanted, "metrics", "deletions"], "matches")
    assert "does not match" in done("verify", retrained)  # the heading of an empty column


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("config.json", "configuration"),
        ("fingerprints.json", "data"),
        ("forget_request.json", "forget request"),
        ("done.json", "weights"),
        ("metrics.jsonl", "metrics"),
        ("results.json", "results"),
        ("predictions.npz", "results"),
    ],
)
def test_a_changed_file_is_named(retrained, tmp_path, file, what):
    run = copy(retrained, tmp_path / "run")
    content = (run / file).read_bytes()
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
    place = digits[len(digits) // 2]
    changed = b"7" if content[place : place + 1] != b"7" else b"8"
    (run / file).write_bytes(content[:place] + changed + content[place + 1 :])
    result = call("verify", run)
    assert result.status == 2 and f"{run}/{file}" in result.out.replace("\n", "")
    assert "do not match" in result.err and result.err.count("\n") == 1
    assert verdicts(run)[what] == "does not match"


def test_a_changed_record_of_deletions_is_named(masked, tmp_path):
    run = copy(masked, tmp_path / "run")
    record = run / "deletions.jsonl"
    record.write_text(record.read_text().replace("salun", "ssd"))
    assert verdicts(run)["deletions"] == "does not match"


def test_weights_that_a_pretraining_kept_are_checked(retrained, tmp_path):
    run = copy(retrained, tmp_path / "run")
    Checkpointer(run / "kept" / "5").save(5, {"w": np.arange(3.0)}, {})
    assert verdicts(run)["kept steps"] == "matches"
    file = next((run / "kept").rglob("_METADATA"))
    file.write_bytes(file.read_bytes()[:-1])
    assert verdicts(run)["kept steps"] == "does not match"


@pytest.mark.parametrize("folder", ["weights", "checkpoints"])
def test_changed_arrays_are_named(masked, tmp_path, folder):
    run = copy(masked, tmp_path / "run")
    files = [path for path in (run / folder / "4").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    found = verdicts(run)
    assert found[folder] == "does not match"
    others = {"weights": {"masks", "checkpoints"}, "checkpoints": {"weights"}}[folder]
    assert all(found[name] == "matches" for name in others)


def test_weights_masks_and_results_of_another_run(masked, retrained, pretrained, tmp_path):
    run = copy(masked, tmp_path / "run")
    rewrite(run / "done.json", lambda record: record.update(masks="0" * 64))
    assert verdicts(run)["masks"] == "does not match"
    other = copy(retrained, tmp_path / "other")
    shutil.rmtree(other / "weights")
    shutil.copytree(pretrained / "weights", other / "weights")
    assert verdicts(other) == dict.fromkeys(CHECKS, "matches") | {"weights": "does not match"}
    rewrite(other / "results.json", lambda record: record.update(weights="0" * 64))
    assert verdicts(other)["results"] == "does not match"


def test_a_record_without_its_seal_is_refused(retrained, tmp_path):
    """Whatever digit is changed: in the name of the seal as well."""
    run = copy(retrained, tmp_path / "run")
    for path in run.glob("*.json"):
        write_json(path, read_json(path))
    expected = dict.fromkeys(CHECKS, "does not match") | {"checkpoints": "matches"}
    assert verdicts(run) == expected


def test_other_folders(here):
    assert_refused(call("verify", "none"), "none holds neither a run nor a study")
    assert_refused(call("verify", "full"), "full holds neither a run nor a study")


class Bomb:
    """What unpickling this does would be seen."""

    def __reduce__(self):
        return (print, ("code was executed",))


def test_nothing_that_is_read_runs_code(retrained, tmp_path, capsys):
    """An array of objects is a pickle; such a file is damaged, not loaded."""
    run = copy(retrained, tmp_path / "run")
    content = dict(np.load(run / "predictions.npz"))
    content["forget_labels"] = np.array([Bomb()], dtype=object)
    np.savez(run / "predictions.npz", **content)
    rewrite(run / "results.json", lambda record: record.pop("digests"))
    result = call("evaluate", retrained, "--retrained", run)
    assert_refused(result, "predictions.npz", "Object arrays cannot be loaded")
    assert "code was executed" not in capsys.readouterr().out + result.out
