"""Pretrain, retrain and unlearn: one compiled program per method, run in chunks.

A `Program` compiles a method once: `init`, and a chunk of many steps over the batches that
`batches` draws for it. All numbers that a sweep varies are arguments of the compiled functions, and
a chunk sees batches only, so other numbers, seeds, chunk lengths and sizes of data compile no chunk
anew. Between chunks the host looks at the losses, saves, and shows progress.

Which examples a step visits follows from the step alone (`data_order`), and the metrics of each are
kept to the line (`metrics_file`), so a resumed run is what an undisturbed one would have been.
"""

import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxunlearn.data.order import Shuffled, gathered, shuffled, stretch, take
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.training import hosts
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.compilation import make_room
from jaxunlearn.training.devices import check_divides, mapped, replicate, shardings, split_batch
from jaxunlearn.training.metrics_file import MetricsFile
from jaxunlearn.training.streaming import Stream, Unread, supplied
from jaxunlearn.types import Arrays, Batch, InputError, Method, ModelState, Params, TrainState

Numbers = dict[str, Any]
_MOST_STEPS = 2**31 - 1  # steps are counted in int32


class Diverged(RuntimeError):
    """A loss or a weight became NaN or infinite; the last checkpoint before it is intact."""


class Interrupted(RuntimeError):
    """The run was asked to stop; it has saved its state and can be continued."""


class Progress(NamedTuple):
    """What a run reports after each chunk: steps done and in all, seconds, and the last metrics."""

    step: int
    num_steps: int
    seconds: float
    metrics: dict[str, float]


class Program(NamedTuple):
    """A method, compiled.

    Attributes:
        init: `init(numbers, key, params, model_state, forget, retain) -> TrainState`.
        chunk: `chunk(numbers, state, forget, retain, stop) -> (state, history, finite)`: steps
            until `stop`, or until a loss is not finite; `finite` says whether all losses and the
            weights are. Either data set is all examples, or the batches of the coming steps, with
            leaves `[chunk_steps, ...]` and "epoch" among them; the latter compiles once for data of
            any size. `state` is donated. `history` has one array `[chunk_steps]` per metric.
        shuffles: of forget and retain data each, `shuffle(numbers, key, step, arrays) -> Shuffled`:
            the permutations from a step on. This alone takes longer with more data.
        batches: `batches(numbers, step, shuffled, forget, retain) -> (forget, retain)`: the batches
            of the next `chunk_steps` steps, `[chunk_steps, B, ...]` and
            `[chunk_steps, retain batches, B, ...]`. Of examples of which only the "index" is given,
            it is what they visit: "position" and "epoch".
        chunk_steps: the largest number of steps of one chunk.
        mesh: the devices.
    """

    init: Callable[..., TrainState]
    chunk: Callable[..., tuple[TrainState, dict[str, jax.Array], jax.Array]]
    shuffles: tuple[Callable[..., "Shuffled"], Callable[..., "Shuffled"]]
    batches: Callable[..., tuple[Batch, Batch]]
    chunk_steps: int
    mesh: Mesh


