"""Export: the weights of a run in the layout of the checkpoint that it was adopted from."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax.traverse_util import flatten_dict

from jaxunlearn.files import read_record
from jaxunlearn.models import checkpoints
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_dataset, load_text_encoder, load_tokenizer
from jaxunlearn.studies.runs import adopt, folder, source
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.types import InputError, Weights

if TYPE_CHECKING:
    from jaxunlearn.models.pretrained import Found

OWN = ("orbax", *checkpoints.SUFFIXES)
ADAPTERS = ("peft", "kohya")
LAYOUTS = (*OWN, "torchvision", "timm", "transformers", "diffusers", *ADAPTERS)


def export(run: Path, dest: Path, layout: str | None = None, pretrained: Path | None = None) -> str:
    """Writes the weights of a finished run for other programs.

    Args:
        run: the run folder.
        dest: the folder to write, or the file for a layout of one file; it must not exist, or be an
            empty folder.
        layout: the layout; that of the checkpoint that was adopted by default, else "orbax". "peft"
            and "kohya" write the low-rank adapters of an unlearning run alone.
        pretrained: the run folder that the unlearning started from, for adapters.

    Returns:
        The layout.

    Raises:
        InputError: the folder holds no finished run, the place is not free, or the layout does not
            have such a model.
    """
    config = folder.read_config(run, "pretrain", "retrain", "unlearn")
    record = read_record(run / adopt.FILE) if (run / adopt.FILE).exists() else {}
    layout = record.get("layout", "orbax") if layout is None else layout
    if layout not in (*LAYOUTS, record.get("layout")):
        raise InputError(f"layout is {layout!r}, but must be one of {', '.join(LAYOUTS)}.")
    suffix = checkpoints.SUFFIXES.get(layout)
    if suffix is not None and dest.suffix != suffix:
        raise InputError(
            f"the file to write is {dest}, but must end in {suffix} in the layout {layout}."
        )
    ending = next((name for name, end in checkpoints.SUFFIXES.items() if end == dest.suffix), None)
    if layout == "orbax" and ending is not None:
        raise InputError(
            f"the place to write is {dest}, but must be a folder in the layout orbax; "
            f"--layout {ending} writes a file."
        )
    if dest.is_file() or (dest.is_dir() and any(dest.iterdir())):
        raise InputError(f"{dest} exists and is not empty, but must be free; give another name.")
    weights = folder.load_weights(run, config.problem)
    if layout in ADAPTERS:
        _export_adapters(dest, layout, config, record, weights, pretrained)
    elif layout in OWN:
        form = record if layout == record.get("layout") else {"layout": layout}
        checkpoints.write(dest, _arrays(weights, record), form)
    else:
        _export_published(run, dest, layout, config.problem, record, weights)
    return layout


def _export_published(
    run: Path, dest: Path, layout: str, problem: Problem, record: dict[str, Any], weights: Weights
) -> None:
    """Writes a model in the layout of another library, with the configuration it came with."""
    from jaxunlearn.models import pretrained  # needs safetensors

    found = _found(layout, problem, record, weights)
    if found.kind == "text_to_image":
        if problem.tokenizer is None:
            raise InputError(
                f"the tokenizer of {problem.model!r} is a list of words, but must be CLIP's in the "
                f"layout {layout}; choose one of {', '.join(OWN)}."
            )
        tokenizer = dataclasses.asdict(load_tokenizer(problem))
        found = found._replace(config={**found.config, "tokenizer": tokenizer})
    pretrained.save(dest, found, weights)
    if layout == record.get("layout"):
        source.restore(run, dest)


def _export_adapters(
    dest: Path,
    layout: str,
    config: RunConfig,
    record: dict[str, Any],
    weights: Weights,
    before: Path | None,
) -> None:
    """Writes the change of the weights as low-rank adapters, which it is."""
    from jaxunlearn.models import pretrained  # needs safetensors

    if config.aim is None or not config.aim.adapter_rank:
        raise InputError(
            f"layout is {layout!r}, but the run has no adapters; unlearn with --adapter-rank, or "
            "choose another layout."
        )
    if before is None or folder.read_done(before)["weights"] != config.start:
        raise InputError(
            f"pretrained is {before and str(before)!r}, but must be the run that the unlearning "
            "started from, to which the adapters belong; give it (--pretrained)."
        )
    found = _found(layout, config.problem, record, folder.load_weights(before, config.problem))
    pretrained.save_adapters(dest, found, weights, rank=config.aim.adapter_rank, layout=layout)


def _found(layout: str, problem: Problem, record: dict[str, Any], weights: Weights) -> "Found":
    """The model of a run as another library knows it."""
    from jaxunlearn.models import pretrained  # needs safetensors

    dataset, kind = load_dataset(problem), "classifier" if problem.classifies else "denoiser"
    if load_text_encoder(problem) is not None:
        kind = "text_to_image"
    found = pretrained.Found(
        layout, kind, problem.model, problem.model_settings, weights, dataset.num_classes
    )
    if "found" in record:
        kept = {**record["found"], "layout": layout}
        found = found._replace(**{k: v for k, v in kept.items() if k in found._fields})
    elif problem.diffusion is not None:
        found = found._replace(process=problem.diffusion.process().to_scheduler())
    if found.image_shape is None:
        found = found._replace(image_shape=tuple(dataset.train.image.shape[1:]))
    return found


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
