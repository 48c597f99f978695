"""One device, sharded jit, pmap and shard_map: the same parameters and the same multiplier.

The transformations reduce nothing across devices. Gradients, losses and what `grad_fn` returns are
global means before they get there: by the partitioner in sharded jit, by `axis_name` elsewhere,
where they are reduced twice, as `pmean(grad(pmean(loss)))`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxunlearn import (
    LossPair,
    adaptive_weights,
    fast_slow,
    implicit_surgery,
    multiplier,
    surgery_value_and_grad,
    unilateral_surgery,
)
from tests.helpers import assert_trees_close, example_losses, examples, network

pytestmark = pytest.mark.long

DEVICES, STEPS, FAST_STEPS = 8, 3, 2
PARAMS = network()
FORGET = examples(1, STEPS, 16)  # the examples of the forget batches differ between the devices
RETAIN = examples(2, STEPS, 32)
Step = Callable[..., tuple[Any, Any]]  # (params, state, forget, retain, axis_name=) -> the next two

SGD = optax.sgd(0.1, momentum=0.9)
MULTIPLIER = optax.sgd(0.5)
SURGERIES = {
    "same_batch": implicit_surgery(MULTIPLIER, log_loss=True),
    "next_batch": implicit_surgery(MULTIPLIER, estimator="next_batch", initial_multiplier=0.5),
}
TRANSFORMS = {
    **{name: optax.chain(SGD, surgery) for name, surgery in SURGERIES.items()},
    "unilateral": optax.chain(unilateral_surgery(tolerance=-0.05), SGD),
    "fast_slow": optax.chain(optax.sgd(0.1), fast_slow(SGD, num_fast_steps=FAST_STEPS)),
}


def averaged(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def losses_fn(params: Any, forget: Any, retain: Any, axis_name: str | None) -> LossPair:
    """Adaptively weighted ascent, and cross-entropy: means over what this device has."""
    losses = example_losses(params, forget)
    weights = adaptive_weights(losses, 0.5, axis_name)
    return LossPair(-jnp.mean(weights * losses), jnp.mean(example_losses(params, retain)))


def unlearn(
    name: str, params: Any, state: Any, forget: Any, retain: Any, *, axis_name: str | None = None
) -> tuple[Any, Any]:
    """One step of any of the four, written once for all regimes."""
    pair_fn = functools.partial(losses_fn, axis_name=axis_name)

    def global_losses(p: Any) -> LossPair:
        return averaged(pair_fn(p, forget, retain), axis_name)

    def grad_fn(p: Any, i: jax.Array) -> Any:
        part = jax.tree.map(lambda x: x.reshape(-1, FAST_STEPS, *x.shape[1:])[:, i], retain)
        loss = lambda q: averaged(jnp.mean(example_losses(q, part)), axis_name)  # noqa: E731
        return averaged(jax.grad(loss)(p), axis_name)

    retain_grads = None
    if name == "unilateral":
        losses = global_losses(params)
        grads, retain_grads = averaged(jax.jacrev(global_losses)(params), axis_name)
    elif name == "fast_slow":
        losses = global_losses(params)
        grads = averaged(jax.grad(lambda p: global_losses(p).forget)(params), axis_name)
    else:
        losses, grads = surgery_value_and_grad(pair_fn, SURGERIES[name], axis_name=axis_name)(
            params, forget, retain, state=state
        )
    updates, state = TRANSFORMS[name].update(
        grads,
        state,
        params,
        retain_grads=retain_grads,
        retain_value=losses.retain,
        retain_value_fn=lambda p: global_losses(p).retain,
        grad_fn=grad_fn,
    )
    return optax.apply_updates(params, updates), state


# ---- the regimes: each makes of a step one that takes global batches ----------------------------


def one_device(step: Step) -> Step:
    return jax.jit(step)


def sharded_jit(step: Step) -> Step:
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    compiled = jax.jit(step)

    def run(params: Any, state: Any, forget: Any, retain: Any) -> tuple[Any, Any]:
        params, state = jax.device_put((params, state), whole)
        before = jax.tree.map(jax.typeof, state)
        params, state = compiled(params, state, *jax.device_put((forget, retain), split))
        assert jax.tree.map(jax.typeof, state) == before
        return params, state

    return run


def pmapped(step: Step, out_axes: Any = None) -> Step:
    mapped = jax.pmap(
        functools.partial(step, axis_name="data"),
        axis_name="data",
        in_axes=(None, None, 0, 0),
        out_axes=out_axes,
    )

    def run(params: Any, state: Any, forget: Any, retain: Any) -> tuple[Any, Any]:
        split = lambda x: x.reshape(DEVICES, -1, *x.shape[1:])  # noqa: E731
        return mapped(params, state, *jax.tree.map(split, (forget, retain)))

    return run


def shard_mapped(step: Step, check_vma: bool) -> Step:
    whole, split = PartitionSpec(), PartitionSpec("data")
    return jax.jit(
        jax.shard_map(
            functools.partial(step, axis_name="data"),
            mesh=jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,)),
            in_specs=(whole, whole, split, split),
            out_specs=whole,
            check_vma=check_vma,
        )
    )


REGIMES = {
    "sharded jit": sharded_jit,
    "pmap": pmapped,
    "shard_map checked": functools.partial(shard_mapped, check_vma=True),
    "shard_map unchecked": functools.partial(shard_mapped, check_vma=False),
}


def run(name: str, step: Step) -> tuple[Any, list[float]]:
    """The parameters after three steps, and the multiplier after each (where there is one)."""
    params, state = PARAMS, TRANSFORMS[name].init(PARAMS)
    multipliers = []
    for t in range(STEPS):
        batches = jax.tree.map(lambda x, t=t: x[t], (FORGET, RETAIN))
        params, state = step(params, state, *batches)
        if name != "fast_slow":
            multipliers.append(float(multiplier(state)))
    return jax.tree.map(np.asarray, params), multipliers


@functools.cache
def reference(name: str) -> tuple[Any, list[float]]:
    return run(name, one_device(functools.partial(unlearn, name)))


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_parameters_and_multiplier_are_those_of_one_device(name: str, regime: str) -> None:
    assert len(jax.devices()) == DEVICES
    params, multipliers = run(name, REGIMES[regime](functools.partial(unlearn, name)))
    expected, expected_multipliers = reference(name)
    assert_trees_close(params, expected, rtol=1e-6, atol=1e-6)
    assert multipliers == pytest.approx(expected_multipliers, rel=1e-6, abs=1e-6)
    if name != "fast_slow":
        assert max(multipliers) - min(multipliers) > 0.01
    assert np.max(np.abs(params["fc1_weight"] - PARAMS["fc1_weight"])) > 1e-2


# ---- the trap: gradients averaged, the retain loss not ------------------------------------------


def trapped(
    params: Any, state: Any, forget: Any, retain: Any, *, axis_name: str | None = None
) -> tuple[Any, Any]:
    """As `unlearn`, but `update` receives the retain loss of this device alone."""
    pair_fn = functools.partial(losses_fn, axis_name=axis_name)
    _, grads = surgery_value_and_grad(pair_fn, SURGERIES["same_batch"], axis_name=axis_name)(
        params, forget, retain, state=state
    )
    retain_loss = lambda p: jnp.mean(example_losses(p, retain))  # noqa: E731
    updates, state = TRANSFORMS["same_batch"].update(
        grads, state, params, retain_value=retain_loss(params), retain_value_fn=retain_loss
    )
    return optax.apply_updates(params, updates), state


def replicas(step: Step) -> tuple[float, float]:
    """How far the eight replicas are apart after one step: parameters, and multiplier."""
    batches = jax.tree.map(lambda x: x[0], (FORGET, RETAIN))
    state = TRANSFORMS["same_batch"].init(PARAMS)
    params, state = pmapped(step, out_axes=0)(PARAMS, state, *batches)
    return tuple(
        max(float(np.max(np.ptp(np.asarray(leaf), axis=0))) for leaf in jax.tree.leaves(tree))
        for tree in (params, jax.vmap(multiplier)(state))
    )


def test_a_local_retain_value_gives_every_replica_another_multiplier() -> None:
    """The parameters still agree, so only the multiplier tells; the right step has both agree."""
    assert replicas(functools.partial(unlearn, "same_batch")) == (0.0, 0.0)
    parameters, multipliers = replicas(trapped)
    assert parameters == 0.0
    assert multipliers > 1e-2


def test_the_comparison_above_detects_a_local_retain_value() -> None:
    """`pmap(out_axes=None)` hands on one replica's multiplier, which is not the whole batch's."""
    _, multipliers = run("same_batch", pmapped(trapped))
    assert multipliers != pytest.approx(reference("same_batch")[1], rel=1e-2)


def test_the_replication_check_refuses_a_local_retain_value() -> None:
    """Under `shard_map(check_vma=True)` it does not even compile."""
    with pytest.raises(ValueError, match=r"replicated|varying"):
        run("same_batch", shard_mapped(trapped, check_vma=True))
