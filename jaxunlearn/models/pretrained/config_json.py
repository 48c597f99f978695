"""One part of a published pipeline: a folder with `config.json` and a file of weights.

The configuration is read strictly. Each of its options is one of

- *needed*: a size that is a field of the module;
- *optional*: a size that old files leave out, with its default;
- *fixed*: a choice that the module does not offer, with the supported values;
- *free*: an option without effect on the computation.

Any other option is an error: it may mean a layer that the module does not have.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxunlearn.files import write_json
from jaxunlearn.models.published import read_json
from jaxunlearn.types import InputError

CONFIG = "config.json"
INDEX = "model_index.json"  # of a whole pipeline
_LORAS = ("adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_KINDS = ("_class_name", "architectures", "model_type")  # of models
_TYPES = ("dtype", "torch_dtype")  # of the stored weights; float32 is written
_OF_MEANS = (  # of diffusers' means of parameters over training, `unet_ema`
    "decay min_decay optimization_step update_after_step use_ema_warmup inv_gamma power"
).split()
Like = str | os.PathLike[str] | Mapping[str, Any] | None


class Options(NamedTuple):
    """The options of a configuration.

    Attributes:
        needed: names of the sizes that must be present.
        optional: names of other sizes, with their defaults.
        fixed: names of fixed choices, with the supported values, the default first.
        free: names of options without effect, besides all that begin with "_".
    """

    needed: Collection[str]
    optional: Mapping[str, Any]
    fixed: Mapping[str, Sequence[Any]]
    free: Collection[str]


def read_options(folder: Path, options: Options) -> dict[str, Any]:
    """The needed and the optional options of a folder's `config.json`; lists become tuples.

    Example:
        >>> import json, tempfile
        >>> options = Options(["width"], {"groups": 32}, {"act_fn": ["silu"]}, ["sample_size"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = {"width": [8, 16], "act_fn": "silu", "sample_size": 4}
        ...     _ = (Path(folder) / "config.json").write_text(json.dumps(config))
        ...     read_options(Path(folder), options)
        {'width': (8, 16), 'groups': 32}
    """
    path = folder / CONFIG
    check_there(folder)
    return check_options(path, read_json(path), options)


def check_there(folder: Path, file: str = CONFIG) -> None:
    """Raises `InputError` about the content of the folder unless the folder holds the file."""
    if (folder / file).is_file():
        return
    above = folder.parent
    if folder.is_file():
        fault = "is a file, but must be the folder of a configuration and weights"
        remedy = (
            "give that folder (diffusers' `from_single_file` and `save_pretrained` make one from a "
            "pipeline in one file)"
        )
    elif (folder / INDEX).is_file():
        fault = "is a whole pipeline, but must be one part"
        remedy = "give the folder of that part in it"
    elif any((folder / name).exists() for name in _LORAS):
        fault = "is a LoRA, but must be a whole model"
        remedy = "merge it into its model by diffusers' `load_lora_weights` and `fuse_lora` first"
    elif folder.is_dir():
        fault, remedy = f"has no {file}", "download the whole folder, or check the path"
    elif (above / CONFIG).is_file():
        folder, fault = above, f"is one part of a pipeline, but must hold the part {folder.name!r}"
        remedy = "give the folder of the whole pipeline"
    else:
        fault = "does not exist"
        remedy = "check the path (hubs are not searched; download the folder first)"
    raise InputError(f"{folder} {fault}; {remedy}.")


def write_config(
    folder: Path,
    like: Like,
    options: Options,
    config: Mapping[str, Any],
    otherwise: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes a configuration; options of an earlier one that the module has no field for are kept.

    The earlier one is `like` (a folder or its content), or else the one in `folder`, if it is of
    this layout. `config` holds the options of the module, `otherwise` defaults of options in
    neither.
    """
    if isinstance(like, Mapping):
        kept = dict(like)
    elif like is not None:
        read_options(Path(like), options)
        kept = read_json(Path(like) / CONFIG)
    else:
        try:
            read_options(folder, options)
            kept = read_json(folder / CONFIG)
        except InputError:
            kept = {}
    kept = {name: value for name, value in kept.items() if name not in _TYPES}
    write_json(folder / CONFIG, {**otherwise, **kept, **config})


def check_options(path: Path, config: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The needed and the optional options, after a check of all options."""
    for name, value in config.items():
        if name in options.fixed and value not in options.fixed[name]:
            supported = " or ".join(map(repr, options.fixed[name]))
            remedy = "give such a model." if name in _KINDS else "give a model without it."
            raise InputError(f"{name!r} in {path} is {value!r}, but must be {supported}; {remedy}")
        known = {*options.needed, *options.optional, *options.fixed, *options.free, *_OF_MEANS}
        if name not in known and not name.startswith("_"):
            raise InputError(
                f"{path} has the option {name!r} ({value!r}), which is not supported; "
                f"supported options are {', '.join(sorted(known - set(_OF_MEANS)))}."
            )
    missing = [name for name in options.needed if name not in config]
    if missing:
        raise InputError(f"{path} lacks the option {missing[0]!r}; download it again.")
    values = {**options.optional, **config}
    sizes = {name: values[name] for name in (*options.needed, *options.optional)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in sizes.items()}


def check_derived(
    folder: Path, options: Mapping[str, Any], derived: Mapping[str, Any], remedy: str
) -> None:
    """Raises unless the options that follow from the others have their values in `derived`."""
    for name, value in derived.items():
        if options[name] != value:
            raise InputError(
                f"{name!r} in {folder / CONFIG} is {options[name]!r}, but must be {value!r} with "
                f"its other options; {remedy}"
            )


@contextmanager
def described_by(folder: Path, file: str = CONFIG) -> Iterator[None]:
    """Names the file in the errors within."""
    try:
        yield
    except InputError as error:
        raise InputError(f"in {folder / file}, {error}") from error
