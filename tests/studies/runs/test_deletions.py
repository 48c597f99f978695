"""Requests one after another: what is left to each, the record of all, and the drift they cause."""

import itertools
import json

import numpy as np
import pytest

from jaxunlearn.evaluation import accuracy, js_divergence
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.files import SEAL, read_json, sealed, write_record
from jaxunlearn.studies.problem import load_splits, load_task, load_training
from jaxunlearn.studies.runs import deletions, folder
from tests.shell.commands import QUICK, assert_refused, call, copy, done, weights

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

FINETUNE = ["finetune", *QUICK]


def indices(run):
    return json.loads((run / "forget_request.json").read_text())["forget"]


@pytest.fixture(scope="module")
def second(tmp_path_factory, unlearned):
    """A class forgotten after a random tenth."""
    run = tmp_path_factory.mktemp("runs") / "second"
    done("unlearn", run, "--pretrained", unlearned, "--classes", 3, *FINETUNE)
    return run


@pytest.fixture(scope="module")
def third(tmp_path_factory, second):
    """A random tenth of what is left after both."""
    run = tmp_path_factory.mktemp("runs") / "third"
    done("unlearn", run, "--pretrained", second, "--fraction", 0.1, *FINETUNE)
    return run


@pytest.fixture(scope="module")
def oracle(tmp_path_factory, second):
    """The model retrained without all three."""
    run = tmp_path_factory.mktemp("runs") / "oracle"
    done("retrain", run, "--pretrained", second, "--fraction", 0.1)
    done("evaluate", run)
    return run


def test_each_request_chooses_from_what_is_left(unlearned, second, third, oracle):
    chain = [set(indices(run)) for run in (unlearned, second, third)]
    everything = set.union(*chain)
    assert len(everything) == sum(map(len, chain))
    config = folder.read_config(third, "unlearn")
    learned = load_training(config.problem, config.seed)
    left = set(learned.index.tolist()) - chain[0] - chain[1]
    assert len(chain[2]) == round(0.1 * len(left))
    threes = learned.index[np.asarray(learned.label) == 3]
    assert chain[1] == set(threes.tolist()) - chain[0]
    for run in (third, oracle):
        config = folder.read_config(run, "unlearn", "retrain")
        assert [each.name for each in config.earlier] == ["random-0.1", "class-3"]
        assert set(indices(run)) == chain[2]
        splits = load_splits(config.problem, config.seed, config.request, config.earlier)
        assert set(splits.retain.index.tolist()) == left - chain[2]
        assert not np.isin(3, splits.test.label) and not np.isin(3, splits.validation.label)
        assert len(splits.test_forget) == 0


def test_it_continues_from_the_weights_before(unlearned, second):
    config = folder.read_config(second, "unlearn")
    assert config.start == folder.read_done(unlearned)["weights"]
    assert any((a != b).any() for a, b in zip(weights(unlearned), weights(second), strict=True))


def test_the_record_grows_by_a_line(pretrained, unlearned, second, third):
    texts = [(run / deletions.FILE).read_text() for run in (unlearned, second, third)]
    assert [text.count("\n") for text in texts] == [1, 2, 3]
    assert texts[2].startswith(texts[1]) and texts[1].startswith(texts[0])
    entries = deletions.read(third)
    assert [entry["request"] for entry in entries] == ["random-0.1", "class-3", "random-0.1"]
    assert [entry["examples"] for entry in entries] == [
        len(indices(run)) for run in (unlearned, second, third)
    ]
    assert {entry["method"] for entry in entries} == {"finetune"}
    starts = [folder.read_done(run)["weights"] for run in (pretrained, unlearned, second, third)]
    assert [(e["start"], e["result"]) for e in entries] == list(itertools.pairwise(starts))
    assert deletions.read(pretrained) == []


def rewritten(lines, place, **changes):
    """The lines with one changed, and its hash made to fit."""
    entry = json.loads(lines[place]) | changes
    del entry[SEAL]
    return [*lines[:place], json.dumps(sealed(entry)), *lines[place + 1 :]]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda lines: [lines[0].replace("finetune", "sfron"), *lines[1:]], "line 1 does not"),
        (lambda lines: lines[1:], "line 1 does not follow"),
        (lambda lines: [lines[0], lines[2]], "line 2 does not follow"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1 does not follow"),
        (lambda lines: rewritten(lines, 1, examples=1), "line 3 does not follow"),
        (lambda lines: rewritten(lines, 2, examples=1), "last line has another examples"),
        (lambda lines: rewritten(lines, 2, method="sfron"), "last line has another method"),
        (lambda lines: rewritten(lines, 2, start="0"), "did not start from the weights before"),
        (lambda lines: lines[:2], "does not name the requests random-0.1, class-3, random-0.1"),
        (lambda lines: [], "does not name the requests"),
        (lambda lines: [*lines[:2], lines[2][:40]], "line 3 does not follow"),
        (lambda lines: [*lines, "[3]"], "line 4 does not follow"),
    ],
)
def test_a_record_that_was_altered_is_found(third, tmp_path, change, fragment):
    run = copy(third, tmp_path / "third")
    path = run / deletions.FILE
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    words = ["--pretrained", run, "--indices", 0]
    for command in (["unlearn", *words, *FINETUNE], ["retrain", *words]):
        refused = call(command[0], tmp_path / "next", *command[1:])
        assert_refused(refused, f"{deletions.FILE} was altered", fragment, "unlearn again")
    assert not (tmp_path / "next").exists()


