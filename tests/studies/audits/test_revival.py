"""Attacks that bring a forgotten class back, from the command line."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jaxunlearn.data import ForgetRequest
from jaxunlearn.files import read_json, write_record
from jaxunlearn.studies.audits import revival
from jaxunlearn.studies.runs.evaluate_images import load_judge
from jaxunlearn.studies.runs.folder import read_config
from jaxunlearn.training import Diverged
from jaxunlearn.types import InputError
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
    started = read_json(run / "config.json")
    write_record(run / "config.json", started | {"start": "other weights"})
    assert_refused(call("revive", run, *words), "is not the original model of")


@pytest.fixture
def target(finished, tmp_path):  # noqa: F811
    """The run that forgot class 3, to be written to, and its judge."""
    run = copy(finished / "seed-0" / "class-3" / "esd", tmp_path / "run")
    ours = read_config(run, "unlearn")
    judge = load_judge(finished / "classifier", ours.problem)
    return revival.Target(run, run, ours, finished / "seed-0" / "pretrain"), judge


def test_each_attack_learns_from_its_own_examples_at_its_own_rate(target, monkeypatch):
    """Revival from retain data alone, the others from forget images, which are nested."""
    learned = {}

    def trained(self, task, start, examples, rate):
        learned[name] = examples, rate
        return start, 0.0

    monkeypatch.setattr(revival._Scene, "_trained", trained)
    monkeypatch.setattr(revival._Scene, "judged", lambda *args, **options: {})
    scene = revival._Scene(*target, revival.Attacker(steps=2, learning_rate=0.5), 0)
    for name in scene.attacks():
        scene.run(name)
    assert [*learned] == [name for name in ATTACKS if name != "old_embeddings"]
    for name, (examples, rate) in learned.items():
        revives = name.startswith("revival")
        assert np.all((examples.label != 3) if revives else (examples.label == 3))
        assert rate == 0.5 or name == "inversion"
    table = scene.task.conditions.read(*scene.weights)
    assert learned["inversion"][1] == pytest.approx(0.1 * np.sqrt(np.mean(np.square(table))))
    nested = [learned[f"relearning_{n}"][0].index.tolist() for n in (1, 10, 100)]
    assert [len(index) for index in nested] == [1, 10, 100]
    assert nested[1][:1] == nested[0] and nested[2][:10] == nested[1]


@pytest.fixture
def asked(monkeypatch):
    """The attacks that were run, in place of their work."""
    names = []

    def judged(self, *args, steps=None, **options):
        return {"seen": 1.0, "probability": 0.1, "steps": self.attacker.steps, "seconds": 0.0}

    monkeypatch.setattr(revival._Scene, "judged", judged)
    monkeypatch.setattr(
        revival._Scene, "run", lambda self, name: names.append(name) or judged(self)
    )
    return names


def test_other_settings_of_the_attacker_are_another_result(target, asked):
    for attacker in (revival.Attacker(steps=2), revival.Attacker(steps=3)):
        for wanted in (ATTACKS, []):  # the second call finds all results
            found = revival.attack(*target, attacker)
            assert asked == wanted and record_of(target[0].folder) == found
            assert {one["steps"] for one in found["attacks"].values()} == {attacker.steps}
            asked.clear()


def test_old_embeddings_of_another_original_model_are_another_result(target, asked, tmp_path):
    run, judge = target
    revival.attack(run, judge, revival.Attacker())
    asked.clear()
    other = copy(run.original, tmp_path / "other")
    write_record(other / "done.json", read_json(other / "done.json") | {"weights": "others"})
    for original, wanted in ((None, []), (other, ATTACKS[-2:]), (other, [])):
        found = revival.attack(run._replace(original=original), judge, revival.Attacker())
        assert asked == wanted and sorted(found["attacks"]) == sorted(ATTACKS)
        asked.clear()


def test_an_attack_that_diverges_is_named(target, asked, monkeypatch):
    def diverge(self, name):
        raise Diverged("a loss became NaN.")

    monkeypatch.setattr(revival._Scene, "run", diverge)
    with pytest.raises(Diverged, match=r"run, attack revival: a loss became NaN"):
        revival.attack(*target, revival.Attacker())


def test_retrained_models_of_another_seed_or_request_are_refused(target):
    run, ours = target[0].folder, target[0].config
    one = ForgetRequest(classes=(8,))
    for other in ({"seed": 1}, {"request": one}, {"earlier": (one,)}):
        with pytest.raises(InputError, match="another problem, seed or forget request"):
            revival._check_same(run, replace(ours, **other), run, ours)
    revival._check_same(run, ours, run, ours)


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
