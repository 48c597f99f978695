"""A task that splits each batch over devices, under `jax.pmap`.

    l_i = losses(params, share of device d) at position i,     gradient = sum over devices

Every device holds the whole batch, computes the losses of its share and receives the losses of the
other shares. So a method sees the losses of the whole batch, the same on each device, and may use
them in any way (a mean, weights, a multiplier, two gradients).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxunlearn.methods.wrapped import wrapped
from jaxunlearn.types import Batch, InputError, ModelState, Params, Task


def shard_over_axis(task: Task, axis_name: str) -> Task:
    """The split task: equal losses, outputs, predictions and gradients, up to rounding.

    A batch that does not divide over the devices is computed whole on each of them; `check_shares`
    refuses it in steps. Dropout draws one mask per device.

    Args:
        task: the task. Its examples must not depend on one another, except for BatchNorm that
            averages over the axis (the model's `axis_name`), and for the mirrored timesteps of
            diffusion, whose pairs stay together in even shares.
        axis_name: name of the axis that `pmap` maps; the task runs only inside it.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> weights, batch = task.init(jax.random.key(0)), {"image": jnp.zeros((4, 8, 8, 1))}
        >>> predict = jax.pmap(
        ...     lambda _: shard_over_axis(task, "d").predict(*weights, batch), "d", out_axes=None
        ... )
        >>> predict(jnp.arange(1)).shape
        (4, 10)
    """

    def in_shares(function: Callable[..., Any]) -> Callable[..., Any]:
        def whole(
            params: Params, model_state: ModelState, batch: Batch, *rest: Any
        ) -> tuple[jax.Array, ModelState]:
            size, count = len(jax.tree.leaves(batch)[0]), jax.lax.axis_size(axis_name)
            if size % (count * _together(task)):
                return function(params, model_state, batch, *rest)
            args = jax.tree.map(functools.partial(_known, axis_name), (params, model_state, batch))
            share = jax.tree.map(functools.partial(_share, axis_name), args[2])
            values, model_state = function(*args[:2], share, *rest)
            return _gathered(axis_name, values), model_state

        return whole

    return wrapped(task, in_shares)


def check_shares(task: Task, num_devices: int, **batch_sizes: int) -> None:
    """Raises an InputError if shares would separate examples that depend on each other."""
    least = num_devices * _together(task)
    for name, size in batch_sizes.items():
        if task.predict is None and size % least:
            raise InputError(
                f"{name} is {size}, but must be a multiple of {least} under pmap, two for each of "
                f"the {num_devices} devices, for a generative model, which draws its examples in "
                f"pairs; the nearest is {max(1, round(size / least)) * least}."
            )


def _together(task: Task) -> int:
    """The number of examples that depend on one another."""
    return 2 if task.predict is None else 1


def _share(axis_name: str, x: jax.Array) -> jax.Array:
    """Every n-th example, so that two examples that are half a batch apart stay together."""
    shares = x.reshape(-1, jax.lax.axis_size(axis_name), *x.shape[1:])
    return jax.lax.dynamic_index_in_dim(shares, jax.lax.axis_index(axis_name), 1, keepdims=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gathered(axis_name: str, x: jax.Array) -> jax.Array:
    """The shares of all devices in order; a device gets the gradient of its own share only."""
    shares = jax.lax.all_gather(x, axis_name, axis=1)
    return shares.reshape(-1, *x.shape[1:])


_gathered.defvjp(
    lambda axis_name, x: (_gathered(axis_name, x), None),
    lambda axis_name, _, cotangent: (_share(axis_name, cotangent),),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _known(axis_name: str, x: jax.Array) -> jax.Array:
    """A value that all devices hold; its gradient is the sum over the devices."""
    del axis_name
    return x


_known.defvjp(
    lambda axis_name, x: (x, None),
    lambda axis_name, _, cotangent: (jax.lax.psum(cotangent, axis_name),),
)
