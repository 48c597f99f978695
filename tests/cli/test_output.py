"""The output of a command: JSON on standard output, or nothing at all; more lines on request."""

import json

import pytest

from tests.shell.commands import QUICK, call, copy, done

pytest_plugins = ["tests.shell.fixtures"]


def test_the_outcome_as_json_is_all_of_standard_output(finished, unlearned, retrained, tmp_path):
    run = copy(unlearned, tmp_path / "run")
    result = call("evaluate", run, "--retrained", retrained, "--json")
    found = json.loads((run / "results.json").read_text())
    assert {**json.loads(result.out), "sha256_of_the_rest": found["sha256_of_the_rest"]} == found
    assert "forget_accuracy" in result.err
    quiet = call("evaluate", run, "--retrained", retrained, "--json", "--quiet")
    assert json.loads(quiet.out)["metrics"] == found["metrics"] and quiet.err == ""

    listed = json.loads(done("list", "eupmu", "--json"))
    assert listed["tolerance"]["default"] == 0.0 and "rise" in listed["tolerance"]["about"]
    assert json.loads(done("list", "models", "--json"))["mlp-tiny"]["parameters"] > 0
    report = json.loads(done("report", copy(finished.folder, tmp_path / "study"), "--json"))
    assert report["title"] == "Tiny study"


def test_verify_ends_with_a_line_on_all_checks(unlearned):
    assert done("verify", unlearned).splitlines()[-1] == "all 7 checks of 1 folder match"
    findings = json.loads(done("verify", unlearned, "--json"))
    assert {finding["verdict"] for finding in findings} == {"matches"} and len(findings) == 7


def test_quiet_and_verbose_commands(pretrained, tmp_path):
    words = ["--pretrained", pretrained, "--fraction", 0.1, "finetune", *QUICK]
    assert done("unlearn", tmp_path / "quiet", *words, "--quiet") == ""
    printed = done("unlearn", tmp_path / "verbose", *words, "--verbose", "--chunk-steps", 2)
    assert '"learning_rate": 0.01' in printed and "step 2/4" in printed


def test_an_original_model_is_evaluated_on_its_data_or_on_a_request(
    pretrained, retrained, tmp_path
):
    run = copy(pretrained, tmp_path / "run")
    alone = json.loads(done("evaluate", run, "--json"))
    assert set(alone["metrics"]) == {"train_accuracy", "validation_accuracy", "test_accuracy"}
    assert alone["counts"] == {"train": 1298, "validation": 74, "test": 355}
    done("evaluate", run, "--retrained", retrained)
    found = json.loads((run / "results.json").read_text())
    assert (found["method"], found["request"]) == ("original", "random-0.1")
    assert found["counts"]["forget"] == 130 and found["metrics"]["js_to_retrained"] > 0
    one, other = (each["metrics"]["test_accuracy"] for each in (alone, found))
    assert one == pytest.approx(other)
