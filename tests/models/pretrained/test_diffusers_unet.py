"""U-Nets of diffusers (`references/unet2d.py`): their outputs, and their files to the bit."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxunlearn.models.ddpm_unet import DDPMUNet
from jaxunlearn.models.denoisers import create
from jaxunlearn.models.pretrained.diffusers_unet import NAMES, load_unet2d, save_unet2d
from jaxunlearn.models.pretrained.names import naming
from jaxunlearn.models.process import Process
from jaxunlearn.tasks import diffusion
from jaxunlearn.types import InputError
from tests.published import layout_of

pytestmark = pytest.mark.long

DATA = Path(__file__).parent / "data" / "unet2d"
WEIGHTS = "diffusion_pytorch_model.safetensors"
MODULES = {
    "classes": DDPMUNet(
        num_classes=3,
        image_shape=(8, 8, 1),
        widths=(8, 16),
        blocks=1,
        attention_levels=(2,),
        head_width=8,
        dropout=0.0,
        groups=4,
        epsilon=1e-5,
        downsampling="symmetric",
        cosine_first=True,
        frequency_shift=0,
        learn_variance=True,
    ),
    "unconditional": DDPMUNet(
        num_classes=None,
        image_shape=(8, 4, 3),
        widths=(4, 4),
        blocks=2,
        attention_levels=(1,),
        groups=2,
        epsilon=1e-2,
    ),
}


@pytest.fixture(scope="module", params=MODULES)
def loaded(request):
    return request.param, *load_unet2d(DATA / request.param, null_class=True)


@pytest.fixture
def folder(tmp_path):
    """`folder(**options)`: a copy of a stored model with other options."""

    def change(model="classes", **options):
        copy = shutil.copytree(DATA / model, tmp_path / "copy", dirs_exist_ok=True)
        config = json.loads((copy / "config.json").read_text()) | options
        config = {name: value for name, value in config.items() if value != "left out"}
        (copy / "config.json").write_text(json.dumps(config))
        return copy

    return change


def test_the_folder_of_means_over_training(folder, tmp_path):
    """diffusers puts the state of the means into the configuration of `unet_ema`."""
    state = {"decay": 0.9999, "optimization_step": 10, "power": 0.75, "inv_gamma": 1.0}
    copy = folder("unconditional", **state)
    save_unet2d(tmp_path / "out", *load_unet2d(copy), like=copy)
    assert state.items() <= json.loads((tmp_path / "out" / "config.json").read_text()).items()


def test_noise_agrees(loaded):
    name, module, params = loaded
    assert module == MODULES[name]
    expected = np.load(DATA / name / "expected.npz")
    batch = (expected[key] for key in ("images", "timesteps", "labels"))
    noise = jax.jit(module.apply)({"params": params}, *batch)
    assert expected["noise"].std() > 0.3
    np.testing.assert_allclose(noise, expected["noise"], rtol=0, atol=1e-4)


def test_files_are_written_as_they_were(loaded, tmp_path):
    name, module, params = loaded
    save_unet2d(tmp_path, module, params)
    first, second = load_file(DATA / name / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert first.keys() == second.keys()
    for tensor, value in first.items():
        assert (value.shape, value.tobytes()) == (second[tensor].shape, second[tensor].tobytes())
    there, here = (
        json.loads((folder / "config.json").read_text()) for folder in (DATA / name, tmp_path)
    )
    assert here.pop("time_embedding_dim") == 4 * module.widths[0]  # the same as null
    assert here.pop("_null_class", None) == (True if name == "classes" else None)
    assert here.items() <= there.items()
    again, _ = load_unet2d(tmp_path)
    assert again == module


def test_older_names_of_attention(folder):
    copy = folder(_null_class=True)
    tensors = load_file(copy / WEIGHTS)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in tensors.items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = value
    assert renamed.keys() != tensors.keys()
    save_file(renamed, copy / WEIGHTS)
    _, params = load_unet2d(copy)
    places = {
        "middle_attention": "mid_block.attentions.0",
        "up2_attention2": "up_blocks.0.attentions.1",
    }
    for place, stored in places.items():
        block = params[place]["attention"]
        for ours, new in (("query", "to_q"), ("value", "to_v"), ("out", "to_out.0")):
            kernel = tensors[f"{stored}.{new}.weight"].T
            np.testing.assert_array_equal(block[ours]["kernel"], kernel)


def test_published_tensors():
    model = create("ddpm-cifar10", (32, 32, 3), None)
    batch = jnp.zeros((1, 32, 32, 3)), jnp.zeros(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *batch)["params"]
    published = json.loads((DATA / "published.json").read_text())
    assert layout_of(shapes, naming(NAMES, levels=4)) == published


def test_options_left_out_are_the_layouts_defaults(folder):
    optional = ("dropout", "downsample_padding", "flip_sin_to_cos", "freq_shift", "norm_eps")
    same = {"time_embedding_dim": 32, "_newer_note": 1}
    older = folder(**dict.fromkeys(optional, "left out"), **same)
    module, _ = load_unet2d(older, null_class=True)
    assert module == MODULES["classes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"act_fn": "gelu"}, "'act_fn' in .* is 'gelu'"),
        ({"resnet_time_scale_shift": "scale_shift"}, "'resnet_time_scale_shift'"),
        ({"class_embed_type": "timestep"}, "'class_embed_type' in .* is 'timestep'"),
        ({"add_attention": False}, "'add_attention' in .* is False"),
        ({"encoder_hid_dim": 3}, "option 'encoder_hid_dim'"),
        ({"in_channels": "left out"}, "lacks the option 'in_channels'"),
        ({"downsample_padding": 2}, "DDPMUNet.downsampling is 2"),
        ({"time_embedding_dim": 33}, "'time_embedding_dim' in .* is 33, but must be 32"),
        ({"out_channels": 3}, "'out_channels' in .* is 3, but must be 2"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "'down_block_types'"),
        ({"down_block_types": 3}, "'down_block_types' in .* is 3"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "'up_block_types'"),
        ({"sample_size": None}, r"in .*config.json, DDPMUNet.image_shape is \(None, None, 1\)"),
        ({"sample_size": 7}, "are 7x7, but must have sides that are multiples of 2"),
        ({"norm_num_groups": 3}, "multiple of the 3 groups"),
        ({"num_class_embeds": 1}, "DDPMUNet.num_classes is 0"),
        ({"num_class_embeds": 5}, r"'class_embedding.weight'.*has shape \[4, 32\]"),
        ({"num_class_embeds": None}, "'class_embedding.weight'.*does not have"),
        ({"layers_per_block": 2}, "lacks the tensor 'down_blocks.0"),
    ],
)
def test_what_is_not_supported(options, message, folder):
    with pytest.raises(InputError, match=message):
        load_unet2d(folder(**options), null_class=True)


def test_what_the_last_row_of_the_class_embedding_stands_for(folder, tmp_path):
    """Four rows are four classes, or three and none; only the file's author knows."""
    copy = folder()
    with pytest.raises(InputError, match="embedding of 4 rows, .*null_class=True .*=False if"):
        load_unet2d(copy)
    for null_class, num_classes in ((True, 3), (False, 4)):
        module, params = load_unet2d(copy, null_class=null_class)
        assert (module.num_classes, module.null_class) == (num_classes, null_class)
        assert params["condition"]["classes"]["embedding"].shape == (4, 32)
        save_unet2d(tmp_path / "out", module, params, like=copy)
        assert load_unet2d(tmp_path / "out")[0] == module
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["num_class_embeds"] == 4
    unconditional = load_unet2d(DATA / "unconditional")[0]
    assert unconditional.num_classes is None


@pytest.mark.parametrize("null_class", [True, False])
def test_no_label_is_off_the_table(null_class):
    """With a null class dropped labels ask for its row; without one every row is a class."""
    module, params = load_unet2d(DATA / "classes", null_class=null_class)
    process = Process(100, variance="learned_range")
    classes = {"image_shape": (8, 8, 1), "num_classes": module.num_classes}
    drop = 0.5 if null_class else 0.0
    task = diffusion(module, process, **classes, label_drop=drop)
    labels = jnp.arange(16) % module.num_classes
    batch = {
        "image": jnp.zeros((16, 8, 8, 1)),
        "label": labels,
        "index": jnp.arange(16),
        "epoch": jnp.zeros(16, jnp.int32),
    }

    losses, _ = jax.jit(lambda p: task.losses(p, {}, batch, jax.random.key(0), True))(params)
    assert jnp.all(jnp.isfinite(losses))
    assert task.null_label == (3 if null_class else None)
