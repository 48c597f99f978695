"""A whole study: what it computes, what it skips, and what a diverging run does to the others."""

import json
import shutil

import pytest

from jaxunlearn import training
from jaxunlearn.files import write_record
from jaxunlearn.studies import run_study
from jaxunlearn.studies.report.study import read_lines
from jaxunlearn.studies.runs.verify import verify
from jaxunlearn.studies.study import load_study
from jaxunlearn.studies.workspace import Workspace
from tests.shell.commands import assert_refused, call, copy, done, snapshot, weights

pytest_plugins = ["tests.shell.fixtures"]

NAMES = ["original", "retrain", "retrain-again", "finetune", "tight"]
CELLS = [f"seed-{seed}/{request}" for seed in (0, 1) for request in ("random-0.1", "class-8")]


@pytest.fixture
def study(finished, tmp_path):
    """A copy of the finished study, to be written to."""
    return copy(finished.folder, tmp_path / "study")


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that were trained since, in order."""
    names = []
    run = training.run

    def noting(*args, **keywords):
        names.append(keywords["metrics_file"].parent.name)
        return run(*args, **keywords)

    monkeypatch.setattr(training, "run", noting)
    return names


def results(folder, cell, name):
    return json.loads((folder / cell / name / "results.json").read_text())


def test_what_the_folder_holds(finished, study_text):
    folder = finished.folder
    plan = json.loads((folder / "study.json").read_text())
    assert (plan["title"], plan["dataset"], plan["model"]) == ("Tiny study", "digits", "mlp-tiny")
    assert plan["requests"] == ["random-0.1", "class-8"]
    assert (plan["seeds"], plan["methods"]) == ([0, 1], ["finetune", "tight"])
    assert plan["machine"]["platform"] == "cpu"
    assert plan["configuration"]["problem"]["training"]["num_steps"] == 200
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".lock")} == {
        *["seed-0", "seed-1", "study.json", "report.md", "report.html", "results.json"],
    }
    for seed in (0, 1):
        inside = {path.name for path in (folder / f"seed-{seed}").iterdir()}
        assert inside == {"pretrain", "random-0.1", "class-8"}
    for cell in CELLS:
        assert sorted(path.name for path in (folder / cell).iterdir()) == sorted(NAMES)
        for name in NAMES:
            files = {path.name for path in (folder / cell / name).iterdir()}
            own = {"results.json", "predictions.npz", ".lock"}
            trained = {"config.json", "done.json", "metrics.jsonl", "checkpoints", "weights"}
            trained |= {"fingerprints.json", "forget_request.json"}
            unlearned = set() if name.startswith("retrain") else {"deletions.jsonl"}
            assert files == (own if name == "original" else own | trained | unlearned)


def test_every_run_is_measured_against_the_retrained_model_of_its_own_seed(finished):
    folder = finished.folder
    for cell in CELLS:
        oracle = results(folder, cell, "retrain")
        assert "kl_to_retrained" not in oracle["metrics"] and "tow" not in oracle["metrics"]
        for name in NAMES[2:] + NAMES[:1]:
            found = results(folder, cell, name)
            assert found["method"] == name
            assert (f"seed-{found['seed']}", found["request"]) == tuple(cell.split("/"))
            metrics = found["metrics"]
            accuracies = ("forget_accuracy", "retain_accuracy", "test_accuracy")
            gaps = [
                abs(metrics[key] - oracle["metrics"][key])
                for key in (*accuracies, "entropy_member_rate")
            ]
            average = metrics["average_gap_entropy_member_rate"]
            assert average == pytest.approx(sum(gaps) / 4)
            assert metrics["kl_to_retrained"] > 0
            assert ("seconds" in found) == (name != "original")
        if "class" in cell:
            assert oracle["metrics"]["forget_accuracy"] == 0  # it has never seen an 8
            assert oracle["counts"]["test_forget"] > 0
    first, again = (weights(folder / CELLS[0] / name) for name in NAMES[1:3])
    assert all((a != b).any() for a, b in zip(first, again, strict=True))


def test_methods_settings_and_overrides(finished):
    configs = {
        (cell, name): json.loads((finished.folder / cell / name / "config.json").read_text())
        for cell in CELLS
        for name in ("finetune", "tight")
    }
    for (cell, name), config in configs.items():
        assert config["method"] == {"finetune": "finetune", "tight": "eupmu"}[name]
        rate = 0.02 if (name == "finetune" and "random" in cell) else 0.01
        assert config["settings"]["learning_rate"] == rate
        done_there = finished.folder / cell.split("/")[0] / "pretrain" / "done.json"
        assert config["start"] == json.loads(done_there.read_text())["weights"]
    lines = read_lines(finished.folder / CELLS[0] / "tight" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["multiplier"] >= 0 for line in lines) and lines[-1]["multiplier"] > 0


def test_what_is_printed(finished):
    lines = finished.printed.splitlines()
    assert lines[0] == "16 runs besides the pretraining, 0 of them already finished"
    for cell in CELLS:
        seed, request = cell.split("/")
        named = [line.split()[2] for line in lines if line.split()[:2] == [seed, request]]
        assert sorted(named) == sorted(NAMES)
    retrained = next(line for line in lines if line.split()[:3] == ["seed-0", "class-8", "retrain"])
    assert " s  accuracy: forget   0.00  retain" in retrained
    table = finished.printed.split("Tiny study")[1]
    for name in ("Original", "Retrained", "Retrained again", "finetune", "tight", "class-8"):
        assert name in table
    assert "…" not in table and max(map(len, table.splitlines())) <= 120
    assert lines[-1] == f"report: {finished.folder / 'report.html'}"


def test_again_nothing_is_computed(finished, study, trained, tmp_path):
    """A default that is written down now makes no other problem."""
    before, config = snapshot(study), tmp_path / "study.toml"
    text = finished.config.read_text()
    config.write_text(text.replace("[problem.training]", "[problem.training]\nmomentum = 0.9"))
    assert load_study(config).problem != load_study(finished.config).problem
    printed = done("compare", study, "--config", config)
    assert trained == []
    assert printed.startswith("16 runs besides the pretraining, 16 of them already finished\n")
    assert "accuracy:" not in printed and "Tiny study" in printed
    after = snapshot(study)
    changed = {name for name in after if after[name] != before.get(name)}
    assert after.keys() == before.keys()
    assert changed <= {"study.json", "report.md", "report.html", "results.json"}


def test_all_of_a_study_is_verified(finished, study):
    """Its records, the original models, and each run; the one that was altered alone is named."""
    findings = verify(study)
    assert {finding.verdict for finding in findings} == {"matches"}
    for name in (
        "study.json",
        "seed-1/pretrain",
        "seed-1/class-8/original",
        "seed-0/class-8/tight",
    ):
        assert study / name in {finding.run for finding in findings}
    printed = " ".join(done("verify", study).split())
    assert f"{len(findings)} checks, {len(findings)} matches" in printed
    metrics = study / "seed-1" / "class-8" / "tight" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("0.", "1.", 1))
    result = call("verify", study)
    assert result.status == 2 and "1 of " in result.err and str(metrics) in result.out
    refused = f"{metrics} was cut short or altered after it was written"
    assert_refused(call("report", study), refused)


def test_one_process_at_a_time(finished, study):
    before = snapshot(study)
    with Workspace(study).locked():
        for words in (["compare", study, "--config", finished.config], ["evidence", study]):
            assert_refused(call(*words), f"another process is at work in {study}; wait")
    assert snapshot(study) == before


def test_shards_share_the_methods_and_what_these_need_is_made_once(finished, study, trained):
    for cell in CELLS:
        for name in ("finetune", "tight"):
            shutil.rmtree(study / cell / name)
    shutil.rmtree(study / CELLS[3] / "retrain-again")
    given = ["compare", study, "--config", finished.config, "--shard"]
    with Workspace(study).locked("1-of-2"):  # another shard is at work beside this one
        done(*given, "2/2")
    assert trained == ["tight", "retrain-again", "tight", "tight", "tight"]  # seed 1 comes first
    assert len(json.loads((study / "results.json").read_text())["requests"]["class-8"]["runs"]) == 4
    trained.clear()
    with Workspace(study).locked("2-of-2"):
        done(*given, "1/2")
        assert_refused(call(*given[:-1]), "another process is at work")
    assert trained == ["finetune"] * 4
    after = json.loads((study / "results.json").read_text())["requests"]["class-8"]["runs"]
    assert sorted(after) == sorted(NAMES)
    assert_refused(call(*given, "0/2"), "shard is '0/2'", "1/4 for the first of four jobs")


def test_a_new_method_is_all_that_is_computed(finished, study, study_text, trained, tmp_path):
    before = snapshot(study)
    more = "\n[methods.quick]\nmethod = 'finetune'\nnum_steps = 4\nforget_batch_size = 32\n"
    config = tmp_path / "more.toml"
    config.write_text(study_text + more + "retain_batch_size = 32\nlearning_rate = 0.1\n")
    printed = done("compare", study, "--config", config)
    assert trained == ["quick"] * 4
    assert printed.startswith("20 runs besides the pretraining, 16 of them already finished\n")
    after = snapshot(study)
    reports = {"study.json", "report.md", "report.html", "results.json"}
    assert all(after[name] == before[name] for name in before.keys() - reports)
    table = json.loads((study / "results.json").read_text())
    assert table["requests"]["class-8"]["runs"]["quick"]["seeds"] == 2


def test_a_lost_result_is_all_that_is_computed(finished, study, trained):
    folder = study / CELLS[1] / "tight"
    before = snapshot(folder)
    (folder / "results.json").unlink()
    shutil.rmtree(study / CELLS[2] / "finetune")
    done("compare", study, "--config", finished.config)
    assert trained == ["finetune"]
    after = snapshot(folder)
    assert after["predictions.npz"] == before["predictions.npz"]
    assert after["results.json"] == before["results.json"]


def test_other_seeds_than_those_of_the_file(finished, study, trained):
    printed = done("compare", study, "--config", finished.config, "--seeds", 1)
    assert printed.startswith("8 runs besides the pretraining, 8 of them already finished\n")
    assert trained == []
    assert (study / "study.json").read_bytes() == (finished.folder / "study.json").read_bytes()
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (study, finished.folder))
    assert ours["requests"] == theirs["requests"]


def test_a_plan_grows_and_never_shrinks(finished, study, study_text, tmp_path):
    """What was planned before stays planned, in whatever order things are named now."""
    config = tmp_path / "other.toml"
    one, rest = study_text.split("[[requests]]\nfraction = 0.1\n")
    text = (one + rest).replace("[methods.tight]", "[methods.more]").replace("[0, 1]", "[5]")
    config.write_text(text.replace('"random-0.1".finetune', '"class-8".more'))
    plan = run_study._planned(study, load_study(config))
    assert plan["seeds"] == plan["configuration"]["seeds"] == [0, 1, 5]
    assert plan["requests"] == ["class-8", "random-0.1"]
    assert [each["classes"] for each in plan["configuration"]["requests"]] == [[8], []]
    assert plan["methods"] == [*plan["configuration"]["methods"]] == ["finetune", "more", "tight"]
    rate = {"learning_rate": 0.02}
    overrides = {"class-8": {"more": rate}, "random-0.1": {"finetune": rate}}
    assert plan["configuration"]["overrides"] == overrides
    write_record(study / "study.json", plan)
    planned = run_study._planned(study, load_study(finished.config))
    assert (planned["seeds"], set(planned["methods"])) == ([0, 1, 5], set(plan["methods"]))
    assert set(planned["requests"]) == set(plan["requests"])


def test_a_study_of_another_problem_is_refused_whatever_was_run(finished, tmp_path):
    (tmp_path / "study").mkdir()
    shutil.copy(finished.folder / "study.json", tmp_path / "study")
    before, config = snapshot(tmp_path / "study"), tmp_path / "other.toml"
    for old, new, reason in (
        ("num_steps = 200", "num_steps = 201", "problem.training.num_steps is 200 there"),
        ('model = "mlp-tiny"', 'model = "mlp"', "problem.model is 'mlp-tiny' there"),
    ):
        config.write_text(finished.config.read_text().replace(old, new))
        result = call("compare", tmp_path / "study", "--config", config, "--seeds", 7)
        assert_refused(result, "holds another study", reason)
        assert snapshot(tmp_path / "study") == before


def test_a_damaged_plan_is_written_again(finished, study):
    path = study / "study.json"
    path.write_text(path.read_text().replace("Tiny", "Tidy"))
    printed = done("compare", study, "--config", finished.config)
    assert (
        f"{path} was altered after it was written" in printed
        and "rebuilt from the given configuration" in printed
    )
    assert path.read_bytes() == (finished.folder / "study.json").read_bytes()


def test_a_diverging_method_does_not_stop_the_others(
    finished, study, study_text, trained, tmp_path
):
    """It diverges on one request only; the method after it is computed all the same."""
    shutil.rmtree(study / CELLS[0] / "tight")
    broken = "num_steps = 4\nforget_batch_size = 32\nretain_batch_size = 32\n"
    config = tmp_path / "broken.toml"
    config.write_text(
        study_text.replace(
            "[methods.tight]", f"[methods.broken]\nmethod = 'finetune'\n{broken}[methods.tight]"
        )
        + '[overrides."random-0.1".broken]\nlearning_rate = 1e30\n'
    )
    result = call("compare", study, "--config", config)
    assert result.status == 3
    assert trained == ["broken", "tight", "broken", "broken", "broken"]
    assert result.err.startswith("jaxunlearn: these runs diverged or broke their budget: ")
    assert result.err.count("\n") == 1
    for seed in (0, 1):
        assert f"seed-{seed}/random-0.1/broken" in result.err
        assert f"seed-{seed}/random-0.1/broken: a loss or a weight became NaN" in result.out
    assert "class-8/broken" not in result.err
    assert "Tiny study" in result.out and "report.html" in result.out
    table = json.loads((study / "results.json").read_text())
    assert table["requests"]["random-0.1"]["runs"]["tight"]["seeds"] == 2
    assert "broken" not in table["requests"]["random-0.1"]["runs"]
    assert table["requests"]["class-8"]["runs"]["broken"]["seeds"] == 2
    assert table["unfinished"] == []
    diverged = [(run["seed"], run["request"], run["run"]) for run in table["diverged"]]
    assert diverged == [(0, "random-0.1", "broken"), (1, "random-0.1", "broken")]
    assert "**Diverged:**" in (study / "report.md").read_text()
    assert "Diverged: seed 0, random-0.1, broken: at step" in result.out
    refused = call("evaluate", study / CELLS[0] / "broken")
    assert_refused(refused, "diverged: a loss or a weight became NaN or infinite at step")

    # The fix that the message names: a lower rate, and the folders deleted.
    config.write_text(config.read_text().replace("1e30", "0.03"))
    assert_refused(call("compare", study, "--config", config), "learning_rate is 1e+30 there")
    for seed in (0, 1):
        shutil.rmtree(study / f"seed-{seed}" / "random-0.1" / "broken")
    done("compare", study, "--config", config)
    table = json.loads((study / "results.json").read_text())
    assert table["unfinished"] == table["diverged"] == []


def test_nothing_follows_a_diverging_original_model(study_text, tmp_path, trained):
    """Nor a retrained one: metrics that need it are left out, and the rest continues."""
    config, folder = tmp_path / "study.toml", tmp_path / "study"
    config.write_text(
        study_text.replace("[problem.training]", "[problem.training]\nlearning_rate = 1e30")
    )
    result = call("compare", folder, "--config", config)
    assert result.status == 3
    assert trained == ["pretrain", "pretrain"]
    assert "seed-0/pretrain, " in result.err and "seed-1/pretrain. " in result.err
    assert json.loads((folder / "results.json").read_text())["requests"] == {}


def test_report_writes_all_files_again(finished, study):
    for name in ("report.md", "report.html", "results.json"):
        (study / name).unlink()
    printed = done("report", study)
    assert printed.splitlines()[-1] == f"report: {study / 'report.html'}"
    assert "Tiny study" in printed
    theirs = json.loads((finished.folder / "results.json").read_text())
    assert json.loads((study / "results.json").read_text()) == theirs
    assert "<html" in (study / "report.html").read_text()
