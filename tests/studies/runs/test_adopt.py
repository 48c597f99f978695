"""The adoption of weights that someone trained, and their export, by the commands."""

import jax
import numpy as np
import pytest

from jaxunlearn import studies
from jaxunlearn.files import read_record
from jaxunlearn.models import checkpoints
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.runs import adopt
from jaxunlearn.studies.runs.folder import load_weights, read_config
from jaxunlearn.types import InputError
from tests.once import made_once
from tests.shell.commands import QUICK, assert_refused, call, copy, done, snapshot, weights

pytest_plugins = ["tests.shell.fixtures"]

WORDS = ["--data", "digits", "--model", "mlp-tiny"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, pretrained):
    """The weights of a model in a train state of another program."""

    def make(folder):
        config = read_config(pretrained, "pretrain")
        params = load_weights(pretrained, config.problem).params
        other = jax.tree.map(np.zeros_like, params)
        tree = {"params": params, "ema_params": other, "step": np.int32(7)}
        arrays = {tuple(map(str, k)): v for k, v in checkpoints._flat({"state": tree}).items()}
        checkpoints.write(folder / "net.msgpack", arrays, {"layout": "msgpack"})

    return made_once(tmp_path_factory, "checkpoint", make) / "net.msgpack"


@pytest.fixture(scope="module")
def adopted(tmp_path_factory, checkpoint):
    """That model as a finished run."""

    def make(folder):
        done("adopt", folder / "run", "--checkpoint", checkpoint, *WORDS)

    return made_once(tmp_path_factory, "adopted", make) / "run"


