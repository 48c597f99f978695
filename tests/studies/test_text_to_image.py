"""Latent text-to-image models from the command line: a word is forgotten, and everything else is as
it is for models of pixels."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.files import fingerprint, read_arrays
from jaxunlearn.studies.audits import revival
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.problem import load_autoencoder, load_tokenizer, load_training
from jaxunlearn.studies.runs import evaluate_images, generate
from jaxunlearn.studies.runs.folder import load_weights, read_config, read_done
from jaxunlearn.studies.study import load_study
from jaxunlearn.tasks import latents
from jaxunlearn.tasks.latent_diffusion import FIRST_STAGE
from jaxunlearn.types import InputError
from tests.shell.commands import assert_refused, call, copy, done, snapshot

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

STUDY = """
title = "Tiny text-to-image study"
seeds = [0]

[problem]
data = "digits_captions"
data_dir = "{data_dir}"
train_size = 600
model = "latent-tiny"
[problem.model_settings]
unet = {{widths = [8], attention_levels = []}}
[problem.autoencoder]
model_settings = {{widths = [4]}}
training = {{num_steps = 40, retain_batch_size = 16, forget_batch_size = 1, learning_rate = 0.01}}
[problem.diffusion]
num_timesteps = 10
sampling_steps = 2
samples = 2
guidance = 1.0
[problem.training]
num_steps = 3
retain_batch_size = 8
forget_batch_size = 8

[classifier]
model = "mlp-tiny"
training = {{num_steps = 100}}

[[requests]]
words = ["inverted"]