class Outcome(NamedTuple):
    """A finished run: its state, and the seconds it took without and for compilation."""

    state: TrainState
    seconds: float
    compile_seconds: float


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
        forget_batch_size: examples in the forget batch of a step.
        retain_batch_size: examples in each retain batch of a step.
        chunk_steps: the largest number of steps between two looks at the run.
        mesh: the devices, from `parallel.make_mesh`.
        axis_name: run by `pmap` over the axis of that name, with a method of a task that is
            `spread` over it; None runs by sharded jit.

    Returns:
        A `Program`.

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
        """The batch on the devices: a share on each, or all of it, of which `pmap` takes shares."""
        if axis_name is None:
            return split_batch(batch, mesh, axis)
        return jax.lax.with_sharding_constraint(batch, everywhere)

    def placed(state: TrainState) -> TrainState:
        return jax.lax.with_sharding_constraint(state, shardings(state, mesh))

    @jax.jit
    def init(*args: Any) -> TrainState:
        return placed(begin(*args))

    def per_step(numbers: Numbers) -> tuple[int, int]:
        """How many examples a step takes."""
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
        """What the next steps visit."""
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
            """One step, for which sharded parameters are gathered; the rest of the state is not."""
            i = state.step - first_step
            forget_batch = shared(take(forget, forget_order, i))
            retain_batches = shared(take(retain, retain_order, i), axis=1)
            whole = jax.lax.with_sharding_constraint(state.params, everywhere)
            state = state._replace(params=whole)
            state, metrics = step(numbers, state, forget_batch, retain_batches)
            return placed(state), metrics

        def go_on(carry: tuple[TrainState, Any, jax.Array]) -> jax.Array:
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
        state, history, finite = jax.lax.while_loop(go_on, advance, start)
        finite &= _all_finite((state.params, state.model_state))
        return state, *jax.lax.with_sharding_constraint((history, finite), everywhere)

    return Program(init, chunk, shuffles, batches, chunk_steps, mesh)


