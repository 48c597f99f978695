"""Models of diffusers from the command line: adopted, made to forget, sampled, and written back.

The first test is the journey in docs/generation.md: Stable Diffusion forgets a word.
"""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxunlearn.studies.runs.folder import read_config
from tests.shell.commands import call, done, weights
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
    assert "adoption" in call("verify", forgot).out.split("does not match")[1]
