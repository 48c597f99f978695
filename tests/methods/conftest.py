"""What the tests of single methods compute by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.methods import objectives
from jaxunlearn.types import Batch
from tests import toy
from tests.helpers import flat

# (params, model_state, batch, seed) -> (value, gradient), on the host
ValueAndGrad = Callable[[Any, Any, Batch, int], tuple[float, Any]]


@pytest.fixture(scope="session")
def retain_by_hand() -> Callable[..., tuple[float, Any, Any]]:
    """`(params, model_state, batch, seed=0) -> (mean loss, new model state, gradient)`."""

    @jax.jit
    def compute(params: Any, model_state: Any, batch: Batch, key: jax.Array) -> Any:
        def mean_loss(p: Any) -> Any:
            losses, new_state = toy.TASK.losses(p, model_state, batch, key, True)
            return jnp.mean(losses), new_state

        return jax.value_and_grad(mean_loss, has_aux=True)(params)

    def call(params: Any, model_state: Any, batch: Batch, seed: int = 0) -> tuple[float, Any, Any]:
        (loss, new_state), grads = jax.device_get(
            compute(params, model_state, batch, jax.random.key(seed))
        )
        return float(loss), new_state, grads

    return call


@pytest.fixture(scope="session")
def forget_gradient() -> Callable[..., Any]:
    """`(params, model_state, n) -> gradient` of the random-label loss on the n-th forget batch."""
    objective = objectives.random_labels()
    compute = jax.jit(
        jax.grad(lambda p, s, batch: objective(toy.TASK, p, s, batch, jax.random.key(0)))
    )

    def call(params: Any, model_state: Any, n: int) -> Any:
        batch = toy.nth_batch(toy.problem().forget, n, toy.FORGET_BATCH)
        return jax.device_get(compute(params, model_state, batch))

    return call


class Aggregated(NamedTuple):
    """One step of a method with two gradients, and both gradients, computed separately."""

    forget: np.ndarray  # the gradient on the forget batch
    retain: np.ndarray  # the gradient on the retain batch
    direction: np.ndarray  # what the weights moved against
    metrics: dict[str, float]


@pytest.fixture(scope="session")
def aggregated(
    retain_by_hand: Callable[..., Any], forget_gradient: Callable[..., Any]
) -> Callable[..., list[Aggregated]]:
    """`(runner, num_steps=4, **numbers) -> [Aggregated]`, under plain SGD, all of it flat."""

    def call(runner: toy.Runner, num_steps: int = 4, **numbers: float) -> list[Aggregated]:
        plain = {"learning_rate": 0.3, "momentum": 0.0, "weight_decay": 0.0}
        run, steps = runner.run(num_steps, **plain, **numbers), []
        for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
            batch = toy.nth_batch(toy.problem().retain, n, toy.RETAIN_BATCH)
            _, _, retain = retain_by_hand(before.params, before.model_state, batch)
            forget = forget_gradient(before.params, before.model_state, n)
            direction = (flat(before.params) - flat(after.params)) / 0.3
            steps.append(Aggregated(flat(forget), flat(retain), direction, run.metrics[n]))
        return steps

    return call


@pytest.fixture(scope="session")
def weighted_ascent_by_hand() -> Callable[..., tuple[float, Any]]:
    """`(params, model_state, batch, exponent, epsilon=0.25) -> (-mean c l, gradient)`.

    `c ~ 1 / (l^exponent + epsilon)`.
    """

    @jax.jit
    def compute(
        params: Any, model_state: Any, batch: Batch, exponent: jax.Array, epsilon: jax.Array
    ) -> Any:
        def losses_fn(p: Any) -> jax.Array:
            return toy.TASK.losses(p, model_state, batch, jax.random.key(0), True)[0]

        losses, pullback = jax.vjp(losses_fn, params)
        weights = 1 / (losses**exponent + epsilon)
        weights = weights / jnp.mean(weights)
        return -jnp.mean(weights * losses), pullback(-weights / losses.size)[0]

    def call(
        params: Any, model_state: Any, batch: Batch, exponent: float, epsilon: float = 0.25
    ) -> tuple[float, Any]:
        numbers = jnp.float32(exponent), jnp.float32(epsilon)
        loss, grads = jax.device_get(compute(params, model_state, batch, *numbers))
        return float(loss), grads

    return call


@pytest.fixture(scope="session")
def example_gradients() -> Callable[..., Any]:
    """`(params, model_state, arrays) -> gradients [N, ...]` of examples, in evaluation mode."""

    def one(params: Any, model_state: Any, example: Batch) -> jax.Array:
        batch = jax.tree.map(lambda x: x[None], example) | {"epoch": jnp.zeros(1, jnp.int32)}
        return toy.TASK.losses(params, model_state, batch, jax.random.key(0), False)[0][0]

    compute = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, None, 0)))
    return lambda *args: jax.device_get(compute(*args))
