"""Attacks that bring a forgotten class back, from the command line."""

import json

import pytest

from jaxunlearn.files import read_json, write_record
from tests.shell.commands import assert_refused, call, copy, done
from tests.studies.runs.test_evaluate_images import config, finished  # noqa: F401

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

ATTACKS = ["revival", "relearning_1", "relearning_10", "relearning_100", "inversion"]
ATTACKS += ["old_embeddings", "revival_old_embeddings"]


def record_of(folder):
    return read_json(folder / "revival.json")


def test_a_study_is_attacked_once(finished, tmp_path):  # noqa: F811
    """The first images are those of the evaluation; the original's own embeddings change nothing;
    a second call repeats only what is missing, with the same result."""
    study = copy(finished, tmp_path / "study")
    printed = done("revive", study, "--steps", 2)
    cell = study / "seed-0" / "class-3"
    records = {name: record_of(cell / name) for name in ("original", "retrain", "esd")}
    for name, record in records.items():
        assert list(record["attacks"]) == ATTACKS
        results = json.loads((cell / name / "results.json").read_text())["metrics"]
        assert record["before"]["seen"] == results["generated_forget_accuracy"]
        trained = [one["steps"] for one in record["attacks"].values()]
        assert trained == [2] * 5 + [0, 2]
    original = records["original"]
    for key in ("seen", "probability"):
        assert original["attacks"]["old_embeddings"][key] == original["before"][key]

    assert "| Retrained |" in (study / "revival.md").read_text()
    assert "Old embeddings" in printed
    assert (study / "revival-class-3.png").exists()
    report = json.loads((study / "results.json").read_text())["requests"]["class-3"]
    found = report["runs"]["esd"]["metrics"]["seen_after_revival"]
    assert found["mean"] == records["esd"]["attacks"]["revival"]["seen"]
    assert found["difference"] is not None
    assert "Inversion" in (study / "report.md").read_text()

    path, whole = cell / "esd" / "revival.json", records["esd"]
    attacks = {k: v for k, v in whole["attacks"].items() if k != "inversion"}
    write_record(path, whole | {"attacks": attacks})
    again = done("revive", study, "--steps", 2)
    assert "seen after inversion" in again and "seen after revival" not in again
    for key in ("seen", "probability"):
        assert (
            record_of(cell / "esd")["attacks"]["inversion"][key]
            == whole["attacks"]["inversion"][key]
        )


def test_the_old_table_undoes_what_only_the_table_forgot(finished, tmp_path):  # noqa: F811
    pretrained, judge = finished / "seed-0" / "pretrain", finished / "classifier"
    run, original = tmp_path / "run", copy(pretrained, tmp_path / "original")
    done(
        *["unlearn", run, "esd", "--pretrained", pretrained, "--classes", 3],
        *["--trainable", "^condition/classes/", "--num-steps", 2, "--learning-rate", 3.0],
        *["--forget-batch-size", 4, "--retain-batch-size", 4],
    )
    words = ["--classifier", judge, "--original", original, "--steps", 2]
    printed = done("revive", run, *words)
    assert "esd" in printed and (run / "revival.png").exists()
    forgot, before = record_of(run), record_of(original / "revival-class-3")["before"]
    assert forgot["attacks"]["old_embeddings"]["probability"] == before["probability"]


def test_what_cannot_be_attacked_is_refused_in_a_sentence(finished, tmp_path):  # noqa: F811
    run, judge = finished / "seed-0" / "class-3" / "esd", finished / "classifier"
    given = ["--classifier", judge]
    assert_refused(call("revive", run), "need a judge, but no classifier is given")
    assert_refused(call("revive", run, *given, "--steps", 0), "steps is 0, but must be 1 or more")
    assert_refused(call("revive", run, *given, "--learning-rate", 0), "must be above 0")
    assert_refused(call("revive", judge, *given), "revive attacks models that generate")
    assert_refused(call("revive", finished, *given), "is a study, which has its own")
    original = finished / "seed-0" / "pretrain"
    assert_refused(call("revive", original, *given), "has forgotten no class")
    assert_refused(call("revive", run, *given, "--retrained", run), "must be a run of retrain")
    assert_refused(call("revive", tmp_path / "none", *given), "holds no run")
