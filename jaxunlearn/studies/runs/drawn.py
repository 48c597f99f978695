"""Data that a text-to-image model draws: `generate:PROMPTS`, a text file with a prompt a line.

The images are written to a folder of their own with their captions, below the folder of prepared
data, and are read from there like the user's own. The name of the folder is a digest of the
checkpoint, the prompts and the sampling, so they are drawn once.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxunlearn.data.batches import in_batches
from jaxunlearn.data.registry import data_folder
from jaxunlearn.files import write_text
from jaxunlearn.home import expanded
from jaxunlearn.models import checkpoints, latent
from jaxunlearn.studies.console import say
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.pipeline import described
from jaxunlearn.studies.plans import published
from jaxunlearn.studies.problem import decoder_of, denoiser_of, latent_shape
from jaxunlearn.studies.prompts import prompted
from jaxunlearn.studies.runs.generate import sample_images
from jaxunlearn.types import InputError

PREFIX = "generate:"
_CAPTIONS, _TEST_FRACTION = "metadata.jsonl", 0.2


def drawn(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a problem with the images that its checkpoint draws as data.

    Each prompt gets as many images as evaluations draw, the field `samples` of the diffusion.

    Args:
        fields: the fields of a problem; "data" is `generate:PROMPTS`.

    Raises:
        InputError: the checkpoint is no text-to-image model, the file of prompts cannot be read or
            has less than two of them, or the size of the images is unknown.
    """
    checkpoint = Path(fields["checkpoint"]).expanduser().absolute()
    prompts = _read_prompts(expanded(fields["data"].removeprefix(PREFIX)))
    found = published(str(checkpoint), fields)
    if found is None or found.kind != "text_to_image":
        raise InputError(
            f"data is {fields['data']!r}, but {checkpoint} is no text-to-image model, which draws "
            "prompts; give images, such as folder:IMAGES."
        )
    more = fields | described(found, checkpoint, fields | {"data": "folder"})
    if "image_size" not in more:
        raise InputError("image_size is not given, but the model does not have one; give it.")
    generation, side = from_dict(Diffusion, more["diffusion"], "the diffusion"), more["image_size"]
    what = [checkpoints.digest(checkpoint), prompts, asdict(generation), side]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    folder = data_folder(fields.get("data_dir")) / "generated" / digest[:16]
    if not (folder / _CAPTIONS).is_file():
        first = more["autoencoder"]
        settings = {"scaling_factor": 1.0, **first["model_settings"]}
        autoencoder = latent.create_autoencoder(first["model"].partition("-")[2], 3, **settings)
        parts = more["model_settings"] | {"tokenizer": more["tokenizer"]}
        module = prompted(prompts, more["model"], parts, autoencoder)
        say(f"drawing {generation.samples} images of {len(prompts)} prompts into {folder}")
        _draw(folder, prompts, generation, module, autoencoder, found.weights, side)
    own = {"data": f"folder:{folder}", "captions": str(folder / _CAPTIONS)}
    return {"test_fraction": _TEST_FRACTION} | fields | own


def _draw(
    folder: Path,
    prompts: list[str],
    generation: Diffusion,
    module: Any,
    autoencoder: Any,
    weights: Any,
    side: int,
) -> None:
    """Writes the images, and last their captions."""
    from PIL import Image

    denoiser, decoder = denoiser_of(module, weights), decoder_of(autoencoder, weights)
    shape, strength = latent_shape(autoencoder, (side, side, 3)), jnp.float32(generation.guidance)
    labels = np.repeat(np.arange(len(prompts), dtype=np.int32), generation.samples)
    numbers = np.tile(np.arange(generation.samples, dtype=np.int32), len(prompts))

    def some(asked: tuple[np.ndarray, np.ndarray]) -> Any:
        rest = strength, generation, shape, len(prompts)
        return sample_images(denoiser, decoder, *asked, *rest, clip=False)

    images = in_batches(some, (labels, numbers))
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for position, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = f"{position:06d}.png"
        Image.fromarray(image).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": prompts[label]}))
    write_text(folder / _CAPTIONS, "\n".join(lines) + "\n")


def _read_prompts(path: Path) -> list[str]:
    """The distinct lines of a text file that are not empty."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the prompts {path} cannot be read ({error}); give a text file in UTF-8, with a "
            "prompt a line."
        ) from error
    prompts = list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if len(prompts) < 2:
        raise InputError(f"{path} holds {len(prompts)} prompts, but must hold at least two.")
    return prompts
