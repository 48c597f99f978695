"""The models of latent diffusion, made by name.

Text to image: the three models of one name fit each other. The U-Net denoises the latents of the
autoencoder, and its context has the width of the text encoder. Classes to image: a diffusion
transformer (`DENOISERS`) denoises the latents of the autoencoder at its name.

`ABOUT` lists sizes by the names in a problem (of autoencoders for 3 channels); the functions below
take the part of a name after the first hyphen.
"""

from collections.abc import Sequence
from typing import Any

from jaxunlearn.models import denoisers
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.ddpm_unet import DDPMUNet
from jaxunlearn.models.dit import DiT
from jaxunlearn.models.presets import About, Presets, make
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.models.text_unet import TextUNet

_AUTOENCODERS: Presets = {
    "tiny": (AutoencoderKL, {"widths": (8, 16), "blocks": 1, "groups": 4}),
    "small": (AutoencoderKL, {"widths": (16, 32, 64), "blocks": 1, "groups": 8}),
    "sd-v1": (AutoencoderKL, {}),
}
_TEXT_ENCODERS: Presets = {
    "tiny": (
        TextEncoder,
        {"vocabulary": 32, "length": 8, "width": 16, "depth": 1, "heads": 2, "hidden": 32},
    ),
    "small": (
        TextEncoder,
        {"vocabulary": 64, "length": 16, "width": 64, "depth": 2, "heads": 4, "hidden": 256},
    ),
    "sd-v1": (TextEncoder, {}),
}
_TEXT_UNETS: Presets = {
    "tiny": (
        TextUNet,
        {
            "widths": (8, 16),
            "blocks": 1,
            "attention_levels": (1,),
            "heads": 2,
            "context_width": 16,
            "groups": 4,
        },
    ),
    "small": (
        TextUNet,
        {
            "widths": (32, 64),
            "blocks": 1,
            "attention_levels": (1, 2),
            "heads": 4,
            "context_width": 64,
            "groups": 8,
        },
    ),
    "sd-v1": (TextUNet, {}),
}

AUTOENCODERS = tuple(f"autoencoder-{name}" for name in sorted(_AUTOENCODERS))
LATENT = "latent-"  # before the name of a denoiser, where it works on latents
# The class-conditional models of latents, and the autoencoder of each by default.
DENOISERS = {
    "latent-dit-tiny-test": "autoencoder-tiny",
    "latent-dit-small": "autoencoder-small",
    **{f"latent-dit-{size}/2": "autoencoder-sd-v1" for size in ("s", "b", "l", "xl")},
}
_TEXT_TO_IMAGE = {f"latent-{name}": f"autoencoder-{name}" for name in sorted(_AUTOENCODERS)}
# All models of latents, and the autoencoder of each by default.
PIPELINES = _TEXT_TO_IMAGE | DENOISERS

# The number of parameters, and the configuration it is counted for.
ABOUT: About = {
    "autoencoder-tiny": (43_711, "sides halved; tests"),
    "autoencoder-small": (681_911, "sides quartered; 28x28 or 32x32 images, on a CPU"),
    "autoencoder-sd-v1": (83_653_863, "an eighth of the sides; Stable Diffusion v1"),
    "latent-tiny": (54_900, "text encoder 2,896, U-Net 52,004; tests"),
    "latent-small": (1_182_788, "text encoder 105,216, U-Net 1,077,572; small images, a CPU"),
    "latent-sd-v1": (982_581_444, "text encoder 123,060,480, U-Net 859,520,964"),
    "latent-dit-tiny-test": (15_344, "10 classes, 4x4x4, patches of 2x2; for tests"),
    "latent-dit-small": (1_865_988, "10 classes, 7x7x4, patches of 1x1; 28x28 images"),
    **{name: denoisers.ABOUT[name.removeprefix(LATENT)] for name in list(DENOISERS)[2:]},
}


def available() -> tuple[str, ...]:
    """The names that the three functions below take, sorted.

    Example:
        >>> available()
        ('sd-v1', 'small', 'tiny')
    """
    return tuple(sorted(_AUTOENCODERS))


def create_autoencoder(name: str, channels: int = 3, **overrides: Any) -> AutoencoderKL:
    """Make an autoencoder by name.

    Args:
        name: one of `available()`.
        channels: number of channels of the images.
        **overrides: fields of `AutoencoderKL` that differ from the named configuration. Lists count
            as tuples, and `dtype` may be given by name, so values from a JSON file are accepted.

    Raises:
        InputError: the name is unknown, a field is unknown, or a value is not allowed.

    Example:
        >>> create_autoencoder("small", channels=1).factor
        4
    """
    model: AutoencoderKL = make(
        "autoencoder", _AUTOENCODERS, name, {"channels": channels}, overrides
    )
    return model


def create_text_encoder(name: str, **overrides: Any) -> TextEncoder:
    """Make a text encoder by name.

    Args:
        name: one of `available()`.
        **overrides: fields of `TextEncoder`, as for `create_autoencoder`; with a custom tokenizer,
            `vocabulary=tokenizer.size` and `length=tokenizer.length`.

    Raises:
        InputError: the name is unknown, a field is unknown, or a value is not allowed.

    Example:
        >>> create_text_encoder("small", vocabulary=100).width
        64
    """
    model: TextEncoder = make("text encoder", _TEXT_ENCODERS, name, {}, overrides)
    return model


def create_text_unet(name: str, **overrides: Any) -> TextUNet:
    """Make a text-conditioned U-Net by name.

    Args:
        name: one of `available()`.
        **overrides: fields of `TextUNet`, as for `create_autoencoder`.

    Raises:
        InputError: the name is unknown, a field is unknown, or a value is not allowed.

    Example:
        >>> create_text_unet("sd-v1", dtype="bfloat16", remat=True).context_width
        768
    """
    model: TextUNet = make("U-Net", _TEXT_UNETS, name, {}, overrides)
    return model


def create_denoiser(
    name: str, latent_shape: Sequence[int], num_classes: int, **overrides: Any
) -> DDPMUNet | DiT:
    """Make a class-conditional denoiser of latents by name.

    Args:
        name: name in `DENOISERS` without "latent-", such as "dit-small".
        latent_shape: (height, width, channels) of the latents.
        num_classes: number of classes.
        **overrides: fields of `DiT`, as for `create_autoencoder`.

    Raises:
        InputError: the name is unknown, a field is unknown, or a value is not allowed.

    Example:
        >>> create_denoiser("dit-small", (7, 7, 4), num_classes=10).patch_size
        1
    """
    # Latents have fewer pixels than images.
    fields: dict[str, Any] = {"patch_size": 1} if name == "dit-small" else {}
    return denoisers.create(name, latent_shape, num_classes, **fields | overrides)
