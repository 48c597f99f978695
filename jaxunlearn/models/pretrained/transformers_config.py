"""transformers' `config.json` of an image classifier."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxunlearn.models.pretrained.classifier_layout import Config, Size
from jaxunlearn.models.pretrained.config_json import (
    CONFIG,
    Options,
    check_derived,
    check_options,
    write_config,
)

_LABELS = ("id2label", "label2id")  # names of the classes
_FREE = (
    "dtype torch_dtype transformers_version initializer_range problem_type num_labels use_cache "
    "output_attentions output_hidden_states return_dict use_return_dict is_encoder_decoder "
    "chunk_size_feed_forward finetuning_task"
)


def transformers_config(
    model_type: str,
    architecture: str,
    derived: Callable[[Any, Size], Mapping[str, Any]],
    fixed: Mapping[str, Sequence[Any]],
    free: str,
) -> Config:
    """The configuration of one kind of model.

    Args:
        model_type: option "model_type".
        architecture: class of the models with a head.
        derived: `derived(module, size)`, the options that follow from a module.
        fixed: options that the modules do not offer, with the supported values, the default first.
        free: names of options without effect.
    """

    def options(names: Mapping[str, Any]) -> Options:
        every = {"model_type": [model_type], **fixed}
        return Options((), names, every, (*_FREE.split(), *_LABELS, "architectures", *free.split()))

    def check(folder: Path, config: dict[str, Any], module: Any, size: Size) -> None:
        values = derived(module, size)
        known = check_options(folder / CONFIG, config, options(values))
        check_derived(folder, known, values, "download both files again.")

    def write(folder: Path, like: Any, module: Any, size: Size) -> None:
        values = derived(module, size)
        kept = dict(like)
        if len(kept.get("id2label", ())) != module.num_classes:  # names of other classes
            labels = [f"LABEL_{i}" for i in range(module.num_classes)]
            kept["id2label"] = {str(i): label for i, label in enumerate(labels)}
            kept["label2id"] = {label: i for i, label in enumerate(labels)}
        config = {"model_type": model_type, "architectures": [architecture], **values}
        write_config(folder, kept, options(values), config)

    return Config(check, write)
