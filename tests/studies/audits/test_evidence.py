"""The command `evidence` on a tiny study."""

import json

import numpy as np
import pytest

from jaxunlearn.evaluation import SplitPredictions, accuracy, exposure_auc
from jaxunlearn.files import read_json
from jaxunlearn.studies.audits import evidence
from jaxunlearn.types import InputError
from tests.shell.commands import assert_refused, call, copy, done, rewrite

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]


@pytest.fixture(scope="module")
def gathered(tmp_path_factory, finished):
    folder = copy(finished.folder, tmp_path_factory.mktemp("evidence") / "study")
    return folder, done("evidence", folder)


def entries(folder):
    report = json.loads((folder / "evidence.json").read_text())
    return {(e["seed"], e["request"], e["name"]): e for e in report["runs"]}


def test_every_run_has_evidence_that_fits_its_metrics(gathered):
    folder, printed = gathered
    found = entries(folder)
    names = ["original", "retrain", "retrain-again", "finetune", "tight"]
    assert set(found) == {
        (s, r, n) for s in (0, 1) for r in ("random-0.1", "class-8") for n in names
    }
    for (seed, request, name), entry in found.items():
        run = folder / f"seed-{seed}" / request / name
        metrics = json.loads((run / "results.json").read_text())["metrics"]
        assert len(entry["relearning_curve"]) == 6
        assert entry["relearning_curve"][0] == pytest.approx(metrics["forget_accuracy"])
        assert read_json(run / "evidence.json") == entry
        assert 0 <= entry["probe_accuracy"] <= 100
        assert np.sum(entry["disagreement_map"]["test"]) == 355
        assert f"| {name} |" in printed or name in ("original", "retrain", "retrain-again")
    assert printed.count("| Residual | Exposure | Discrepancy retain, near |") == 2
    assert "## class-8" in printed and "*Retrained again*" in printed


def test_the_retrained_model_is_its_own_measure(gathered):
    found = entries(gathered[0])
    for (seed, request, name), entry in found.items():
        if name == "retrain":
            assert set(entry["class_damage"]) == {0.0}
            assert entry["disagreement"] == {"forget": 0.0, "test": 0.0}
            assert entry["residual_knowledge"] == 0.0
            assert {v for part in entry["discrepancy"].values() for v in part} == {0.0}
        if name == "original":
            oracle = found[seed, request, "retrain"]
            assert entry["relearning_curve"][0] >= oracle["relearning_curve"][0]


def test_a_forgotten_class_is_known_to_the_original_nearby_and_damaged_nearest(gathered):
    found = entries(gathered[0])
    for seed in (0, 1):
        original, floor = (found[seed, "class-8", name] for name in ("original", "retrain-again"))
        assert original["residual_knowledge"] > 50 > 10 > floor["residual_knowledge"]
        assert original["perturbed_accuracy"][0] > original["perturbed_accuracy"][-1]
        near, *_, far = original["discrepancy"]["test"]
        assert len(original["discrepancy"]["test"]) == 5 and near > 40 > 10 > far
        run = gathered[0] / f"seed-{seed}" / "class-8" / "original"
        seen = SplitPredictions.load(run / "predictions.npz")
        assert original["exposure_auc"] == exposure_auc(seen.retain, seen.test)
        assert floor["discrepancy"]["test"][0] > 0


def test_damage_counts_the_test_examples_of_the_forgotten_class_too(gathered):
    cell = gathered[0] / "seed-0" / "class-8"
    ours, theirs = (
        SplitPredictions.load(cell / name / "predictions.npz") for name in ("original", "retrain")
    )
    lost = accuracy(theirs.test_forget) - accuracy(ours.test_forget)
    entry = json.loads((cell / "original" / "evidence.json").read_text())
    assert entry["class_damage"][8] == pytest.approx(lost)
    assert lost < -50  # the original model knows the class


def test_pictures_are_written_for_every_request(gathered):
    for request in ("random-0.1", "class-8"):
        for kind in ("relearning", "damage", "disagreement", "distance"):
            picture = gathered[0] / f"evidence-{request}-{kind}.png"
            assert picture.read_bytes()[:4] == b"\x89PNG"


def test_what_is_there_is_not_computed_again_unless_the_weights_changed(
    gathered, tmp_path, monkeypatch
):
    folder = copy(gathered[0], tmp_path / "study")
    run = folder / "seed-1" / "class-8" / "tight"
    rewrite(run / "evidence.json", lambda kept: kept.update(weights="others", name="?"))
    asked = []
    real = evidence.relearning_curve
    monkeypatch.setattr(evidence, "relearning_curve", lambda *a: asked.append(1) or real(*a))
    evidence.gather(folder)
    assert asked == [1]
    assert entries(folder) == entries(gathered[0])


def test_the_old_report_still_reads_the_folder(gathered, tmp_path):
    folder = copy(gathered[0], tmp_path / "study")
    assert "report.html" in done("report", folder)


def test_folders_without_a_study_or_a_retrained_model_are_refused(gathered, tmp_path):
    assert_refused(call("evidence", tmp_path), "holds no study; give")
    folder = copy(gathered[0], tmp_path / "study")
    (folder / "seed-0" / "class-8" / "tight" / "predictions.npz").unlink()
    (folder / "seed-0" / "class-8" / "tight" / "evidence.json").unlink()
    with pytest.raises(InputError, match=r"no predictions\.npz"):
        evidence.gather(folder)
    for results in folder.glob("seed-*/*/retrain/results.json"):
        results.unlink()
    with pytest.raises(InputError, match="no evaluated retrained model"):
        evidence.gather(folder)
