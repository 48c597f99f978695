"""The state of implicit surgery is data: it pickles, compares, crosses jit, and stays finite."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import (
    InputError,
    LossPair,
    famo,
    implicit_surgery,
    loss_weights,
    multiplier,
    surgery_value_and_grad,
)
from tests.helpers import assert_trees_equal

PARAMS = {"w": jnp.array([1.0, -2.0, 0.5])}
ESTIMATORS = ("same_batch", "next_batch")


def chained(estimator: str, **settings: Any) -> tuple[Any, Any]:
    surgery = implicit_surgery(optax.adam(0.3), estimator=estimator, **settings)
    return optax.chain(optax.sgd(0.1, momentum=0.9), surgery), surgery


def losses_fn(params: Any, shift: Any = 1.0, *, scale: Any = 1.0) -> LossPair:
    retain = scale * jnp.sum((params["w"] - shift) ** 2)
    return LossPair(forget=-jnp.sum(params["w"] ** 2), retain=retain)


def step(tx: Any, surgery: Any, params: Any, state: Any) -> tuple[Any, Any]:
    losses, grads = surgery_value_and_grad(losses_fn, surgery)(params, state=state)
    updates, state = tx.update(
        grads,
        state,
        params,
        retain_value=losses.retain,
        retain_value_fn=lambda p: losses_fn(p).retain,
    )
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_state_and_structure_pickle(estimator: str) -> None:
    tx, surgery = chained(estimator)
    _, state = step(tx, surgery, PARAMS, tx.init(PARAMS))
    copied = pickle.loads(pickle.dumps(state))
    assert_trees_equal(copied, state)
    structure: Any = jax.tree.structure(state)
    assert pickle.loads(pickle.dumps(structure)) == structure
    assert_trees_equal(step(tx, surgery, PARAMS, copied), step(tx, surgery, PARAMS, state))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_equal_chains_have_states_of_one_structure(estimator: str) -> None:
    """Whatever their numbers: the states can be mapped over each other, and averaged."""
    (tx, _), (other, _) = chained(estimator), chained(estimator, tolerance=0.5, convex=True)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, tx.init(PARAMS), other.init(PARAMS))
    assert float(multiplier(mean)) == 0.0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_state_made_under_jit_with_traced_numbers_works_outside(estimator: str) -> None:
    def make(rate: Any) -> Any:
        surgery = implicit_surgery(optax.sgd(rate), estimator=estimator, tolerance=-rate)
        return optax.chain(optax.sgd(0.1), surgery), surgery

    tx, surgery = make(0.5)
    state = jax.jit(lambda rate: make(rate)[0].init(PARAMS))(0.5)
    many = jax.vmap(lambda rate: make(rate)[0].init(PARAMS))(jnp.array([0.5, 0.7]))
    one = jax.tree.map(lambda x: x[0], many)
    params, expected_params = PARAMS, PARAMS
    expected = tx.init(PARAMS)
    assert_trees_equal(one, expected)
    for _ in range(3):
        params, state = step(tx, surgery, params, state)
        expected_params, expected = step(tx, surgery, expected_params, expected)
    assert_trees_equal((params, state), (expected_params, expected))
    assert float(multiplier(state)) > 0.0


@pytest.mark.parametrize("around", ["the surgery", "the chain"])
def test_the_gradient_is_weighed_by_what_update_stores_under_inject_hyperparams(
    around: str,
) -> None:
    """Numbers that live in the state are those that refresh the multiplier of "next_batch"."""

    def surgery(rate: Any) -> Any:
        return implicit_surgery(optax.sgd(rate), estimator="next_batch", initial_multiplier=0.5)

    if around == "the surgery":
        given = optax.inject_hyperparams(surgery)(rate=0.0)
        tx = optax.chain(optax.sgd(0.1), given)
    else:
        given = tx = optax.inject_hyperparams(
            lambda rate: optax.chain(optax.sgd(0.1), surgery(rate))
        )(rate=0.0)
    state = jax.jit(tx.init)(PARAMS)
    state = optax.tree.set(state, rate=jnp.float32(0.2))  # as a user does between two steps
    value_and_grad = surgery_value_and_grad(losses_fn, given)

    @jax.jit
    def one_step(params: Any, state: Any) -> Any:
        losses, grads = value_and_grad(params, state=state)
        updates, state = tx.update(grads, state, params, retain_value=losses.retain)
        return optax.apply_updates(params, updates), state, grads

    params, seen = PARAMS, []
    for _ in range(3):
        parts = jax.jacrev(losses_fn)(params)
        params, state, grads = one_step(params, state)
        expected = parts.forget["w"] + multiplier(state) * parts.retain["w"]
        np.testing.assert_allclose(grads["w"], expected, rtol=1e-5)
        seen.append(float(multiplier(state)))
    assert len(set(seen)) == 3


def test_keywords_reach_the_losses() -> None:
    tx, surgery = chained("same_batch")
    vg = jax.jit(surgery_value_and_grad(losses_fn, surgery))
    losses, _ = vg(PARAMS, state=tx.init(PARAMS), scale=3.0, shift=2.0)
    assert_trees_equal(losses, losses_fn(PARAMS, 2.0, scale=3.0))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_steps_of_size_zero_leave_the_multiplier_alone(estimator: str) -> None:
    """A schedule that warms up from 0 and decays to 0: finite, and moved by all other steps."""
    rate = lambda count: jnp.array([0.0, 0.1, 0.1, 0.0, 0.1])[count]  # noqa: E731
    surgery = implicit_surgery(
        optax.adam(0.3), estimator=estimator, step_size=rate, tolerance=-1.0, initial_multiplier=0.5
    )
    tx = optax.chain(optax.sgd(rate), surgery)
    run = jax.jit(lambda p, s: step(tx, surgery, p, s))
    params, state, values = PARAMS, tx.init(PARAMS), [0.5]
    for _ in range(5):
        params, state = run(params, state)
        values.append(float(multiplier(state)))
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(params["w"]))
    moved = np.diff(values) != 0.0
    judged = [False, True, True, False, True]  # next_batch judges a step one call later
    assert moved.tolist() == (judged if estimator == "same_batch" else [False, *judged[:-1]])


@pytest.mark.parametrize("size", [np.inf, np.nan, 1e30])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_loss_that_overflows_once_leaves_the_multiplier_finite(
    estimator: str, size: float
) -> None:
    """And the optimizer's state: afterwards the multiplier moves as before."""
    surgery = implicit_surgery(optax.adam(0.3), estimator=estimator, initial_multiplier=0.5)
    state, seen = surgery.init(PARAMS), []
    update = jax.jit(
        lambda s, before, after: surgery.update(
            PARAMS, s, PARAMS, retain_value=before, retain_value_fn=lambda _: after
        )[1]
    )
    for value in (1.0, 1.5, size, 1.0, 1.5, 2.0):
        before = value if estimator == "next_batch" else 1.0
        state = update(state, jnp.float32(before), jnp.float32(value))
        seen.append(float(multiplier(state)))
    assert all(
        np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state._replace(last_step=None))
    )
    assert seen[2] == seen[1] and seen[5] > seen[4]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_log_losses_below_zero(estimator: str) -> None:
    """Refused where the value is known; under jit they leave the multiplier where it is."""
    surgery = implicit_surgery(
        optax.sgd(1.0), estimator=estimator, log_loss=True, initial_multiplier=0.5
    )

    def update(state: Any, value: Any) -> Any:
        return surgery.update(
            PARAMS, state, PARAMS, retain_value=value, retain_value_fn=lambda _: value
        )[1]

    with pytest.raises(InputError, match="retain_value is -0.5, .*log_loss=True.*log_loss=False"):
        update(surgery.init(PARAMS), jnp.float32(-0.5))
    state = surgery.init(PARAMS)
    for value in (1.0, -0.5, -0.5, 1.0):
        state = jax.jit(update)(state, jnp.float32(value))
    assert float(multiplier(state)) == 0.5
    assert np.isfinite(multiplier(update(state, jnp.float32(-1e-9))))  # rounding is no sign
    with pytest.raises(InputError, match="forget_value is -2, .*famo"):
        famo().update(
            PARAMS,
            famo().init(PARAMS),
            retain_grads=PARAMS,
            forget_value=jnp.float32(-2.0),
            retain_value=jnp.float32(1.0),
        )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_losses_in_half_precision_are_refused(dtype: Any) -> None:
    """Their differences are lost; the forget loss alone may be in it, for it is never compared."""
    tx, surgery = chained("next_batch")
    state = tx.init(PARAMS)

    def pair(params: Any, forget: Any, retain: Any) -> LossPair:
        losses = losses_fn(params)
        return LossPair(losses.forget.astype(forget), losses.retain.astype(retain))

    vg = surgery_value_and_grad(pair, surgery)
    _, grads = vg(PARAMS, dtype, jnp.float32, state=state)
    assert grads["w"].dtype == jnp.float32
    with pytest.raises(InputError, match=f"the retain loss has dtype {dtype.__name__}.*float32"):
        jax.eval_shape(lambda p: vg(p, jnp.float32, dtype, state=state), PARAMS)
    with pytest.raises(InputError, match=f"retain_value has dtype {dtype.__name__}"):
        tx.update(PARAMS, state, PARAMS, retain_value=dtype(1.0))


