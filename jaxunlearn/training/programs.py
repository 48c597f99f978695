"""The compiled program of a method, and its arguments besides the data.

A `Program` compiles a method once: `init`, and a chunk of many steps over the batches that
`batches` draws for it. The settings of a method are split into constants, which are compiled in,
and numbers, which are arguments. A chunk sees only batches, so runs that differ in numbers, seed,
length or size of the data share the compiled chunk.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxunlearn import methods
from jaxunlearn.data.order import Shuffled, gathered, shuffled, stretch, take
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.tasks.microbatched import check_micro_batch, microbatched
from jaxunlearn.tasks.shard_over_axis import check_shares, shard_over_axis
from jaxunlearn.training.devices import (
    Placement,
    check_divides,
    mapped,
    placement_of,
    shardings,
    split_batch,
)
from jaxunlearn.training.streaming import Unread
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    Method,
    ModelState,
    Params,
    Task,
    TrainState,
)

Numbers = dict[str, Any]
_MOST_AUDITED = 1024


class Program(NamedTuple):
    """A method, compiled.

    Attributes:
        init: `init(numbers, key, params, model_state, forget, retain) -> TrainState`.
        chunk: `chunk(numbers, state, forget, retain, stop) -> (state, history, finite)`: steps
            until `stop`, or until a loss is not finite; `finite` tells whether all losses and
            weights are. A data set is either all examples or the batches of the next steps, with
            "epoch" and leaves `[chunk_steps, ...]`, which compile once for data of any size.
            `state` is donated. `history` has one array `[chunk_steps]` per metric.
        shuffles: for forget and for retain data, `shuffle(numbers, key, step, arrays) -> Shuffled`,
            the permutations from a step on; no other part takes longer with more data.
        batches: `batches(numbers, step, shuffled, forget, retain) -> (forget, retain)`: the batches
            of the next `chunk_steps` steps, `[chunk_steps, B, ...]` and
            `[chunk_steps, retain batches, B, ...]`; for data with "index" alone, the "position" and
            "epoch" of the visited examples.
        chunk_steps: largest number of steps of one chunk.
        mesh: mesh of the devices.
    """

    init: Callable[..., TrainState]
    chunk: Callable[..., tuple[TrainState, dict[str, jax.Array], jax.Array]]
    shuffles: tuple[Callable[..., Shuffled], Callable[..., Shuffled]]
    batches: Callable[..., tuple[Batch, Batch]]
    chunk_steps: int
    mesh: Mesh


def compile_program(
    build: Callable[[Numbers], Method],
    *,
    forget_batch_size: int,
    retain_batch_size: int,
    chunk_steps: int,
    mesh: Mesh,
    axis_name: str | None = None,
) -> Program:
    """The compiled form of the method that `build` makes from (traced) numbers.

    Args:
        build: `build(numbers) -> Method`.
        forget_batch_size: number of examples in the forget batch of a step.
        retain_batch_size: number of examples in each retain batch of a step.
        chunk_steps: largest number of steps of one chunk.
        mesh: mesh of the devices, from `devices.make_mesh`.
        axis_name: name of the axis that `pmap` maps, over which the task must be split; None
            runs under jit.

    Raises:
        InputError: a batch that does not divide over the devices.
    """
    check_divides(mesh, forget_batch_size=forget_batch_size, retain_batch_size=retain_batch_size)
    everywhere = NamedSharding(mesh, PartitionSpec())

    @fast_in_loops
    def begin(
        numbers: Numbers,
        key: jax.Array,
        params: Params,
        model_state: ModelState,
        forget: Arrays,
        retain: Arrays,
    ) -> TrainState:
        data = forget or Unread(), retain or Unread()
        return build(numbers).init(key, params, model_state, *data)

    @fast_in_loops
    def step(
        numbers: Numbers, state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        return build(numbers).step(state, forget, retain)

    if axis_name is not None:
        begin, step = mapped(begin, mesh, axis_name), mapped(step, mesh, axis_name)

    def shared(batch: Batch, axis: int = 0) -> Batch:
        """The batch on the devices: split over them, or under `pmap` all of it on each."""
        if axis_name is None:
            return split_batch(batch, mesh, axis)
        return jax.lax.with_sharding_constraint(batch, everywhere)

    def placed(state: TrainState) -> TrainState:
        return jax.lax.with_sharding_constraint(state, shardings(state, mesh))

    @jax.jit
    def init(*args: Any) -> TrainState:
        return placed(begin(*args))

    def per_step(numbers: Numbers) -> tuple[int, int]:
        """The numbers of forget and of retain examples in a step."""
        return forget_batch_size, build(numbers).retain_batches * retain_batch_size

    def shuffle(
        numbers: Numbers, key: jax.Array, first_step: jax.Array, arrays: Arrays, *, part: int
    ) -> Shuffled:
        child = jax.random.fold_in(jax.random.wrap_key_data(key), 2 + part)
        found = shuffled(child, arrays, first_step, per_step(numbers)[part], chunk_steps)
        return jax.lax.with_sharding_constraint(found, everywhere)

    of_forget, of_retain = (jax.jit(functools.partial(shuffle, part=part)) for part in range(2))
    shuffles = of_forget, of_retain

    def order(
        numbers: Numbers, first_step: jax.Array, permuted: Sequence[Shuffled]
    ) -> tuple[Batch, Batch]:
        """The examples that the next steps visit."""
        of_forget, of_retain = (
            stretch(each, first_step, count, chunk_steps)
            for each, count in zip(permuted, per_step(numbers), strict=True)
        )
        stacked = (chunk_steps, -1, retain_batch_size)
        of_retain = jax.tree.map(lambda x: x.reshape(stacked), of_retain)
        return jax.lax.with_sharding_constraint((of_forget, of_retain), everywhere)

    @jax.jit
    def batches(
        numbers: Numbers,
        first_step: jax.Array,
        permuted: Sequence[Shuffled],
        forget: Arrays,
        retain: Arrays,
    ) -> tuple[Batch, Batch]:
        of_forget, of_retain = order(numbers, first_step, permuted)
        return (
            gathered(forget, of_forget, functools.partial(shared, axis=1)),
            gathered(retain, of_retain, functools.partial(shared, axis=2)),
        )

    @functools.partial(jax.jit, donate_argnums=1)
    def chunk(
        numbers: Numbers, state: TrainState, forget: Arrays, retain: Arrays, stop: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array], jax.Array]:
        first_step = state.step
        permuted = tuple(
            shuffle(numbers, state.key, first_step, arrays)
            for shuffle, arrays in zip(shuffles, (forget, retain), strict=True)
        )
        forget_order, retain_order = order(numbers, first_step, permuted)

        def one_step(state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
            """One step; it gathers sharded parameters, but not the rest of the state."""
            i = state.step - first_step
            forget_batch = shared(take(forget, forget_order, i))
            retain_batches = shared(take(retain, retain_order, i), axis=1)
            whole = jax.lax.with_sharding_constraint(state.params, everywhere)
            state = state._replace(params=whole)
            state, metrics = step(numbers, state, forget_batch, retain_batches)
            return placed(state), metrics

        def continues(carry: tuple[TrainState, Any, jax.Array]) -> jax.Array:
            state, _, finite = carry
            return finite & (state.step < stop)

        def advance(carry: tuple[TrainState, Any, jax.Array]) -> tuple[TrainState, Any, jax.Array]:
            state, history, _ = carry
            i = state.step - first_step
            state, metrics = one_step(state)
            history = jax.tree.map(lambda h, m: h.at[i].set(m), history, metrics)
            return state, history, _all_finite(metrics)

        _, shapes = jax.eval_shape(one_step, state)
        history = jax.tree.map(lambda m: jnp.zeros((chunk_steps,), m.dtype), shapes)
        start = (state, history, jnp.array(True))
        state, history, finite = jax.lax.while_loop(continues, advance, start)
        finite &= _all_finite((state.params, state.model_state))
        return state, *jax.lax.with_sharding_constraint((history, finite), everywhere)

    return Program(init, chunk, shuffles, batches, chunk_steps, mesh)


def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


class Split(NamedTuple):
    """The settings of a method: constants, which are compiled in, and floating-point numbers."""

    constants: dict[str, Any]
    numbers: dict[str, float]


def split(settings: dict[str, Any]) -> Split:
    """Splits settings into the constants and the numbers of a program.

    Example:
        >>> split({"num_steps": 10, "learning_rate": 0.1}).numbers
        {'learning_rate': 0.1}
    """
    numbers = {name: value for name, value in settings.items() if isinstance(value, float)}
    return Split({k: v for k, v in settings.items() if k not in numbers}, numbers)


def is_guarded(settings: dict[str, Any]) -> bool:
    """Whether the settings have a utility budget."""
    return "guard_budget" in settings


def arguments(settings: dict[str, Any], validation: Mapping[str, Any] | None = None) -> Numbers:
    """The arguments of a method's program besides the data.

    These are the numbers among the settings and, for a guarded method, "held_out": some of the
    `validation` data, retain examples that no model was trained on.
    """
    numbers: Numbers = dict(split(settings).numbers)
    if not is_guarded(settings):
        return numbers
    if validation is None or len(validation["label"]) == 0:
        raise InputError(
            "guard_budget needs validation data of the retained classes, but there are none; "
            "pretrain with a larger validation_fraction, or leave guard_budget out."
        )
    positions = audited(len(validation["label"]))
    watched = {name: jnp.asarray(values[positions]) for name, values in validation.items()}
    return numbers | {"held_out": watched}


def audited(count: int) -> np.ndarray:
    """The positions of the validation examples that a guard watches, evenly spaced.

    Example:
        >>> len(audited(10)), len(audited(5000)), int(audited(5000)[-1])
        (10, 1024, 4999)
    """
    return np.unique(np.linspace(0, count - 1, _MOST_AUDITED, dtype=np.int64))


def of_method(
    task: Task, method: str, settings: dict[str, Any], placement: Placement | None = None
) -> Program:
    """The program of a method (default: on one device); settings that differ in numbers share it.

    Raises:
        InputError: an unknown choice of a setting, a batch that does not divide over the devices
            or into micro-batches, or a model that cannot be computed in micro-batches.
    """
    constants, _ = split(settings)
    return _program(task, method, tuple(constants.items()), placement or placement_of())


@functools.lru_cache
def _program(
    task: Task, method: str, constants: tuple[tuple[str, Any], ...], placement: Placement
) -> Program:
    """Builds the method once with its default numbers, to find unknown choices of settings."""
    compiled_in, (mesh, axis_name, micro_batch, *_) = dict(constants), placement
    sizes = {name: compiled_in[name] for name in ("forget_batch_size", "retain_batch_size")}

    def build(numbers: dict[str, Any]) -> Method:
        return methods.build(placed, method, compiled_in | numbers)

    placed = _placed(task, placement)
    try:
        guard = {"guard_budget": 0.0} if "guard_every" in compiled_in else {}
        build(split(methods.settings(method, guard)).numbers)
        check_micro_batch(micro_batch, **sizes)
        if axis_name:
            check_shares(task, mesh.size, **sizes)
        return compile_program(
            build,
            **sizes,
            chunk_steps=min(placement.chunk_steps, compiled_in["num_steps"]),
            mesh=mesh,
            axis_name=axis_name,
        )
    except InputError as error:
        if str(error).startswith("method "):  # the method itself does not fit
            raise
        raise InputError(f"among the settings of method {method}, {error}") from error


def _placed(task: Task, placement: Placement) -> Task:
    """The task as devices compute it: in micro-batches, under `pmap` split over the devices."""
    mesh, axis_name, micro_batch, *_ = placement
    if axis_name is None:
        return microbatched(task, micro_batch) if micro_batch else task
    if micro_batch:
        microbatched(task, micro_batch)  # refuses what it would refuse on one device
        check_shares(task, mesh.size, micro_batch=micro_batch)
        task = microbatched(task, micro_batch // mesh.size)
    return shard_over_axis(task, axis_name)
