"""Stable Diffusion v1 in one file, with the names of CompVis.

    model.diffusion_model.*                       the U-Net
    first_stage_model.*                           the autoencoder
    cond_stage_model.transformer.text_model.*     the text encoder
    model_ema.*                                   means of the U-Net's parameters over training

The tensors determine the sizes; numbers of heads and of groups, the activation and the scale of the
latents are as in version 1. The file holds no vocabulary. Schedules and other tensors are ignored.

Source of the layout: the public tensor names and shapes of Stable Diffusion v1's `.ckpt` files.
"""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.pretrained import sd_text_encoder
from jaxunlearn.models.pretrained.names import Naming, naming, nested
from jaxunlearn.models.pretrained.sd_text_unet import TRANSFORMER
from jaxunlearn.models.pretrained.stable_diffusion import StableDiffusion
from jaxunlearn.models.pretrained.tensors import read, stored_shape, stored_shapes, write
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.models.text_unet import TextUNet
from jaxunlearn.models.tokenizer import ClipTokenizer
from jaxunlearn.types import InputError

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
_EMA = "model_ema."
_HEAD_WIDTH = 64  # of CLIP
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "condition": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
}
_OUTER = {
    "in": "input_blocks.0.0",
    "condition/time1": "time_embed.0",
    "condition/time2": "time_embed.2",
    "norm": "out.0",
    "out": "out.2",
    **nested({"middle_block1": "middle_block.0", "middle_block2": "middle_block.2"}, _RESIDUAL),
    **nested({"middle_attention": "middle_block.1"}, TRANSFORMER),
}
_VAE_RESIDUAL = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
_VAE_RESIDUAL["shortcut"] = "nin_shortcut"
_VAE_ATTENTION = {
    "norm": "norm",
    "attention/query": "q",
    "attention/key": "k",
    "attention/value": "v",
    "attention/out": "proj_out",
}
_CODER = {
    "in": "conv_in",
    "norm": "norm_out",
    "out": "conv_out",
    **nested({"middle_block#": "mid.block_@"}, _VAE_RESIDUAL),
    **nested({"middle_attention": "mid.attn_1"}, _VAE_ATTENTION),
}
_VAE_NAMES = {
    "moments": "quant_conv",
    "latents": "post_quant_conv",
    "encoder/level#_conv": "encoder.down.#.downsample.conv",
    "decoder/level#_conv": "decoder.up.~.upsample.conv",
    **nested({"encoder": "encoder", "decoder": "decoder"}, _CODER),
    **nested(
        {
            "encoder/level#_block#": "encoder.down.#.block.#",
            "decoder/level#_block#": "decoder.up.~.block.#",
        },
        _VAE_RESIDUAL,
    ),
}
_POINTWISE = rf"{re.escape(VAE)}(en|de)coder\.mid\.attn_1\.(q|k|v|proj_out)\.weight"


def load_single_file(
    path: str | os.PathLike[str], tokenizer: str | os.PathLike[str], *, ema: bool = False
) -> StableDiffusion:
    """Reads all parts of a pipeline from one file.

    Args:
        path: the safetensors file.
        tokenizer: folder of CLIP's `tokenizer.json`, or of `vocab.json` and `merges.txt`.
        ema: whether to read the means of the U-Net's parameters, which some files hold too.

    Raises:
        InputError: a file is missing or damaged, or describes another network.
    """
    path = Path(path)
    shapes = stored_shapes(path)
    if ema and not any(name.startswith(_EMA) for name in shapes):
        raise InputError(f"{path} holds no {_EMA}* (means over training); leave out ema.")
    unet, autoencoder = _unet(path, shapes), _autoencoder(path, shapes)
    text_encoder = _text_encoder(path, shapes)
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    context = jax.ShapeDtypeStruct((1, 1, unet.context_width), jnp.float32)
    images = jax.ShapeDtypeStruct((1, *2 * (autoencoder.factor,), autoencoder.channels), "float32")
    ids = jax.ShapeDtypeStruct((1, text_encoder.length), jnp.int32)
    latents = jax.ShapeDtypeStruct((1, 8, 8, unet.channels), jnp.float32)
    return StableDiffusion(
        autoencoder,
        _read(path, VAE, autoencoder, (images,), _vae_naming(autoencoder)),
        text_encoder,
        _read(path, TEXT, text_encoder, (ids,), _text_naming),
        unet,
        _read(path, _EMA if ema else UNET, unet, (latents, one, context), _unet_naming(unet, ema)),
        ClipTokenizer.load(tokenizer, length=text_encoder.length),
    )


