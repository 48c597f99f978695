"""Inception-v3 against torchvision's (`references/inception.py`), and its files to the bit."""

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxunlearn.models.inception import _BLOCKS, Block, InceptionV3, resize
from jaxunlearn.models.pretrained.inception import load_inception, save_inception
from jaxunlearn.types import InputError

pytestmark = pytest.mark.long

DATA = Path(__file__).parent / "data" / "inception"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What was loaded, from a file with what serves training alone besides."""
    extra = {
        "AuxLogits__fc__weight": np.zeros((5, 48), np.float32),
        "Mixed_5b__branch1x1__bn__num_batches_tracked": np.array(7),
    }
    return load_inception(changed(tmp_path_factory.mktemp("inception"), **extra), frechet=True)


@pytest.fixture(scope="module")
def expected():
    return np.load(DATA / "expected.npz")


def close(found, expected):
    assert expected.std() > 0.3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_network_of_the_frechet_distance(loaded, expected):
    module, params, model_state = loaded
    assert module == InceptionV3(5, frechet=True, divisor=16)
    images = expected["pixels"] / np.float32(127.5) - 1
    found = jax.jit(module.apply)({"params": params, **model_state}, images)
    close(found.features, expected["frechet_features"])
    close(found.logits, expected["frechet_logits"])


@pytest.mark.parametrize("name", ["5b", "7c"])
def test_where_torchvision_pools_otherwise(name, loaded, expected):
    """The first block and the last, which is the only one with another table of branches."""
    _, params, model_state = loaded
    pooling = InceptionV3(5, divisor=16).count_padding
    block = Block(_BLOCKS[f"Mixed_{name}"], 16, pooling, np.float32)
    variables = {"params": params[f"Mixed_{name}"]}
    variables["batch_stats"] = model_state["batch_stats"][f"Mixed_{name}"]
    found = jax.jit(block.apply)(variables, expected[f"before_{name}"])
    close(found, expected[f"block_{name}"])


def test_resizing_is_pytorchs(expected):
    for side in (11, 4):
        found = resize(expected["small"], side)
        np.testing.assert_allclose(found, expected[f"resized_{side}"], rtol=0, atol=1e-6)


def test_round_trip_to_the_last_bit(loaded, tmp_path):
    save_inception(tmp_path, *loaded)
    first, second = load_file(DATA / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.astype(np.float32).tobytes() == second[name].tobytes(), name
        assert value.shape == second[name].shape


def changed(tmp_path, **tensors):
    stored = load_file(DATA / "model.safetensors")
    stored |= {name.replace("__", "."): value for name, value in tensors.items()}
    stored = {name: value for name, value in stored.items() if value is not None}
    save_file(stored, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("frechet", "tensors", "match"),
    [
        (True, {"fc__weight": None}, "'fc.weight' in .* is missing"),
        (
            True,
            {"fc__weight": np.zeros((1000, 128))},
            "1000 outputs, but must have 1008 with frechet=True",
        ),
        (
            False,
            {"fc__weight": np.zeros((1008, 128))},
            "1008 outputs, but must have 1000 with frechet=False",
        ),
        (True, {"Conv2d_1a_3x3__conv__weight": np.zeros((5, 3, 3, 3))}, "divisor is 6, but"),
        (True, {"Conv2d_1a_3x3__conv__weight": np.zeros((64, 3, 3, 3))}, "divisor is 0, but"),
    ],
)
def test_another_network(frechet, tensors, match, tmp_path):
    tensors = {name: v if v is None else v.astype(np.float32) for name, v in tensors.items()}
    with pytest.raises(InputError, match=match):
        load_inception(changed(tmp_path, **tensors), frechet=frechet)