@pytest.mark.parametrize(
    "leaf", [jnp.arange(3), jax.random.key(0), jnp.array(True), jnp.tanh, 3, "relu"]
)
def test_leaves_that_are_no_floats_are_named(leaf: Any) -> None:
    """As in a module of Equinox that has not been partitioned."""
    tx, surgery = chained("same_batch")
    vg = surgery_value_and_grad(losses_fn, surgery)
    with pytest.raises(InputError, match=r"params has a leaf of type .* at \['other'\].*partition"):
        vg(PARAMS | {"other": leaf}, state=tx.init(PARAMS))


def test_surgery_before_another_member_of_the_chain() -> None:
    """ "same_batch" would judge a step that is not taken; "next_batch" sees the losses alone."""
    _, surgery = chained("same_batch")
    tx = optax.chain(surgery, optax.chain(optax.sgd(0.1)))
    state = tx.init(PARAMS)
    with pytest.raises(InputError, match=r"is before another.*the last in optax.chain"):
        step(tx, surgery, PARAMS, state)
    with pytest.raises(InputError, match=r"is before another.*the last in optax.chain"):
        loss_weights(state)
    _, surgery = chained("next_batch", initial_multiplier=0.5)
    early, late = (
        optax.chain(*order) for order in ((surgery, optax.sgd(0.1)), (optax.sgd(0.1), surgery))
    )
    (params, state), (expected, other) = (
        step(tx, surgery, PARAMS, tx.init(PARAMS)) for tx in (early, late)
    )
    assert_trees_equal((params, state[0]), (expected, other[1]))