def test_a_record_that_is_gone_is_missed(unlearned, tmp_path):
    run = copy(unlearned, tmp_path / "unlearned")
    (run / deletions.FILE).unlink()
    refused = call("unlearn", tmp_path / "next", "--pretrained", run, "--classes", 3, *FINETUNE)
    assert_refused(refused, "deletions.jsonl cannot be read", "restore it")
    assert not (tmp_path / "next").exists()


def test_the_drift_is_that_of_the_predictions(pretrained, unlearned, second, third, oracle):
    words = ["--retrained", oracle, "--original", pretrained]
    out = done("evaluate", third, *words)
    results = json.loads((third / "results.json").read_text())
    drift, config = results["drift"], folder.read_config(third, "unlearn")
    task = load_task(config.problem)
    now, before = (folder.load_weights(run, config.problem) for run in (third, pretrained))
    learned = load_training(config.problem, config.seed)
    for row, run in zip(drift["requests"], (unlearned, second, third), strict=True):
        forgotten = learned.take(np.flatnonzero(np.isin(learned.index, indices(run))))
        assert row["examples"] == len(forgotten)
        for name, model in {"accuracy": now, "original_accuracy": before}.items():
            assert row[name] == accuracy(predict_with(task, model, forgotten.arrays()))
    splits = load_splits(config.problem, config.seed, config.request, config.earlier)
    for name, model in {"model": now, "original": before}.items():
        for part in ("retain", "test"):
            found = accuracy(predict_with(task, model, getattr(splits, part).arrays()))
            assert drift["kept"][name][f"{part}_accuracy"] == found
    tests = [
        predict_with(task, model, splits.test.arrays()).probabilities for model in (before, now)
    ]
    assert drift["js_to_original"] == js_divergence(*tests) > 0
    assert results["metrics"]["five_part_gap"] > 0
    assert "request (examples)" in out and "class-3 (" in out and "js_to_original" in out

    of_oracle = json.loads((oracle / "results.json").read_text())["drift"]
    assert of_oracle["requests"][1]["accuracy"] == 0  # it has never seen a 3
    assert "original" not in of_oracle["kept"]


def test_only_what_belongs_together_is_compared(pretrained, unlearned, second, third, retrained):
    refused = call("evaluate", third, "--retrained", retrained)
    assert_refused(refused, "is the retrained model of another", "or of other earlier requests")
    refused = call("evaluate", third, "--original", second)
    assert_refused(refused, "must be a run of pretrain")
    assert_refused(call("evaluate", unlearned, "--original", third), "must be a run of pretrain")


def test_another_original_is_refused(pretrained, unlearned, tmp_path):
    other = copy(pretrained, tmp_path / "other")
    config = read_json(other / "config.json")
    write_record(other / "config.json", config | {"seed": 1})
    refused = call("evaluate", unlearned, "--original", other)
    assert_refused(refused, "is not the original model of", "its jaxunlearn pretrain")


def test_what_is_gone_cannot_be_asked_for(unlearned, second, tmp_path):
    gone = indices(unlearned)
    words = ["unlearn", tmp_path / "next", "--pretrained", second, *FINETUNE]
    refused = call(*words, "--indices", *gone[:2])
    assert_refused(
        refused,
        "2 of the 2 indices were forgotten by an earlier",
        f"(first: {gone[0]}, {gone[1]});",
    )
    assert_refused(
        call(*words, "--classes", 3),
        "class-3 selects none of the",
        "whether an earlier request forgot it",
    )
    others = [label for label in range(10) if label != 3]
    assert_refused(call(*words, "--classes", *others), "would forget all", "leave some to retain")
    retrain = ["retrain", *words[1:4]]
    assert_refused(call(*retrain, "--indices", gone[0]), "were forgotten by an earlier request")
    assert list(tmp_path.iterdir()) == []


def test_runs_of_before_this_record_are_read(unlearned, tmp_path):
    run = copy(unlearned, tmp_path / "unlearned")
    config = read_json(run / "config.json")
    assert config.pop("earlier") is None
    write_record(run / "config.json", config)
    assert folder.read_config(run, "unlearn").earlier is None
    done("evaluate", run)
    assert "drift" not in json.loads((run / "results.json").read_text())


def test_a_file_of_a_request_may_go(pretrained, tmp_path):
    first = tmp_path / "first.json"
    config = folder.read_config(pretrained, "pretrain")
    chosen = load_training(config.problem, config.seed).index[:3].tolist()
    first.write_text(json.dumps(chosen))
    run = tmp_path / "run"
    done("unlearn", run, "--pretrained", pretrained, "--indices", first, *FINETUNE)
    first.unlink()
    _, requests = deletions.read_start(run)
    assert requests[0].indices == tuple(chosen)
    refused = call(
        "unlearn", tmp_path / "x", "--pretrained", run, "--indices", chosen[1], *FINETUNE
    )
    assert_refused(refused, f"(first: {chosen[1]})")
