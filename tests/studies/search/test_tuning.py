"""The blind tuner: what it tries, what it may see, how it resumes, and what blindness costs."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from jaxunlearn import training
from jaxunlearn.data import ForgetRequest
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.problem import load_task
from jaxunlearn.studies.report.tuning import chosen_toml, regret
from jaxunlearn.studies.search import cases, tuning
from jaxunlearn.studies.study import load_study
from jaxunlearn.studies.workspace import Workspace
from tests.once import made_once
from tests.shell.commands import (
    QUICK,
    TRAINING,
    assert_refused,
    call,
    copy,
    done,
    rewrite,
    snapshot,
)

pytest_plugins = ["tests.shell.fixtures"]

CONFIGS = Path(__file__).parents[3] / "experiments" / "configs"
SEARCH = """
trials = 3
seeds = [0]
oracle = {oracle}
[problem]
data_dir = "{data_dir}"
model = "mlp-tiny"
[problem.training]
num_steps = 200
retain_batch_size = 64
[[requests]]
fraction = 0.1
[search.finetune]
num_steps = 4
forget_batch_size = 32
retain_batch_size = 32
learning_rate = [0.001, 1.0]
[search.wild]
method = "finetune"
num_steps = 4
forget_batch_size = 32
retain_batch_size = 32
learning_rate = 1e30
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory, data_dir) -> Path:
    path = tmp_path_factory.mktemp("search") / "search.toml"
    path.write_text(SEARCH.format(data_dir=data_dir, oracle="true"))
    return path


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, config) -> Path:
    """A finished search."""

    def make(folder):
        printed = partly(folder / "tuned", config)
        assert re.search(r"random-0.1 +finetune +1 +3 ", printed)  # one number, three trials
        assert re.search(r"random-0.1 +wild +0 +1 ", printed)
        assert "trial   3 of 3" in printed and f"chosen settings: {folder / 'tuned'}" in printed
        assert "regret" in printed

    return made_once(tmp_path_factory, "tuned", make) / "tuned"


def partly(folder, config):
    """Runs a search whose run "wild" diverges; what it printed."""
    result = call("tune", folder, "--config", config)
    assert result.status == 3
    assert result.err.startswith(
        "jaxunlearn: the best trial of random-0.1 wild diverged or broke its budget. "
    )
    return result.out


@pytest.fixture
def runs(monkeypatch):
    """The learning rates that were run since, in order; the run after the last of `stop` stops."""
    run_many = tuning.run_many

    def noting(program, members, **keywords):
        if len(noting.seen) == noting.stop:
            raise training.Interrupted("stopped")
        noting.seen.extend(member.numbers["learning_rate"] for member in members)
        return run_many(program, members, **keywords)

    noting.seen, noting.stop = [], -1
    monkeypatch.setattr(tuning, "run_many", noting)
    return noting


def read(folder):
    return json.loads((folder / "tuning.json").read_text())


def search_of(text):
    return from_dict(tuning.Search, tomllib.loads(text), "the search")


def test_trials_at_once_find_what_trials_in_turns_find(config, tmp_path, monkeypatch):
    """As on accelerators: three trials are one program, which is compiled once."""
    groups = []
    run_many = tuning.run_many

    def watched(*args, **rest):
        for finished in run_many(*args, **rest):
            groups.append(finished.group_size)
            yield finished

    search = tuning.load_search(config)
    search = replace(search, search={"finetune": search.search["finetune"]}, oracle=False)
    in_turns = tuning.tune(tmp_path / "in_turns", search)["found"]
    monkeypatch.setattr(tuning, "at_once", lambda: 16)
    monkeypatch.setattr(tuning, "run_many", watched)
    together = tuning.tune(tmp_path / "together", search)["found"]
    assert groups == [3, 3, 3]
    for ours, theirs in zip(
        *(each["random-0.1"]["finetune"]["trials"] for each in (together, in_turns)), strict=True
    ):
        assert ours["settings"] == theirs["settings"]
        assert ours["target"] == pytest.approx(theirs["target"], abs=0.2)


def test_every_run_gets_the_same_trials_and_more_trials_begin_with_them():
    plan = tuning.load_search(CONFIGS / "digits_demo_search.toml")
    request = plan.requests[0]
    for name in plan.search:
        method, proposals = plan.proposals(request, name)
        assert method == plan.search[name].get("method", name) and len(proposals) == 24
        assert len({json.dumps(proposal) for proposal in proposals}) == 24
        for proposal in proposals:
            for key, entry in plan.search[name].items():
                if isinstance(entry, list):
                    assert entry[0] <= proposal[key] <= entry[1]
                elif key != "method":
                    assert proposal[key] == entry
        fewer = tuning.Search(plan.problem, plan.requests, plan.seeds, 5, plan.search)
        assert fewer.proposals(request, name)[1] == proposals[:5]


