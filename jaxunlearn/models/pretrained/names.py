"""Names of stored tensors, from tables of key mappings.

    "block#/up": "layers.#.mlp.fc1"         the parameters of a layer
    "position": "pos_embed"                 one parameter

Our numbers count from 1. A `#` in a key stands for one of them; in the stored name, in the same
order, `#` is the number less 1, `@` the number itself, and `~` the number of levels less the
number. A `*` stands for any path, whose slashes become dots. A tuple of names stands for several
layers whose outputs are joined in ours.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping

Stored = str | tuple[str, ...]
Naming = Callable[[tuple[str, ...]], Stored]

_COLLECTIONS = ("params", "batch_stats")
_LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def naming(table: Mapping[str, Stored], prefix: str = "", levels: int = 0) -> Naming:
    """The function that maps the path of a parameter to the name of its stored tensor.

    `prefix` begins all stored names; `levels` is the number of levels for `~`.

    Example:
        >>> name = naming({"position": "pos_embed", "block#/up": "layers.#.mlp.fc1"})
        >>> name(("position",)), name(("block1", "up", "kernel"))
        ('pos_embed', 'layers.0.mlp.fc1.weight')
    """
    rules = [
        (re.compile(re.escape(ours).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")), stored)
        for ours, stored in table.items()
    ]
    fill: dict[str, Callable[[str], str]] = {
        "#": lambda number: str(int(number) - 1),
        "@": lambda number: number,
        "~": lambda number: str(levels - int(number)),
        "*": lambda path: path.replace("/", "."),
    }

    def filled(stored: str, values: Iterator[str], ending: str) -> str:
        return prefix + re.sub("[#@~*]", lambda s: fill[s[0]](next(values)), stored) + ending

    @functools.cache
    def name(path: tuple[str, ...]) -> Stored:
        *layer, leaf = path[1:] if path[0] in _COLLECTIONS else path
        for place, ending in (
            ("/".join([*layer, leaf]), ""),
            ("/".join(layer), f".{_LEAVES.get(leaf)}"),
        ):
            for pattern, stored in rules:
                if found := pattern.fullmatch(place):
                    if isinstance(stored, str):
                        return filled(stored, iter(found.groups()), ending)
                    return tuple(filled(s, iter(found.groups()), ending) for s in stored)
        raise AssertionError(f"the table has no entry for the parameter {'/'.join(path)}")

    return name


def nested(outer: Mapping[str, str], inner: Mapping[str, str]) -> dict[str, str]:
    """The key mappings of the same layers in several blocks.

    Example:
        >>> nested({"block#": "layers.#"}, {"up": "mlp.fc1"})
        {'block#/up': 'layers.#.mlp.fc1'}
    """
    return {
        f"{block}/{layer}": f"{stored_block}.{stored_layer}"
        for block, stored_block in outer.items()
        for layer, stored_layer in inner.items()
    }
