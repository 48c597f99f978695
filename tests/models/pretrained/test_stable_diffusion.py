"""Stable Diffusion v1 (`references/stable_diffusion.py`): outputs, files to the bit, refusals."""

import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.pretrained import sd_autoencoder, sd_text_encoder, sd_text_unet
from jaxunlearn.models.pretrained.names import naming
from jaxunlearn.models.pretrained.stable_diffusion import (
    StableDiffusion,
    load_autoencoder,
    load_stable_diffusion,
    load_text_encoder,
    load_text_unet,
    save_stable_diffusion,
    save_text_encoder,
    save_text_unet,
)
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.models.text_unet import TextUNet
from jaxunlearn.models.tokenizer import WordTokenizer
from jaxunlearn.types import InputError
from tests.published import COUNTS, layout_of, published

pytestmark = pytest.mark.long

DATA = Path(__file__).parent / "data" / "stable_diffusion"
WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = {"vae": WEIGHTS, "unet": WEIGHTS, "text_encoder": "model.safetensors"}
LOAD = {"vae": load_autoencoder, "unet": load_text_unet, "text_encoder": load_text_encoder}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusion:
    return load_stable_diffusion(DATA)


@pytest.fixture(scope="module")
def expected():
    return np.load(DATA / "expected.npz")


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(path, **options):
    """Sets options of a configuration; None takes one away."""
    config = json.loads(path.read_text()) | options
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "rescale_betas_zero_snr": False,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}


def with_scheduler(folder, **options):
    """Writes the scheduler of a pipeline; None takes an option away."""
    (folder / "scheduler").mkdir(exist_ok=True)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(SCHEDULER))
    change(file, **options)


def agree(found, wanted):
    assert wanted.std() > 0.3
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_modules(pipeline):
    assert pipeline.autoencoder == AutoencoderKL(
        widths=(8, 16), blocks=1, groups=4, scaling_factor=0.25
    )
    assert pipeline.text_encoder == TextEncoder(658, 12, width=12, depth=2, heads=3, hidden=20)
    assert pipeline.unet == TextUNet(
        widths=(8, 16), blocks=1, attention_levels=(1,), heads=2, context_width=12, groups=4
    )


def test_autoencoder(pipeline, expected):
    model, variables = pipeline.autoencoder, {"params": pipeline.autoencoder_params}
    encode, decode = (
        jax.jit(functools.partial(model.apply, method=m)) for m in ("encode", "decode")
    )
    mean, log_variance = encode(variables, expected["images"])
    agree(mean, expected["mean"])
    agree(log_variance, expected["log_variance"])
    agree(decode(variables, expected["latents"]), expected["decoded"])


def test_text_encoder(pipeline, expected):
    prompts = json.loads((DATA / "prompts.json").read_text())["prompts"][2:8]
    ids = pipeline.tokenizer.encode(prompts)
    states = jax.jit(pipeline.text_encoder.apply)({"params": pipeline.text_encoder_params}, ids)
    agree(states, expected["states"])


def test_text_unet(pipeline, expected):
    batch = expected["latents"], expected["timesteps"], expected["states"][:2]
    agree(jax.jit(pipeline.unet.apply)({"params": pipeline.unet_params}, *batch), expected["noise"])


def test_round_trip_to_the_bit(pipeline, tmp_path):
    save_stable_diffusion(tmp_path, pipeline)
    again = load_stable_diffusion(tmp_path)
    modules = ("autoencoder", "text_encoder", "unet", "tokenizer")
    assert all(getattr(again, name) == getattr(pipeline, name) for name in modules)
    for part, file in FILES.items():
        first, second = load_file(DATA / part / file), load_file(tmp_path / part / file)
        if part == "text_encoder":  # of transformers 5; written as published
            first = {f"text_model.{name}": value for name, value in first.items()}
        assert first.keys() == second.keys()
        for name, value in first.items():
            np.testing.assert_array_equal(second[name], value.astype("f"), err_msg=name)
        config, saved = (
            json.loads((root / part / "config.json").read_text()) for root in (DATA, tmp_path)
        )
        config.pop("dtype", None)  # the stored type; float32 is written
        assert saved == config
    assert not (DATA / "model_index.json").exists()  # the four parts are enough


@pytest.mark.parametrize("part", sorted(COUNTS))
def test_names_and_shapes_of_the_published_sizes(part):
    names = {
        "autoencoder": naming(sd_autoencoder.NAMES),
        "text_encoder": naming(sd_text_encoder.NAMES, sd_text_encoder.PREFIX),
        "text_unet": naming(sd_text_unet.NAMES, levels=4),
    }[part]
    wanted = json.loads((DATA / "published.json").read_text())[part]
    assert wanted.pop("parameters") == COUNTS[part]
    assert layout_of(published(part)[1]["params"], names) == wanted


