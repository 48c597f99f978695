"""Class-conditional diffusion of latents from the command line: pixels, latents, DiT, decoder."""

import json
import re

import jax
import numpy as np
import pytest

from jaxunlearn.files import fingerprint, read_arrays
from jaxunlearn.models import denoisers, latent, pretrained
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.plans import read_plan
from jaxunlearn.studies.problem import load_autoencoder, load_task, load_training
from jaxunlearn.studies.runs.folder import load_weights, read_config, read_done
from jaxunlearn.tasks import latents
from jaxunlearn.tasks.latent_diffusion import FIRST_STAGE
from jaxunlearn.types import InputError, Weights
from tests.shell.commands import QUICK, done

pytest_plugins = ["tests.shell.fixtures"]

SAMPLED = Diffusion(latents="sampled", flip=True)


@pytest.mark.parametrize("name", latent.DENOISERS)
def test_documented_counts_are_the_counts(name):
    count, about = latent.ABOUT[name]
    classes, *shape = map(int, re.match(r"(\d+) classes, (\d+)x(\d+)x(\d+)", about).groups())
    model = latent.create_denoiser(name.removeprefix("latent-"), shape, classes)
    one = jax.ShapeDtypeStruct((1,), np.int32)
    images = jax.ShapeDtypeStruct((1, *shape), np.float32)
    found = jax.eval_shape(model.init, jax.random.key(0), images, one, one)
    assert sum(leaf.size for leaf in jax.tree.leaves(found)) == count
    assert latent.PIPELINES[name] in latent.AUTOENCODERS
    assert name.removeprefix("latent-") in denoisers.available()


def test_the_transformer_sees_latents_and_carries_its_autoencoder():
    problem = Problem(model="latent-dit-tiny-test", diffusion=SAMPLED)
    assert problem.generates and problem.first_stage().model == "autoencoder-tiny"
    params, model_state = jax.eval_shape(load_task(problem).init, jax.random.key(0))
    assert params["patches"]["kernel"].shape == (2, 2, 4, 16)  # of 4x4x4 latents of 8x8 images
    assert set(model_state[FIRST_STAGE]) == {"params", "scaling_factor"}
    assert load_task(problem).num_classes == load_task(problem).null_label == 10


def test_models_of_pixels_have_no_latents_to_draw():
    with pytest.raises(InputError, match="latents is 'sampled', but must be left out, since the"):
        Problem(model="dit-tiny-test", diffusion=SAMPLED)
    Problem(model="dit-tiny-test", diffusion=Diffusion(flip=True))


def test_the_place_of_an_adopted_autoencoder_is_no_part_of_the_problem(tmp_path):
    table = {"model": "latent-dit-tiny-test", "autoencoder": {"checkpoint": "weights.npz"}}
    text = 'title = "a"\n[problem]\nmodel = "latent-dit-tiny-test"\n'
    (tmp_path / "study.toml").write_text(text + '[problem.autoencoder]\ncheckpoint = "a.npz"\n')
    read = read_plan(tmp_path / "study.toml")["problem"]
    assert Problem(**read).first_stage().checkpoint == str(tmp_path / "a.npz")
    assert Problem(**read).identity() == Problem(**table).identity()
    assert "a.npz" not in str(Problem(**read).identity())


def pipeline(folder):
    """A `DiTPipeline` of diffusers, with random weights."""
    transformer = latent.create_denoiser(
        "dit-tiny-test", (4, 4, 4), 10, learn_variance=True, frequency_shift=1
    )
    autoencoder = latent.create_autoencoder("tiny", 1)
    one = jax.ShapeDtypeStruct((1,), np.int32)
    inputs = jax.ShapeDtypeStruct((1, 4, 4, 4), np.float32), one, one
    images = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
    rng = np.random.default_rng(0)

    def random(module, *inputs):
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
        return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

    stage = {"params": random(autoencoder, images), "scaling_factor": np.float32(0.75)}
    weights = Weights(random(transformer, *inputs), {FIRST_STAGE: stage})
    found = pretrained.Found(
        *("diffusers", "denoiser", "dit-tiny-test"),
        {"learn_variance": True, "frequency_shift": 1},
        *(weights, 10, (4, 4, 4), {"model": "autoencoder-tiny", "model_settings": {}}),
        {"_class_name": "DDIMScheduler", "clip_sample": False, "steps_offset": 1},
    )
    pretrained.save(folder, found, weights)
    return weights


