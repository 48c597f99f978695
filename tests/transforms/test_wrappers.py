"""Every transformation inside every wrapper of optax: right, or one sentence on where to stand.

What a wrapper should give is computed from the transformation alone, on what the wrapper hands it.
`docs/sharp-edges.md` says it in words.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import InputError, LossPair, surgery_value_and_grad
from tests.helpers import assert_trees_close, assert_trees_equal
from tests.transforms.test_conformance import (
    CASES,
    MASK,
    PARAMS,
    VALUE,
    Case,
    apply,
    jitted,
    retain_loss,
    tree,
)

pytestmark = pytest.mark.long

SAME_BATCH = ("implicit_surgery same_batch", "implicit_surgery convex")
ALL_PARAMETERS = (*SAME_BATCH, "fast_slow", "shared_fast_slow")
STEP = optax.sgd(0.1, momentum=0.9)
Wrap = Callable[[Any], Any]


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def chained(name: str, make: Case | None = None, value: Any = VALUE) -> Any:
    """The transformation in the place of a chain where it belongs."""
    tx = (make or CASES[name])(value)
    return (
        optax.chain(STEP, tx)
        if name.startswith(("implicit", "fast", "sal"))
        else optax.chain(tx, STEP)
    )


def run(tx: Any, params: Any, seeds: Any = (1, 2, 3), update: Any = apply) -> tuple[list[Any], Any]:
    state, outputs = tx.init(params), []
    for seed in seeds:
        updates = {key: tree(seed)[key] for key in params}
        retain = {key: tree(seed + 10)[key] for key in params}
        output, state = update(tx, updates, state, params, retain_grads=retain)
        outputs.append(output)
    return outputs, state


def test_multi_steps(name: str) -> None:
    """Two micro-batches are one update of their mean, with the keywords of the LAST one."""
    inner = chained(name)
    wrapped = optax.MultiSteps(inner, 2).gradient_transformation()
    mean = jax.tree.map(lambda *x: sum(x) / 2, tree(1), tree(2))
    held, state = jitted(wrapped, tree(1), wrapped.init(PARAMS), PARAMS, retain_grads=tree(3))
    emitted, state = jitted(wrapped, tree(2), state, PARAMS, retain_grads=tree(4))
    expected, inner_state = apply(inner, mean, inner.init(PARAMS), PARAMS, retain_grads=tree(4))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(held))
    assert_trees_close(emitted, expected, rtol=1e-5)
    assert_trees_close(state.inner_opt_state, inner_state, rtol=1e-5)


def test_apply_if_finite(name: str) -> None:
    """Finite gradients go through, and others leave the state of the transformation alone."""
    inner = chained(name)
    wrapped = optax.apply_if_finite(inner, 3)
    (outputs, state), (expected, inner_state) = (
        run(wrapped, PARAMS, update=jitted),
        run(inner, PARAMS),
    )
    assert_trees_close(outputs, expected)
    assert_trees_close(state.inner_state, inner_state)
    broken = jax.tree.map(lambda u: u * jnp.nan, tree(1))
    output, after = jitted(wrapped, broken, state, PARAMS, retain_grads=tree(2))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(output))
    assert_trees_equal(after.inner_state, state.inner_state)


def split(kind: str, inner: Any) -> Any:
    """`inner` for "w" alone; "b" passes through `masked`, and takes a step in `partition`."""
    if kind == "masked":
        return optax.masked(inner, {"w": True, "b": False})
    labels = {"w": "ours", "b": "other"}
    partition = optax.partition if kind == "partition" else optax.multi_transform
    return partition({"ours": inner, "other": optax.scale(-1.0)}, labels)


@pytest.mark.parametrize("kind", ["masked", "partition", "multi_transform"])
def test_a_part_of_the_parameters(name: str, kind: str) -> None:
    """As if that part were all there is; what evaluates losses at all parameters says so."""
    if name in ALL_PARAMETERS:
        with pytest.raises(
            InputError, match=r"masked.*multi_transform.*(chain it after|put it after|outside)"
        ):
            run(split(kind, chained(name)), PARAMS)
        return
    whole, part = CASES[name], {"w": PARAMS["w"]}
    own = (lambda value: whole(value)) if name != "saliency_mask" else _mask_of_w
    outputs, _ = run(split(kind, chained(name)), PARAMS)

    def on_part(tx: Any) -> list[Any]:
        state, found = tx.init(part), []
        for seed in (1, 2, 3):
            updates, retain = {"w": tree(seed)["w"]}, {"w": tree(seed + 10)["w"]}
            output, state = tx.update(
                updates,
                state,
                part,
                retain_grads=retain,
                forget_value=jnp.float32(2.0),
                retain_value=retain_loss(PARAMS),
            )
            found.append(output["w"])
        return found

    assert_trees_close([output["w"] for output in outputs], on_part(chained(name, own)))
    sign = 1.0 if kind == "masked" else -1.0
    assert_trees_close(
        [output["b"] for output in outputs], [sign * tree(s)["b"] for s in (1, 2, 3)]
    )


def _mask_of_w(value: Any) -> Any:
    from jaxunlearn import saliency_mask

    del value
    return saliency_mask({"w": MASK["w"]})


def test_conditionally_transform(name: str) -> None:
    """Where the condition holds, the update of the transformation; elsewhere its input."""
    inner = chained(name)
    wrapped = optax.conditionally_transform(inner, lambda step: step != 1)
    outputs, state = run(wrapped, PARAMS, (1, 2, 3), jitted)
    expected, inner_state = run(inner, PARAMS, (1, 3))
    assert_trees_close(outputs, [expected[0], tree(2), expected[1]])
    assert_trees_close(state.inner_state, inner_state)


def test_inject_hyperparams(name: str) -> None:
    """Numbers in the state, here set between two steps, are those in force."""
    wrapped = optax.inject_hyperparams(lambda value: chained(name, value=value))(value=0.1)
    state = wrapped.init(PARAMS)
    state.hyperparams["value"] = jnp.float32(VALUE)
    first, _ = apply(wrapped, tree(1), state, PARAMS, retain_grads=tree(11))
    assert_trees_close(first, run(chained(name), PARAMS, (1,))[0][0])


def test_lookahead_around(name: str) -> None:
    """It hands no keyword on, so what needs one says so; a mask needs none."""
    wrapped = optax.chain(optax.lookahead(chained(name), 5, 0.5))
    params = optax.LookaheadParams.init_synced(PARAMS)
    state = wrapped.init(params)
    if name == "saliency_mask":
        updates, _ = apply(wrapped, tree(1), state, params)
        inner = chained(name)
        assert_trees_equal(updates.fast, inner.update(tree(1), inner.init(PARAMS))[0])
        return
    with pytest.raises(InputError, match="got no .*optax.lookahead, inside the chain"):
        wrapped.update(tree(1), state, params, retain_value=jnp.float32(1.0))


def test_lookahead_inside() -> None:
    """The place for it: the surgery sees the final step of the fast and the slow weights."""
    surgery = CASES["implicit_surgery same_batch"](VALUE)
    tx = optax.chain(optax.lookahead(STEP, 1, 0.5), surgery)
    params = optax.LookaheadParams.init_synced(PARAMS)
    updates, state = tx.update(
        tree(1),
        tx.init(params),
        params,
        retain_value=retain_loss(PARAMS),
        retain_value_fn=lambda p: retain_loss(p.fast),
    )
    after = optax.apply_updates(params, updates).fast
    _, expected = surgery.update(
        jax.tree.map(jnp.subtract, after, PARAMS),
        surgery.init(PARAMS),
        PARAMS,
        retain_value=retain_loss(PARAMS),
        retain_value_fn=retain_loss,
    )
    assert_trees_close(state[-1], expected, rtol=1e-4)


def replayed(outputs: list[Any]) -> optax.GradientTransformation:
    """A transformation that gives these updates, whatever it is given."""
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *outputs)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del updates, params
        return jax.tree.map(lambda x: x[state], stacked), state + 1

    return optax.GradientTransformation(lambda _: jnp.zeros([], jnp.int32), update)


AFTER: dict[str, Wrap] = {
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, 0.1),
    "ema": lambda tx: optax.chain(tx, optax.ema(0.5)),
}


@pytest.mark.parametrize("kind", AFTER)
def test_what_changes_the_step_afterwards(name: str, kind: str) -> None:
    """It takes the updates of the transformation. "same_batch" must come after it, and says so."""
    wrapped = AFTER[kind](chained(name))
    outputs, _ = run(wrapped, PARAMS)
    expected, _ = run(AFTER[kind](replayed(run(chained(name), PARAMS)[0])), PARAMS)
    assert_trees_close(outputs, expected, rtol=1e-4)
    if name not in SAME_BATCH:
        return
    surgery = CASES[name](VALUE)
    vg = surgery_value_and_grad(lambda p: LossPair(-retain_loss(p), retain_loss(p)), surgery)
    with pytest.raises(InputError, match=r"make it the last in optax.chain\(...\), after such"):
        vg(PARAMS, state=wrapped.init(PARAMS))
    tx = optax.chain(AFTER[kind](STEP), surgery)
    losses, grads = vg(PARAMS, state=tx.init(PARAMS))
    seen: list[Any] = []
    updates, _ = tx.update(
        grads,
        tx.init(PARAMS),
        PARAMS,
        retain_value=losses.retain,
        retain_value_fn=lambda p: seen.append(p) or retain_loss(p),
    )
    assert_trees_equal(seen[-1], optax.apply_updates(PARAMS, updates))
