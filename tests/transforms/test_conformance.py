"""Every transformation by every property optax users rely on. One table, one test a property."""

import pathlib
from collections.abc import Callable
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxunlearn import (
    cagrad,
    famo,
    fast_slow,
    gdr_gma,
    implicit_surgery,
    mgda,
    multiplier,
    nash,
    pcgrad,
    saliency_mask,
    shared_fast_slow,
    unilateral_surgery,
)
from tests.helpers import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.long

MASK = {
    "w": np.array([[True, False, True], [False, True, True]]),
    "b": np.array([False, True, True]),
}


# From a hyperparameter (a number or a traced scalar) to the transformation.
Case = Callable[[Any], optax.GradientTransformationExtraArgs]


def surgery(**settings: Any) -> Callable[[Any], optax.GradientTransformationExtraArgs]:
    optimizer = optax.chain(optax.add_decayed_weights(0.01), optax.adam(0.5))
    return lambda value: implicit_surgery(optimizer, tolerance=-value, step_size=0.1, **settings)


def shared(value: Any) -> optax.GradientTransformationExtraArgs:
    return shared_fast_slow(optax.adamw(1e-2), num_fast_steps=2, slow_step_size=value)


CASES: dict[str, Case] = {
    "implicit_surgery same_batch": surgery(),
    "implicit_surgery next_batch": surgery(estimator="next_batch", log_loss=True),
    "implicit_surgery convex": surgery(convex=True, project=False),
    "fast_slow": lambda value: fast_slow(
        optax.sgd(0.1, momentum=0.9), num_fast_steps=2, slow_step_size=value
    ),
    "shared_fast_slow": shared,
    "saliency_mask": lambda value: saliency_mask(MASK),
    "unilateral_surgery": lambda value: unilateral_surgery(tolerance=value),
    "pcgrad": lambda value: pcgrad(),
    "mgda": lambda value: mgda(),
    "cagrad": lambda value: cagrad(c=value),
    "nash": lambda value: nash(),
    "gdr_gma": lambda value: gdr_gma(bank_size=2, threshold=value),
    "famo": lambda value: famo(logit_learning_rate=value),
}
VALUE = 0.3


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def tree(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=3), jnp.float32),
    }


PARAMS = tree(0)


def retain_loss(params: Any) -> jax.Array:
    return sum(jnp.mean(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(params))


def apply(tx: Any, updates: Any, state: Any, params: Any, **more: Any) -> tuple[Any, Any]:
    """One update with every keyword that any transformation of a chain might want."""

    def grad_fn(p: Any, i: jax.Array) -> Any:
        return jax.tree.map(lambda g: g * (1 + i).astype(g.dtype), jax.grad(retain_loss)(p))

    return tx.update(
        updates,
        state,
        params,
        forget_value=jnp.float32(2.0),
        retain_value=retain_loss(params),
        retain_value_fn=retain_loss,
        grad_fn=grad_fn,
        **{"retain_grads": jax.tree.map(lambda u: u[::-1] - 0.5 * u, updates)} | more,
    )


def three_updates(tx: Any, state: Any, update: Any = apply) -> tuple[list[Any], Any]:
    outputs = []
    for seed in (1, 2, 3):
        output, state = update(tx, tree(seed), state, PARAMS)
        outputs.append(output)
    return outputs, state


def types(tree: Any) -> Any:
    """Structure, shapes, dtypes, and whether they are weak."""
    described = [(x.shape, x.dtype, x.weak_type) for x in map(jax.typeof, jax.tree.leaves(tree))]
    return jax.tree.structure(tree), described


jitted = jax.jit(apply, static_argnums=0)


def test_foreign_keywords_are_accepted_and_forwarded(case: Case) -> None:
    """Beside others in a chain, each takes what it knows and ignores what it does not."""
    seen: dict[str, Any] = {}

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        seen.update(extra)
        return updates, state

    probe = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = optax.chain(case(VALUE), probe, optax.sgd(0.1))
    state = jax.eval_shape(tx.init, PARAMS)
    run = lambda u, s, p: apply(tx, u, s, p, foreign=jnp.zeros(2))  # noqa: E731
    result, _ = jax.eval_shape(run, tree(1), state, PARAMS)
    assert {"foreign", "retain_value", "retain_value_fn", "grad_fn", "forget_value"} <= set(seen)
    assert jax.tree.structure(result) == jax.tree.structure(PARAMS)


def test_jit_equals_eager_without_recompilation(case: Case) -> None:
    """Three steps of each; the compiled step is traced once, and the state's types never change."""
    tx = case(VALUE)
    traces = []

    def counted(tx: Any, *args: Any) -> Any:
        traces.append(1)
        return apply(tx, *args)

    state = tx.init(PARAMS)
    eager, eager_state = three_updates(tx, state)
    compiled, compiled_state = three_updates(tx, state, jax.jit(counted, static_argnums=0))
    assert len(traces) == 1
    assert types(state) == types(eager_state) == types(compiled_state)
    assert_trees_close(compiled, eager)
    assert_trees_close(compiled_state, eager_state)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(eager))


