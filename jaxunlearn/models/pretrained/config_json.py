"""One part of a published pipeline: a folder with `config.json` and a file of weights.

The configuration is read strictly. Each of its options is one of

- *needed*: a size, which the module takes as a field;
- *optional*: a size that old files leave out, with the value that it then has;
- *fixed*: something that the module does in one way only, with the values that mean this way;
- *free*: something that changes nothing in what the module computes.

Any other option is an error that names it: it may stand for a layer that the module does not have.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxunlearn.files import write_json
from jaxunlearn.models.pretrained.published import read_json
from jaxunlearn.models.pretrained.tensors import Tensor
from jaxunlearn.types import InputError

CONFIG = "config.json"
INDEX = "model_index.json"  # of a whole pipeline
_LORAS = ("adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_KINDS = ("_class_name", "architectures", "model_type")  # of models
_TYPES = ("dtype", "torch_dtype")  # said of the stored weights; float32 is written
Like = str | os.PathLike[str] | Mapping[str, Any] | None
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}


class Options(NamedTuple):
    """What a configuration may hold.

    Attributes:
        needed: names of sizes that must be there.
        optional: names of other sizes, with the value of those that are left out.
        fixed: names of what cannot be chosen, with the values that are supported; the first of them
            is meant where the option is left out.
        free: names of what does not matter; those that begin with "_" never do.
    """

    needed: Collection[str]
    optional: Mapping[str, Any]
    fixed: Mapping[str, Sequence[Any]]
    free: Collection[str]


def read_options(folder: Path, options: Options) -> dict[str, Any]:
    """Reads the needed and the optional options of a configuration; lists become tuples.

    Args:
        folder: the folder of `config.json`.
        options: what it may hold.

    Returns:
        The values of `options.needed` and `options.optional`.

    Raises:
        InputError: the file is missing or damaged; an option is missing, not known, or has a value
            that is not supported.

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
    return _checked(path, read_json(path), options)


def check_there(folder: Path, file: str = CONFIG) -> None:
    """Raises unless a part's folder holds its configuration, and says what the folder holds else.

    Args:
        folder: of one part of a pipeline.
        file: the configuration.

    Raises:
        InputError: it is missing.
    """
    if (folder / file).is_file():
        return
    above = folder.parent
    if folder.is_file():
        fault = "is a file, but must be the folder of a configuration and weights"
        mend = (
            "give that folder (of a pipeline in one file, diffusers' `from_single_file` and "
            "`save_pretrained` make folders)"
        )
    elif (folder / INDEX).is_file():
        fault, mend = (
            "is a whole pipeline, but must be one part",
            "give the folder of that part in it",
        )
    elif any((folder / name).exists() for name in _LORAS):
        fault = "is a LoRA, which changes a model and is none"
        mend = "merge it into its model by diffusers' `load_lora_weights` and `fuse_lora` first"
    elif folder.is_dir():
        fault, mend = f"has no {file}", "download the whole folder, or check the path"
    elif (above / CONFIG).is_file():
        folder, fault = above, f"is one part of a pipeline, but must hold the part {folder.name!r}"
        mend = "give the folder of the whole pipeline"
    else:
        fault = "does not exist"
        mend = "check the path (names of hubs are not looked up; download the folder first)"
    raise InputError(f"{folder} {fault}; {mend}.")


def write_config(
    folder: Path,
    like: Like,
    options: Options,
    config: Mapping[str, Any],
    otherwise: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes a configuration that keeps what the module does not tell.

    Args:
        folder: where to; it is made.
        like: the folder, or the content, of the configuration that the model was read with; None
            stands for the one that is in `folder` already, if it is one of this layout.
        options: what it may hold.
        config: what the module tells; it comes before what was read.
        otherwise: what is written where neither tells it.

    Raises:
        InputError: `like` holds no configuration of this layout, or the file cannot be written.
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


def _checked(path: Path, config: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The needed and the optional options, once all are known to be supported."""
    for name, value in config.items():
        if name in options.fixed and value not in options.fixed[name]:
            supported = " or ".join(map(repr, options.fixed[name]))
            mend = "give such a model." if name in _KINDS else "give a model without it."
            raise InputError(
                f"{path} says that {name!r} is {value!r}, but only {supported} is supported here; "
                f"{mend}"
            )
        known = {*options.needed, *options.optional, *options.fixed, *options.free}
        if name not in known and not name.startswith("_"):
            raise InputError(
                f"{path} has the option {name!r} ({value!r}), which is not supported here; "
                f"supported are {', '.join(sorted(known))}."
            )
    missing = [name for name in options.needed if name not in config]
    if missing:
        raise InputError(f"{path} does not say what {missing[0]!r} is; download it again.")
    values = {**options.optional, **config}
    sizes = {name: values[name] for name in (*options.needed, *options.optional)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in sizes.items()}


def check_derived(
    folder: Path, options: Mapping[str, Any], derived: Mapping[str, Any], mend: str
) -> None:
    """Raises unless the options that follow from the others are what they must be.

    Args:
        folder: the folder of `config.json`.
        options: what it says.
        derived: what it must say.
        mend: how the error ends.

    Raises:
        InputError: one of them is something else.
    """
    for name, value in derived.items():
        if options[name] != value:
            raise InputError(
                f"{folder / CONFIG} says that {name!r} is {options[name]!r}, but with its other "
                f"options only {value!r} is supported here; {mend}"
            )


@contextmanager
def described_by(folder: Path) -> Iterator[None]:
    """What a module refuses within is a fault of the folder's `config.json`, and is said so."""
    try:
        yield
    except InputError as error:
        raise InputError(f"in {folder / CONFIG}, {error}") from error


def stored_as(prefix: str, layers: Mapping[str, Tensor], path: Sequence[str]) -> Tensor:
    """The stored tensor of a parameter, given those of the layers of its block.

    Args:
        prefix: what the names of all tensors of the block begin with.
        layers: the stored name and kind of each layer's kernel, by its path in the block.
        path: of the parameter in the block: layer, then "kernel", "scale", "bias" or "embedding".

    Returns:
        Its name and kind.

    Example:
        >>> stored_as("mid.", {"a/query": Tensor("to_q", "linear")}, ["a", "query", "kernel"])
        Tensor(name='mid.to_q.weight', kind='linear')
    """
    *layer, leaf = path
    name, kind = layers["/".join(layer)]
    return Tensor(f"{prefix}{name}.{_LEAVES[leaf]}", kind if leaf == "kernel" else "plain")