def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def run(
    program: Program,
    numbers: Numbers,
    start: tuple[Params, ModelState],
    forget: Arrays | Stream,
    retain: Arrays | Stream,
    *,
    num_steps: int,
    seed: int,
    checkpointer: Checkpointer | None = None,
    checkpoint_every: int = 1000,
    metrics_file: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    remedy: str = "Lower the learning rate",
) -> Outcome:
    """Runs a program to its end, from its newest checkpoint if there is one.

    Args:
        program: from `compile_program`.
        numbers: the numbers of the method, and arrays that it is told beside the data.
        start: parameters and model state to begin with; not modified.
        forget: all forget examples, in memory or streamed.
        retain: all retain examples, in memory or streamed.
        num_steps: how many steps in all.
        seed: of the run's key: data order, augmentation, random labels.
        checkpointer: where to save and resume; None keeps nothing.
        checkpoint_every: the least number of steps between two checkpoints.
        metrics_file: a JSON-lines file that receives the metrics of each step.
        on_progress: called after each chunk.
        remedy: what a run that diverges is told to do.

    Returns:
        An `Outcome`.

    Raises:
        Diverged: a loss or a weight became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
        InputError: a seed of more than 32 bits, more steps than int32 counts, no sound checkpoint,
            or a foreign one, streamed examples of a method that looks at all of them before its
            first step, a record that cannot be read, or a file that cannot be written.
    """
    if num_steps > _MOST_STEPS:
        raise InputError(f"num_steps is {num_steps}, but must be {_MOST_STEPS} or less.")
    mesh, metrics = program.mesh, MetricsFile(metrics_file)
    sets = [x if isinstance(x, Stream) else replicate(x, mesh) for x in (forget, retain)]
    present = [{} if isinstance(x, Stream) else x for x in sets]
    numbers = {k: jnp.float32(v) if isinstance(v, float) else v for k, v in numbers.items()}
    numbers = replicate(numbers, mesh)
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}, but must be from 0 to {2**32 - 1}, as JAX takes it.")
    inputs = (numbers, *replicate((jax.random.key(seed), *start), mesh), *present)
    compile_seconds = 0.0
    if checkpointer and checkpointer.newest_step() is not None:
        shapes = jax.eval_shape(program.init, *inputs)
        places = shardings(shapes, mesh)
        target = jax.tree.map(lambda shape, place: shape.update(sharding=place), shapes, places)
        state, record = checkpointer.restore(target, metrics.complaint)
        seconds = record["seconds"]
    else:
        init, compile_seconds = executable_for(program.init, *inputs)
        clock = time.perf_counter()
        state = jax.block_until_ready(init(*inputs))
        seconds = time.perf_counter() - clock
    del inputs  # the state has its own copy of the weights
    metrics.truncate(int(state.step))
    step = saved = int(state.step)
    key = replicate(jax.device_get(state.key), mesh)
    given = [{"index": x.index} if isinstance(x, Stream) else x for x in sets]
    given, at = replicate(given, mesh), replicate(jnp.int32(step), mesh)
    shuffles, permuted = [], []
    for shuffle, arrays in zip(program.shuffles, given, strict=True):
        compiled, more_seconds = executable_for(shuffle, numbers, key, at, arrays)
        shuffles.append(compiled)
        permuted.append(compiled(numbers, key, at, arrays))
        compile_seconds += more_seconds
    batches, more_seconds = executable_for(program.batches, numbers, at, permuted, *given)
    compile_seconds += more_seconds

    def visited(step: int) -> Any:
        at = replicate(jnp.int32(step), mesh)
        for i, shuffle in enumerate(shuffles):
            if step >= int(permuted[i].until):
                permuted[i] = shuffle(numbers, key, at, given[i])
        return batches(numbers, at, permuted, *given)

    supply = supplied(sets, visited, program.chunk_steps, num_steps, mesh)
    with supply as data_at, _stop_signals() as stop_requested:
        while step < num_steps:
            clock = time.perf_counter()
            limit = replicate(jnp.int32(min(step + program.chunk_steps, num_steps)), mesh)
            data = data_at(step)
            chunk, more_seconds = executable_for(program.chunk, numbers, state, *data, limit)
            compile_seconds += more_seconds
            state, history, finite = chunk(numbers, state, *data, limit)
            history = jax.device_get(history)
            del data  # that of the next chunk comes now
            done = int(state.step) - step
            seconds += time.perf_counter() - clock - more_seconds
            metrics.append(history, step, done)
            step += done
            if not finite:
                kept = (
                    f"the last good checkpoint is of step {saved}"
                    if saved
                    else "no checkpoint was saved before it"
                )
                raise Diverged(
                    f"a loss or a weight became NaN or infinite at step {step} of {num_steps}; "
                    f"{kept}. {remedy}."
                )
            last = {name: float(values[done - 1]) for name, values in history.items()}
            on_progress(Progress(step, num_steps, seconds, last))
            stop = hosts.any_says(stop_requested.is_set())
            due = step - saved >= checkpoint_every or step == num_steps
            if checkpointer and (due or stop):
                checkpointer.save(step, state, metrics.record(step, seconds))
                saved = step
            if stop:
                raise Interrupted(
                    f"stopped at step {step} of {num_steps}; the same command continues from step "
                    f"{saved}."
                )
    return Outcome(state, seconds, compile_seconds)


_MOST_EXECUTABLES = 64
_executables: dict[Any, Any] = {}  # the one that was used last stands last


def executable_for(function: Any, *args: Any) -> tuple[Any, float]:
    """The executable of a jitted function for arguments like these, compiled once.

    The 64 that were used last are kept. In the process of a command, programs that come to be too
    many for it are all let go first (`compiled.make_room`).

    Args:
        function: from `jax.jit`.
        *args: its arguments; what counts is their shapes, types and devices.

    Returns:
        The executable, and the seconds it took to compile: 0 if it was at hand.
    """
    leaves, structure = jax.tree.flatten(args)
    signature = (function, structure, *((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves))
    if signature in _executables:
        _executables[signature] = _executables.pop(signature)
        return _executables[signature], 0.0
    if make_room():
        _executables.clear()
    while len(_executables) >= _MOST_EXECUTABLES:
        del _executables[next(iter(_executables))]
    clock = time.perf_counter()
    _executables[signature] = function.lower(*args).compile()
    return _executables[signature], time.perf_counter() - clock


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turns Ctrl-C and SIGTERM into an event, so that a chunk can end and be saved."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: requested.set()) for number in signals]
    try:
        yield requested
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
