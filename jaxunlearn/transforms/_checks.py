"""The check that two trees are alike, shared by masks, Fisher diagonals and pairs of gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.types import InputError


def check_like(tree: Any, like: Any, name: str, like_name: str) -> None:
    """Raises unless `tree` has the structure and the shapes of `like`.

    Args:
        tree: the tree to check.
        like: what it must be like.
        name: what the error calls `tree`.
        like_name: what the error calls `like`.

    Raises:
        InputError: naming the first place where the two differ.

    Example:
        >>> check_like({"w": jnp.ones(3)}, {"w": jnp.zeros(3)}, "the mask", "the parameter tree")
    """
    mend = "build one from the other with jax.tree.map."
    found, wanted = (
        {
            jax.tree_util.keystr(path): f"shape {jnp.shape(leaf)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(side)
        }
        for side in (tree, like)
    )
    for path in [*wanted, *found]:
        here, there = found.get(path, "nothing"), wanted.get(path, "nothing")
        if here != there:
            raise InputError(
                f"{name} has {here} at {path or 'its root'}, where {like_name} has {there}; {mend}"
            )
    structures: list[Any] = [jax.tree.structure(side) for side in (tree, like)]
    if structures[0] != structures[1]:
        raise InputError(
            f"{name} has other containers than {like_name} (such as a list for a tuple); {mend}"
        )
