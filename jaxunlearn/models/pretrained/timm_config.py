"""timm's `config.json`: the architecture of the weights beside it, and its options.

    {"architecture": "resnet18", "num_classes": 10, "num_features": 512, "global_pool": "avg",
     "model_args": {"layers": [2, 2, 2, 2]}, "pretrained_cfg": {"mean": [0.485, 0.456, 0.406]}}

The tensors determine the sizes of a model, so an option is accepted only if it agrees with them;
any other option would change the computation without changing a tensor. The description of the data
(`pretrained_cfg`: size, mean and standard deviation of the images; the names of the classes) is
not used, but is written back.

Source of the layout: the files that timm itself writes (`timm.models.save_for_hf`).
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxunlearn.files import write_json
from jaxunlearn.models.pretrained.classifier_layout import Config, Size
from jaxunlearn.models.pretrained.config_json import CONFIG
from jaxunlearn.types import InputError

_OUTER = ("num_classes", "num_features", "global_pool")
_DATA, _LABELS = "pretrained_cfg", ("label_names", "label_descriptions")
_OF_DATA = (_DATA, *_LABELS)


def timm_config(
    names: Callable[[Any], tuple[str, str]], derived: Callable[[Any, Size], dict[str, Any]]
) -> Config:
    """The configuration of one family of networks.

    Args:
        names: `names(module)`, the regular expression of the supported architectures, and the
            default; the options hold all differences from it.
        derived: `derived(module, size)`, the options that follow from a module.
    """

    def check(folder: Path, config: dict[str, Any], module: Any, size: Size) -> None:
        _check(folder / CONFIG, config, names(module)[0], derived(module, size))

    def write(folder: Path, like: Any, module: Any, size: Size) -> None:
        options, (known, default) = derived(module, size), names(module)
        architecture = like.get("architecture", default)
        if not re.fullmatch(known, architecture):
            architecture = default
        labels = {name: like[name] for name in _LABELS if name in like}
        data = like.get(_DATA)
        data = dict(data) if isinstance(data, dict) else {}
        if "img_size" in options:
            data["input_size"] = [size.channels, size.side, size.side]
        if like.get("num_classes") != module.num_classes:  # the names belong to other classes
            labels = {}
            data = {name: value for name, value in data.items() if name not in _LABELS}
        if "num_classes" in data:
            data["num_classes"] = module.num_classes
        outer = {name: options[name] for name in _OUTER}
        inner = {name: value for name, value in options.items() if name not in _OUTER}
        config = {"architecture": architecture, **outer, "model_args": inner}
        write_json(folder / CONFIG, config | labels | {_DATA: data})

    return Config(check, write)


def _check(
    path: Path, config: Mapping[str, Any], architectures: str, options: Mapping[str, Any]
) -> None:
    """Raises unless a configuration has a supported architecture and only these options."""
    inner = config.get("model_args", {})
    if not isinstance(config.get("architecture"), str) or not isinstance(inner, dict):
        raise InputError(
            f"{path} is not timm's, but must have an 'architecture' and its options in "
            "'model_args'; give the safetensors file alone if another library wrote the file."
        )
    if not re.fullmatch(architectures, config["architecture"]):
        raise InputError(
            f"the architecture in {path} is {config['architecture']!r}, but must be "
            f"{architectures}."
        )
    outer = {k: v for k, v in config.items() if k not in ("architecture", "model_args", *_OF_DATA)}
    for name, value in [*outer.items(), *inner.items()]:
        if name not in options:
            raise InputError(
                f"{path} has the option {name!r} ({value!r}), which is not supported; "
                f"supported options are {', '.join(options)}."
            )
        without_head = (name, value) == ("num_classes", 0)
        if value != options[name] and not without_head:
            raise InputError(
                f"{name!r} in {path} is {value!r}, but must be {options[name]!r} with these "
                "tensors; download both files again."
            )