def test_old_names_of_attention(copy, pipeline):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    stored = load_file(copy / "vae" / WEIGHTS)
    for new_name, old_name in old.items():
        stored = {n.replace(f".{new_name}.", f".{old_name}."): v for n, v in stored.items()}
    assert sum("proj_attn" in name for name in stored) == 4
    save_file(stored, copy / "vae" / WEIGHTS)
    _, params = load_autoencoder(copy / "vae")
    jax.tree.map(np.testing.assert_array_equal, params, pipeline.autoencoder_params)
    key = "encoder.mid_block.attentions.0"
    stored[f"{key}.to_q.bias"] = stored.pop(f"{key}.query.bias")
    save_file(stored, copy / "vae" / WEIGHTS)
    with pytest.raises(InputError, match=f"lacks the tensor '{key}.query.bias'"):
        load_autoencoder(copy / "vae")


def test_published_text_encoder(copy, pipeline):
    """Names below `text_model.`, the positions' numbers beside them, and a second file of all."""
    file = copy / "text_encoder" / "model.safetensors"
    stored = {f"text_model.{name}": value for name, value in load_file(file).items()}
    stored["text_model.embeddings.position_ids"] = np.arange(12)[None]
    save_file(stored, file)
    shutil.copy(file, file.with_name("model.fp16.safetensors"))
    _, params = load_text_encoder(copy / "text_encoder")
    jax.tree.map(np.testing.assert_array_equal, params, pipeline.text_encoder_params)


@pytest.mark.parametrize("part", sorted(FILES))
def test_damaged_file(part, copy):
    file = copy / part / FILES[part]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{FILES[part]} is damaged"):
        LOAD[part](copy / part)


def test_bad_tensors(copy):
    file = copy / "text_encoder" / "model.safetensors"
    stored = load_file(file)
    last = sorted(stored)[-1]
    for tensors, said in (
        ({n: v for n, v in stored.items() if n != last}, f"lacks the tensor '{last}'"),
        ({**stored, "conv_extra.weight": stored[last]}, "the tensor 'conv_extra.weight'"),
        ({**stored, last: np.zeros((3, 3), "f")}, f"the tensor '{last}' in .* has shape"),
    ):
        save_file(tensors, file)
        with pytest.raises(InputError, match=said):
            load_text_encoder(copy / "text_encoder")


@pytest.mark.parametrize(
    ("part", "options", "said"),
    [
        ("vae", {"scale_shift": 1}, r"has the option 'scale_shift' \(1\), which is not supported"),
        ("vae", {"use_quant_conv": False}, "'use_quant_conv' in .* is False, but must be True"),
        ("vae", {"latents_mean": [0.5]}, r"'latents_mean' in .* is \[0.5\], but must be None"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "'_class_name' in .* is 'AutoencoderTiny'"),
        ("vae", {"latent_channels": None}, "lacks the option 'latent_channels'"),
        ("vae", {"out_channels": 1}, "'out_channels' in .* is 1, but must be 3"),
        ("vae", {"norm_num_groups": 3}, r"config.json, AutoencoderKL.widths is .* 3 groups"),
        (
            "unet",
            {"use_linear_projection": True},
            "'use_linear_projection' in .* is True, but must be Fal",
        ),
        (
            "unet",
            {"class_embed_type": "timestep"},
            "'class_embed_type' in .* is 'timestep', but must be N",
        ),
        ("unet", {"attention_head_dim": [2, 4]}, r"TextUNet.heads is \(2, 4\)"),
        ("unet", {"in_channels": 9}, "'out_channels' in .* is 4, but must be 9"),
        (
            "unet",
            {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]},
            "'down_block_types' in .* is",
        ),
        ("unet", {"down_block_types": 3}, "'down_block_types' in .* is 3"),
        (
            "unet",
            {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]},
            "'up_block_types' in .* is",
        ),
        ("unet", {"norm_eps": 1e-6}, "'norm_eps' in .* is 1e-06, but must be 1e-05"),
        ("text_encoder", {"hidden_act": "relu"}, "TextEncoder.activation is 'relu'"),
        (
            "text_encoder",
            {"attention_dropout": 0.1},
            "'attention_dropout' in .* is 0.1, but must be 0.0",
        ),
        ("text_encoder", {"model_type": "t5"}, "'model_type' in .* is 't5'"),
    ],
)
def test_bad_options(part, options, said, copy):
    change(copy / part / "config.json", **options)
    with pytest.raises(InputError, match=said) as error:
        LOAD[part](copy / part)
    assert str(copy / part / "config.json") in str(error.value)


