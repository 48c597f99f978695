"""The description of a layout of image classifiers, and parts that layouts share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn

from jaxunlearn.models.pretrained.names import Naming, Stored
from jaxunlearn.models.pretrained.tensors import stored_metadata, stored_shape
from jaxunlearn.types import InputError

HEAD_WIDTH, WIDEST = 64, 1024  # of heads in published transformers of up to this width


class Source(NamedTuple):
    """The files of a classifier.

    Attributes:
        path: path that was given.
        weights: safetensors file, or index of several.
        shapes: shape of each stored tensor.
        config: content of `config.json`; empty where there is none.
        facts: facts that the user gave; each is removed when it is used.
    """

    path: Path
    weights: Path
    shapes: dict[str, tuple[int, ...]]
    config: dict[str, Any]
    facts: dict[str, Any]

    def shape(self, name: Stored, rank: int) -> tuple[int, ...]:
        """The shape of a tensor, which must have this rank."""
        first = name if isinstance(name, str) else name[0]
        return stored_shape(self.path, self.shapes, first, rank)

    def number_of(self, name: Naming, layer: str, *path: str) -> int:
        """The number of layers, whose name has `{}` for 1, 2, 3 ... up to the first gap."""
        count = 0
        while _first(name((layer.format(count + 1), *path))) in self.shapes:
            count += 1
        return count

    def heads(self, width: int, key: str) -> Any:
        """The number of heads of a transformer: given, in the configuration, or as published."""
        options = self.config.get("model_args", self.config)
        kept = stored_metadata(self.weights).get("heads")
        heads = self.facts.pop(
            "heads", options.get(key, int(kept) if kept and kept.isdigit() else None)
        )
        if heads is None and (width % HEAD_WIDTH or width > WIDEST):
            raise InputError(
                f"the tokens of the ViT in {self.path} have {width} channels, which leave the "
                f"number of heads open ({HEAD_WIDTH} wide in ViTs of up to {WIDEST}); give heads=, "
                f"or a folder whose config.json holds {key!r}."
            )
        return width // HEAD_WIDTH if heads is None else heads


class Size(NamedTuple):
    """The images of a classifier: their side, or one that fits, and their channels."""

    side: int
    channels: int


class Config(NamedTuple):
    """The `config.json` of a layout.

    Attributes:
        check: `check(folder, config, module, size)` raises unless the file describes the module.
        write: `write(folder, like, module, size)`; `like` is an earlier file, its folder or None.
    """

    check: Callable[[Path, dict[str, Any], Any, Size], None]
    write: Callable[[Path, Any, Any, Size], None]


class Layout(NamedTuple):
    """One layout of one family of classifiers.

    Attributes:
        library: name of the layout.
        family: class of the modules.
        sign: regular expression for a name that each of its files has.
        fields: `fields(source) -> (fields but num_classes, size)` of a file.
        names: `names(module)`, the key mappings.
        head: stored name of the last layer.
        size: `size(module, params)`, the size of the images.
        check: `check(module)` raises unless the layout has such a module.
        unlike: regular expression for names that none of its files has.
        config: its `config.json`, if it has one.
        ignored: regular expressions for names of tensors without effect.
        stored: `stored(module)`, texts beside the tensors.
    """

    library: str
    family: type[nn.Module]
    sign: str
    fields: Callable[[Source], tuple[dict[str, Any], Size]]
    names: Callable[[Any], Mapping[str, Stored]]
    head: str
    size: Callable[[Any, Any], Size]
    check: Callable[[Any], None] = lambda module: None
    unlike: str = r"(?!)"
    config: Config | None = None
    ignored: tuple[str, ...] = ()
    stored: Callable[[Any], Mapping[str, str]] = lambda module: MappingProxyType({})


def allowed(module: nn.Module, **choices: tuple[Any, ...]) -> None:
    """Raises unless fields of a module have the values that a layout can hold."""
    for field, values in choices.items():
        value = getattr(module, field)
        if value not in values:
            raise InputError(
                f"{type(module).__name__}.{field} is {value!r}, but must be "
                f"{' or '.join(map(repr, values))} in the published layout."
            )


def _first(name: Stored) -> str:
    return name if isinstance(name, str) else name[0]
