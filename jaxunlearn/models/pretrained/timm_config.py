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
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxunlearn.files import write_json
from jaxunlearn.types import InputError

NAME = "config.json"
_OUTER = ("num_classes", "num_features", "global_pool")
_DATA, _LABELS = "pretrained_cfg", ("label_names", "label_descriptions")
_OF_DATA = (_DATA, *_LABELS)


def check_timm_config(
    folder: Path, config: Mapping[str, Any], architectures: str, options: Mapping[str, Any]
) -> None:
    """Raises unless a configuration has a supported architecture and only these options.

    `architectures` is a regular expression; `options` are the values of the tensors and the module.

    Example:
        >>> options = {"layers": [2, 2, 2, 2]}
        >>> config = {"architecture": "resnet18", "model_args": {"layers": [2, 2, 2, 2]}}
        >>> check_timm_config(Path("folder"), config, "resnet.*", options)
    """
    named = isinstance(config.get("architecture"), str)
    inner = config.get("model_args", {})
    if not named or not isinstance(inner, dict):
        raise InputError(
            f"{folder / NAME} is not timm's, but must have an 'architecture' and its options in "
            "'model_args'; give the safetensors file alone if another library wrote the file."
        )
    if not re.fullmatch(architectures, config["architecture"]):
        raise InputError(
            f"the architecture in {folder / NAME} is {config['architecture']!r}, but must be "
            f"{architectures}."
        )
    outer = {k: v for k, v in config.items() if k not in ("architecture", "model_args", *_OF_DATA)}
    for name, value in [*outer.items(), *inner.items()]:
        if name not in options:
            raise InputError(
                f"{folder / NAME} has the option {name!r} ({value!r}), which is not supported; "
                f"supported options are {', '.join(options)}."
            )
        without_head = (name, value) == ("num_classes", 0)
        if value != options[name] and not without_head:
            raise InputError(
                f"{name!r} in {folder / NAME} is {value!r}, but must be {options[name]!r} with "
                "these tensors; download both files again."
            )


def write_timm_config(
    folder: Path,
    like: Mapping[str, Any],
    architectures: str,
    otherwise: str,
    options: Mapping[str, Any],
    data: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes a configuration from which timm makes the same network.

    Args:
        folder: folder to write to; it is created.
        like: configuration that the network was read with, whose architecture and description of
            the data are kept.
        architectures: regular expression of the supported names.
        otherwise: default name of the architecture; the options hold all differences.
        options: values of the tensors and the module, as in `check_timm_config`.
        data: properties of the data that the network fixes, for `pretrained_cfg`.
    """
    kept = dict(like)
    architecture = kept.get("architecture", otherwise)
    if not re.fullmatch(architectures, architecture):
        architecture = otherwise
    of_data = {name: kept[name] for name in _LABELS if name in kept}
    before = kept.get(_DATA)
    before = (before if isinstance(before, dict) else {}) | dict(data)
    if kept.get("num_classes") != options["num_classes"]:  # the names belong to other classes
        of_data = {}
        before = {name: value for name, value in before.items() if name not in _LABELS}
    if "num_classes" in before:
        before["num_classes"] = options["num_classes"]
    outer = {name: options[name] for name in _OUTER}
    inner = {name: value for name, value in options.items() if name not in _OUTER}
    config = {"architecture": architecture, **outer, "model_args": inner, **of_data, _DATA: before}
    write_json(folder / NAME, config)
