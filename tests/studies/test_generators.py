"""Models of diffusers from the command line: adopted, made to forget, sampled, and written back.

The first test is the journey in docs/generation.md: Stable Diffusion forgets a word.
"""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxunlearn.studies.problem import load_dataset
from jaxunlearn.studies.runs import drawn
from jaxunlearn.studies.runs.folder import read_config
from jaxunlearn.studies.runs.verify import verify
from tests.shell.commands import assert_refused, call, done, weights
from tests.studies import pipelines

QUICK = ["--num-steps=1", "--forget-batch-size=2", "--retain-batch-size=2"]


def small_files(folder):
    """The bytes of all files but weights."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".safetensors"
    }


def tensors(folder):
    """The stored weights, in single precision."""
    return {
        f"{file.parent.name}/{name.removeprefix('text_model.')}": array.astype(np.float32)
        for file in folder.rglob("*.safetensors")
        for name, array in load_file(file).items()
    }


@pytest.fixture
def images(tmp_path):
    return pipelines.images(tmp_path / "images", pipelines.CAPTIONS)


@pytest.mark.long
def test_stable_diffusion_forgets_a_word_and_goes_back(tmp_path, images):
    sd = pipelines.stable_diffusion(tmp_path / "sd")
    before = small_files(sd), tensors(sd)
    data = ["--data", f"folder:{images}", "--captions", images / "metadata.jsonl"]
    data += ["--test-fraction", 0.2, "--data-dir", tmp_path / "cache"]
    sampling = ["--diffusion.sampling-steps", 2]
    run, forgot, other = tmp_path / "run", tmp_path / "forgot", tmp_path / "other"
    out = done("adopt", run, "--checkpoint", sd, *data, *sampling)
    assert "(diffusers)" in out
    problem = read_config(run, "pretrain").problem
    assert problem.model == "latent-tiny" and problem.image_size == 8
    assert problem.diffusion.spacing == "leading" and problem.diffusion.guidance == 6.5
    shutil.rmtree(sd)  # the run has all that is needed

    done(
        *["unlearn", forgot, "concept_ablation", "--pretrained", run, "--words", "coat"],
        *["--trainable", "^unet/.*cross", "--adapter-rank", 2, "--learning-rate", 0.1, *QUICK],
    )
    picture = tmp_path / "picture.png"
    prompts = ["--prompts", "a coat in 1990", "a photo of a sandal"]
    done("sample", picture, "--run", forgot, *prompts, "--count", 1)
    assert picture.exists()
    done("export", run, tmp_path / "same")
    done("export", forgot, other)
    adapters = ["--layout", "peft", "--pretrained", run]
    done("export", forgot, tmp_path / "adapters", *adapters)
    shapes = {array.shape for array in tensors(tmp_path / "adapters" / "unet").values()}
    assert shapes and all(min(shape) == 2 for shape in shapes)
    assert_refused(call("export", run, tmp_path / "none", *adapters), "the run has no adapters")

    files, stored = small_files(tmp_path / "same"), tensors(tmp_path / "same")
    assert files.keys() == before[0].keys()
    changed = {name for name, content in files.items() if content != before[0][name]}
    assert changed == {"text_encoder/config.json"}  # weights are float32 now
    assert stored.keys() == before[1].keys()
    for name, array in before[1].items():
        np.testing.assert_array_equal(stored[name], array, err_msg=name)
    moved = {n for n, array in tensors(other).items() if not np.array_equal(array, stored[n])}
    assert moved and all(name.startswith("unet/") and "attn2" in name for name in moved)
    assert small_files(other) == files

    done("adopt", tmp_path / "again", "--checkpoint", other, *data, *sampling)
    for one, two in zip(weights(tmp_path / "again"), weights(forgot), strict=True):
        np.testing.assert_array_equal(one, two)
    (forgot / "source" / "tokenizer" / "merges.txt").write_text("")
    wrong = [found.what for found in verify(forgot) if found.verdict == "does not match"]
    assert wrong == ["adoption"]


def test_a_model_draws_its_own_data(tmp_path, monkeypatch):
    """The drawing itself is replaced; `sample` draws in the same way."""
    calls = []

    def draw(denoiser, decoder, labels, numbers, strength, generation, shape, null_label, clip):
        calls.append((float(strength), shape, null_label, clip))
        return np.broadcast_to(np.uint8(labels)[:, None, None, None], (len(labels), 8, 8, 3))

    monkeypatch.setattr(drawn, "sample_images", draw)
    sd = pipelines.stable_diffusion(tmp_path / "sd")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of a  coat\n\na photo of a sandal\na photo of a coat\n")
    words = ["--checkpoint", sd, "--data", f"generate:{prompts}", "--data-dir", tmp_path / "cache"]
    samples = ["--diffusion.samples", 5]
    out = done("adopt", tmp_path / "run", *words, *samples)
    assert "drawing 5 images of 2 prompts" in out
    assert calls == [(6.5, (4, 4, 4), 2, False)]
    data = load_dataset(read_config(tmp_path / "run", "pretrain").problem)
    assert data.class_names == ("a photo of a coat", "a photo of a sandal")
    assert (len(data.train), len(data.test)) == (8, 2)
    np.testing.assert_array_equal(data.train.image[:, 0, 0, 0], data.train.label)
    done("adopt", tmp_path / "again", *words, *samples)
    assert len(calls) == 1  # drawn once
    prompts.write_text("a coat\n")
    assert_refused(call("adopt", tmp_path / "one", *words), "holds 1 prompts, but must hold at")
    vit = ["--checkpoint", pipelines.DATA / "vit", "--data", f"generate:{prompts}"]
    prompts.write_text("a coat\na sandal\n")
    assert_refused(call("adopt", tmp_path / "vit", *vit), "is no text-to-image model")
    assert not (tmp_path / "vit").exists()


def test_denoisers_of_pixels(tmp_path, images):
    """What the files leave open is asked for; a model without classes is not asked for one."""
    data = ["--data", f"folder:{images}", "--captions", images / "metadata.jsonl"]
    data += ["--test-fraction", 0.2, "--data-dir", tmp_path / "cache"]
    classes = pipelines.denoiser(tmp_path / "classes", "unet2d/classes")
    refused = call("adopt", tmp_path / "run", "--checkpoint", classes, *data)
    assert_refused(refused, "null_class")
    words = ["--model-settings", "null_class=true"]
    refused = call("adopt", tmp_path / "run", "--checkpoint", classes, *data, *words)
    assert refused.status == 2 and "which have 5 classes" in refused.err
    assert not (tmp_path / "run").exists()
    model = pipelines.denoiser(tmp_path / "model", "unet2d/unconditional")
    plain = pipelines.images(tmp_path / "plain", pipelines.CAPTIONS, sides=(8, 4))
    data[1], data[3] = f"folder:{plain}", plain / "metadata.jsonl"
    done("adopt", tmp_path / "run", "--checkpoint", model, *data)
    problem = read_config(tmp_path / "run", "pretrain").problem
    assert (problem.diffusion.label_drop, problem.diffusion.guidance) == (0.0, 0.0)
    assert (problem.diffusion.num_timesteps, problem.diffusion.sampler) == (20, "ddpm")
    sampled = ["sample", tmp_path / "a.png", "--run", tmp_path / "run"]
    assert_refused(call(*sampled, "--labels", 0), "has no classes, but labels or prompts are given")
    done("export", tmp_path / "run", tmp_path / "same")
    before, after = small_files(model), small_files(tmp_path / "same")
    changed = {name for name, content in before.items() if after[name] != content}
    assert changed == {"unet/config.json"}  # a size that was left open is written out