def test_scan_equals_a_loop(case: Case) -> None:
    tx = case(VALUE)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(tree(s) for s in (1, 2, 3)))

    def run() -> Any:
        return jax.lax.scan(
            lambda state, u: apply(tx, u, state, PARAMS)[::-1], tx.init(PARAMS), stacked
        )

    state, outputs = jax.jit(run)()
    expected, expected_state = three_updates(tx, tx.init(PARAMS), jitted)
    assert_trees_close(state, expected_state)
    for i, output in enumerate(expected):
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], outputs), output)


def test_vmap_over_hyperparameters_and_seeds(case: Case) -> None:
    """Made inside the mapped function, from a traced hyperparameter, as a sweep does."""

    def run(value: jax.Array, updates: Any) -> Any:
        tx = case(value)
        _, state = apply(tx, updates, tx.init(PARAMS), PARAMS)
        updates, state = apply(tx, updates, state, PARAMS)
        return updates, jax.tree.leaves(state)

    values = jnp.array([0.2, 0.5])
    both = [tree(seed) for seed in (1, 2)]
    mapped = jax.jit(jax.vmap(run))(values, jax.tree.map(lambda *x: jnp.stack(x), *both))
    single = jax.jit(run)
    for i in range(2):
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], mapped), single(values[i], both[i]))


def test_inject_hyperparams(case: Case) -> None:
    """A hyperparameter that lives in the state gives what the plain number gives."""
    injected = optax.inject_hyperparams(case)(VALUE)
    plain = case(VALUE)
    state = injected.init(PARAMS)
    ours, ours_state = three_updates(injected, state, jitted)
    assert types(state) == types(ours_state)
    # Every call makes a new transformation, but all of their states have one type.
    assert types(jax.eval_shape(injected.init, PARAMS)) == types(state)
    expected, _ = three_updates(plain, plain.init(PARAMS), jitted)
    assert_trees_close(ours, expected)


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        (
            implicit_surgery,
            {
                "multiplier_optimizer": optax.sgd(1.0),
                "tolerance": lambda count: 0.1 * count,
                "step_size": 0.1,
                "estimator": "next_batch",
                "initial_multiplier": 0.4,
            },
        ),
        (
            fast_slow,
            {"fast_optimizer": optax.sgd(0.1), "num_fast_steps": 2, "slow_step_size": 0.5},
        ),
        (unilateral_surgery, {"tolerance": lambda count: 0.1 * count}),
        (cagrad, {"c": 0.3}),
        (famo, {"logit_learning_rate": 0.1, "logit_decay": lambda count: 1e-2 * count}),
    ],
)
def test_inject_hyperparams_takes_the_constructors_themselves(
    factory: Any, arguments: dict[str, Any]
) -> None:
    """Numbers become part of the state, schedules are followed, the rest stays as it is."""
    injected, plain = optax.inject_hyperparams(factory)(**arguments), factory(**arguments)
    ours, state = three_updates(injected, injected.init(PARAMS), jitted)
    expected, _ = three_updates(plain, plain.init(PARAMS), jitted)
    assert_trees_close(ours, expected)
    numbers = {k for k, v in arguments.items() if isinstance(v, int | float) or callable(v)}
    assert numbers <= set(state.hyperparams)


