"""What other commands found, in the report: where it lies, what is left out, what is refused."""

import json
import shutil

import numpy as np
import pytest

from jaxunlearn.studies.report import read_study, write_report
from jaxunlearn.studies.report.aggregate import make_table
from jaxunlearn.studies.report.extras import read_extras
from jaxunlearn.studies.report.plane import make_plane
from jaxunlearn.studies.report.sections import multipliers
from jaxunlearn.types import InputError
from tests.studies.report.test_report import Page

MODELS = ("original", "retrain", "fine-tune", "sfron", "eupmu")


def make_entry(seed, name):
    """Evidence on one run, as `jaxunlearn evidence` writes it."""
    start = 90.0 + seed + len(name)
    return {
        "seed": seed,
        "request": "random-0.1",
        "name": name,
        "weights": f"{name}-{seed}",
        "retrained": f"retrain-{seed}",
        "relearning_curve": list(np.linspace(start - 20, start - 10, 6)),
        "probe_accuracy": start - 15,
        "calibration_error": {"forget": 1.0, "test": 2.0},
        "brier_score": {"forget": 0.1, "test": 0.2},
        "class_damage": [0.0, 12.5, -3.0, None, 1.0],
        "disagreement_map": {"forget": [[3]], "test": [[4]]},
        "disagreement": {"forget": 5.0, "test": 6.0},
    }


def make_model(value):
    rates = np.geomspace(0.1, 100, 20)
    return {
        "auc": {"value": value, "low": value - 2, "high": value + 2},
        "tpr": {"0.01": {"value": 3.0, "low": 1.0, "high": 6.0}},
        "roc_curve": {"fpr": rates.tolist(), "tpr": (100 * (rates / 100) ** 0.8).tolist()},
        "forget_accuracy": 95.0,
        "retain_accuracy": 100.0,
        "test_accuracy": 97.0,
    }


def make_ulira():
    """Results of `jaxunlearn ulira`."""
    return {
        "title": "Forgetting handwritten digits",
        "dataset": "digits",
        "model": "mlp",
        "shadows": 16,
        "targets": 60,
        "fraction": 0.1,
        "seed": 0,
        "variance": "shared",
        "methods": {"eupmu": {"method": "eupmu", "settings": {"tolerance": 0.1}}},
        "models": {"retrain": make_model(50.0), "eupmu": make_model(61.25)},
    }


@pytest.fixture
def study(finished_study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(finished_study, folder)
    runs = [make_entry(seed, name) for seed in (0, 1) for name in MODELS]
    study = {"title": "Forgetting handwritten digits", "dataset": "digits", "model": "mlp"}
    evidence = study | {"relearning": {"epochs": 5}, "runs": runs}
    (folder / "evidence.json").write_text(json.dumps(evidence))
    (folder / "ulira").mkdir()
    (folder / "ulira" / "ulira.json").write_text(json.dumps(make_ulira()))
    return folder


def configure(folder, name, **settings):
    """Writes the configuration of a method's runs on the random request."""
    for seed in (0, 1):
        path = folder / f"seed-{seed}" / "random-0.1" / name / "config.json"
        path.write_text(json.dumps({"problem": {}, "method": "eupmu", "settings": settings}))


def test_the_report_shows_what_lies_there_and_only_where_it_belongs(study):
    paths = write_report(study)
    page = Page(paths["html"].read_text())
    first, second = page.text.split("class-3 all of class 3")
    for words in ("Relearning", "Damage to classes", "U-LiRA", "59.2 to 63.2", "AUC 61.2", "+12.5"):
        assert words in first and words not in second.split("What the rows")[0]
    assert "KLOM" not in page.text  # files of an older version lack it
    # As without them, and a picture of relearning for three methods, of the attack for one.
    assert page.tags.count("figure") == 2 * (5 + 3 + 1) + 3 + 1
    assert "script" not in page.tags
    markdown = paths["markdown"].read_text()
    assert markdown.count("(evidence.md)") == markdown.count("(ulira/ulira.md)") == 1
    assert markdown.count("by U-LiRA (95% interval of the AUC above 50; 16 shadow models)") == 1
    assert "14 runs of the study have no evidence" in page.text


def test_evidence_on_other_weights_is_left_out(study):
    run = study / "seed-1" / "random-0.1"
    (run / "eupmu" / "done.json").write_text('{"weights": "trained again"}')
    entries = read_extras(read_study(study)).entries["random-0.1"]
    assert [entry["seed"] for entry in entries["eupmu"]] == [0]
    assert [entry["seed"] for entry in entries["sfron"]] == [0, 1]
    (run / "retrain" / "done.json").write_text('{"weights": "trained again"}')
    entries = read_extras(read_study(study)).entries["random-0.1"]
    assert all(entry["seed"] == 0 for model in entries.values() for entry in model)


def test_attacks_on_other_weights_are_left_out(study):
    one = {"seen": 12.5, "probability": 0.1, "steps": 2, "seconds": 1.0}
    protocol = {"steps": 2, "learning_rate": 0.1, "judge": "judge"}
    record = {"weights": "attacked", "protocol": protocol, "before": one, "attacks": {}}
    for run in read_study(study).runs:
        text = json.dumps(record | {"attacks": {"revival": one}})
        (run.folder / "revival.json").write_text(text)

    def shown():
        return {run.metrics.get("seen_after_revival") for run in read_study(study).runs}

    assert shown() == {12.5}
    pretrained = study / "seed-1" / "pretrain"  # the original model is trained there
    pretrained.mkdir(exist_ok=True)
    for place in (pretrained, study / "seed-1" / "random-0.1" / "eupmu"):
        path = place / "done.json"
        before = path.read_text() if path.exists() else "{}"
        for weights, values in (("attacked", {12.5}), ("trained again", {None})):
            path.write_text(json.dumps({"weights": weights}))
            assert shown() == values
        path.write_text(before)


def test_names_from_these_files_are_escaped_beside_all_audits(study):
    found = make_ulira()
    found["models"]["<img src=x>"] = make_model(70.0)
    parts = {"targets": 9.25, "retain": 0.5, "test": 0.75}
    audits = {"klom": parts, "gaussian_klom": parts, "retain_auc": 51.5}
    audits["memorised_auc"] = {"most": 83.4, "least": 50.2}
    for model in found["models"].values():
        model |= audits
    found["retrained_again"] = [make_model(49.0) | audits] * 2
    (study / "ulira" / "ulira.json").write_text(json.dumps(found))
    evidence = json.loads((study / "evidence.json").read_text())
    evidence["title"] = "<img src=x>"
    (study / "evidence.json").write_text(json.dumps(evidence))
    text = write_report(study)["html"].read_text()
    assert "<img src=x>" not in text and "&lt;img src=x&gt;" in text
    page = Page(text)
    assert set(page.sources()) == {"data:image/svg+xml"}
    assert page.text.count("83.4") == 3 + 2 and page.text.count("Gaussian KLOM forget") == 1


def test_a_setting_that_came_later_had_its_default(study):
    """Runs of an older version, whose records lack it, belong to those of today."""
    configure(study, "eupmu", tolerance=0.1)
    run = study / "seed-1" / "random-0.1" / "eupmu"
    settings = {"tolerance": 0.1, "exponent": 0.5}
    record = {"problem": {}, "method": "eupmu", "settings": settings}
    (run / "config.json").write_text(json.dumps(record))
    assert read_extras(read_study(study)).ulira is not None
    record["settings"]["exponent"] = 0.7
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="settings.exponent is 0.5 in the first, but 0.7"):
        read_study(study)