[methods.concept_ablation]
num_steps = 2
forget_batch_size = 4
retain_batch_size = 4
learning_rate = 0.1
trainable = "^unet/"
adapter_rank = 2
"""
QUICK = ["--num-steps=2", "--forget-batch-size=4", "--retain-batch-size=4", "--learning-rate=0.1"]


@pytest.fixture(scope="module")
def config(tmp_path_factory, data_dir):
    path = tmp_path_factory.mktemp("config") / "study.toml"
    path.write_text(STUDY.format(data_dir=data_dir))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    """The study, run once. It is not to be written to."""
    folder = tmp_path_factory.mktemp("studies") / "text-to-image"
    done("compare", folder, "--config", config)
    return folder


@pytest.fixture(scope="module")
def problem(config) -> Problem:
    return load_study(config).problem


@pytest.fixture(scope="module")
def weights(finished, problem):
    """The original, the retrained and the unlearned model, as they end."""
    places = ("pretrain", "word-inverted/retrain", "word-inverted/concept_ablation")
    return [load_weights(finished / "seed-0" / place, problem) for place in places]


def test_a_style_is_forgotten_in_all_classes(finished):
    results = json.loads(
        (finished / "seed-0" / "word-inverted" / "concept_ablation" / "results.json").read_text()
    )
    assert results["forgotten"] == list(range(10, 20))
    assert results["class_names"][13] == "an inverted photo of a three"
    assert results["counts"]["generated_forget"] == 20
    assert results["counts"]["generated_retain"] == 60
    text = (finished / "report.md").read_text()
    assert "samples-word-inverted.png" in text
    samples = read_arrays(
        finished / "seed-0" / "word-inverted" / "retrain" / "samples.npz", "image", "label"
    )
    assert samples["image"].shape == (80, 8, 8, 1) and samples["image"].dtype == np.uint8


def test_the_autoencoder_is_trained_first_and_then_stays_as_it_is(finished, problem, weights):
    place = finished / "seed-0" / "pretrain" / "autoencoder"
    first = problem.first_stage()
    learned = load_weights(place, first)
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    losses = [line["retain_loss"] for line in lines]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    for each in weights:
        stage = each.model_state[FIRST_STAGE]
        assert fingerprint(stage["params"]) == fingerprint(learned.params)
        assert stage["scaling_factor"] == weights[0].model_state[FIRST_STAGE]["scaling_factor"]


def test_models_learn_latents_of_standard_deviation_one(finished, problem, weights):
    images, stage = load_training(problem, 0).image, weights[0].model_state[FIRST_STAGE]
    found = latents.encode(load_autoencoder(problem), stage["params"], images)
    assert found.shape == (600, 8, 8, 4)
    np.testing.assert_allclose(found.std() * stage["scaling_factor"], 1.0, rtol=1e-4)
    kept = read_arrays(finished / "seed-0" / "pretrain" / "autoencoder" / "latents.npz", "latents")
    np.testing.assert_array_equal(kept["latents"], found)


def test_adapters_move_only_the_kernels_of_the_unet(weights):
    before, _, after = (fingerprint(each.params["text_encoder"]) for each in weights)
    assert before == after
    original, _, unlearned = (each.params["unet"] for each in weights)
    block = next(name for name in original if name.startswith("in"))
    assert fingerprint(original[block]["bias"]) == fingerprint(unlearned[block]["bias"])
    assert fingerprint(original[block]["kernel"]) != fingerprint(unlearned[block]["kernel"])


def test_latents_are_read_again_and_those_of_another_autoencoder_are_not(
    finished, tmp_path, monkeypatch
):
    pretrained = copy(finished / "seed-0" / "pretrain", tmp_path / "pretrain")
    calls, encode = [], latents.encode
    monkeypatch.setattr(latents, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
    words = ["--pretrained", pretrained, "concept_ablation", "--words", "inverted"]
    words += ["--trainable", "^unet/", "--adapter-rank", 2, *QUICK]
    done("unlearn", tmp_path / "a", *words)
    assert calls == []
    kept = read_arrays(pretrained / "autoencoder" / "latents.npz", "stamp", "latents")
    other = {"stamp": np.array("of another autoencoder"), "latents": 0 * kept["latents"]}
    np.savez(pretrained / "autoencoder" / "latents.npz", **other)
    done("unlearn", tmp_path / "b", *words)
    assert calls == [1]
    one, two = (read_done(tmp_path / name)["weights"] for name in "ab")
    assert one == two


def test_prompts_are_encoded_once_where_the_text_encoder_rests(
    finished, tmp_path, problem, monkeypatch
):
    pretrained = copy(finished / "seed-0" / "pretrain", tmp_path / "pretrain")
    kept = read_arrays(pretrained / "prompt_states.npz", "states")["states"]
    assert kept.shape[0] == 41
    words = ["--pretrained", pretrained, "finetune", "--words", "inverted"]
    calls, encode = [], latents.encode_prompts
    monkeypatch.setattr(latents, "encode_prompts", lambda *a: calls.append(1) or encode(*a))
    done("unlearn", tmp_path / "unet", *words, "--trainable", "^unet/", *QUICK)
    assert calls == []
    (pretrained / "prompt_states.npz").unlink()
    done("unlearn", tmp_path / "all", *words, *QUICK)
    text = words + ["--trainable", "text_encoder", *QUICK]
    done("unlearn", tmp_path / "text", *text)
    assert calls == [] and not (pretrained / "prompt_states.npz").exists()
    for name in ("unet", "text"):
        assert set(load_weights(tmp_path / name, problem).model_state) == {FIRST_STAGE}


def test_a_retrained_model_has_the_autoencoder_of_the_original(finished, tmp_path, problem):
    pretrained = finished / "seed-0" / "pretrain"
    oracle = finished / "seed-0" / "word-inverted" / "retrain"
    done("retrain", tmp_path / "again", "--pretrained", pretrained, "--words", "inverted")
    assert read_done(tmp_path / "again")["weights"] == read_done(oracle)["weights"]


def test_latents_are_not_kept_in_the_range_of_pixels(finished, problem, weights, monkeypatch):
    told = {}
    monkeypatch.setattr(generate, "sample_images", lambda *_, **kw: told.update(kw) or np.zeros(1))
    generate.generate(problem, weights[0], [1], [0])
    assert told == {"clip": False}


def test_sampled_latents_have_the_spread_that_the_denoiser_knows():
    """The exact denoiser of latents of standard deviation one, drawn at an eighth of that."""
    generation = Diffusion(num_timesteps=200, sampling_steps=60, guidance=0.0)
    alphas_bar = jnp.asarray(generation.process().alphas_bar, jnp.float32)

    def denoiser(noisy, t, labels):
        return jnp.sqrt(1.0 - alphas_bar[t])[:, None, None, None] * noisy

    drawn = {}
    for clip in (True, False):
        images = generate.sample_images(
            jax.tree_util.Partial(denoiser),
            jax.tree_util.Partial(lambda latents: latents / 8.0),
            jnp.zeros(100, jnp.int32),
            jnp.arange(100),
            None,
            generation,
            (8, 8, 1),
            1,
            clip=clip,
        )
        drawn[clip] = 8.0 * (np.asarray(images) / 127.5 - 1.0)
    assert abs(drawn[False].std() - 1.0) < 0.05 and drawn[False].max() > 2.0
    assert drawn[True].std() < 0.8


def test_prompts_are_drawn(finished, tmp_path):
    run, picture = finished / "seed-0" / "word-inverted" / "retrain", tmp_path / "grid.png"
    prompts = ["An inverted photo of a three", "an edge drawing of an eight"]
    done("sample", picture, "--run", run, "--prompts", *prompts, "--count", 40)
    assert picture.read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("prompt", "fragment"),
    [
        ("a photo of a sneaker", "the word 'sneaker' of the prompt 'a photo of a sneaker' is not"),
        ("a three", "the prompt is 'a three', but must be the name of a class"),
    ],
)
def test_prompts_that_nobody_learned_are_refused(finished, tmp_path, prompt, fragment):
    run, picture = finished / "seed-0" / "word-inverted" / "retrain", tmp_path / "grid.png"
    assert_refused(call("sample", picture, "--run", run, "--prompts", prompt), fragment)
    assert not picture.exists()


def test_a_study_that_is_done_is_not_done_again(finished, config):
    before = snapshot(finished)
    done("compare", finished, "--config", config)
    changed = {path for path, content in snapshot(finished).items() if before[path] != content}
    assert not {path for path in changed if path.startswith("seed-0")}


def test_unknown_words_are_refused(finished, tmp_path):
    words = ["--pretrained", finished / "seed-0" / "pretrain", "--words", "sneaker"]
    refused = call("retrain", tmp_path / "run", *words)
    assert_refused(refused, "has the word 'sneaker' in its name; the words are a, photo, of, zero")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        (
            "unet = {widths = [8], attention_levels = []}",
            "unet = {channels = 3}",
            "unet.channels, which the prompts and",
        ),
        (
            "unet = {widths = [8], attention_levels = []}",
            "vae = {widths = [8]}",
            "the parts of latent-tiny, text_encoder and unet",
        ),
        ("widths = [4]", "widths = [4, 4, 4, 4, 4]", "sides that are multiples of 16"),
        ("widths = [4]", "scaling_factor = 1.0", "model_settings contain scaling_factor"),
        (
            "[problem.autoencoder]",
            '[problem.autoencoder]\nmodel = "mlp"',
            "the autoencoder is 'mlp'",
        ),
        (
            "[problem.autoencoder]",
            '[problem.autoencoder]\ndata = "digits"',
            "the autoencoder has a data of its own",
        ),
        (
            'model = "latent-tiny"',
            'model = "autoencoder-tiny"',
            "encodes images, so there is no diffusion",
        ),
        (
            'model = "mlp-tiny"',
            'model = "autoencoder-tiny"',
            "which encodes images; choose a model",
        ),
        ("retain_batch_size = 16", "retain_batch_size = 0", "retain_batch_size"),
    ],
)
def test_bad_studies_are_refused_before_anything_is_learned(config, tmp_path, old, new, fragment):
    text = config.read_text()
    assert old in text
    path = tmp_path / "changed.toml"
    path.write_text(text.replace(old, new, 1))
    assert_refused(call("compare", tmp_path / "study", "--config", path), fragment)
    assert not (tmp_path / "study").exists()


def test_an_autoencoder_alone_has_nothing_to_forget(finished, tmp_path):
    place = finished / "seed-0" / "pretrain" / "autoencoder"
    refused = call("retrain", tmp_path / "run", "--pretrained", place, "--classes", 3)
    assert_refused(refused, "'autoencoder-tiny' encodes images")
    assert_refused(call("sample", tmp_path / "a.png", "--run", place), "which encodes images")
    with pytest.raises(InputError, match="which encodes images, but generated"):
        evaluate_images.load_judge(place, Problem(data="digits_captions"))


def test_a_forgotten_word_is_attacked_by_its_token_and_in_other_words(finished, problem):
    run = finished / "seed-0" / "word-inverted" / "concept_ablation"
    target = revival.Target(run, run, read_config(run, "unlearn"), finished / "seed-0" / "pretrain")
    judge = evaluate_images.load_judge(finished / "classifier", problem)
    scene = revival._Scene(target, judge, revival.Attacker(steps=1), 0)
    last = ["inversion", "token_inversion", "paraphrases"]
    assert scene.attacks()[-5:] == [*last, "old_embeddings", "revival_old_embeddings"]
    assert scene.tokens == (load_tokenizer(problem).encode(["inverted"])[0, 1],)
    assert scene.run("token_inversion")["steps"] == 1
    assert scene.run("paraphrases")["steps"] == 0
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    assert {"nearest_accuracy", "in_domain_accuracy", "cross_domain_accuracy"} < set(metrics)
