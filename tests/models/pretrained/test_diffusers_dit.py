"""Transformers of diffusers (`references/dit.py`): their outputs, and their files to the bit."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxunlearn.models.dit import DiT
from jaxunlearn.models.pretrained.diffusers_dit import _NAMES, load_dit, save_dit, with_copies
from jaxunlearn.models.pretrained.names import naming
from jaxunlearn.types import InputError
from tests.published import layout_of

DATA = Path(__file__).parent / "data" / "dit"
CONFIG = "transformer/config.json"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
MODULE = DiT(3, (8, 8, 3), width=16, depth=2, heads=2, epsilon=1e-2, frequency_shift=1)


@pytest.fixture(scope="module")
def loaded():
    return load_dit(DATA)


@pytest.fixture
def folder(tmp_path):
    """`folder(**options)`: a copy of the stored model with other options."""

    def change(**options):
        copy = shutil.copytree(DATA, tmp_path / "copy", dirs_exist_ok=True)
        config = json.loads((copy / CONFIG).read_text()) | options
        config = {name: value for name, value in config.items() if value != "left out"}
        (copy / CONFIG).write_text(json.dumps(config))
        return copy

    return change


def test_noise_agrees(loaded):
    module, params = loaded
    assert module == MODULE
    expected = np.load(DATA / "expected.npz")
    batch = [expected[key] for key in ("images", "timesteps", "labels")]
    noise = jax.jit(module.apply)({"params": params}, *batch)
    assert expected["noise"].std() > 1
    np.testing.assert_allclose(noise, expected["noise"], rtol=0, atol=1e-4)
    trained = jax.jit(module.clone(frequency_shift=0).apply)({"params": params}, *batch)
    assert np.abs(trained - noise).max() > 1e-2


def test_files_are_written_as_they_were(loaded, tmp_path):
    module, params = loaded
    save_dit(tmp_path / "transformer", module, params)
    first, second = load_file(DATA / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert first.keys() == second.keys()
    for tensor, value in first.items():
        assert (value.shape, value.tobytes()) == (second[tensor].shape, second[tensor].tobytes())
    there, here = (json.loads((folder / CONFIG).read_text()) for folder in (DATA, tmp_path))
    assert here.items() <= there.items()
    again, _ = load_dit(tmp_path)
    assert again == module


def test_published_tensors():
    model = DiT(1000)
    batch = jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *batch)["params"]
    published = json.loads((DATA / "published.json").read_text())
    assert layout_of(with_copies(shapes), naming(_NAMES)) == published


def test_older_configurations(folder, loaded):
    older = folder(
        _class_name="Transformer2DModel",
        norm_eps="left out",
        out_channels=6,
        cross_attention_dim=None,
        num_vector_embeds=None,
        only_cross_attention=False,
        use_linear_projection=False,
    )
    tensors = load_file(older / WEIGHTS)
    save_file({**tensors, "pos_embed.pos_embed": np.zeros((1, 16, 16), "f")}, older / WEIGHTS)
    module, params = load_dit(older)
    assert module == MODULE.clone(epsilon=1e-5)
    jax.tree.map(np.testing.assert_array_equal, params, loaded[1])


def test_without_learned_variance(loaded, tmp_path):
    params = {**loaded[1], "out": {"kernel": np.ones((16, 12)), "bias": np.zeros(12)}}
    module = MODULE.clone(learn_variance=False)
    save_dit(tmp_path / "transformer", module, params)
    assert json.loads((tmp_path / CONFIG).read_text())["out_channels"] == 3
    assert load_dit(tmp_path)[0] == module


def test_blocks_that_embed_the_condition_differently(folder):
    copy = folder()
    tensors = load_file(copy / WEIGHTS)
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias"
    tensors[name] = tensors[name] + 1e-6
    save_file(tensors, copy / WEIGHTS)
    with pytest.raises(InputError, match=r"blocks.0.norm1.*linear_2.bias' and '.*blocks.1.*differ"):
        load_dit(copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_type": "layer_norm"}, "'norm_type' in .* is 'layer_norm'"),
        ({"activation_fn": "geglu"}, "'activation_fn' in .* is 'geglu'"),
        ({"cross_attention_dim": 8}, "'cross_attention_dim' in .* is 8"),
        ({"qk_norm": True}, "option 'qk_norm'"),
        ({"sample_size": "left out"}, "lacks the option 'sample_size'"),
        ({"num_embeds_ada_norm": None}, "in .*config.json, DiT.num_classes is None"),
        ({"num_attention_heads": None}, "DiT.heads is None"),
        ({"attention_head_dim": "8"}, "DiT.width is '8'"),
        ({"sample_size": 9}, "are 9x9, but must have sides .* of 2"),
        ({"out_channels": 4}, "'out_channels' in .* is 4, but must be 3 or 6"),
        ({"num_layers": 1}, "'transformer_blocks.1.*, which this model does not have"),
        ({"num_embeds_ada_norm": 4}, r"embedding_table.weight'.*\[4, 16\].*must have \[5, 16\]"),
    ],
)
def test_what_is_not_supported(options, message, folder):
    with pytest.raises(InputError, match=message):
        load_dit(folder(**options))


def test_what_the_layout_cannot_hold(loaded, tmp_path):
    _, params = loaded
    with pytest.raises(InputError, match="frequency_shift is 0.*save module.clone"):
        save_dit(tmp_path, MODULE.clone(frequency_shift=0), params)
    with pytest.raises(InputError, match="must be square"):
        save_dit(tmp_path, MODULE.clone(image_shape=(8, 4, 3)), params)
    assert not list(tmp_path.iterdir())


def test_a_pipeline_that_was_read_is_written_over_a_copy_or_like_it(folder, loaded, tmp_path):
    source = folder(norm_num_groups=8)
    shard = source / "transformer" / "diffusion_pytorch_model-00001-of-00001.safetensors"
    shard.touch()
    (source / "transformer" / "diffusion_pytorch_model.safetensors.index.json").touch()
    (source / "scheduler").mkdir()
    save_dit(tmp_path / "like" / "transformer", *loaded, like=source / "transformer")
    save_dit(source / "transformer", *loaded)  # its other parts stay, its older weights do not
    for written in (tmp_path / "like", source):
        assert json.loads((written / CONFIG).read_text())["norm_num_groups"] == 8
        files = {file.name for file in (written / "transformer").iterdir()}
        assert files == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert (source / "scheduler").is_dir()


def test_the_folder_of_the_part_alone():
    module, params = load_dit(DATA / "transformer")
    assert module == load_dit(DATA)[0]
    assert "condition" in params