@pytest.mark.long
def test_a_pipeline_of_diffusers_is_adopted_and_goes_back_bit_for_bit(tmp_path, data_dir):
    weights = pipeline(tmp_path / "pipeline")
    run, place = tmp_path / "run", ["--data", "digits", "--data-dir", data_dir]
    done("adopt", run, "--checkpoint", tmp_path / "pipeline", *place)
    problem = read_config(run, "pretrain").problem
    assert problem.model == "latent-dit-tiny-test"
    assert problem.first_stage().model == "autoencoder-tiny"
    generation = problem.diffusion
    assert (generation.variance, generation.sampler) == ("learned_range", "ddim_diffusers")
    assert (generation.spacing, generation.steps_offset) == ("leading", 1)
    assert fingerprint(load_weights(run, problem)) == fingerprint(weights)
    done("export", run, tmp_path / "back")
    files = [path for path in (tmp_path / "pipeline").rglob("*") if path.is_file()]
    assert len(files) == 6
    for path in files:
        back = tmp_path / "back" / path.relative_to(tmp_path / "pipeline")
        assert back.read_bytes() == path.read_bytes(), back


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A transformer, its autoencoder, a judge, and the model that forgot a class."""
    folder = tmp_path_factory.mktemp("class-to-image")
    place = ["--data", "digits", "--data-dir", data_dir]
    steps = ["--training.num-steps", 3, "--training.retain-batch-size", 8]
    done(
        *("pretrain", folder / "dit", *place, *steps, "--model", "latent-dit-tiny-test"),
        *("--model-settings", "depth=1", "--train-size", 300),
        *("--autoencoder.model-settings", "widths=[4]"),
        *("--autoencoder.training.num-steps", 20),
        *("--diffusion.latents", "sampled", "--diffusion.flip", "--diffusion.num-timesteps", 20),
        *("--diffusion.sampling-steps", 2, "--diffusion.samples", 4),
    )
    done("pretrain", folder / "judge", *place, "--train-size", 300, "--model", "mlp-tiny", *steps)
    words = ["--pretrained", folder / "dit", "--classes", 3]
    done("retrain", folder / "oracle", *words)
    done("unlearn", folder / "forgot", "finetune", *words, *QUICK, "--guard-budget", 9)
    return folder


@pytest.mark.long
def test_a_class_is_forgotten_in_the_space_of_latents(finished):
    done("evaluate", finished / "forgot", "--classifier", finished / "judge")
    results = json.loads((finished / "forgot" / "results.json").read_text())
    assert results["forgotten"] == [3] and results["counts"]["generated_retain"] == 36
    samples = read_arrays(finished / "forgot" / "samples.npz", "image", "label")
    assert samples["image"].shape == (40, 8, 8, 1) and samples["image"].dtype == np.uint8
    done("sample", finished / "picture.png", "--run", finished / "forgot", "--labels", 3)
    done("verify", finished / "forgot")
    guard = read_done(finished / "forgot")["guard"]  # of latents of the validation data
    assert 0.0 < guard["start"] < guard["limit"] == pytest.approx(guard["start"] + 9.0)


@pytest.mark.long
def test_latents_of_images_and_mirror_images_are_cached_with_their_deviations(finished):
    problem = read_config(finished / "dit", "pretrain").problem
    folder = finished / "dit" / "autoencoder"
    learned = load_weights(folder, problem.first_stage()).params
    images = load_training(problem, 0).image
    for name, shown in (("", images), ("-mirrored", images[:, :, ::-1])):
        kept = read_arrays(folder / f"latents-sampled{name}.npz", "latents")["latents"]
        expected = latents.encode(load_autoencoder(problem), learned, shown, deviations=True)
        np.testing.assert_array_equal(kept, expected)
        assert kept.shape == (300, 8, 8, 8) and np.all(kept[..., 4:] > 0)
        if not name:
            scale = 1.0 / np.sqrt(kept[..., :4].var() + np.square(kept[..., 4:]).mean())
    stages = [
        load_weights(finished / name, problem).model_state[FIRST_STAGE]
        for name in ("dit", "oracle", "forgot")
    ]
    for stage in stages:
        assert fingerprint(stage["params"]) == fingerprint(learned)
        np.testing.assert_allclose(stage["scaling_factor"], scale, rtol=1e-5)
    assert len({read_done(finished / name)["weights"] for name in ("dit", "oracle", "forgot")}) == 3
