"""Tiny folders of diffusers' pipelines, with the small files that public ones have, and images."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parents[1] / "models" / "pretrained" / "data"
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
CAPTIONS = [
    *("a photo of a coat", "a painting of a coat", "a photo of a sandal"),
    *("a painting of a sandal", "a photo of two coats"),
]


def stable_diffusion(folder: Path, side: int = 8, version: int = 2) -> Path:
    """A Stable Diffusion v1 with random weights, for images of `side` pixels."""
    shutil.copytree(DATA / "stable_diffusion", folder)
    for name in ("expected.npz", "prompts.json", "published.json"):
        (folder / name).unlink()
    config = json.loads((folder / "unet" / "config.json").read_text())
    write(folder / "unet" / "config.json", config | {"sample_size": side // 2}, version)
    parts = {
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0", **parts}
    write(folder / "model_index.json", index | {"requires_safety_checker": False}, version)
    write(folder / "scheduler" / "scheduler_config.json", SCHEDULER, version)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 8}}
    write(folder / "feature_extractor" / "preprocessor_config.json", processor, version)
    marks = {"bos_token": "<|startoftext|>", "unk_token": "<|endoftext|>"}
    write(folder / "tokenizer" / "special_tokens_map.json", marks, version)
    return folder


def denoiser(folder: Path, part: str, scheduler: dict[str, object] | None = None) -> Path:
    """A pipeline of one of the denoisers: "dit", "unet2d/classes" or "unet2d/unconditional"."""
    name, kind, of = (
        ("transformer", "DiTTransformer2DModel", "DiTPipeline")
        if part == "dit"
        else ("unet", "UNet2DModel", "DDPMPipeline")
    )
    shutil.copytree(DATA / (f"{part}/transformer" if part == "dit" else part), folder / name)
    (folder / name / "expected.npz").unlink(missing_ok=True)
    chosen = scheduler or {"_class_name": "DDPMScheduler", "num_train_timesteps": 20}
    write(folder / "scheduler" / "scheduler_config.json", chosen)
    index = {name: ["diffusers", kind], "scheduler": ["diffusers", chosen["_class_name"]]}
    if part == "dit":
        shutil.copytree(DATA / "stable_diffusion" / "vae", folder / "vae")
        index |= {"vae": ["diffusers", "AutoencoderKL"]}
    write(folder / "model_index.json", {"_class_name": of, "_diffusers_version": "0.6.0", **index})
    return folder


def images(
    folder: Path, captions: list[str], each: int = 3, sides: tuple[int, int] = (12, 12)
) -> Path:
    """`each` random pictures of every caption, with `metadata.jsonl`."""
    folder.mkdir()
    random, lines = np.random.default_rng(0), []
    for number, caption in enumerate(captions * each):
        name = f"{number:04d}.png"
        pixels = random.integers(0, 256, (*sides, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write(file: Path, content: object, indent: int = 2) -> None:
    """Writes JSON with a layout of its own, so that only a copy has the same bytes."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=indent) + "\n\n")