def test_the_committed_results_are_of_settings_that_were_drawn_blind():
    plan = tuning.load_search(CONFIGS / "digits_demo_search.toml")
    record = json.loads((CONFIGS / "digits_demo_search_result.json").read_text())
    study = load_study(CONFIGS / "digits_demo.toml")
    assert not set(plan.seeds) & set(study.seeds)
    for request in plan.requests:
        assert record["found"][request.name].keys() == plan.search.keys() == study.methods.keys()
        for name, found in record["found"][request.name].items():
            trials = found["trials"]
            assert found["ranges"] == plan.entries(request, name)
            _, proposals = plan.proposals(request, name)
            drawn = [json.dumps(each, sort_keys=True) for each in proposals]
            tried = [json.dumps(trial["settings"], sort_keys=True) for trial in trials]
            assert sorted(tried) == sorted(drawn)
            targets = [trial["target"] for trial in trials]
            chosen, lowest = regret(trials)
            assert targets == sorted(targets) and chosen >= lowest
            _, used = study.run_settings(request, name)
            assert used.items() >= trials[0]["settings"].items()
    chosen = tomllib.loads(chosen_toml(record))["overrides"]
    best = record["found"]["class-3"]["sfron"]["trials"][0]["settings"]
    assert chosen["class-3"]["sfron"] == best


def test_the_target_is_what_must_hold_without_the_forget_data():
    before = {"retain_accuracy": 99.0, "validation_accuracy": 95.0, "forget_accuracy": 99.0}
    perfect = before | {"forget_accuracy": 95.0}
    assert tuning.blind_target(perfect, before, unseen=95.0) == 0
    assert tuning.blind_target(before, before, unseen=95.0) == 4
    for key in perfect:  # too much is as bad as too little
        for change in (-2.0, 2.0):
            changed = perfect | {key: perfect[key] + change}
            assert tuning.blind_target(changed, before, unseen=95.0) == 2
    forgotten = before | {"forget_accuracy": 0.0}
    assert tuning.blind_target(forgotten, before, unseen=0.0) == 0


def test_a_blind_choice_needs_no_test_data(pretrained, data_dir):
    problem = Problem(data_dir=str(data_dir), model="mlp-tiny", training=TRAINING)
    case = cases.load_case(problem, 0, ForgetRequest(fraction=0.1), pretrained)
    original = case.original
    hidden = case._replace(splits=case.splits._replace(test=None, test_forget=None))
    assert cases.blind_metrics(hidden, original) == {
        key: value
        for key, value in cases.all_metrics(case, original).items()
        if key in ("forget_accuracy", "retain_accuracy", "validation_accuracy")
    }


def test_a_trial_is_the_run_that_the_commands_would_make(tuned, pretrained, retrained, tmp_path):
    """The same settings by `unlearn` and `evaluate` give the same metrics, gap included."""
    found = read(tuned)["found"]["random-0.1"]["finetune"]["trials"]
    assert [trial["target"] for trial in found] == sorted(trial["target"] for trial in found)
    trial = found[0]
    rate = trial["settings"]["learning_rate"]
    run = tmp_path / "run"
    words = ["--pretrained", pretrained, "--fraction", 0.1, "finetune"]
    done("unlearn", run, *words, *QUICK, f"--learning-rate={rate}")
    done("evaluate", run, "--retrained", retrained)
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    for key in ("forget_accuracy", "retain_accuracy", "validation_accuracy", "five_part_gap"):
        assert trial[key] == pytest.approx(metrics[key], abs=1e-9)


def test_a_diverged_trial_has_the_worst_target_and_stops_nothing(tuned):
    (wild,) = read(tuned)["found"]["random-0.1"]["wild"]["trials"]  # nothing drawn: one trial
    assert (wild["target"], wild["five_part_gap"], wild["diverged"]) == (300.0, 100.0, 1)
    best, lowest = regret(read(tuned)["found"]["random-0.1"]["finetune"]["trials"])
    assert 0 < lowest <= best < 100
    text = (tuned / "tuned.toml").read_text()
    assert "# random-0.1 wild: the best trial diverged or broke its budget\n" in text
    chosen = tomllib.loads(text)["overrides"]["random-0.1"]
    assert chosen.keys() == {"finetune"}
    found = read(tuned)["found"]["random-0.1"]["finetune"]["trials"]
    assert chosen["finetune"] == found[0]["settings"]