def test_old_configurations_leave_options_out(copy):
    config = json.loads((copy / "unet" / "config.json").read_text())
    sizes = ("channels", "types", "layers_per_block", "attention_head_dim", "cross_attention_dim")
    kept = {k: v for k, v in config.items() if any(size in k for size in sizes)}
    kept |= {"norm_num_groups": 4, "_diffusers_version": "0.2.2", "sample_size": 64}
    (copy / "unet" / "config.json").write_text(json.dumps(kept))
    module, _ = load_text_unet(copy / "unet")
    assert module.attention_levels == (1,)
    change(copy / "vae" / "config.json", scaling_factor=None)
    assert load_autoencoder(copy / "vae")[0].scaling_factor == 0.18215


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "the scheduler is 'FlowMatchEulerDisc",
        ),
        ({"_class_name": None}, "the scheduler is None, but must be one of DDIMScheduler"),
        ({"prediction_type": "v_prediction"}, "prediction is 'v', but must be 'epsilon', as in"),
        ({"rescale_betas_zero_snr": True}, "zero_terminal_snr is true, but must be false"),
        ({"use_flow_sigmas": True}, "'use_flow_sigmas' of the scheduler is True"),
        ({"beta_end": 0.02}, "beta_end is 0.02, but must be 0.012"),
        ({"beta_end": None}, "beta_end is 0.02, but must be 0.012"),
        ({"num_train_timesteps": 500}, "num_timesteps is 500, but must be 1000"),
    ],
)
def test_another_process(options, said, copy):
    with_scheduler(copy, **options)
    with pytest.raises(InputError, match=said) as error:
        load_stable_diffusion(copy)
    assert "scheduler_config.json" in str(error.value)


