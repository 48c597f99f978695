"""Pretrain, retrain and unlearn: one compiled program per method, run in chunks.

`stretches` is the training loop: it takes a state from stop to stop, with one compiled chunk of
steps each time. At each stop, `run` checks the losses, saves, and shows progress. Groups of runs
(`groups.run_many`) and relearning use the same loop.

The step number alone decides which examples are visited (`data.order`), and each step has its line
of metrics (`metrics_file`), so a resumed run ends like an uninterrupted one.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.training import hosts
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.compilation import executable_for
from jaxunlearn.training.devices import replicate, shardings
from jaxunlearn.training.loggers import Write
from jaxunlearn.training.metrics_file import MetricsFile
from jaxunlearn.training.programs import Numbers, Program, split
from jaxunlearn.training.streaming import Stream, supplied
from jaxunlearn.types import Arrays, InputError, ModelState, Params, TrainState

_MOST_STEPS = 2**31 - 1  # steps are counted in int32


class Diverged(RuntimeError):
    """A loss or a weight became NaN or infinite; the last checkpoint before it is intact.

    Attributes:
        step: the step at which it happened, if a run raises it.
        seconds: duration of the run until then, without compilation.
    """

    def __init__(self, message: str, step: int = 0, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.step, self.seconds = step, seconds


class Interrupted(RuntimeError):
    """The run was asked to stop; it has saved its state and can continue."""


class Progress(NamedTuple):
    """Progress of a run after a chunk: steps done and in all, seconds, and the last metrics."""

    step: int
    num_steps: int
    seconds: float
    metrics: dict[str, float]


class Outcome(NamedTuple):
    """A finished run: its state, and the seconds of the run and of compilation."""

    state: TrainState
    seconds: float
    compile_seconds: float


class Stretch(NamedTuple):
    """Some steps of a run, or of a group of runs.

    Attributes:
        state: the state after them, which the next stretch donates.
        history: the metrics of each step by name, on the host.
        finite: whether all losses and weights are finite, on the host.
        seconds: duration without compilation.
        compile_seconds: duration of compilation.
    """

    state: TrainState
    history: dict[str, np.ndarray]
    finite: np.ndarray
    seconds: float
    compile_seconds: float


def stretches(
    program: Program,
    numbers: Any,
    state: TrainState,
    data_at: Callable[[int], Sequence[Any]],
    stops: Iterable[Any],
) -> Iterator[Stretch]:
    """The training loop: yields a `Stretch` at each stop; one that is not finite ended earlier.

    Args:
        program: the program of a run, or of a group, whose steps and stops are `[G]`.
        numbers: first argument of `program.chunk`.
        state: initial state; donated.
        data_at: forget and retain data of the chunk that begins at a step.
        stops: steps to stop at, at most `program.chunk_steps` apart.
    """
    for stop in stops:
        clock = time.perf_counter()
        limit = replicate(jnp.asarray(stop, jnp.int32), program.mesh)
        data = data_at(int(np.max(jax.device_get(state.step))))
        chunk, compile_seconds = executable_for(program.chunk, numbers, state, *data, limit)
        state, history, finite = chunk(numbers, state, *data, limit)
        del data  # makes room for the data of the next stretch
        history, finite = jax.device_get((history, finite))
        seconds = time.perf_counter() - clock - compile_seconds
        yield Stretch(state, history, finite, seconds, compile_seconds)


def stops_of(first_step: int, num_steps: int, chunk_steps: int, every: int = 0) -> Iterator[int]:
    """The stops of a run: the ends of chunks, the multiples of `every`, and its end.

    Example:
        >>> list(stops_of(2, 9, 3)), list(stops_of(9, 9, 3)), list(stops_of(0, 9, 6, every=4))
        ([5, 8, 9], [], [4, 8, 9])
    """
    step = first_step
    while step < num_steps:
        due = (step // every + 1) * every if every else num_steps
        step = min(step + chunk_steps, due, num_steps)
        yield step


def run(
    program: Program,
    numbers: Numbers,
    start: tuple[Params, ModelState],
    forget: Arrays | Stream,
    retain: Arrays | Stream,
    *,
    num_steps: int,
    seed: int | jax.Array,
    checkpointer: Checkpointer | None = None,
    checkpoint_every: int = 1000,
    metrics_file: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    remedy: str = "Lower the learning rate",
    log: Write | None = None,
    validate: Callable[[TrainState], dict[str, float]] | None = None,
    validate_every: int = 0,
) -> Outcome:
    """Runs a program to its end, from its newest checkpoint if there is one.

    Args:
        program: a `Program` from `compile_program`.
        numbers: numbers of the method, and its other arguments besides the data.
        start: initial parameters and model state; not modified.
        forget: all forget examples, in memory or streamed.
        retain: all retain examples, in memory or streamed.
        num_steps: total number of steps.
        seed: seed of the run's key (data order, augmentation, random labels), or the key.
        checkpointer: checkpointer to save to and resume from; None saves nothing.
        checkpoint_every: smallest number of steps between two checkpoints.
        metrics_file: JSON-lines file that receives the metrics of each step.
        on_progress: function called after each chunk.
        remedy: advice for a run that diverges.
        log: function that receives the number and the metrics of each step, those of earlier steps
            included when a run is resumed.
        validate: function from the state to more metrics.
        validate_every: number of steps between two calls of `validate`; 0 makes none.

    Raises:
        Diverged: a loss or a weight became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
        InputError: a seed of more than 32 bits, more steps than int32 can count, checkpoints that
            are damaged or belong to another model, streamed examples for a method that needs all of
            them before its first step, a record that cannot be read, or a file that cannot be
            written.
    """
    if num_steps > _MOST_STEPS:
        raise InputError(f"num_steps is {num_steps}, but must be {_MOST_STEPS} or less.")
    mesh, metrics = program.mesh, MetricsFile(metrics_file, log)
    sets = [x if isinstance(x, Stream) else replicate(x, mesh) for x in (forget, retain)]
    present = [{} if isinstance(x, Stream) else x for x in sets]
    inputs = inputs_of(program, numbers, start, present[0], present[1], seed)
    numbers, compile_seconds = inputs[0], 0.0
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
    step = saved = int(state.step)
    metrics.truncate(step)
    visited, more_seconds = visiting(program, numbers, state, sets)
    compile_seconds += more_seconds

    supply = supplied(sets, visited, program.chunk_steps, num_steps, mesh)
    stops = stops_of(step, num_steps, program.chunk_steps, validate_every)
    with supply as data_at, _stop_signals() as stop_requested:
        for stretch in stretches(program, numbers, state, data_at, stops):
            state, done = stretch.state, int(stretch.state.step) - step
            seconds += stretch.seconds
            compile_seconds += stretch.compile_seconds
            at_stop = validate_every and (step + done) % validate_every == 0
            measured = validate(state) if validate and at_stop and stretch.finite else {}
            metrics.append(stretch.history, step, done, measured)
            step += done
            if not stretch.finite:
                kept = f"the last good checkpoint is of step {saved}"
                kept = kept if saved else "no checkpoint was saved before it"
                message = (
                    f"a loss or a weight became NaN or infinite at step {step} of {num_steps}; "
                    f"{kept}. {remedy}."
                )
                raise Diverged(message, step, seconds)
            last = {name: float(values[done - 1]) for name, values in stretch.history.items()}
            on_progress(Progress(step, num_steps, seconds, last | measured))
            stop = hosts.any_process(stop_requested.is_set())
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


def inputs_of(
    program: Program,
    numbers: Numbers,
    start: tuple[Params, ModelState],
    forget: Arrays,
    retain: Arrays,
    seed: int | jax.Array,
) -> tuple[Any, ...]:
    """The arguments of `program.init`, on its devices."""
    numbers = numbers | {k: jnp.float32(v) for k, v in split(numbers).numbers.items()}
    inputs = (numbers, run_key(seed), *start, forget, retain)
    placed: tuple[Any, ...] = replicate(inputs, program.mesh)
    return placed


def run_key(seed: int | jax.Array) -> jax.Array:
    """The key of a run, from its seed of at most 32 bits; a key is returned as it is."""
    if not isinstance(seed, int):
        return seed
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}, but must be from 0 to {2**32 - 1}.")
    return jax.random.key(seed)


def visiting(
    program: Program, numbers: Numbers, state: TrainState, sets: Sequence[Arrays | Stream]
) -> tuple[Callable[[int], Any], float]:
    """A function from the first step of a chunk to its batches, and the seconds of compilation."""
    mesh, place = program.mesh, int(state.step)
    key, at = replicate((jax.device_get(state.key), jnp.int32(place)), mesh)
    given = [{"index": x.index} if isinstance(x, Stream) else x for x in sets]
    given = replicate(given, mesh)
    shuffles, permuted, compile_seconds = [], [], 0.0
    for shuffle, arrays in zip(program.shuffles, given, strict=True):
        compiled, seconds = executable_for(shuffle, numbers, key, at, arrays)
        shuffles.append(compiled)
        permuted.append(compiled(numbers, key, at, arrays))
        compile_seconds += seconds
    batches, seconds = executable_for(program.batches, numbers, at, permuted, *given)

    def visited(step: int) -> Any:
        at = replicate(jnp.int32(step), mesh)
        for i, shuffle in enumerate(shuffles):
            if step >= int(permuted[i].until):
                permuted[i] = shuffle(numbers, key, at, given[i])
        return batches(numbers, at, permuted, *given)

    return visited, compile_seconds + seconds


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
