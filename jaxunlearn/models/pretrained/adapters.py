"""Low-rank adapters of U-Nets and text encoders, as files of PEFT, diffusers and kohya.

    W_new = W + scale B A,     A [r, I], B [O, r] (of a convolution: A [r, I, h, w], B [O, r, 1, 1])

| layout | file | names | scale |
| --- | --- | --- | --- |
| PEFT | `adapter_model.safetensors` | `base_model.model.PATH.lora_A.weight` | alpha / r |
| diffusers | `pytorch_lora_weights.safetensors` | `unet.PATH.lora_A.weight` | alpha / r |
| kohya | any | `lora_unet_PATH.lora_down.weight` | alpha / r |

PEFT's alpha is in `adapter_config.json` (over the root of r with "use_rslora"), others have tensors
`PATH.alpha` or texts beside them, or r. Kohya writes `_` for the dots of a path.

Reading adds the adapters to the weights. Writing takes the change of the weights apart by its
singular vectors, which is exact for weights that were trained by adapters of that rank.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022. The layouts are
those that these programs write.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxunlearn.files import write_json
from jaxunlearn.models.pretrained import diffusers_unet, sd_text_encoder, sd_text_unet
from jaxunlearn.models.pretrained.names import Naming, naming
from jaxunlearn.models.pretrained.tensors import (
    from_stored,
    read_all,
    stored_metadata,
    to_stored,
    write_all,
)
from jaxunlearn.models.published import read_json
from jaxunlearn.names import closest
from jaxunlearn.types import InputError

UNET, TEXT = "unet", "text_encoder"
_PEFT, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_DIFFUSERS = "pytorch_lora_weights.safetensors"
_KOHYA = {"lora_unet_": UNET, "lora_te_": TEXT, "lora_te1_": TEXT}
_ENDINGS = {  # of names: the factor, in all layouts
    r"\.lora_A(\.default)?\.weight": "down",
    r"\.lora_B(\.default)?\.weight": "up",
    r"[._]lora[._](linear_layer\.)?down\.weight": "down",
    r"[._]lora[._](linear_layer\.)?up\.weight": "up",
    r"\.alpha": "alpha",
}
_NEUTRAL = {  # options of PEFT, with the values that are supported
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None,),
}
_PREFIX = sd_text_encoder.PREFIX  # of the text encoder in files, but not in transformers 5
_ROUNDING = 1e-6  # of float32 weights, with some room


class Part(NamedTuple):
    """A network that adapters can change.

    Attributes:
        params: its parameters.
        naming: the stored name of each parameter, as diffusers and transformers call it.
    """

    params: Any
    naming: Naming


def parts_of(params: Any, *, text_to_image: bool) -> dict[str, Part]:
    """The networks of a model whose denoiser is a U-Net."""
    unet = params["unet"] if text_to_image else params
    levels = max(int(found[1]) for name in unet if (found := re.match(r"down(\d+)_block", name)))
    if not text_to_image:
        return {UNET: Part(unet, naming(diffusers_unet.NAMES, levels=levels))}
    text = naming(sd_text_encoder.NAMES, sd_text_encoder.PREFIX)
    return {
        UNET: Part(unet, naming(sd_text_unet.NAMES, levels=levels)),
        TEXT: Part(params["text_encoder"], text),
    }


def add_adapters(path: str | os.PathLike[str], parts: Mapping[str, Part]) -> dict[str, Any]:
    """Adds the adapters in a file to the parameters of networks.

    Args:
        path: a safetensors file of PEFT, diffusers or kohya, or a folder with one.
        parts: the networks by name, "unet" and "text_encoder".

    Returns:
        The new parameters by name.

    Raises:
        InputError: a file is missing or damaged, or holds other modules or other adapters.
    """
    path = Path(path)
    file = next((path / n for n in (_PEFT, _DIFFUSERS) if (path / n).is_file()), path)
    of_peft = _peft_scale(file.with_name(_CONFIG)) if file.name == _PEFT else None
    texts = json.loads(stored_metadata(file).get("lora_adapter_metadata", "{}"))
    params = {name: flatten_dict(part.params) for name, part in parts.items()}
    for (name, place), factors in _modules(file, parts).items():
        down, up = factors["down"], factors["up"]
        kernel = params[name][place]
        stored = to_stored(place, kernel)
        rank, inputs, outputs = _rank(down, up), stored[0].size, len(stored)
        if not rank or (down.size, up.size) != (rank * inputs, outputs * rank):
            raise InputError(
                f"the adapter of {'/'.join(place)} in {file} has factors of the shapes "
                f"{list(down.shape)} and {list(up.shape)}, but must fit a layer of {inputs} inputs "
                f"and {outputs} outputs; give adapters of this model."
            )
        alpha = factors.get("alpha", texts.get(f"{name}.lora_alpha", rank))
        scale = of_peft(rank) if of_peft else float(np.asarray(alpha).item()) / rank
        change = scale * (up.reshape(-1, rank) @ down.reshape(rank, -1))
        params[name][place] = from_stored(place, stored + change.reshape(stored.shape))
    return {name: unflatten_dict(flat) for name, flat in params.items()}


def _rank(down: np.ndarray, up: np.ndarray) -> int:
    """The number of rows of A, which must be that of the columns of B; otherwise 0."""
    return len(down) if min(down.ndim, up.ndim) > 1 and len(down) == up.shape[1] else 0


def write_adapters(
    folder: str | os.PathLike[str],
    before: Mapping[str, Part],
    after: Mapping[str, Any],
    *,
    rank: int,
    layout: str = "peft",
) -> None:
    """Writes the change of parameters as adapters.

    Args:
        folder: folder to write to; it is created. For several networks the layout "peft" has a
            folder of each in it.
        before: the networks with the parameters that the adapters are added to.
        after: the changed parameters by name.
        rank: rank of the adapters.
        layout: "peft" or "kohya".

    Raises:
        InputError: the change is not of this rank, or touches other parameters than kernels.
    """
    if layout not in ("peft", "kohya"):
        raise InputError(f"the layout of adapters is {layout!r}, but must be 'peft' or 'kohya'.")
    factors = {name: _factors(part, after[name], rank) for name, part in before.items()}
    changed = {name: modules for name, modules in factors.items() if modules}
    if not changed:
        raise InputError("the weights are equal, but must differ to be written as adapters.")
    folder = Path(folder)
    if layout == "kohya":
        prefixes = {part: prefix for prefix, part in reversed(_KOHYA.items())}
        tensors: dict[str, np.ndarray] = {}
        for name, modules in changed.items():
            for module, (down, up) in modules.items():
                key = prefixes[name] + module.replace(".", "_")
                tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
                tensors[f"{key}.alpha"] = np.array(rank, np.float32)
        write_all(folder / "adapters.safetensors", tensors)
        return
    for name, modules in changed.items():
        place = folder / name if len(before) > 1 else folder
        modules = {m.removeprefix(_PREFIX): both for m, both in modules.items()}
        tensors = {}
        for module, (down, up) in modules.items():
            key = f"base_model.model.{module}"
            tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
        write_all(place / _PEFT, tensors)
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
        config |= {"lora_dropout": 0.0, "target_modules": sorted(modules), "inference_mode": True}
        write_json(place / _CONFIG, config)


def _kernels(part: Part) -> dict[str, tuple[str, ...]]:
    """The path of each kernel, by the stored name of its module."""
    paths = [path for path in flatten_dict(part.params) if path[-1] == "kernel"]
    return {str(part.naming(path)).removesuffix(".weight"): path for path in paths}


def _modules(
    file: Path, parts: Mapping[str, Part]
) -> dict[tuple[str, tuple[str, ...]], dict[str, np.ndarray]]:
    """The factors of each adapted kernel."""
    known: dict[str, tuple[str, tuple[str, ...]]] = {}  # by all names that it may have
    for name, part in parts.items():
        for module, path in _kernels(part).items():
            for each in (module, module.removeprefix(_PREFIX)):
                kohya = [f"{p}{each.replace('.', '_')}" for p, of in _KOHYA.items() if of == name]
                for alias in (f"base_model.model.{each}", f"{name}.{each}", each, *kohya):
                    known[alias] = name, path
    found: dict[tuple[str, tuple[str, ...]], dict[str, np.ndarray]] = {}
    strange = []
    for stored, array in read_all(file).items():
        module, factor = _split(stored)
        if module not in known or factor is None:
            strange.append(stored)
        else:
            found.setdefault(known[module], {})[factor] = array
    halves = [place for place, factors in found.items() if not {"down", "up"} <= factors.keys()]
    if strange or halves or not found:
        shown = strange[0] if strange else "/".join(halves[0][1]) if halves else "no adapter"
        more = max(len(strange), len(halves)) - 1
        others = f" (and {more} more)" if more > 0 else ""
        raise InputError(
            f"{file} holds {shown!r}{others}, but must hold both factors of adapters of this "
            f"model's {' and '.join(parts)}{closest(_split(shown)[0], known)}; give adapters of it."
        )
    return found


def _split(stored: str) -> tuple[str, str | None]:
    """The name of the module, and which factor it is."""
    for ending, factor in _ENDINGS.items():
        if found := re.search(f"{ending}$", stored):
            module = stored[: found.start()]
            # Of old files: attn1.processor.to_q_lora.down, attn1.processor.to_out_lora.down
            module = module.replace(".processor.to_out", ".to_out.0").replace(".processor", "")
            return module, factor
    return stored, None


def _peft_scale(path: Path) -> Any:
    """The scale by rank."""
    config = read_json(path)
    for option, values in _NEUTRAL.items():
        if config.get(option, values[0]) not in values:
            raise InputError(
                f"{option!r} in {path} is {config[option]!r}, but must be {values[0]!r}; merge the "
                "adapters by PEFT's `merge_and_unload` first."
            )
    alpha = float(config.get("lora_alpha", 8))
    if config.get("use_rslora", False):
        return lambda rank: alpha / math.sqrt(rank)
    return lambda rank: alpha / rank


def _factors(part: Part, after: Any, rank: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The factors A and B of the change of each kernel that changed."""
    new, names = flatten_dict(after), _kernels(part)
    modules = {path: name for name, path in names.items()}
    found = {}
    for path, value in flatten_dict(part.params).items():
        old, changed = np.asarray(value), np.asarray(new[path])
        if np.array_equal(old, changed):
            continue
        if path not in modules:
            raise InputError(
                f"{'/'.join(path)} changed, but adapters change kernels only; unlearn with "
                "--adapter-rank, or export whole weights."
            )
        stored = to_stored(path, old)
        change = (to_stored(path, changed).astype(np.float64) - stored).reshape(len(stored), -1)
        left, sizes, right = np.linalg.svd(change, full_matrices=False)
        rest = float(np.linalg.norm(sizes[rank:]))
        if rest > _ROUNDING * float(np.linalg.norm(stored)):
            raise InputError(
                f"the change of {'/'.join(path)} is not of rank {rank}, but must be to be written "
                "as adapters; unlearn with --adapter-rank, or export whole weights."
            )
        root = np.sqrt(sizes[:rank])
        down, up = root[:, None] * right[:rank], left[:, :rank] * root
        if stored.ndim == 4:
            down, up = down.reshape(-1, *stored.shape[1:]), up[:, :, None, None]
        found[modules[path]] = down.astype(np.float32), up.astype(np.float32)
    return found