def test_what_the_parts_do_not_tell_is_written_back(copy, tmp_path):
    """Size of images, how diffusers computes, tokens, the sampler: as they came."""
    with_scheduler(copy)
    change(copy / "unet" / "config.json", sample_size=16, upcast_attention=True)
    change(copy / "vae" / "config.json", sample_size=128, force_upcast=False)
    change(copy / "text_encoder" / "config.json", eos_token_id=657, projection_dim=16)
    loaded = load_stable_diffusion(copy)
    before = {part: json.loads((copy / part / "config.json").read_text()) for part in FILES}
    shutil.rmtree(copy / "unet")  # nothing is read later
    out = tmp_path / "out"
    save_stable_diffusion(out, loaded)
    for part, config in before.items():
        config.pop("dtype", None)
        assert json.loads((out / part / "config.json").read_text()) == config
    assert json.loads((out / "scheduler" / "scheduler_config.json").read_text()) == SCHEDULER
    index = json.loads((out / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    save_stable_diffusion(out, loaded._replace(configs={}))  # over it: the parts' are kept
    assert json.loads((out / "unet" / "config.json").read_text()) == before["unet"]
    published = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    assert published["_class_name"] == "PNDMScheduler"
    assert published["beta_schedule"] == "scaled_linear"


def test_one_part_like_the_one_that_was_read(copy, pipeline, tmp_path):
    change(copy / "unet" / "config.json", sample_size=16)
    model, params = pipeline.unet, pipeline.unet_params
    save_text_unet(tmp_path / "like", model, params, like=copy / "unet")
    save_text_unet(tmp_path / "alone", model, params)
    sizes = [
        json.loads((tmp_path / name / "config.json").read_text())["sample_size"]
        for name in ("like", "alone")
    ]
    assert sizes == [16, 64]
    with pytest.raises(
        InputError, match="'_class_name' in .* is 'AutoencoderKL'|option 'latent_chan"
    ):
        save_text_unet(tmp_path / "other", model, params, like=copy / "vae")
    assert not (tmp_path / "other").exists()


def test_tokenizers_without_a_length_have_that_of_the_text_encoder(copy, pipeline):
    change(copy / "tokenizer" / "tokenizer_config.json", model_max_length=int(1e30))
    assert load_stable_diffusion(copy).tokenizer == pipeline.tokenizer


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
def test_saving_leaves_no_older_weights(stem, pipeline, tmp_path):
    """Diffusers prefers an index of shards; `variant="fp16"` and older versions read the others."""
    stale = [
        f"{stem}.safetensors.index.json",
        f"{stem}.safetensors.index.fp16.json",
        f"{stem}-00001-of-00002.safetensors",
        f"{stem}-00002-of-00002.safetensors",
        f"{stem}.fp16-00001-of-00002.safetensors",
        f"{stem}.fp16.safetensors",
        f"{stem}.non_ema.safetensors",
        f"{stem}.bin" if "pytorch" in stem else "pytorch_model.bin",
        f"{stem}.fp16.bin" if "pytorch" in stem else "pytorch_model.bin.index.json",
        "diffusion_flax_model.msgpack" if "pytorch" in stem else "flax_model.msgpack",
    ]
    kept = ["pytorch_lora_weights.safetensors", "model_of_mine.safetensors", "README.md"]
    for name in [*stale, *kept]:
        (tmp_path / name).write_text("{}")
    if stem == "model":
        save_text_encoder(tmp_path, pipeline.text_encoder, pipeline.text_encoder_params)
    else:
        save_text_unet(tmp_path, pipeline.unet, pipeline.unet_params)
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == sorted([*kept, "config.json", f"{stem}.safetensors"])


def test_the_file_that_the_other_library_reads(copy):
    """Transformers prefers the one file to an index; `tensors` has the order of the others."""
    whole = copy / "text_encoder" / "model.safetensors"
    stored = {name: np.zeros_like(value) for name, value in load_file(whole).items()}
    save_file(stored, copy / "text_encoder" / "model-00001-of-00001.safetensors")
    index = copy / "text_encoder" / "model.safetensors.index.json"
    places = dict.fromkeys(stored, "model-00001-of-00001.safetensors")
    index.write_text(json.dumps({"weight_map": places}))
    _, params = load_text_encoder(copy / "text_encoder")
    assert any(np.any(leaf) for leaf in jax.tree.leaves(params))
    whole.unlink()
    _, params = load_text_encoder(copy / "text_encoder")
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(params))


def test_what_was_given_in_place_of_a_folder(copy, tmp_path):
    """The sentence names what was given, and what to give."""
    (copy / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "pytorch_lora_weights.safetensors").touch()
    (tmp_path / "empty").mkdir()
    for load, path, said in (
        (load_text_unet, "google/ddpm-cifar10-32", "does not exist; .*hubs are not searched"),
        (load_text_unet, copy, "is a whole pipeline, but must be one part"),
        (load_text_unet, copy / "unet" / WEIGHTS, "is a file, but .* `from_single_file`"),
        (load_text_unet, lora, "is a LoRA, but must be a whole model"),
        (load_text_unet, tmp_path / "empty", "empty has no config.json; download the whole"),
        (load_stable_diffusion, copy / "unet", "unet is one part of a pipeline, but .* 'vae'"),
        (load_stable_diffusion, tmp_path / "empty", "vae does not exist"),
    ):
        with pytest.raises(InputError, match=said) as error:
            load(path)
        assert "run the stage" not in str(error.value)


def test_pickles(copy):
    (copy / "vae" / WEIGHTS).rename(copy / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match=r"a pickle of PyTorch \(diffusion_pytorch_model.bin\)"):
        load_autoencoder(copy / "vae")


def test_a_whole_clip_in_place_of_its_text_model(copy):
    change(copy / "text_encoder" / "config.json", architectures=["CLIPModel"], model_type="clip")
    with pytest.raises(InputError, match=r"but must be \['CLIPTextModel'\] .*; give such a model"):
        load_text_encoder(copy / "text_encoder")


def test_options_of_a_text_encoder_that_change_nothing(copy):
    change(copy / "text_encoder" / "config.json", output_attentions=False, use_return_dict=True)
    load_text_encoder(copy / "text_encoder")


def test_bad_pipelines(copy, pipeline, tmp_path):
    (copy / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with pytest.raises(
        InputError, match="the pipeline in .* is 'StableDiffusionXLPipeline', but must"
    ):
        load_stable_diffusion(copy)
    out = tmp_path / "out"
    for changed, said in (
        ({"unet": pipeline.unet.clone(context_width=16)}, "a context 16 wide.* 12 wide"),
        ({"unet": pipeline.unet.clone(channels=3)}, "3 channels, the latents 4"),
        ({"text_encoder": pipeline.text_encoder.clone(length=8)}, "prompts of 12, .* 658 and 8"),
        (
            {"tokenizer": WordTokenizer(("coat",))},
            "is a WordTokenizer, but must be a ClipTokenizer",
        ),
    ):
        with pytest.raises(InputError, match=said):
            save_stable_diffusion(out, pipeline._replace(**changed))
    assert not out.exists()
