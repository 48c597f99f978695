"""Models of other libraries through the commands: adopted, unlearned, and written as they came."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from jaxunlearn.files import read_json
from jaxunlearn.studies.plans import for_checkpoint
from jaxunlearn.studies.runs.folder import read_config
from jaxunlearn.types import InputError
from tests.once import made_once
from tests.shell.commands import assert_refused, call, done

PUBLISHED = Path(__file__).parents[2] / "models" / "pretrained" / "data"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of a few images of five classes."""

    def make(folder):
        draw = np.random.default_rng(0)
        labels = np.arange(20) % 5
        pixels = draw.integers(0, 256, (20, 16, 16, 3), np.uint8)
        parts = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
        np.savez(folder / "images.npz", **parts)
        three = {"y_train": labels % 3, "y_test": labels % 3}
        np.savez(folder / "three.npz", **parts | three)

    return made_once(tmp_path_factory, "images", make) / "images.npz"


def tensors(folder):
    file = next(folder.rglob("*.safetensors"))
    return safetensors.numpy.load_file(file)


def assert_same_tensors(one, other):
    one, other = tensors(one), tensors(other)
    kept = {name for name in other if not name.endswith("num_batches_tracked")}
    assert one.keys() == kept
    for name in kept:
        tensor = other[name]
        assert one[name].tobytes() == tensor.astype(np.float32).tobytes(), name


def test_a_vit_of_timm_is_adopted_with_its_pixels_and_goes_back(images, tmp_path):
    data = ["--data", f"npz:{images}"]
    printed = done("adopt", tmp_path / "run", "--checkpoint", PUBLISHED / "vit", *data)
    assert "(timm)" in printed and "accuracy: " in printed
    problem = read_config(tmp_path / "run", "pretrain").problem
    assert problem.model == "vit-tiny-test" and problem.model_settings["width"] == 16
    assert problem.mean == problem.std == (0.5, 0.5, 0.5)  # of its own configuration
    words = ["--pretrained", tmp_path / "run", "--indices", 1, 2]
    few = ["--num-steps=1", "--forget-batch-size=2", "--retain-batch-size=2"]
    done("unlearn", tmp_path / "forgot", "finetune", *words, *few)
    done("export", tmp_path / "run", tmp_path / "same")
    assert_same_tensors(tmp_path / "same", PUBLISHED / "vit")
    configs = [read_json(f / "config.json") for f in (tmp_path / "same", PUBLISHED / "vit")]
    assert configs[0]["pretrained_cfg"] == configs[1]["pretrained_cfg"]
    done("export", tmp_path / "forgot", tmp_path / "other")
    ours, theirs = tensors(tmp_path / "other"), tensors(PUBLISHED / "vit")
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    assert any(np.any(ours[name] != tensor) for name, tensor in theirs.items())
    done("adopt", tmp_path / "again", "--checkpoint", tmp_path / "other", *data)


@pytest.mark.parametrize("name", ["resnet_basic", "vit_transformers"])
@pytest.mark.long
def test_other_classifiers_go_back_bit_for_bit(name, images, tmp_path):
    """The transformer of 32x32 images is refused, as these are of 16x16."""
    data = ["--data", f"npz:{images}"]
    result = call("adopt", tmp_path / "run", "--checkpoint", PUBLISHED / name, *data)
    if name == "vit_transformers":
        assert_refused(result, "position", "but must be [1, 5, 16]")
        return
    assert result.status == 0, result.err
    done("export", tmp_path / "run", tmp_path / "same")
    assert_same_tensors(tmp_path / "same", PUBLISHED / name)


def test_the_fields_that_a_checkpoint_gives(tmp_path):
    path = str(PUBLISHED / "vit")
    fields = for_checkpoint({"checkpoint": path, "mean": [0.1]})
    assert fields["mean"] == [0.1] and fields["std"] == [0.5, 0.5, 0.5]
    assert fields["validation_fraction"] == 0.0
    assert json.loads(json.dumps(fields)) == fields
    assert for_checkpoint({"model": "mlp"}) == {"model": "mlp"}
    with pytest.raises(InputError, match=r"'mlp', but the checkpoint .* holds 'vit-tiny-test'"):
        for_checkpoint({"checkpoint": path, "model": "mlp"})
    with pytest.raises(InputError, match="a model that generates, but the data are not given"):
        for_checkpoint({"checkpoint": str(PUBLISHED / "stable_diffusion")})
    (tmp_path / "pytorch_model.bin").touch()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="pickle"):
        for_checkpoint({"checkpoint": str(tmp_path)})


def test_a_head_of_other_classes_is_refused(images, tmp_path):
    data = ["--data", f"npz:{images.with_name('three.npz')}"]
    refused = call("adopt", tmp_path / "run", "--checkpoint", PUBLISHED / "vit", *data)
    assert_refused(refused, "vit-tiny-test", "have 3 classes")
    assert not (tmp_path / "run").exists()
