"""Low-rank adapters of other programs: sums by hand, round trips, refusals."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxunlearn.models import pretrained
from jaxunlearn.types import InputError

DATA = Path(__file__).parent / "data"
UNET = DATA / "unet2d" / "unconditional"
NAME = "lora_unet_mid_block_attentions_0_to_q"
DENSE, CONV = "mid_block.attentions.0.to_q", "conv_in"  # 4 to 4, and 3 to 4 channels of 3x3
RNG = np.random.default_rng(0)
DOWN, UP = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 4), (4, 2)))
CONV_DOWN, CONV_UP = (
    RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3, 3, 3), (4, 2, 1, 1))
)


@pytest.fixture(scope="module")
def unet():
    return pretrained.find(UNET)


def kernels(found):
    params = found.weights.params
    return params["middle_attention"]["attention"]["query"]["kernel"], params["stem"]["kernel"]


def peft(folder, **options):
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3} | options
    (folder / "adapter_config.json").write_text(json.dumps(config))
    of = "base_model.model."
    tensors = {
        f"{of}{DENSE}.lora_A.weight": DOWN,
        f"{of}{DENSE}.lora_B.weight": UP,
        f"{of}{CONV}.lora_A.weight": CONV_DOWN,
        f"{of}{CONV}.lora_B.weight": CONV_UP,
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def kohya(folder):
    folder.mkdir()
    name = f"lora_unet_{DENSE.replace('.', '_')}"
    factors = {"lora_down.weight": DOWN, "lora_up.weight": UP, "alpha": np.array(3, np.float32)}
    file = folder / "style.safetensors"
    save_file({f"{name}.{factor}": array for factor, array in factors.items()}, file)
    return file


def of_diffusers(folder):
    folder.mkdir()
    file = folder / "pytorch_lora_weights.safetensors"
    tensors = {f"unet.{DENSE}.lora.down.weight": 1.5 * DOWN, f"unet.{DENSE}.lora.up.weight": UP}
    save_file(tensors, file)
    return folder


@pytest.mark.parametrize("write", [peft, kohya, of_diffusers])
def test_the_sum(write, unet, tmp_path):
    added = pretrained.find(UNET, adapters=write(tmp_path / "lora"))
    dense, conv = (new - old for new, old in zip(kernels(added), kernels(unet), strict=True))
    np.testing.assert_allclose(dense, 1.5 * (UP @ DOWN).T, rtol=1e-4, atol=1e-5)
    if write is peft:
        expected = 1.5 * np.einsum("or,rihw->hwio", CONV_UP[:, :, 0, 0], CONV_DOWN)
        np.testing.assert_allclose(conv, expected, rtol=1e-4, atol=1e-5)


def test_the_scale_of_rslora(unet, tmp_path):
    added = pretrained.find(UNET, adapters=peft(tmp_path / "lora", use_rslora=True))
    change = kernels(added)[0] - kernels(unet)[0]
    np.testing.assert_allclose(change, 3 / 2**0.5 * (UP @ DOWN).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_round_trip(layout, unet, tmp_path):
    changed = pretrained.find(UNET, adapters=peft(tmp_path / "lora")).weights
    pretrained.save_adapters(tmp_path / "out", unet, changed, rank=2, layout=layout)
    file = "adapter_model.safetensors" if layout == "peft" else "adapters.safetensors"
    assert len(load_file(tmp_path / "out" / file)) == (4 if layout == "peft" else 6)
    again = pretrained.find(UNET, adapters=tmp_path / "out").weights
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, changed)
    with pytest.raises(InputError, match="the change of .*/kernel is not of rank 1, but must be"):
        pretrained.save_adapters(tmp_path / "one", unet, changed, rank=1)
    assert not (tmp_path / "one").exists()


def test_changes_that_are_no_adapters(unet, tmp_path):
    params = unet.weights.params
    bias = params | {"out": params["out"] | {"bias": params["out"]["bias"] + 1}}
    for changed, match in ((params, "the weights are equal"), (bias, "out/bias changed, but ")):
        with pytest.raises(InputError, match=match):
            pretrained.save_adapters(tmp_path, unet, unet.weights._replace(params=changed), rank=2)
    with pytest.raises(InputError, match="layout of adapters is 'lycoris', but must be 'peft' or"):
        pretrained.save_adapters(tmp_path, unet, unet.weights, rank=2, layout="lycoris")
    with pytest.raises(InputError, match="the model is 'vit-tiny-test', but must be a U-Net"):
        pretrained.find(DATA / "vit", adapters=tmp_path)


def test_adapters_of_another_model(tmp_path):
    with pytest.raises(InputError, match="'use_dora' in .* is True, but must be False; merge the"):
        pretrained.find(UNET, adapters=peft(tmp_path / "dora", use_dora=True))
    file = kohya(tmp_path / "lora")
    for name, array, match in (
        ("lora_unet_conv_inn.lora_up.weight", UP, r"'lora_unet_conv_inn.lora_up.weight', but must"),
        ("lora_unet_conv_out.lora_up.weight", UP, "holds 'out/kernel', but must hold both factors"),
    ):
        save_file({name: array}, file)
        with pytest.raises(InputError, match=match):
            pretrained.find(UNET, adapters=file)
    for up, down in ((UP, UP), (UP, DOWN[:0]), (DOWN[:0], DOWN), (UP[:, :1], DOWN)):
        save_file({f"{NAME}.lora_up.weight": up, f"{NAME}.lora_down.weight": down}, file)
        with pytest.raises(
            InputError, match=r"kernel in .* has factors .* but must fit a layer of"
        ):
            pretrained.find(UNET, adapters=file)
