"""A task whose batches are computed in shares, one on each device, under `jax.pmap`.

    l_i = losses(params, share of device d) at its place,     gradient = sum over devices

Every device has the whole batch, computes the losses of its own examples and is told those of all
others. So whatever a method makes of them (a mean, weights, a multiplier, two gradients) is that of
the whole batch, the same on each device, and no method knows.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxunlearn.types import Batch, InputError, ModelState, Params, Task


def spread(task: Task, axis_name: str) -> Task:
    """The task in shares: the same losses, outputs, predictions and gradients, but for rounding.

    Batches that do not divide over the devices are computed whole on each of them;
    `check_shares` refuses them in steps. Dropout draws a mask on each device.

    Args:
        task: what is unlearned. Its examples must not depend on one another, but for BatchNorm that
            averages over the axis (its own `axis_name`), and the mirrored timesteps of diffusion,
            whose pairs stay together in even shares.
        axis_name: of the axis that `pmap` maps.

    Returns:
        A `Task` that only runs where the axis has a name.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> weights, batch = task.init(jax.random.key(0)), {"image": jnp.zeros((4, 8, 8, 1))}
        >>> predict = jax.pmap(
        ...     lambda _: spread(task, "d").predict(*weights, batch), "d", out_axes=None
        ... )
        >>> predict(jnp.arange(1)).shape
        (4, 10)
    """

    def in_shares(function: Callable[..., Any], *args: Any) -> Any:
        """`function(params, model_state, batch)` of each share, its result told to all devices."""
        size, count = len(jax.tree.leaves(args[2])[0]), jax.lax.axis_size(axis_name)
        if size % (count * _together(task)):
            return function(*args)
        params, model_state, batch = jax.tree.map(functools.partial(_known, axis_name), args)
        share = jax.tree.map(functools.partial(_share, axis_name), batch)
        result, model_state = function(params, model_state, share)
        return _gathered(axis_name, result), model_state

    def of_examples(function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the task that returns something for each example, and the model state."""

        def whole(
            params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
        ) -> tuple[jax.Array, ModelState]:
            def share(*args: Any) -> Any:
                return function(*args, key, train)

            return in_shares(share, params, model_state, batch)

        return whole

    def predict(params: Params, model_state: ModelState, batch: Batch) -> jax.Array:
        assert task.predict is not None
        predict = task.predict
        return in_shares(lambda *args: (predict(*args), {}), params, model_state, batch)[0]

    return task._replace(
        losses=of_examples(task.losses),
        predict=predict if task.predict else None,
        outputs=of_examples(task.outputs) if task.outputs else None,
        forget_losses=of_examples(task.forget_losses) if task.forget_losses else None,
        saliency_losses=of_examples(task.saliency_losses) if task.saliency_losses else None,
    )


def check_shares(task: Task, num_devices: int, **batch_sizes: int) -> None:
    """Raises if the share of a device parts examples that stay together.

    Raises:
        InputError: it does: an odd share of a model that generates.
    """
    least = num_devices * _together(task)
    for name, size in batch_sizes.items():
        if task.predict is None and size % least:
            raise InputError(
                f"{name} is {size}, but under pmap must be a multiple of {least}, two for each of "
                f"the {num_devices} devices, for a model that generates, whose examples are drawn "
                f"in pairs; the nearest is {max(1, round(size / least)) * least}."
            )


def _together(task: Task) -> int:
    """How many examples depend on one another."""
    return 2 if task.predict is None else 1


def _share(axis_name: str, x: jax.Array) -> jax.Array:
    """Every so many examples one: a share has both of two that lie half a batch apart."""
    shares = x.reshape(-1, jax.lax.axis_size(axis_name), *x.shape[1:])
    return jax.lax.dynamic_index_in_dim(shares, jax.lax.axis_index(axis_name), 1, keepdims=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gathered(axis_name: str, x: jax.Array) -> jax.Array:
    """The shares of all devices at their places. Each device answers for its own share alone."""
    shares = jax.lax.all_gather(x, axis_name, axis=1)
    return shares.reshape(-1, *x.shape[1:])


_gathered.defvjp(
    lambda axis_name, x: (_gathered(axis_name, x), None),
    lambda axis_name, _, cotangent: (_share(axis_name, cotangent),),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _known(axis_name: str, x: jax.Array) -> jax.Array:
    """What all devices have: its gradient is the sum of what each found in its share."""
    del axis_name
    return x


_known.defvjp(
    lambda axis_name, x: (x, None),
    lambda axis_name, _, cotangent: (jax.lax.psum(cotangent, axis_name),),
)