def test_an_adopted_model_is_the_original_model(adopted, pretrained, checkpoint):
    for ours, theirs in zip(weights(adopted), weights(pretrained), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    config, record = read_config(adopted, "pretrain"), read_record(adopted / adopt.FILE)
    assert config.method == "adopt"
    assert config.settings["checkpoint"] == checkpoints.digest(checkpoint)
    assert config.problem.validation_fraction == 0.0  # it may have seen all training data
    assert (record["layout"], record["params"]) == ("msgpack", "state.params")
    assert record["other_params"] == ["state.ema_params"]


def test_its_accuracies_are_printed_at_once(adopted, checkpoint, tmp_path):
    before = snapshot(adopted)
    again = done("adopt", adopted, "--checkpoint", checkpoint, *WORDS)
    assert snapshot(adopted) == before
    of = adopt.accuracies(adopted)
    assert of["training"] > of["test"] > 90.0
    line = f"accuracy: {of['training']:.2f} % on training data, {of['test']:.2f} % on test data"
    assert line in again
    # Other pixels than the weights were trained with give another accuracy; zeros guess.
    shifted = ["--mean", "3", "--std", "0.01"]
    printed = done("adopt", tmp_path / "a", "--checkpoint", checkpoint, *WORDS, *shifted)
    assert line not in printed
    chosen = ["--params-key", "state.ema_params"]
    done("adopt", tmp_path / "b", "--checkpoint", checkpoint, *WORDS, *chosen)
    assert adopt.accuracies(tmp_path / "b")["test"] < 20.0


def test_unlearned_weights_go_back_in_the_layout_that_they_came_in(adopted, checkpoint, tmp_path):
    run = tmp_path / "forgot"
    request = ["--pretrained", adopted, "--indices", 3, 5]
    done("unlearn", run, "finetune", *request, *QUICK)
    assert "does not match" not in done("verify", run).splitlines()[0]
    assert done("export", run, tmp_path / "back.msgpack").endswith("back.msgpack (msgpack)\n")
    back, came = (checkpoints.read(path) for path in (tmp_path / "back.msgpack", checkpoint))
    used = {key for key in came.arrays if key[:2] == ("state", "params")}
    assert back.arrays.keys() == used
    ours = [back.arrays[key] for key in sorted(back.arrays)]
    for one, other in zip(ours, weights(run), strict=True):
        np.testing.assert_array_equal(one, other)
    for layout, name in (("orbax", "folder"), ("npz", "net.npz"), ("safetensors", "x.safetensors")):
        done("export", run, tmp_path / name, "--layout", layout)
        again = checkpoints.read(tmp_path / name)
        for key, array in back.arrays.items():
            assert again.arrays[key].tobytes() == array.tobytes()
    # The original model, untouched, goes back bit for bit.
    done("export", adopted, tmp_path / "same.msgpack")
    same = checkpoints.read(tmp_path / "same.msgpack").arrays
    assert all(same[key].tobytes() == came.arrays[key].tobytes() for key in used)


def test_a_trained_model_is_exported_as_flax_names_it(pretrained, tmp_path):
    (tmp_path / "out").mkdir()  # an empty folder is free
    assert "(orbax)" in done("export", pretrained, tmp_path / "out")
    names = {".".join(key) for key in checkpoints.read(tmp_path / "out").arrays}
    assert "params.hidden1.kernel" in names and all(name.startswith("params.") for name in names)


def test_what_does_not_fit_is_refused_and_nothing_is_written(here, checkpoint, adopted):
    def refused(*words, checkpoint=checkpoint):
        return call("adopt", "new", "--checkpoint", checkpoint, *words)

    assert_refused(refused("--model", "resnet-tiny"), "lacks", "holds", "that the model does not")
    assert_refused(refused(*WORDS, "--std", 0), "std", "above 0")
    assert_refused(refused(*WORDS, "--mean", 1, 2), "mean has 2 values")
    assert_refused(refused(*WORDS, "--step", 3), "without steps")
    assert_refused(refused(*WORDS, checkpoint="nowhere"), "nowhere does not exist")
    assert_refused(refused(*WORDS, checkpoint=adopted), "a run of jaxunlearn already")
    assert_refused(call("adopt", "new", *WORDS), "--checkpoint")
    assert call("pretrain", "new", "--checkpoint", checkpoint).status == 2
    assert_refused(call("export", adopted, "full", "--layout", "orbax"), "full exists")
    assert_refused(call("export", adopted, "a-file"), "must end in .msgpack")
    assert_refused(call("export", adopted, "new", "--layout", "pickle"), "'pickle'", "orbax")
    words = ["export", adopted, "net.npz", "--layout", "orbax"]
    assert_refused(
        call(*words),
        "net.npz, but must be a folder in the layout orbax",
        "--layout npz writes a file",
    )
    assert_refused(call("export", "full", "new"), "holds no run")


def test_another_checkpoint_in_the_same_folder_is_refused(adopted, checkpoint, tmp_path):
    run = copy(adopted, tmp_path / "run")
    other = tmp_path / "net.msgpack"
    stored = checkpoints.read(checkpoint)
    moved = {key: leaf + (leaf.dtype.kind == "f") for key, leaf in stored.arrays.items()}
    checkpoints.write(other, moved, stored.form)
    assert_refused(call("adopt", run, "--checkpoint", other, *WORDS), "settings.checkpoint")
    # The same content elsewhere is the same checkpoint.
    other.write_bytes(checkpoint.read_bytes())
    assert "nothing to do" in done("adopt", run, "--checkpoint", other, *WORDS)


def test_the_source_is_no_part_of_a_problem():
    problem = studies.adopting({"checkpoint": "net.npz", "model": "mlp-tiny", "mean": [0.5]})
    assert problem == Problem(model="mlp-tiny", validation_fraction=0.0, mean=(0.5,))
    assert "checkpoint" not in problem.identity()
    assert problem.identity()["mean"] == [0.5] and "mean" not in Problem().identity()
    given = studies.adopting({"checkpoint": "x", "validation_fraction": 0.2})
    assert given.validation_fraction == 0.2
    with pytest.raises(InputError, match="step and params_key"):
        Problem(step=3)
    with pytest.raises(InputError, match="leave out mean"):
        Problem(model="ddpm-tiny", mean=(0.5,))


STUDY = """
seeds = [0, 1]
[problem]
model = "mlp-tiny"
checkpoint = "net.msgpack"
[problem.training]
num_steps = 20
retain_batch_size = 64
[[requests]]
classes = [8]
[methods.finetune]
num_steps = 4
forget_batch_size = 32
retain_batch_size = 32
"""


@pytest.mark.long
def test_a_study_starts_from_the_checkpoint(checkpoint, pretrained, tmp_path):
    """The checkpoint is found beside the file; its model is the original model for every seed."""
    (tmp_path / "net.msgpack").write_bytes(checkpoint.read_bytes())
    (tmp_path / "study.toml").write_text(STUDY)
    done("compare", tmp_path / "study", "--config", tmp_path / "study.toml")
    for seed in (0, 1):
        run = tmp_path / "study" / f"seed-{seed}" / "pretrain"
        for ours, theirs in zip(weights(run), weights(pretrained), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    done("export", run.parent / "class-8" / "finetune", tmp_path / "back.msgpack")
    (tmp_path / "study.toml").write_text(STUDY.replace("checkpoint =", "# checkpoint ="))
    refused = call("compare", tmp_path / "study", "--config", tmp_path / "study.toml")
    assert_refused(refused, "holds another")
