"""Models of one's own on the command line, by the path of their class or function."""

import jax
import numpy as np
import pytest

from jaxunlearn.studies.problem import load_task
from jaxunlearn.studies.runs.folder import load_weights, read_config
from tests.shell.commands import assert_refused, call, done

pytest_plugins = ["tests.shell.fixtures"]
TRAINING = {"num_steps": 4, "retain_batch_size": 32}
QUICK = ["--num-steps=2", "--forget-batch-size=16", "--retain-batch-size=16"]


def pretrain(run, data_dir, model, *more):
    words = [f"--training.{name}={value}" for name, value in TRAINING.items()]
    return call(
        "pretrain", run, "--data-dir", data_dir, "--model", f"tests.own_nets:{model}", *words, *more
    )


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("Nte", [], "has no 'Nte' (did you mean 'Net'?)"),
        ("Net", ["--model-settings", "rat=0.1"], "no field 'rat' (did you mean 'rate'?)"),
        ("made", [], "has weights already, but must draw new ones; name a class"),
        ("WIDTH", [], "the model is a int, but must be a module of Flax linen"),
        ("Wrong", [], "'tests.own_nets:Wrong' raises TypeError at line"),
        ("Denoiser", [], "also needs image_shape"),
    ],
)
def test_models_that_cannot_be_made_are_refused(model, more, said, data_dir, tmp_path):
    assert_refused(pretrain(tmp_path / "run", data_dir, model, *more), said)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_two_functions_are_a_model(data_dir, tmp_path):
    """Their settings reach the function, and patterns find the paths of their parameters."""
    run = tmp_path / "run"
    assert pretrain(run, data_dir, "pair", "--model-settings", "scale=0.5").status == 0
    words = ["--pretrained", run, "--fraction", 0.1, *QUICK]
    done("unlearn", tmp_path / "forgot", "finetune", *words, "--trainable", "head")
    problem = read_config(run, "pretrain").problem
    assert problem.model_settings == {"scale": 0.5} and problem.classifies
    weights = [
        load_weights(each, problem).params["head"]["kernel"] for each in (run, tmp_path / "forgot")
    ]
    assert weights[0].shape == (64, 10) and np.any(weights[0] != weights[1])


@pytest.mark.long
def test_a_denoiser_has_a_diffusion(data_dir, tmp_path):
    run, words = tmp_path / "run", ["--diffusion.num-timesteps=10", "--diffusion.sampling-steps=2"]
    assert pretrain(run, data_dir, "Denoiser", *words).status == 0
    done("sample", tmp_path / "some.png", "--run", run, "--labels", 1, "--count", 1)
    assert (tmp_path / "some.png").stat().st_size > 0


PROBLEM = """
requests = [{{fraction = 0.1}}]
seeds = [0]
[problem]
data_dir = "{data_dir}"
model = "tests.own_nets:{model}"
training = {{num_steps = 4, retain_batch_size = 32}}
"""
STEPS = "num_steps = 2\nforget_batch_size = 16\nretain_batch_size = 16\n"


@pytest.mark.long
def test_a_study_takes_an_equinox_model(data_dir, tmp_path):
    """Training, unlearning, evaluation and reports; an NNX model is in `test_own_everything`."""
    config, study = tmp_path / "study.toml", tmp_path / "study"
    problem = PROBLEM.format(data_dir=data_dir, model="EquinoxNet")
    config.write_text(f"{problem}[methods.cf_k]\n{STEPS}")
    done("compare", study, "--config", config)
    assert "cf_k" in (study / "report.md").read_text().replace("\\", "")
    original = study / "seed-0" / "pretrain"
    problem = read_config(original, "pretrain").problem
    shapes = jax.eval_shape(load_task(problem).init, jax.random.key(0))
    trained = load_weights(original, problem)
    assert jax.tree.map(np.shape, tuple(trained)) == jax.tree.map(np.shape, shapes)
