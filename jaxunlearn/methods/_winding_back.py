"""Regular audits inside the compiled program, which wind a run back when it exceeds its limit.

Time is not wound back: schedules continue, or a decay would never end.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.types import Arrays, Metrics, ModelState, Params, TrainState

# Fields of optimizer states whose sibling count is wound back with them.
_MEMORIES = {"mu", "ema", "acc_grads", "bank", "log_losses", "last_step"}

_LARGEST = float(jnp.finfo(jnp.float32).max)


class Kept(NamedTuple):
    """The moving parts of a state, which a failed audit restores."""

    params: Params
    model_state: ModelState
    opt_state: Any


class Watched(NamedTuple):
    """The optimizer state of a method that is audited.

    Attributes:
        opt_state: optimizer state of the method itself.
        safe: state after the last passed audit, initially the original weights.
        scale: factor for the method, which every failed audit halves.
        start: measurement of the original weights.
        limit: largest measurement that passes: the start, plus the budget.
        safe_value: measurement of `safe`.
        last_value: measurement of the latest audit, passed or not.
        rollbacks: number of failed audits.
        audited: examples of the audits, if they come from the method's data.
    """

    opt_state: Any
    safe: Kept
    scale: jax.Array  # shape=(), dtype=jnp.float32
    start: jax.Array  # shape=(), dtype=jnp.float32
    limit: jax.Array  # shape=(), dtype=jnp.float32
    safe_value: jax.Array  # shape=(), dtype=jnp.float32
    last_value: jax.Array  # shape=(), dtype=jnp.float32
    rollbacks: jax.Array  # shape=(), dtype=jnp.int32
    audited: Arrays


# measure(params, model_state, audited, key) -> the value that may rise by the budget at most
Measure = Callable[[Params, ModelState, Arrays, jax.Array], jax.Array]


def watch(
    state: TrainState,
    original: tuple[Params, ModelState],
    measure: Measure,
    budget: float | jax.Array,
    audited: Arrays,
) -> TrainState:
    """The first state of an audited method: `state`, with `Watched` as its optimizer state.

    The weights of `state` may already differ from the original ones. `audited` is the third
    argument of `measure`, whose value may rise by `budget`.
    """
    start = measure(*original, audited, jax.random.wrap_key_data(state.key))
    safe = jax.tree.map(jnp.copy, Kept(*original, state.opt_state))
    zero = jnp.zeros([], jnp.int32)
    watched = Watched(
        state.opt_state, safe, jnp.ones([]), start, start + budget, start, start, zero, audited
    )
    return state._replace(opt_state=watched)


def audit(
    before: TrainState,
    after: TrainState,
    metrics: Metrics,
    measure: Measure,
    *,
    every: int,
    num_steps: int,
) -> tuple[TrainState, Metrics]:
    """The state after one step, wound back if an audit was due and failed, and the metrics.

    An audit is due after every `every` steps and after the last one. A metric that is not finite
    fails at once, and is replaced by the largest float32. `before` has the state of the audits,
    `after` is the state of the method itself.
    """
    watched, trial = before.opt_state, Kept(after.params, after.model_state, after.opt_state)
    finite = jnp.all(jnp.stack([jnp.isfinite(value) for value in metrics.values()]))
    due = (after.step % every == 0) | (after.step == num_steps) | ~finite

    def judge() -> tuple[Kept, Watched]:
        key = jax.random.wrap_key_data(before.key)
        value = measure(trial.params, trial.model_state, watched.audited, key)
        passed = finite & (value <= watched.limit)
        back = watched.safe._replace(opt_state=wound_back(watched.safe.opt_state, trial.opt_state))
        kept = optax.tree.where(passed, trial, back)
        return kept, watched._replace(
            safe=kept,
            scale=jnp.where(passed, watched.scale, 0.5 * watched.scale),
            safe_value=jnp.where(passed, value, watched.safe_value),
            last_value=_finite(value),
            rollbacks=watched.rollbacks + ~passed,
        )

    kept, watched = jax.lax.cond(due, judge, lambda: (trial, watched))
    state = TrainState(
        after.step,
        kept.params,
        kept.model_state,
        watched._replace(opt_state=kept.opt_state),
        before.key,
    )
    return state, {name: _finite(value) for name, value in metrics.items()}


def wound_back(safe: Any, latest: Any) -> Any:
    """The earlier optimizer state `safe`, with the counts of `latest`, so that schedules continue.

    A count next to a memory is wound back, such as the one that corrects the bias of Adam's
    moments.

    Example:
        >>> import optax
        >>> tx = optax.sgd(optax.linear_schedule(1.0, 0.0, 10), momentum=0.9)
        >>> start = tx.init(jnp.ones(1))
        >>> _, later = tx.update(jnp.ones(1), start)
        >>> trace, schedule = wound_back(start, later)
        >>> trace.trace.tolist(), int(schedule.count)
        ([0.0], 1)
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(safe)
    remembering = {
        path[:i]
        for path, _ in leaves
        for i, key in enumerate(path)
        if getattr(key, "name", None) in _MEMORIES
    }

    def continues(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        counts = jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.ndim == 0
        return counts and path[:-1] not in remembering

    chosen = [
        new if continues(path, old) else old
        for (path, old), new in zip(leaves, jax.tree.leaves(latest), strict=True)
    ]
    return jax.tree.unflatten(structure, chosen)


def _finite(value: jax.Array) -> jax.Array:
    return jnp.nan_to_num(value, nan=_LARGEST, posinf=_LARGEST, neginf=-_LARGEST)