def test_another_surgery_than_the_chains() -> None:
    tx, _ = chained("same_batch")
    other = implicit_surgery(optax.sgd(1.0))
    with pytest.raises(InputError, match="holds another implicit_surgery"):
        surgery_value_and_grad(losses_fn, other)(PARAMS, state=tx.init(PARAMS))
    with pytest.raises(InputError, match="surgery is None, but must be the implicit_surgery"):
        surgery_value_and_grad(losses_fn, None)


def test_types_of_the_states_are_the_same_under_x64() -> None:
    """With float64 parameters, losses and injected hyperparameters."""

    def types(tree: Any) -> Any:
        return [(leaf.dtype, leaf.shape) for leaf in jax.tree.leaves(tree)]

    with jax.enable_x64(True):
        params = {"w": jnp.arange(3, dtype=jnp.float64)}
        for make in (
            lambda rate: famo(logit_learning_rate=rate, logit_decay=rate),
            lambda rate: implicit_surgery(optax.adam(rate), tolerance=rate),
            lambda rate: implicit_surgery(
                optax.chain(optax.scale(rate), optax.trace(0.9)), estimator="next_batch"
            ),
        ):
            for tx in (make(0.1), optax.inject_hyperparams(make)(0.1)):
                state = tx.init(params)
                _, new = tx.update(
                    params,
                    state,
                    params,
                    retain_grads=params,
                    forget_value=jnp.float64(2.0),
                    retain_value=jnp.float64(1.0),
                    retain_value_fn=lambda p: jnp.sum(p["w"] ** 2),
                )
                assert types(new) == types(state)
