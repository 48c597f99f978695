"""Results of frozen networks on a data set, cached in a run folder.

A file with another fingerprint of the network and its inputs, or a damaged file, is replaced. The
first of several processes computes it, the others wait.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.evaluation import RealImages, Statistics, describe_real
from jaxunlearn.evaluation.features import Features
from jaxunlearn.files import fingerprint, read_arrays, write_arrays
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.tasks import latents
from jaxunlearn.types import InputError

Content = dict[str, np.ndarray]


def real_images(folder: Path, features: Features, images: np.ndarray) -> RealImages:
    """The description of real images that generated ones are compared with, cached in a folder."""

    def compute() -> Content:
        found = describe_real(features.describe(images), features.name)
        fitted = found.statistics
        content = {"features": found.features, "mean": fitted.mean, "radii": found.radii}
        content |= {"covariance": fitted.covariance}
        return content | {"source": np.array(fitted.source), "floor": np.array(found.floor)}

    names = ("features", "mean", "covariance", "source", "radii", "floor")
    stamp = fingerprint({"images": images, "network": np.array(features.name + features.stamp)})
    kept = _cached(folder / f"real-{stamp[:16]}.npz", stamp, names, compute)
    fitted = Statistics(
        kept["mean"],
        kept["covariance"],
        len(kept["features"]),
        features.name,
        str(kept["source"]),
    )
    return RealImages(kept["features"], fitted, kept["radii"], float(kept["floor"]))


def cached_latents(
    path: Path,
    model: AutoencoderKL,
    params: Any,
    images: np.ndarray,
    *,
    deviations: bool = False,
) -> np.ndarray:
    """The result of `tasks.latents.encode`, cached."""
    stamp = fingerprint({"params": params, "values": images}) + repr(model)

    def compute() -> Content:
        return {"latents": latents.encode(model, params, images, deviations=deviations)}

    return _cached(path, stamp, ("latents",), compute)["latents"]


def cached_prompt_states(
    path: Path, model: TextEncoder, params: Any, ids: np.ndarray
) -> np.ndarray:
    """The result of `tasks.latents.encode_prompts`, cached.

    In the model state, under `tasks.latent_diffusion.PROMPT_STATES`, it replaces encoding with a
    text encoder that is not trained.
    """
    stamp = fingerprint({"params": params, "values": ids}) + repr(model)
    return _cached(
        path, stamp, ("states",), lambda: {"states": latents.encode_prompts(model, params, ids)}
    )["states"]


def _cached(
    path: Path, stamp: str, names: tuple[str, ...], compute: Callable[[], Content]
) -> Content:
    """The arrays of a file if it has this stamp; else `compute()`, which is written to it."""
    kept = _read(path, stamp, names)
    if kept is None:
        with Workspace(path.parent).in_turn(path.stem):
            kept = _read(path, stamp, names)  # another process may have written it meanwhile
            if kept is None:
                kept = compute() | {"stamp": np.array(stamp)}
                write_arrays(path, kept | {"digest": np.array(fingerprint(kept))})
    return kept


def _read(path: Path, stamp: str, names: tuple[str, ...]) -> Content | None:
    """The arrays of a sound file with this stamp, or None."""
    if not path.exists():
        return None
    try:
        kept = read_arrays(path, *names, "stamp", "digest")
    except InputError:
        return None
    sound = str(kept.pop("digest")) == fingerprint(kept) and str(kept["stamp"]) == stamp
    return kept if sound else None