def test_a_search_continues_trial_by_trial(tuned, config, runs, tmp_path):
    folder = copy(tuned, tmp_path / "search")
    proposals = [p["learning_rate"] for p in _proposals(config)]
    rewrite(folder / "tuning.json", lambda record: record["found"].clear())
    runs.stop = 2  # the third trial is interrupted
    assert call("tune", folder, "--config", config).status == 130
    assert runs.seen == proposals[:2]
    assert len(read(folder)["found"]["random-0.1"]["finetune"]["trials"]) == 2
    runs.stop = -1
    partly(folder, config)
    assert runs.seen == [*proposals, 1e30]
    assert read(folder)["found"] == read(tuned)["found"]
    partly(folder, config)
    assert len(runs.seen) == 4  # nothing is done twice
    assert snapshot(folder / "seed-0") == snapshot(tuned / "seed-0")


def _proposals(config):
    plan = tuning.load_search(config)
    return plan.proposals(plan.requests[0], "finetune")[1]


def test_more_trials_and_other_ranges_compute_what_is_new(tuned, config, runs, tmp_path):
    folder, more = copy(tuned, tmp_path / "search"), tmp_path / "more.toml"
    more.write_text(config.read_text().replace("trials = 3", "trials = 4"))
    partly(folder, more)
    assert runs.seen == [_proposals(more)[3]["learning_rate"]]
    assert_refused(call("tune", folder, "--config", config), "trials is 4 there, but 3 now")
    changed = "[search.finetune]\nmomentum = 0.5\n"
    more.write_text(more.read_text().replace("[search.finetune]\n", changed))
    partly(folder, more)
    assert len(runs.seen) == 5
    trials = read(folder)["found"]["random-0.1"]["finetune"]["trials"]
    assert len(trials) == 4 and all(trial["settings"]["momentum"] == 0.5 for trial in trials)


TWO_RANGES = "learning_rate = [0.001, 1.0]\nweight_decay = [1e-6, 1e-3]\n"
TURNED = "weight_decay = [1e-6, 1e-3]\nlearning_rate = [0.001, 1.0]\n"


def test_the_order_of_lines_does_not_matter(tuned, config, runs, tmp_path):
    """As many trials as were asked for, and none of them twice."""
    folder, lines = copy(tuned, tmp_path / "search"), config.read_text()
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text(lines.replace("learning_rate = [0.001, 1.0]\n", TWO_RANGES))
    other.write_text(lines.replace("learning_rate = [0.001, 1.0]\n", TURNED))
    partly(folder, one)
    assert len(runs.seen) == 3
    before = (folder / "tuning.json").read_bytes()
    partly(folder, other)
    assert len(runs.seen) == 3 and (folder / "tuning.json").read_bytes() == before
    trials = read(folder)["found"]["random-0.1"]["finetune"]["trials"]
    assert len(trials) == 3
    plans = [tuning.load_search(path) for path in (one, other)]
    drawn = [plan.proposals(plan.requests[0], "finetune")[1] for plan in plans]
    assert drawn[0] == drawn[1] and all(trial["settings"] in drawn[0] for trial in trials)


def test_trials_that_the_search_does_not_draw_are_refused(tuned, config, runs, tmp_path):
    folder = copy(tuned, tmp_path / "search")

    def other_draws(record):
        found = record["found"]["random-0.1"]["finetune"]["trials"]
        found[0]["settings"]["learning_rate"] = 0.5

    rewrite(folder / "tuning.json", other_draws)
    before = snapshot(folder)
    reason = "has trials of random-0.1 finetune that this search does not draw"
    assert_refused(call("tune", folder, "--config", config), reason)
    assert runs.seen == [] and snapshot(folder) == before


@pytest.mark.parametrize("name", ["sfron.slow", "größer", "a-b_c"])
def test_the_chosen_settings_can_be_read_whatever_a_run_is_called(name):
    settings = {"learning_rate": 1e-05, "objective": "match_unseen", "log_loss": True}
    trials = [{"target": 1.0, "settings": settings}]
    found = {"random-0.1": {name: {"trials": trials}}, 'word_"\\é': {name: {"trials": trials}}}
    chosen = tomllib.loads(chosen_toml({"found": found}))
    expected = {request: {name: settings} for request in found}
    assert chosen == {"overrides": expected}


