"""Stable Diffusion in one file: names as published, round trips, means of parameters."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxunlearn.models import pretrained
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.pretrained.sd_single_file import save_single_file
from jaxunlearn.models.pretrained.stable_diffusion import StableDiffusion
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.models.text_unet import TextUNet
from jaxunlearn.models.tokenizer import ClipTokenizer
from jaxunlearn.types import InputError

TOKENIZER = Path(__file__).parent / "data" / "stable_diffusion" / "tokenizer"
PUBLISHED = {  # names and shapes of version 1, with our smaller widths
    "model.diffusion_model.time_embed.2.bias": (128,),
    "model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 64),
    "model.diffusion_model.input_blocks.2.0.op.weight": (32, 32, 3, 3),
    "model.diffusion_model.input_blocks.3.0.skip_connection.weight": (64, 32, 1, 1),
    "model.diffusion_model.middle_block.1.proj_in.weight": (64, 64, 1, 1),
    "model.diffusion_model.output_blocks.0.0.in_layers.2.weight": (64, 128, 3, 3),
    "model.diffusion_model.output_blocks.1.1.conv.weight": (64, 64, 3, 3),
    "model.diffusion_model.output_blocks.3.1.norm.bias": (32,),
    "model.diffusion_model.out.2.bias": (4,),
    "first_stage_model.encoder.down.0.downsample.conv.weight": (32, 32, 3, 3),
    "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (64, 32, 1, 1),
    "first_stage_model.decoder.up.1.upsample.conv.weight": (64, 64, 3, 3),
    "first_stage_model.decoder.up.0.block.1.norm1.weight": (32,),
    "first_stage_model.decoder.mid.attn_1.q.weight": (64, 64, 1, 1),
    "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (16, 64),
    "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight": (128, 64),
}


def random(module, rng, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def parts():
    rng, words = np.random.default_rng(0), ClipTokenizer.load(TOKENIZER, length=16)
    vae = AutoencoderKL(widths=(32, 64), blocks=1)
    text = TextEncoder(words.size, 16, width=64, depth=2, heads=1, hidden=128)
    unet = TextUNet(widths=(32, 64), blocks=1, attention_levels=(1,), context_width=64)
    images, latents = jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 8, 8, 4))
    one, context = jnp.zeros(1, jnp.int32), jnp.zeros((1, 1, 64))
    return StableDiffusion(
        vae,
        random(vae, rng, images),
        text,
        random(text, rng, jnp.zeros((1, 16), jnp.int32)),
        unet,
        random(unet, rng, latents, one, context),
        words,
    )


@pytest.mark.long
def test_found_and_written_as_it_came(parts, tmp_path):
    file = tmp_path / "v1.safetensors"
    save_single_file(file, parts)
    stored = load_file(file)
    assert {name: stored[name].shape for name in PUBLISHED} == PUBLISHED
    ema = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): value + 1
        for name, value in stored.items()
        if name.startswith("model.diffusion_model.")
    }
    extra = {"betas": np.zeros(3, np.float32), "model_ema.decay": np.zeros(1, np.float32)}
    position_ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    save_file(stored | ema | extra | {position_ids: np.zeros((1, 16), np.int64)}, file)
    with pytest.raises(InputError, match="holds no vocabulary; give tokenizer=, the folder"):
        pretrained.find(file)

    found = pretrained.find(file, tokenizer=TOKENIZER)
    assert (found.layout, found.kind, found.model) == ("compvis", "text_to_image", "latent-small")
    assert {"unet": parts.unet_params, "text_encoder": parts.text_encoder_params}.keys() == {
        *found.weights.params
    }
    jax.tree.map(np.testing.assert_array_equal, found.weights.params["unet"], parts.unet_params)
    first = found.weights.model_state["first_stage"]
    jax.tree.map(np.testing.assert_array_equal, first["params"], parts.autoencoder_params)
    mean = pretrained.find(file, tokenizer=TOKENIZER, ema=True)
    conv, other = (w.weights.params["unet"]["in"]["kernel"] for w in (mean, found))
    np.testing.assert_array_equal(conv, other + 1)

    pretrained.save(tmp_path / "back", found, found.weights)
    again = load_file(tmp_path / "back" / "model.safetensors")
    assert again.keys() == stored.keys()
    assert all(again[name].tobytes() == stored[name].tobytes() for name in stored)
    # The same model as a folder of diffusers.
    pretrained.save(tmp_path / "folder", found._replace(layout="diffusers"), found.weights)
    folder = pretrained.find(tmp_path / "folder")
    assert folder.fields == found.fields
    jax.tree.map(np.testing.assert_array_equal, folder.weights, found.weights)
