"""Run folders: what they say of themselves, and what is said of them."""

from dataclasses import replace

import pytest

from jaxunlearn.data import ForgetRequest
from jaxunlearn.files import read_json, write_record
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.problem import load_dataset, load_splits
from jaxunlearn.studies.runs import folder, run_config
from jaxunlearn.types import InputError
from tests.shell.commands import QUICK, assert_same_run, call, copy, done, rewrite, snapshot

pytest_plugins = ["tests.shell.fixtures"]


def test_a_configuration_survives_the_file(unlearned):
    config = folder.read_config(unlearned, "unlearn")
    assert config.request == ForgetRequest(fraction=0.1)
    assert config.settings["num_steps"] == 4
    plain = read_json(unlearned / "config.json")
    assert from_dict(folder.RunConfig, plain, "it") == config


@pytest.mark.parametrize(
    "file", ["model_index.json", "diffusion_pytorch_model.safetensors", "model.safetensors"]
)
def test_weights_of_other_libraries_are_no_run(file, tmp_path):
    (tmp_path / file).write_text("{}")
    (tmp_path / "config.json").write_text('{"sample_size": 64}')
    with pytest.raises(InputError, match="layout of another library, .*scripts read them by"):
        folder.read_config(tmp_path, "pretrain")


def test_a_run_is_claimed_once_and_for_one_configuration(pretrained, tmp_path):
    problem = folder.read_config(pretrained, "pretrain").problem
    request = ForgetRequest(indices=(1, 2))
    config = run_config.retraining(problem, 0, ForgetRequest(classes=(3,)))
    dataset = load_dataset(problem)
    splits = load_splits(problem, 0, ForgetRequest(classes=(3,)))
    run = tmp_path / "run"
    folder.check_folder(run, config, dataset, splits)
    assert not run.exists()
    folder.claim_folder(run, config, dataset, splits)
    before = snapshot(run)
    assert before.keys() == {"config.json", "fingerprints.json", "forget_request.json"}
    folder.check_folder(run, config, dataset, splits)
    folder.claim_folder(run, config, dataset, splits)
    assert snapshot(run) == before
    assert not folder.is_finished(run)

    for other, name in (
        (replace(config, seed=1), "seed is 0 there, but 1 now"),
        (replace(config, request=request), r"request.classes is \[3\] there, but \[\] now"),
        (replace(config, settings=config.settings | {"momentum": 0.5}), "settings.momentum is 0.9"),
        (
            replace(config, problem=replace(problem, training={"num_steps": 3})),
            "problem.training.num_steps is 200 there, but 3 now",
        ),
    ):
        with pytest.raises(InputError, match=f"holds another run: {name}"):
            folder.check_folder(run, other, dataset, splits)
    with pytest.raises(InputError, match="names other examples"):
        folder.check_folder(run, config, dataset, load_splits(problem, 0, request))
    write_record(run / "fingerprints.json", {"data": "0123"})
    with pytest.raises(InputError, match="had the fingerprint 0123, but now has"):
        folder.check_folder(run, config, dataset, splits)


def test_a_setting_that_came_later_had_its_default(unlearned, tmp_path):
    """A record of an older version lacks it: the run continues, unless something else is wanted."""
    config, run = folder.read_config(unlearned, "unlearn"), copy(unlearned, tmp_path / "run")
    dataset = load_dataset(config.problem)
    splits = load_splits(config.problem, config.seed, config.request)
    rewrite(run / "config.json", lambda record: record["settings"].pop("momentum"))
    folder.check_folder(run, config, dataset, splits)
    other = replace(config, settings=config.settings | {"momentum": 0.5})
    with pytest.raises(InputError, match="settings.momentum is 0.9 there, but 0.5 now"):
        folder.check_folder(run, other, dataset, splits)


def test_long_values_are_cut_short_in_messages(pretrained, tmp_path):
    problem = folder.read_config(pretrained, "pretrain").problem
    dataset = load_dataset(problem)
    config = run_config.retraining(problem, 0, ForgetRequest(indices=tuple(range(1000))))
    folder.claim_folder(tmp_path / "run", config, dataset, None)
    other = replace(config, request=ForgetRequest(indices=tuple(range(1, 1000))))
    with pytest.raises(InputError, match=r"request.indices is \[0, 1, .*\.\.\.\] there") as caught:
        folder.check_folder(tmp_path / "run", other, dataset, None)
    assert len(str(caught.value)) < 400


def test_a_record_that_was_damaged(pretrained, unlearned, tmp_path):
    run = copy(unlearned, tmp_path / "run")
    content = (run / "done.json").read_text()
    (run / "done.json").write_text(content.replace('"steps": 4', '"steps": 5'))
    with pytest.raises(InputError, match="done.json was altered after it was written"):
        folder.read_done(run)
    (run / "done.json").write_text(content)
    rewrite(run / "done.json", lambda record: record.update(seconds=None))
    with pytest.raises(InputError, match="seconds is None, but must be a number; restore"):
        folder.read_done(run)
    assert call("evaluate", run).status == 2
    (run / "done.json").unlink()  # the fix that it names
    words = ["--pretrained", pretrained, "--fraction", 0.1]
    done("unlearn", run, *words, "finetune", *QUICK)
    assert_same_run(run, unlearned)
