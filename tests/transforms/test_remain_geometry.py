"""Both ideas approximate the same thing: the forget gradient times the inverse retain Hessian.

On a small trained network, at the optimum of its retain loss, the exact direction
`-(H + mu I)^-1 g` is found by conjugate gradients over Hessian-vector products, and compared by its
cosine with what the transformations return and with the plain step `-g`.

*Fast and slow weights, one update.* `(I - eta H)^K = I - K eta H + ...` begins like
`mu (H + mu I)^-1 = I - H / mu + ...` with `mu = 1 / (eta K)`: the damping one update stands for.

*Surgery, many steps.* At the optimum itself the retain gradient vanishes and surgery is the plain
step. It bends the path that follows: with tolerance 0 the step runs along the level set of the
retain loss, an ellipsoid of H, and comes to rest where `g + lambda H delta = 0`: the whole
displacement delta is along `-H^-1 g`. The multiplier of implicit surgery sums the rises of the
retain loss, which comes to rest in the same direction. Damping is a proximal term
`mu / 2 |p - p_0|^2` in the retain loss, whose Hessian then is `H + mu I`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import (
    LossPair,
    fast_slow,
    implicit_surgery,
    surgery_value_and_grad,
    unilateral_surgery,
)
from tests.helpers import cosine, example_losses, examples, network

DAMPING = 0.05


def negative(tree: Any) -> Any:
    return jax.tree.map(jnp.negative, tree)


def half_square(tree: Any) -> jax.Array:
    return 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))


class Trained(NamedTuple):
    """A network of 92 parameters at the optimum of its (weight-decayed) retain loss."""

    params: Any
    forget: tuple[jax.Array, jax.Array]
    retain: tuple[jax.Array, jax.Array]

    def retain_loss(self, params: Any, damping: float = 0.0) -> jax.Array:
        offset = jax.tree.map(jnp.subtract, params, self.params)
        data = jnp.mean(example_losses(params, self.retain))
        return data + 1e-2 * half_square(params) + damping * half_square(offset)

    def forget_loss(self, params: Any) -> jax.Array:
        return -jnp.mean(example_losses(params, self.forget))

    def forget_gradient(self) -> Any:
        return jax.jit(jax.grad(self.forget_loss))(self.params)

    def damped_losses(self, params: Any) -> LossPair:
        return LossPair(self.forget_loss(params), self.retain_loss(params, DAMPING))


@pytest.fixture(scope="module")
def trained() -> Trained:
    params = network()
    start = Trained(params, examples(1, 16), examples(2, 80))
    tx = optax.sgd(0.5, momentum=0.95)

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(jax.grad(start.retain_loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=1000))(
        (params, tx.init(params))
    )
    trained = start._replace(params=params)
    at_rest = jax.jit(lambda: optax.tree.norm(jax.grad(trained.retain_loss)(params)))()
    assert at_rest < 1e-4 < 0.1 < optax.tree.norm(trained.forget_gradient())
    return trained


@pytest.fixture(scope="module")
def exact(trained: Trained) -> Callable[[float], Any]:
    """`damping -> -(H + damping I)^-1 g`, by conjugate gradients."""

    @jax.jit
    def solve(damping: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        def product(vector: Any) -> Any:
            _, hv = jax.jvp(jax.grad(trained.retain_loss), (trained.params,), (vector,))
            return jax.tree.map(lambda h, v: h + damping * v, hv, vector)

        gradient = jax.grad(trained.forget_loss)(trained.params)
        solution, _ = jax.scipy.sparse.linalg.cg(product, gradient, tol=1e-5, maxiter=300)
        residual = jax.tree.map(jnp.subtract, product(solution), gradient)
        return negative(solution), optax.tree.norm(residual), optax.tree.norm(gradient)

    def checked(damping: float) -> Any:
        solution, residual, gradient = solve(jnp.float32(damping))
        assert residual < 1e-4 * gradient
        return solution

    return checked


def displacements(trained: Trained, tx: Any, surgery: Any, steps: int) -> Any:
    """How far an unlearning run has moved the parameters after each of `steps` steps.

    Exact surgery (`surgery` is None) takes both gradients, implicit surgery that of the weighted
    sum.
    """

    def step(carry: Any, _: Any) -> tuple[Any, Any]:
        params, state = carry
        if surgery is None:
            losses = trained.damped_losses(params)
            grads, retain_grads = jax.jacrev(trained.damped_losses)(params)
        else:
            value_and_grad = surgery_value_and_grad(trained.damped_losses, surgery)
            losses, grads = value_and_grad(params, state=state)
            retain_grads = None
        updates, state = tx.update(
            grads,
            state,
            params,
            retain_grads=retain_grads,
            retain_value=losses.retain,
            retain_value_fn=lambda p: trained.retain_loss(p, DAMPING),
            grad_fn=lambda p, i: jax.grad(trained.retain_loss)(p),
        )
        params = optax.apply_updates(params, updates)
        return (params, state), jax.tree.map(jnp.subtract, params, trained.params)

    run = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps))
    return jax.tree.map(np.asarray, run(trained.params)[1])


@pytest.mark.parametrize("num_fast_steps", [2, 5])
def test_fast_slow_turns_the_step_towards_the_exact_one(
    trained: Trained, exact: Any, num_fast_steps: int
) -> None:
    eta, beta = 0.5, 1e-2
    gradient = trained.forget_gradient()
    wanted = exact(1.0 / (eta * num_fast_steps))
    tx = optax.chain(optax.sgd(beta), fast_slow(optax.sgd(eta), num_fast_steps=num_fast_steps))

    @jax.jit
    def update(gradient: Any, params: Any) -> Any:
        retain_grad = jax.grad(trained.retain_loss)
        return tx.update(gradient, tx.init(params), params, grad_fn=lambda p, i: retain_grad(p))[0]

    step = update(gradient, trained.params)
    plain = cosine(negative(gradient), wanted)
    assert 1.0 - cosine(step, wanted) < 0.5 * (1.0 - plain)


RATE = 1e-2
STEP = optax.sgd(RATE)
MULTIPLIER = optax.sgd(4e3)
EXACT = {
    "unilateral": optax.chain(unilateral_surgery(), STEP),
    "unilateral inside, fast_slow outside": optax.chain(
        unilateral_surgery(), STEP, fast_slow(optax.sgd(0.5), num_fast_steps=2)
    ),
}
IMPLICIT = {
    estimator: implicit_surgery(MULTIPLIER, step_size=RATE, estimator=estimator)
    for estimator in ("same_batch", "next_batch")
}


@pytest.mark.parametrize("name", [*EXACT, *IMPLICIT])
def test_surgery_turns_the_path_towards_the_exact_direction(
    trained: Trained, exact: Any, name: str
) -> None:
    wanted = exact(DAMPING)
    plain = cosine(negative(trained.forget_gradient()), wanted)
    surgery = IMPLICIT.get(name)
    tx = EXACT[name] if surgery is None else optax.chain(STEP, surgery)
    path = displacements(trained, tx, surgery, steps=60)
    first = 2 if "fast_slow" in name else 10  # fast steps are at the limit after ten
    early, late = (cosine(jax.tree.map(lambda d, t=t: d[t - 1], path), wanted) for t in (first, 60))
    assert plain < 0.9 < early < late
    assert late > 0.99
