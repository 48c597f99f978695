"""Export: the weights of a run in the layout of the checkpoint that it was adopted from."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jaxunlearn.files import read_record
from jaxunlearn.models import checkpoints
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_dataset, load_tokenizer
from jaxunlearn.studies.runs import adopt, folder, source
from jaxunlearn.types import InputError, Weights

OWN = ("orbax", *checkpoints.SUFFIXES)
LAYOUTS = (*OWN, "torchvision", "timm", "transformers", "diffusers")


def export(run: Path, dest: Path, layout: str | None = None) -> str:
    """Writes the weights of a finished run for other programs.

    Args:
        run: the run folder.
        dest: the folder to write, or the file for a layout of one file; it must not exist, or be an
            empty folder.
        layout: the layout; that of the checkpoint that was adopted by default, else "orbax".

    Returns:
        The layout.

    Raises:
        InputError: the folder holds no finished run, the place is not free, or the layout does not
            have such a model.
    """
    config = folder.read_config(run, "pretrain", "retrain", "unlearn")
    record = read_record(run / adopt.FILE) if (run / adopt.FILE).exists() else {}
    layout = layout or record.get("layout", "orbax")
    if layout not in (*LAYOUTS, record.get("layout")):
        raise InputError(f"layout is {layout!r}, but must be one of {', '.join(LAYOUTS)}.")
    suffix = checkpoints.SUFFIXES.get(layout)
    if suffix is not None and dest.suffix != suffix:
        raise InputError(
            f"the file to write is {dest}, but must end in {suffix} in the layout {layout}."
        )
    if dest.is_file() or (dest.is_dir() and any(dest.iterdir())):
        raise InputError(f"{dest} exists and is not empty, but must be free; give another name.")
    weights = folder.load_weights(run, config.problem)
    if layout not in OWN:
        _export_published(run, dest, layout, config.problem, record.get("found"), weights)
        return layout
    form = record if layout == record.get("layout") else {"layout": layout}
    checkpoints.write(dest, _arrays(weights, record), form)
    return layout


def _export_published(
    run: Path,
    dest: Path,
    layout: str,
    problem: Problem,
    record: dict[str, Any] | None,
    weights: Weights,
) -> None:
    """Writes a model in the layout of another library, with the configuration it came with."""
    from jaxunlearn.models import pretrained  # needs safetensors

    dataset = load_dataset(problem)
    kind = "classifier" if problem.classifies else "denoiser"
    found = pretrained.Found(
        layout, kind, problem.model, problem.model_settings, weights, dataset.num_classes
    )
    if record is not None:
        kept = {**record, "layout": layout}
        found = found._replace(**{k: v for k, v in kept.items() if k in found._fields})
        if found.kind == "text_to_image":
            tokenizer = dataclasses.asdict(load_tokenizer(problem))
            found = found._replace(config={**found.config, "tokenizer": tokenizer})
    elif problem.diffusion is not None:
        found = found._replace(process=problem.diffusion.process().to_scheduler())
    if found.image_shape is None:
        found = found._replace(image_shape=tuple(dataset.train.image.shape[1:]))
    pretrained.save(dest, found, weights)
    if record is not None and layout == record["layout"]:
        source.restore(run, dest)


def _arrays(weights: Weights, record: dict[str, Any]) -> dict[checkpoints.Key, np.ndarray]:
    """The arrays of the weights by their paths in the checkpoint that was adopted.

    Without one they are "params" and the collections of the model state, as in Flax.
    """
    leaves = {("params", *key): leaf for key, leaf in flatten_dict(weights.params).items()}
    state = flatten_dict(weights.model_state)
    if "keys" not in record:
        return {key: np.asarray(leaf) for key, leaf in (leaves | state).items()}
    leaves |= {("state", *key): leaf for key, leaf in state.items()}
    return {tuple(theirs): np.asarray(leaves[tuple(ours)]) for ours, theirs in record["keys"]}
