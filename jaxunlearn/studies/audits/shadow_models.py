"""Shadow models: many trainings, each on data of its own, as one vmapped program.

K shadow models come in pairs. Of the examples that models may learn from, some are *targets*: twice
as many as a request forgets. The two models of a pair forget complementary random halves of them:

    trained    on retain + own half,            every other example being the other's half
    unlearned  from there, own half forgotten
    retrained  on retain alone, from new weights

So each target is unlearned by exactly one model of each pair, and never seen by the other, and all
sets have fixed sizes: what differs from model to model is an argument, and one program trains a
whole group of them at once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import methods
from jaxunlearn.data.order import take, visits
from jaxunlearn.methods.objectives import needs_unseen, with_unseen
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.training import programs
from jaxunlearn.types import Arrays, Batch, InputError, Method, ModelState, Params, Task, unvisited

LEAST_SHADOWS = 6
_PREDICTION_BATCH = 250


class Plan(NamedTuple):
    """Which shadow model sees what. All numbers are positions among the P examples to learn from.

    Attributes:
        retain: what all models learn and keep, sorted.             # shape=(R,), dtype=int64
        targets: what is attacked, sorted; R + T = P.               # shape=(T,), dtype=int64
        forgotten: which targets each model learns and unlearns.    # shape=(K, T), dtype=bool
    """

    retain: np.ndarray
    targets: np.ndarray
    forgotten: np.ndarray

    def forget(self, shadows: slice) -> np.ndarray:
        """The forget sets of some models, `[G, T / 2]`."""
        return np.stack([self.targets[mask] for mask in self.forgotten[shadows]])


def plan_shadows(num_examples: int, num_shadows: int, fraction: float, seed: int) -> Plan:
    """Draws targets and forget sets.

    A model forgets `fraction` of what it learned: with P examples in all, F of them forgotten and
    as many unseen, `F = fraction (P - F)`.

    Args:
        num_examples: P.
        num_shadows: K, even.
        fraction: of the examples a model learns.
        seed: decides all of it.

    Returns:
        A `Plan`.

    Raises:
        InputError: an odd number of models or fewer than six, nothing to forget, or nothing left
            to retain.

    Example:
        >>> plan = plan_shadows(110, 6, 0.1, seed=0)
        >>> len(plan.targets), len(plan.retain), plan.forgotten.sum(axis=0).tolist()[:3]
        (20, 90, [3, 3, 3])
    """
    if num_shadows < LEAST_SHADOWS or num_shadows % 2:
        raise InputError(
            f"shadows is {num_shadows}, but must be an even number of at least {LEAST_SHADOWS}: "
            "they come in pairs, and Gaussians are fitted to all pairs but one; 16, 64 and 256 are "
            "usual."
        )
    count = round(num_examples * fraction / (1 + fraction))
    if count < 1 or 2 * count >= num_examples:
        raise InputError(
            f"forgetting {fraction:g} of what {num_examples} examples let a shadow model learn "
            f"makes {2 * count} targets, but there must be at least 2, and examples beside them; "
            "choose another fraction or more data."
        )
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(2,))))
    order = rng.permutation(num_examples)
    halves = np.zeros((num_shadows, 2 * count), bool)
    for pair in range(0, num_shadows, 2):
        halves[pair, rng.permutation(2 * count)[:count]] = True
        halves[pair + 1] = ~halves[pair]
    return Plan(np.sort(order[2 * count :]), np.sort(order[: 2 * count]), halves)


def sides(plan: Plan, values: np.ndarray, forgotten: bool) -> np.ndarray:
    """One value a pair and target: that of the model which forgot the target, or of the other.

    Args:
        plan: from `plan_shadows`.
        values: `[K, T]`.
        forgotten: take the model that forgot the target.

    Returns:
        `[K / 2, T]`.

    Example:
        >>> plan = Plan(np.arange(0), np.arange(2), np.array([[True, False], [False, True]]))
        >>> sides(plan, np.array([[1, 2], [3, 4]]), forgotten=True).tolist()
        [[1, 4]]
    """
    first = plan.forgotten[0::2] == forgotten
    return np.where(first, values[0::2], values[1::2])


# (numbers, keys, params, model_state, pool, unseen, forget, retain) -> weights, as in `train`
Train = Callable[..., tuple[Params, ModelState]]


def train(task: Task, method: str, settings: dict[str, Any]) -> Train:
    """The program that trains a group of G shadow models by a method, whole runs at once.

    Each model runs as `training.run` would with its key: the same batches, the same steps. A group
    of one is not vmapped, which keeps convolutions fast on CPUs.

    Args:
        task: what is learned.
        method: the name of the method.
        settings: all its settings; floating-point ones are replaced by the program's arguments.

    Returns:
        `run(numbers, keys, params, model_state, pool, unseen, forget, retain) -> (params,
        model_state)`, with keys `[G]` and weights `[G, ...]`: `pool` are all examples to learn
        from, `unseen` some that no model learns; `forget [G, F]` and `retain` (`[R]` for all
        models, or `[G, R]`) are positions in the pool. One and the same for settings that differ in
        numbers only.

    Raises:
        InputError: an unknown method, or an unknown choice of a setting.
    """
    fixed = tuple((key, value) for key, value in settings.items() if type(value) is not float)
    _build(task, method, dict(fixed))(settings)
    return _train(task, method, fixed)


def _build(task: Task, method: str, fixed: dict[str, Any]) -> Callable[[dict[str, Any]], Method]:
    return lambda numbers: methods.build(task, method, fixed | numbers)


@functools.lru_cache
def _train(task: Task, method: str, fixed_settings: tuple[tuple[str, Any], ...]) -> Train:
    fixed = dict(fixed_settings)
    build = _build(task, method, fixed)
    num_steps = fixed["num_steps"]

    def one(
        numbers: dict[str, jax.Array],
        key: jax.Array,
        params: Params,
        model_state: ModelState,
        pool: Arrays,
        unseen: Arrays,
        forget: jax.Array,
        retain: jax.Array,
    ) -> tuple[Params, ModelState]:
        watched = {k: values[programs.audited(values.shape[0])] for k, values in unseen.items()}
        made = build(numbers | {"held_out": watched})
        forget_arrays, retain_arrays = (_chosen(pool, chosen) for chosen in (forget, retain))
        if needs_unseen(fixed):
            losses, unseen_losses = (
                _losses(task, params, model_state, part) for part in (forget_arrays, unseen)
            )
            forget_arrays = with_unseen(forget_arrays, losses, unseen, unseen_losses)
        per_step = made.retain_batches * fixed["retain_batch_size"]

        def order(child: int, arrays: Arrays, size: int) -> dict[str, jax.Array]:
            return visits(jax.random.fold_in(key, child), arrays, jnp.int32(0), size, num_steps)

        forget_order = order(2, forget_arrays, fixed["forget_batch_size"])
        retain_order = order(3, retain_arrays, per_step)
        retain_order |= {"position": retain[retain_order["position"]]}

        def step(i: jax.Array, state: Any) -> Any:
            stacked = jax.tree.map(
                lambda x: x.reshape(made.retain_batches, -1, *x.shape[1:]),
                take(pool, retain_order, i),
            )
            return made.step(state, take(forget_arrays, forget_order, i), stacked)[0]

        start = made.init(key, params, model_state, forget_arrays, retain_arrays)
        end = jax.lax.fori_loop(0, num_steps, step, start)
        return end.params, end.model_state

    @jax.jit
    @fast_in_loops
    def run(
        numbers: dict[str, jax.Array],
        keys: jax.Array,
        params: Params,
        model_state: ModelState,
        pool: Arrays,
        unseen: Arrays,
        forget: jax.Array,
        retain: jax.Array,
    ) -> tuple[Params, ModelState]:
        own = None if retain.ndim == 1 else 0
        axes = (None, 0, 0, 0, None, None, 0, own)
        everything = (numbers, keys, params, model_state, pool, unseen, forget, retain)
        return over_group(one, axes, *everything)

    return run


def _chosen(pool: Arrays, positions: jax.Array) -> Arrays:
    return {name: values[positions] for name, values in pool.items()}


def over_group(function: Callable[..., Any], axes: tuple[int | None, ...], *args: Any) -> Any:
    """`vmap` over the leading axis of those arguments whose entry in `axes` is 0; not for one."""
    group = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0]
    if jax.tree.leaves(group)[0].shape[0] > 1:
        return jax.vmap(function, in_axes=axes)(*args)
    single = [
        jax.tree.map(lambda x: x[0], arg) if axis == 0 else arg
        for arg, axis in zip(args, axes, strict=True)
    ]
    return jax.tree.map(lambda x: x[None], function(*single))


@functools.partial(jax.jit, static_argnums=0)
def new_weights(task: Task, keys: jax.Array) -> tuple[Params, ModelState]:
    """Fresh weights of a group of models, leaves `[G, ...]`, from keys `[G]`."""
    return over_group(task.init, (0,), keys)


@functools.partial(jax.jit, static_argnums=0)
def predict_group(
    task: Task, params: Params, model_state: ModelState, arrays: Arrays
) -> tuple[jax.Array, jax.Array]:
    """What a group of models says of the same examples.

    Args:
        task: what was learned.
        params: leaves `[G, ...]`.
        model_state: leaves `[G, ...]`.
        arrays: N examples.

    Returns:
        Class probabilities `[G, N, C]`, and whether the weights of each model are finite, `[G]`.
    """

    @fast_in_loops
    def one(params: Params, model_state: ModelState) -> tuple[jax.Array, jax.Array]:
        finite = [jnp.isfinite(x).all() for x in jax.tree.leaves((params, model_state))]
        return _probabilities(task, params, model_state, arrays), jnp.stack(finite).all()

    return over_group(one, (0, 0), params, model_state)


def _probabilities(
    task: Task, params: Params, model_state: ModelState, arrays: Arrays
) -> jax.Array:
    """What one model says, `[N, C]`."""
    predict = task.predict
    assert predict is not None
    return _of_examples(lambda batch: predict(params, model_state, batch), arrays)


def _losses(task: Task, params: Params, model_state: ModelState, arrays: Arrays) -> jax.Array:
    """Cross-entropies of one model, `[N]`."""
    return _of_examples(
        lambda batch: task.losses(params, model_state, batch, jax.random.key(0), False)[0], arrays
    )


def _of_examples(function: Callable[[Batch], jax.Array], arrays: Arrays) -> jax.Array:
    """What a function returns for each example, `[N, ...]`, batch by batch."""
    size = arrays["label"].shape[0]
    batch = min(_PREDICTION_BATCH, size)
    places = jnp.minimum(jnp.arange(-(-size // batch) * batch).reshape(-1, batch), size - 1)
    rows = jax.lax.map(lambda some: function(unvisited(arrays, some)), places)
    return rows.reshape(-1, *rows.shape[2:])[:size]
