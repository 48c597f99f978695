"""Helpers that several model tests use."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict


@pytest.fixture(scope="session")
def shapes() -> Callable[..., Any]:
    """`shapes(model, *image_shape)`: variables of `model.init` as shapes, without computing."""

    def evaluate(model: nn.Module, *image_shape: int) -> Any:
        images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
        return jax.eval_shape(model.init, jax.random.key(0), images)

    return evaluate


@pytest.fixture(scope="session")
def count() -> Callable[[Any], int]:
    """`count(tree)`: number of scalars in a tree."""
    return lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="session")
def random_variables() -> Callable[..., Any]:
    """`random_variables(module, *args, **kwargs)`: NumPy variables with nothing left at 0 or 1.

    Every leaf is normal, kernels scaled by their fan-in; scales and variances lie in [.5, 1.5].
    """

    def draw(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        rng = np.random.default_rng(0)
        leaves = flatten_dict(
            jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))
        )
        for path, leaf in leaves.items():
            fan_in = math.prod(leaf.shape[:-1]) if path[-1] == "kernel" else 1
            value = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
            if path[-1] in ("scale", "var"):
                value = rng.uniform(0.5, 1.5, size=leaf.shape)
            leaves[path] = value.astype(leaf.dtype)
        return unflatten_dict(leaves)

    return draw
