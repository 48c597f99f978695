"""Many runs of one method: groups of them as one program on accelerators, in turns on CPUs.

A group is the program of one run under `vmap`, over numbers and keys, and over everything else that
its members do not share. A single run keeps a CPU busy, so there the runs take turns: the weights
of one run stay in the caches, and convolutions keep their fast kernels. Either way a run ends as it
would alone, and a run that diverges does not affect the others.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxunlearn.methods import guard_records, weights_of
from jaxunlearn.training.compilation import executable_for
from jaxunlearn.training.devices import replicate
from jaxunlearn.training.loop import Diverged, Progress, run, run_key, stops_of, stretches
from jaxunlearn.training.programs import Numbers, Program, split
from jaxunlearn.types import Arrays, Weights


class Member(NamedTuple):
    """One of many runs: arguments of `loop.run`. Members share arrays that are the same object.

    Attributes:
        numbers: arguments of the program besides the data; arrays among them must be shared.
        seed: seed of the run's key, or the key.
        start: initial weights; not modified.
        forget: all forget examples.
        retain: all retain examples.
    """

    numbers: Numbers
    seed: int | jax.Array
    start: Weights
    forget: Arrays
    retain: Arrays


class Finished(NamedTuple):
    """One of many runs, finished.

    Attributes:
        weights: the weights; None if the run diverged.
        guard: the record of the guard, from `methods.guard_records`, if there is one.
        diverged: step at which a loss or a weight became NaN or infinite, or None.
        seconds: this run's share of the duration of its group, without compilation.
        group_size: number of runs in the group.
    """

    weights: Weights | None
    guard: dict[str, Any] | None
    diverged: int | None
    seconds: float
    group_size: int


def at_once(most: int = 16) -> int:
    """The largest number of simultaneous runs: `most`, or one on CPUs, where runs take turns."""
    return 1 if jax.default_backend() == "cpu" else most


def run_many(
    program: Program,
    members: Iterable[Member],
    *,
    num_steps: int,
    most: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[Finished]:
    """Runs all members, up to `most` at once if they fit the memory, and yields them in order.

    `on_progress` is called after each chunk, with means over a group.
    """
    waiting = iter(members)
    first = list(islice(waiting, most))
    size = fitting_size(program, first)
    waiting = chain(first, waiting)
    del first
    while group := list(islice(waiting, size)):
        if size == 1:
            yield _alone(program, group[0], num_steps, on_progress)
        else:  # the last group is padded, so that all share one program
            filled = group + group[:1] * (size - len(group))
            yield from _together(program, filled, num_steps, on_progress)[: len(group)]


def fitting_size(program: Program, members: list[Member]) -> int:
    """How many of the members fit the memory of a device at once; at least one."""
    size, limit = len(members), memory_limit()
    while size > 1:
        needed = memory_needed(program, members[:size])
        if needed <= limit:
            break
        size = max(1, min(size - 1, int(size * limit / needed)))  # shared arrays stay
    return max(size, 1)


def memory_needed(program: Program, members: list[Member]) -> int:
    """The bytes that a group needs on a device, according to its compiled program."""
    grouped, inputs = _group(program, members)
    everywhere = NamedSharding(program.mesh, PartitionSpec())
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        jax.eval_shape(grouped.init, *inputs),
    )
    stops = replicate(jnp.zeros(len(members), jnp.int32), program.mesh)
    compiled, _ = executable_for(grouped.chunk, inputs[0], state, *inputs[-2:], stops)
    found = compiled.memory_analysis()
    together = found.argument_size_in_bytes + found.output_size_in_bytes
    return int(together + found.temp_size_in_bytes - found.alias_size_in_bytes)


def memory_limit() -> int:
    """The bytes that groups may use: nine tenths of a device's memory, half of a CPU's."""
    statistics = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(0.9 * statistics["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _alone(
    program: Program, member: Member, num_steps: int, on_progress: Callable[[Progress], None]
) -> Finished:
    numbers, seed, start, forget, retain = member
    try:
        outcome = run(
            program,
            numbers,
            start,
            forget,
            retain,
            num_steps=num_steps,
            seed=seed,
            on_progress=on_progress,
        )
    except Diverged as error:
        return Finished(None, None, error.step, error.seconds, 1)
    weights = weights_of(outcome.state)
    if program.mesh.size > 1:
        weights = jax.device_get(weights)
    guard = guard_records(outcome.state)[0] if "held_out" in numbers else None
    return Finished(weights, guard, None, outcome.seconds, 1)


def _together(
    program: Program,
    members: list[Member],
    num_steps: int,
    on_progress: Callable[[Progress], None],
) -> list[Finished]:
    grouped, inputs = _group(program, members)
    numbers, data, size = inputs[0], inputs[-2:], len(members)
    init, _ = executable_for(grouped.init, *inputs)
    diverged: list[int | None] = [None] * size
    seconds, step = 0.0, 0

    def stops() -> Iterator[np.ndarray]:
        """Members that diverged take no more steps."""
        for stop in stops_of(0, num_steps, program.chunk_steps):
            if None in diverged:
                yield np.array([stop if at is None else 0 for at in diverged])

    state = jax.block_until_ready(init(*inputs))
    for stretch in stretches(grouped, numbers, state, lambda step: data, stops()):
        state, reached = stretch.state, np.asarray(stretch.state.step)
        seconds += stretch.seconds
        for i in np.flatnonzero(~stretch.finite):
            diverged[i] = int(reached[i]) if diverged[i] is None else diverged[i]
        alive = [at is None for at in diverged]
        if any(alive):
            step = int(reached.max())
            last = (step - 1) % program.chunk_steps
            means = {k: float(h[alive, last].mean()) for k, h in stretch.history.items()}
            on_progress(Progress(step, num_steps, seconds, means))
    ends = jax.device_get(weights_of(state))
    guards = guard_records(state) if "held_out" in members[0].numbers else [None] * size
    return [
        Finished(
            Weights(*jax.tree.map(itemgetter(i), ends)) if diverged[i] is None else None,
            guards[i],
            diverged[i],
            seconds / size,
            size,
        )
        for i in range(size)
    ]


def _group(program: Program, members: list[Member]) -> tuple[Program, tuple[Any, ...]]:
    """The program of a group, and the arguments of its `init`, with shared arrays only once."""
    shared, varied = split(members[0].numbers)
    numbers = {
        name: jnp.asarray([member.numbers[name] for member in members], jnp.float32)
        for name in varied
    }
    keys = jnp.stack([run_key(member.seed) for member in members])
    rest, axes = [], []
    for name in ("start", "forget", "retain"):
        each = [getattr(member, name) for member in members]
        same = all(one is each[0] for one in each)
        rest.append(each[0] if same else jax.tree.map(lambda *x: jnp.stack(x), *each))
        axes.append(None if same else 0)
    (params, model_state), forget, retain = rest
    inputs = ((numbers, shared), keys, params, model_state, forget, retain)
    return _grouped(program, tuple(axes)), replicate(inputs, program.mesh)


@functools.lru_cache
def _grouped(program: Program, axes: tuple[int | None, ...]) -> Program:
    """A program with the `init` and `chunk` of a whole group."""
    start, *data = axes

    def init(numbers: tuple[Numbers, Numbers], *others: Any) -> Any:
        return program.init(numbers[0] | numbers[1], *others)

    def chunk(numbers: tuple[Numbers, Numbers], *others: Any) -> Any:
        return program.chunk(numbers[0] | numbers[1], *others)

    of_numbers = (0, None)
    return program._replace(
        init=jax.jit(jax.vmap(init, in_axes=(of_numbers, 0, start, start, *data))),
        chunk=jax.jit(jax.vmap(chunk, in_axes=(of_numbers, 0, *data, 0)), donate_argnums=1),
    )
