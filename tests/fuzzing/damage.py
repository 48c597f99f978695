"""Strategies that draw damaged values, trees of plain values, and bytes from sound ones."""

import json
import math
from typing import Any

from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0.5, -0.0, 1e-320, 1e308, math.inf, -math.inf, math.nan, 2**31, 2**63]),
)

WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "..", "../x", "/", "a/b", "nan", "1e400", "\0", "\n", "$HOME", "é" * 300]),
)

JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=4,
)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = [path] if path else []
    if isinstance(tree, dict | list):
        for key, value in inner:
            found += (
                _places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
            )
    return found


@st.composite
def trees(draw: Any, sound: Any, choices: tuple[Any, ...] = ()) -> Any:
    """A tree of plain values, damaged in one to three places."""
    tree = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(tree)
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        parent = tree
        for key in path:
            parent = parent[key]
        how = draw(st.sampled_from(["value", "value", "near", "drop", "rename", "wrap", "add"]))
        if how == "drop":
            del parent[last]
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(st.one_of(WORDS, st.sampled_from(["seeds", "method", last + "x"])))] = (
                parent.pop(last)
            )
        elif how == "wrap":
            parent[last] = draw(st.sampled_from([[parent[last]], {"x": parent[last]}]))
        elif how == "add" and isinstance(parent, dict):
            parent[draw(WORDS)] = draw(JUNK)
        elif how == "near" and isinstance(parent[last], int | float):
            parent[last] = draw(
                st.sampled_from([-parent[last], parent[last] * 2**40, float(parent[last]), 0])
            )
        elif choices and draw(st.booleans()):
            parent[last] = draw(st.sampled_from(choices))
        else:
            parent[last] = draw(JUNK)
    return tree


@st.composite
def one_of_files(draw: Any, sound: dict[str, Any]) -> tuple[str, Any]:
    """The name of one file of a folder, and its content, damaged."""
    name = draw(st.sampled_from(sorted(sound)))
    return name, draw(trees(sound[name]))


@st.composite
def damaged(draw: Any, sound: bytes) -> bytes:
    """Bytes with a few of them changed, cut off, doubled or put in."""
    found = bytearray(sound)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        how = draw(st.sampled_from(["flip", "cut", "drop", "insert", "head"]))
        if how == "flip" and found:
            found[at] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del found[at:]
        elif how == "drop":
            del found[at : at + draw(st.integers(1, 20))]
        elif how == "head" and found:
            found[min(at, 15) % len(found)] = draw(st.integers(0, 255))
        else:
            found[at:at] = draw(st.binary(min_size=1, max_size=9))
    return bytes(found)


def as_toml(value: dict[str, Any]) -> str:
    """A TOML file of a table; values that TOML does not have become invalid."""
    return "".join(f"{json.dumps(key)} = {_inline(entry)}\n" for key, entry in value.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), repr(value))
    return json.dumps(value)