def save_single_file(path: str | os.PathLike[str], pipeline: StableDiffusion) -> None:
    """Writes all parts but the tokenizer as one file, for `load_single_file`.

    Raises:
        InputError: the file cannot be written.
    """
    trees = {
        "vae": pipeline.autoencoder_params,
        "text": pipeline.text_encoder_params,
        "unet": pipeline.unet_params,
    }
    namings = {
        "vae": _vae_naming(pipeline.autoencoder),
        "text": _text_naming,
        "unet": _unet_naming(pipeline.unet),
    }
    write(path, trees, lambda place: namings[place[0]](place[1:]), pointwise=_POINTWISE)


def _read(path: Path, prefix: str, module: Any, inputs: Any, name: Naming) -> Any:
    """The parameters of one part, whose names begin with the prefix."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    others = [rf"(?!{re.escape(prefix)}).*", r".*\.position_ids", r"first_stage_model\.loss\..*"]
    counters = [r"model_ema\.(decay|num_updates)"]
    return read(path, shapes, name, ignore=[*others, *counters])


def _unet_naming(module: TextUNet, ema: bool = False) -> Naming:
    table, place = dict(_OUTER), itertools.count(1)
    levels = len(module.widths)

    def block(ours: str, i: int, stored: str) -> None:
        table.update(nested({f"{ours}_block{i}": f"{stored}.0"}, _RESIDUAL))
        table.update(nested({f"{ours}_attention{i}": f"{stored}.1"}, TRANSFORMER))

    for level in range(1, levels + 1):
        for i in range(1, module.blocks + 1):
            block(f"down{level}", i, f"input_blocks.{next(place)}")
        if level < levels:
            table[f"down{level}_conv"] = f"input_blocks.{next(place)}.0.op"
    place = itertools.count()
    for level in range(levels, 0, -1):
        for i in range(1, module.blocks + 2):
            stored = f"output_blocks.{next(place)}"
            block(f"up{level}", i, stored)
        table[f"up{level}_conv"] = f"{stored}.{2 if level in module.attention_levels else 1}.conv"
    if not ema:
        return naming(table, UNET)
    name = naming(table, "diffusion_model.")
    return lambda path: _EMA + str(name(path)).replace(".", "")


def _vae_naming(module: AutoencoderKL) -> Naming:
    return naming(_VAE_NAMES, VAE, levels=len(module.widths))


_text_naming = naming(sd_text_encoder.NAMES, TEXT + sd_text_encoder.PREFIX)


def _unet(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> TextUNet:
    """The sizes, level by level: a downsampling ends all but the last."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        return stored_shape(path, shapes, UNET + name, rank)

    width, channels, *_ = shape("input_blocks.0.0.weight", 4)
    widths, blocks, attends = [width], [0], set()
    for place in itertools.count(1):
        stored = f"input_blocks.{place}"
        if f"{UNET}{stored}.0.op.weight" in shapes:
            widths.append(0)
            blocks.append(0)
        elif f"{UNET}{stored}.0.out_layers.3.weight" in shapes:
            widths[-1] = shape(f"{stored}.0.out_layers.3.weight", 4)[0]
            blocks[-1] += 1
            if f"{UNET}{stored}.1.norm.weight" in shapes:
                attends.add(len(widths))
        else:
            break
    attention = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    return TextUNet(
        channels=channels,
        widths=tuple(widths),
        blocks=max(blocks),
        attention_levels=tuple(sorted(attends)),
        context_width=shape(attention, 2)[1],
    )


def _autoencoder(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> AutoencoderKL:
    def widths(name: str) -> list[int]:
        found: list[int] = []
        while (stored := VAE + name.format(len(found))) in shapes:
            found.append(stored_shape(path, shapes, stored, 4)[0])
        return found

    return AutoencoderKL(
        channels=stored_shape(path, shapes, f"{VAE}encoder.conv_in.weight", 4)[1],
        latent_channels=stored_shape(path, shapes, f"{VAE}post_quant_conv.weight", 4)[0],
        widths=tuple(widths("encoder.down.{}.block.0.conv1.weight")),
        blocks=len(widths("encoder.down.0.block.{}.conv1.weight")),
    )


def _text_encoder(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> TextEncoder:
    name = _text_naming
    vocabulary, width = stored_shape(path, shapes, str(name(("tokens", "embedding"))), 2)
    depth = 0
    while str(name((f"block{depth + 1}", "norm1", "scale"))) in shapes:
        depth += 1
    return TextEncoder(
        vocabulary=vocabulary,
        length=stored_shape(path, shapes, str(name(("position",))), 2)[0],
        width=width,
        depth=depth,
        heads=max(1, width // _HEAD_WIDTH),
        hidden=stored_shape(path, shapes, str(name(("block1", "up", "kernel"))), 2)[0],
    )