def test_overrides_take_the_place_of_entries(data_dir):
    text = SEARCH.format(data_dir=data_dir, oracle="false")
    plan = search_of(text + '[overrides."random-0.1".wild]\nlearning_rate = [0.1, 1.0]\n')
    request = plan.requests[0]
    method, proposals = plan.proposals(request, "wild")
    assert (method, len(proposals)) == ("finetune", 3)
    assert all(0.1 <= proposal["learning_rate"] <= 1.0 for proposal in proposals)
    assert load_task(plan.problem).num_classes == 10


BAD = {
    "no trials": ("trials = 3", "trials = 0", "trials is 0"),
    "missing": ("trials = 3\n", "", "the search has no trials"),
    "field": ("trials = 3", "trials = 3\ntrails = 3", "no field 'trails'", "mean 'trials'?"),
    "no seeds": ("seeds = [0]", "seeds = []", "the search has no seeds"),
    "seeds": ("seeds = [0]", "seeds = [1, 1]", "must be distinct"),
    "method": ('method = "finetune"', 'method = "finetuned"', "mean 'finetune'?"),
    "retrain": ('method = "finetune"', 'method = "retrain"', "nothing to unlearn"),
    "static": ("num_steps = 4", "num_steps = [4, 8]", "num_steps", "cannot be varied", "momentum"),
    "range": ("[0.001, 1.0]", "[0.0, 1.0]", "must begin above 0"),
    "list": ("[0.001, 1.0]", "[0.001]", "a range [low, high]"),
    "unseen": (
        "[search.wild]",
        "[[requests]]\nclasses = [3]\n[search.end]\nmethod = 'eupmu'\nobjective = 'match_unseen'\n"
        "[search.wild]",
        "there is none if whole classes are forgotten",
    ),
    "method type": ('method = "finetune"', "method = 3", "the method of run wild is 3"),
    "setting": ("[0.001, 1.0]", "'high'", "learning_rate of method finetune is 'high'"),
    "optimizer": ("[0.001, 1.0]", "0.1\noptimizer = 'adam'", "is 'adam'"),
    "request": ("fraction = 0.1", "classes = [11]", "class 11 does not exist"),
    "validation": (
        *["[problem]\n", "[problem]\nvalidation_fraction = 0.0\n"],
        *["no validation data", "raise validation_fraction, which is 0"],
    ),
    "override": ("[search.wild]", "[overrides.x.wild]\n[search.wild]", "the request 'x'"),
    "name": (
        "[search.wild]",
        "[search.'../x']",
        "the name of a run is '../x', but must consist of",
    ),
    "reference": ("[search.wild]", "[search.retrain]", "the name of a run is 'retrain', but must"),
    "requests twice": (
        *["[search.wild]", "[[requests]]\nfraction = 0.1\n[search.wild]"],
        "random-0.1, random-0.1 are not all different",
    ),
    "seed": ("seeds = [0]", "seeds = [4294967296]", "the seed is 4294967296, but must be from 0"),
    "run": (
        *["[search.wild]", '[overrides."random-0.1".x]\n[search.wild]'],
        *["the run 'x'", "the search has finetune, wild"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_searches_are_refused_before_anything_is_written(here, data_dir, config, case):
    old, new, *fragments = BAD[case]
    text = config.read_text()
    assert old in text
    bad = config.with_name("bad.toml")
    bad.write_text(text.replace(old, new, 1))
    assert_refused(call("tune", "search", "--config", bad), *fragments)


def test_one_process_at_a_time(tuned, config):
    with Workspace(tuned).locked():
        assert_refused(call("tune", tuned, "--config", config), "another process is at work")


def test_folders_of_anything_else_are_refused(here, tuned, config, pretrained):
    words = ["--config", config]
    assert_refused(call("tune", "full", *words), "full is not empty and holds no search")
    assert_refused(call("tune", "a-file", *words), "a-file is a file")
    assert_refused(call("tune", pretrained, *words), "holds no search")
    assert_refused(call("tune", "search", "--config", "no.toml"), "no.toml cannot be read")
    other = config.with_name("other.toml")
    other.write_text(config.read_text().replace("num_steps = 200", "num_steps = 201"))
    before = snapshot(tuned)
    reason = "problem.training.num_steps is 200 there, but 201 now"
    assert_refused(call("tune", tuned, "--config", other), reason)
    assert snapshot(tuned) == before
