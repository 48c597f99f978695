"""Reading a study folder: finished, in progress, incomplete and broken ones."""

import json
import shutil

import pytest

from jaxunlearn.studies.report import read_study
from jaxunlearn.studies.report.wording import facts
from jaxunlearn.types import InputError


def edit(path, change):
    """Applies a change to a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_finished_study_is_read_in_the_planned_order(finished_study):
    study = read_study(finished_study)
    assert study.title == "Forgetting handwritten digits"
    assert (study.dataset, study.model) == ("digits", "mlp")
    assert study.seeds == (0, 1)
    assert study.requests == ("random-0.1", "class-3")
    assert study.methods == ("fine-tune", "sfron", "eupmu")
    assert len(study.runs) == 2 * 2 * 6
    assert study.unfinished == ()
    (first, second) = study.select("class-3", "eupmu")
    assert (first.seed, second.seed) == (0, 1)
    assert first.counts["forget"] == 60
    assert first.metrics["seconds"] == 2.0
    assert first.metrics["share_of_retraining"] == 5.0
    assert len(first.history()) == 120
    assert first.predictions().forget.probabilities.shape == (60, 5)


def test_runs_without_results_are_listed_as_unfinished(small_study):
    started = small_study / "seed-1" / "random-0.1" / "sfron"
    started.mkdir(parents=True)
    study = read_study(small_study)
    assert [(run.seed, run.name, run.step) for run in study.unfinished] == [(1, "sfron", None)]
    (started / "metrics.jsonl").write_text('{"step": 7, "forget_loss": 1.0}\n{"step": 8, "forg')
    study = read_study(small_study)
    assert study.unfinished[0].step == 7
    assert study.seeds == (0, 1)
    assert "sfron" in study.methods


def test_distances_are_added_where_the_retrained_model_came_later(small_study):
    path = small_study / "seed-0" / "random-0.1" / "eupmu" / "results.json"
    complete = read_study(small_study).select("random-0.1", "eupmu")[0].metrics

    def forget_distances(results):
        for key in list(results["metrics"]):
            if key.startswith("average_gap") or key.endswith("retrained") or key == "tow":
                del results["metrics"][key]
        del results["share_of_retraining"]

    edit(path, forget_distances)
    assert "tow" not in json.loads(path.read_text())["metrics"]
    derived = read_study(small_study).select("random-0.1", "eupmu")[0].metrics
    assert set(derived) == set(complete)
    for key, value in complete.items():
        assert derived[key] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_share_of_retraining_takes_one_machine(small_study, platform):
    group = small_study / "seed-0" / "random-0.1"
    for name, where in {"retrain": "cpu", "eupmu": platform}.items():
        (group / name / "done.json").write_text(json.dumps({"machine": {"platform": where}}))
    metrics = read_study(small_study).select("random-0.1", "eupmu")[0].metrics
    assert metrics["seconds"] > 0.0
    assert ("share_of_retraining" in metrics) == (platform == "cpu")


def test_without_a_retrained_model_there_are_no_distances(small_study):
    shutil.rmtree(small_study / "seed-0" / "random-0.1" / "retrain")
    path = small_study / "seed-0" / "random-0.1" / "eupmu" / "results.json"
    edit(path, lambda results: [results["metrics"].pop(key) for key in ("tow", "kl_to_retrained")])
    metrics = read_study(small_study).select("random-0.1", "eupmu")[0].metrics
    assert "tow" not in metrics
    assert "kl_to_retrained" not in metrics


def test_missing_predictions_and_histories_are_no_error(small_study):
    folder = small_study / "seed-0" / "random-0.1" / "eupmu"
    (folder / "predictions.npz").unlink()
    (folder / "metrics.jsonl").unlink()
    run = read_study(small_study).select("random-0.1", "eupmu")[0]
    assert run.predictions() is None
    assert run.history() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"metrics": {"forget_acc', "eupmu/results.json is not readable JSON"),
        ("[1, 2]", "results.json holds \\[1, 2\\], but must hold a JSON object"),
        ('{"seconds": 1.0}', "eupmu/results.json has no metrics, but needs one"),
        (
            '{"metrics": {"tow": "high"}}',
            "results.json: metrics.tow is 'high'",
        ),
        (
            '{"metrics": {"tow": NaN}}',
            "results.json: metrics.tow is nan, but must be a finite number",
        ),
        (
            '{"metrics": {}, "seconds": true}',
            "results.json: seconds is True",
        ),
        (
            '{"metrics": {}, "counts": [3]}',
            r"results.json: counts is \[3\]",
        ),
        ('{"metrics": {}}', "eupmu cannot be compared: the metrics lack forget_accuracy"),
    ],
)
def test_malformed_results_are_named(small_study, text, message):
    (small_study / "seed-0" / "random-0.1" / "eupmu" / "results.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_study(small_study)


def test_a_broken_history_is_named_with_its_line(small_study):
    path = small_study / "seed-0" / "random-0.1" / "eupmu" / "metrics.jsonl"
    path.write_text('{"step": 1}\noops\n{"step": 3}\n')
    run = read_study(small_study).select("random-0.1", "eupmu")[0]
    with pytest.raises(InputError, match="metrics.jsonl, line 2 is not a JSON object"):
        run.history()


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere holds no study; give .* of jaxunlearn compare"):
        read_study(tmp_path / "nowhere")
    (tmp_path / "study.json").write_text('{"machine": "fast"}')
    with pytest.raises(InputError, match="study.json is 'fast', but must be a table"):
        read_study(tmp_path)


def test_a_machine_that_is_no_object_is_refused(small_study):
    run = small_study / "seed-0" / "random-0.1" / "eupmu"
    (run / "done.json").write_text('{"machine": "fast"}')
    with pytest.raises(
        InputError, match="machine in .*eupmu/done.json is 'fast', but must be a table"
    ):
        read_study(small_study)


def test_the_machines_named_are_those_that_trained_the_runs(small_study):
    gpu, cpu = {"platform": "gpu", "jax": "0.11.2"}, {"platform": "cpu"}
    cell = small_study / "seed-0" / "random-0.1"
    assert [each["processor"] for each in read_study(small_study).machines] == ["2 cores"]
    for name, machine in {"retrain": cpu, "eupmu": gpu}.items():
        (cell / name / "done.json").write_text(json.dumps({"machine": machine}))
    shutil.copytree(cell / "eupmu", small_study / "seed-0" / "class-3" / "eupmu")
    study = read_study(small_study)
    assert study.machines == (gpu, cpu)  # that of most runs first
    told = dict(facts(study))
    assert told["Machines"] == "platform gpu, jax 0.11.2; platform cpu"