def test_an_attack_on_other_settings_or_another_problem_is_refused(study):
    configure(study, "eupmu", tolerance=0.1)
    assert read_extras(read_study(study)).ulira is not None
    configure(study, "eupmu", tolerance=0.2)
    with pytest.raises(InputError, match="different protocols.*settings.tolerance is 0.2"):
        read_extras(read_study(study))
    configure(study, "eupmu", tolerance=0.1)
    (study / "ulira" / "config.json").write_text('{"problem": {"model": "vit"}}')
    with pytest.raises(InputError, match="problem.model is 'not given' in the first, but 'vit'"):
        read_extras(read_study(study))


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("evidence.json", '{"runs": []}', "evidence.json has no title, but needs one"),
        (
            "evidence.json",
            '{"title": "", "dataset": "", "model": "", "relearning": {"epochs": 5}, '
            '"runs": [{"seed": 0}]}',
            r"evidence.json: runs\[0\] has no request, but needs one",
        ),
        (
            "ulira/ulira.json",
            '{"title": "a", "dataset": "b"}',
            "ulira.json has no model, but needs one",
        ),
        ("ulira/ulira.json", "[1]", "ulira.json"),
    ],
)
def test_damaged_files_are_named(study, file, text, words):
    (study / file).write_text(text)
    with pytest.raises(InputError, match=words):
        read_extras(read_study(study))


def test_an_attack_without_curves_is_refused(study):
    found = make_ulira()
    del found["models"]["eupmu"]["roc_curve"]
    (study / "ulira" / "ulira.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="models.eupmu has no roc_curve"):
        read_extras(read_study(study))


@pytest.mark.parametrize(
    ("exact", "drawn"),
    [
        ({"estimator": "exact", "learning_rate": 0.1, "tolerance": 0.3}, True),
        ({"estimator": "exact", "learning_rate": 0.2, "tolerance": 0.3}, False),
        ({"estimator": "next_batch", "learning_rate": 0.1, "tolerance": 0.3}, False),
    ],
)
def test_the_exact_multiplier_is_drawn_beside_runs_of_the_same_settings(study, exact, drawn):
    shutil.rmtree(study / "ulira")
    for seed in (0, 1):
        runs = study / f"seed-{seed}" / "random-0.1"
        (runs / "sfron" / "metrics.jsonl").write_bytes((runs / "eupmu/metrics.jsonl").read_bytes())
    configure(study, "eupmu", estimator="same_batch", learning_rate=0.1, tolerance=0.05)
    configure(study, "sfron", **exact)
    results = read_study(study)
    figures = multipliers(results, make_table(results, "random-0.1"))
    note = "same_batch, tolerance 0.05; beside sfron, tolerance 0.3"
    assert [(figure.name, figure.note) for figure in figures] == [("eupmu", note)] * drawn
    page = Page(write_report(study)["html"].read_text())
    assert (note in page.text) == drawn


def test_the_plane_holds_mean_distances_of_the_same_seed_and_its_front(study):
    results = read_study(study)
    plane = make_plane(results, make_table(results, "random-0.1"))
    assert plane.references["retrain"].error == 0.0
    for name, point in plane.methods.items():
        pairs = zip(
            results.select("random-0.1", name), results.select("random-0.1", "retrain"), strict=True
        )
        errors = [
            abs(a.metrics["forget_accuracy"] - b.metrics["forget_accuracy"]) for a, b in pairs
        ]
        assert point.error == pytest.approx(np.mean(errors))
        beaten = any(
            other.error <= point.error and other.utility >= point.utility and other != point
            for other in plane.methods.values()
        )
        assert (name in plane.front) == (not beaten)
    shutil.rmtree(study / "seed-0" / "random-0.1" / "retrain")
    shutil.rmtree(study / "seed-1" / "random-0.1" / "retrain")
    results = read_study(study)
    assert make_plane(results, make_table(results, "random-0.1")) is None
