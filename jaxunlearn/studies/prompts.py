"""Text-to-image models whose prompts are the names of the classes of a data set."""

import functools
from collections.abc import Sequence
from typing import Any

from jaxunlearn.models import latent
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.tokenizer import ClipTokenizer, WordTokenizer
from jaxunlearn.tasks.latent_diffusion import Prompted
from jaxunlearn.types import InputError

Tokenizer = WordTokenizer | ClipTokenizer
_clip_tokenizer = functools.lru_cache(ClipTokenizer.load)


def prompted(
    names: Sequence[str], model: str, parts: dict[str, Any], autoencoder: AutoencoderKL
) -> Prompted:
    """A text-to-image model with names of classes and the empty text as prompts."""
    size, place = model.partition("-")[2], parts.pop("tokenizer", None)
    tokenizer = find_tokenizer(names, place)
    fixed = {"vocabulary": tokenizer.size, "length": tokenizer.length} if place is None else {}
    text_encoder = latent.create_text_encoder(size, **_part(parts, "text_encoder", **fixed))
    channels, width = autoencoder.latent_channels, text_encoder.width
    unet = _part(parts, "unet", channels=channels, context_width=width)
    if parts:
        raise InputError(
            f"model_settings contain {', '.join(parts)}, but must contain fields of the parts of "
            f"{model}, text_encoder and unet, such as unet = {{widths = [32, 64]}}."
        )
    ids = token_ids(tokenizer, names)
    return Prompted(text_encoder, latent.create_text_unet(size, **unet), ids)


def token_ids(tokenizer: Tokenizer, prompts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The token ids of prompts and of the empty one."""
    return tuple(tuple(int(i) for i in row) for row in tokenizer.encode([*prompts, ""]))


def find_tokenizer(names: Sequence[str], place: str | None) -> Tokenizer:
    """CLIP's tokenizer in a folder; without one, all words in the names of the classes."""
    if place is not None:
        return _clip_tokenizer(place)
    split = [name.lower().split() for name in names]
    words = dict.fromkeys(word for name in split for word in name)
    return WordTokenizer(tuple(words), length=2 + max(map(len, split)))


def _part(parts: dict[str, Any], name: str, **decided: int) -> dict[str, Any]:
    """The fields of one part, removed from the fields of all parts."""
    fields = parts.pop(name, {})
    for field in decided.keys() & fields:
        raise InputError(
            f"model_settings contain {name}.{field}, which the prompts and the other parts "
            "determine; leave it out."
        )
    return decided | fields