def test_bfloat16_in_is_bfloat16_out(case: Case) -> None:
    """Even if the hyperparameter is a float32 array, as in a sweep."""
    tx = case(jnp.float32(VALUE))
    params = optax.tree.cast(PARAMS, jnp.bfloat16)
    updates = optax.tree.cast(tree(1), jnp.bfloat16)
    state = tx.init(params)
    run = lambda u, s, p: apply(tx, u, s, p)  # noqa: E731
    result, new_state = jax.eval_shape(run, updates, state, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(jnp.bfloat16)}
    assert types(new_state) == types(state)


def test_cond_between_updating_and_not(case: Case) -> None:
    tx = case(VALUE)
    state = tx.init(PARAMS)

    def run(flag: Any, updates: Any, state: Any) -> Any:
        skip = lambda u, s: (optax.tree.zeros_like(PARAMS), s)  # noqa: E731
        return jax.lax.cond(flag, lambda u, s: apply(tx, u, s, PARAMS), skip, updates, state)

    _, new_state = jax.eval_shape(run, True, tree(1), state)
    assert types(new_state) == types(state)


def test_donating_the_state_spares_the_callers_arrays(case: Case) -> None:
    """Hyperparameters, masks, losses and parameters given as arrays outlive the donated state."""
    value, mask = jnp.float32(VALUE), jax.tree.map(jnp.asarray, MASK)
    tx = saliency_mask(mask) if case is CASES["saliency_mask"] else case(value)
    params, retain_value = tree(0), retain_loss(PARAMS)
    state = tx.init(params)
    kept = (value, mask, params, retain_value)

    def more(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return apply(tx, updates, state, params)

    _, state = tx.update(  # eagerly: this state may hold what the caller holds
        tree(1),
        state,
        params,
        retain_grads=tree(2),
        forget_value=retain_value,
        retain_value=retain_value,
        retain_value_fn=lambda p: retain_value,
        grad_fn=lambda p, i: p,
    )
    for start in (state, tx.init(params)):
        _, new_state = jax.jit(more, donate_argnums=1)(tree(1), start, params)
        leaves = jax.tree.leaves(start)  # those that the update does not read are not donated
        assert not leaves or any(leaf.is_deleted() for leaf in leaves)
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((kept, new_state)))


def test_init_under_eval_shape_and_jit(case: Case) -> None:
    """The abstract state has the real one's types, and the real one holds arrays only."""
    tx = case(VALUE)
    state = tx.init(PARAMS)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert hasattr(state, "_fields")
    assert types(jax.eval_shape(tx.init, PARAMS)) == types(state)
    assert_trees_equal(jax.jit(tx.init)(PARAMS), state)


def test_checkpoint_round_trips(case: Case, tmp_path: pathlib.Path) -> None:
    """Orbax into the abstract state of a newly made transformation, and flax's bytes."""
    tx = optax.chain(case(VALUE), optax.adam(1e-2))
    _, state = jitted(tx, tree(1), tx.init(PARAMS), PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(tx.init, PARAMS))
    assert_trees_equal(restored, state)
    copied = flax.serialization.from_bytes(tx.init(PARAMS), flax.serialization.to_bytes(state))
    assert_trees_equal(copied, state)
    expected = jitted(tx, tree(2), state, PARAMS)
    assert_trees_equal(jitted(tx, tree(2), restored, PARAMS), expected)


def test_a_sweep_over_the_rate_of_the_multiplier() -> None:
    """The multiplier's optimizer may be made from a traced rate; each run is the single run."""

    def run(rate: jax.Array) -> jax.Array:
        tx = implicit_surgery(optax.adam(rate), tolerance=-0.1)

        def step(state: Any, _: Any) -> tuple[Any, jax.Array]:
            _, state = apply(tx, PARAMS, state, PARAMS)
            return state, multiplier(state)

        return jax.lax.scan(step, tx.init(PARAMS), length=3)[1]

    rates = jnp.array([0.1, 0.5])
    mapped = jax.jit(jax.vmap(run))(rates)
    assert_trees_close(mapped, jnp.stack([jax.jit(run)(rate) for rate in rates]))
    assert np.all(mapped[1] > mapped[0])
