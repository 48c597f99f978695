"""Many runs of one method as one program: training's, over a group of numbers and keys.

On accelerators this is a `vmap`. On CPUs, which one run keeps busy, the members take turns instead,
a chunk each, inside the one compiled program: what a member works on stays in the caches, and
convolutions keep kernels of their own, not one for each member.

The members of a group share weights to start from, data and all settings but the floating-point
ones; each has numbers and a seed of its own, and ends where it would have ended alone. One that
diverges stands still from there on, and its neighbours go on.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxunlearn.methods import guard_records
from jaxunlearn.training import Numbers, Program, Progress, executable_for
from jaxunlearn.training.devices import replicate
from jaxunlearn.types import Arrays, Weights


class Group(NamedTuple):
    """A finished group.

    Attributes:
        weights: of each member, or None if it diverged.
        guards: of each member, from `methods.guard_records`; empty without a guard.
        diverged: the step at which a loss or a weight of each member became NaN or infinite, or
            None.
        seconds: what the whole group took, without compilation.
        compile_seconds: what its compilation took.
    """

    weights: list[Weights | None]
    guards: list[dict[str, Any]]
    diverged: list[int | None]
    seconds: float
    compile_seconds: float


def run_group(
    program: Program,
    numbers: Sequence[Numbers],
    seeds: Sequence[int],
    start: Weights,
    forget: Arrays,
    retain: Arrays,
    *,
    num_steps: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Group:
    """Runs all members of a group to their ends, in one compiled program.

    Args:
        program: from `training.compile_program`.
        numbers: the floating-point settings of each member, G of them, and the same arrays of all
            that the method is told beside the data.
        seeds: of the key of each member, G of them.
        start: the weights that all members begin with; not modified.
        forget: all forget examples.
        retain: all retain examples.
        num_steps: how many steps in all.
        on_progress: called after each chunk, with the means over the members that still run.

    Returns:
        The group.
    """
    init, chunk = _grouped(program)
    size, mesh = len(numbers), program.mesh
    inputs = _inputs(program, numbers, seeds, start, forget, retain)
    stacked, told, *_, forget, retain = inputs
    begin, compile_seconds = executable_for(init, *inputs)
    clock = time.perf_counter()
    state = jax.block_until_ready(begin(*inputs))
    seconds = time.perf_counter() - clock
    diverged: list[int | None] = [None] * size
    advance, more = executable_for(
        chunk, stacked, told, state, forget, retain, _limits(diverged, 0, mesh)
    )
    compile_seconds += more

    step = 0
    while step < num_steps and None in diverged:
        clock = time.perf_counter()
        step = min(step + program.chunk_steps, num_steps)
        limits = _limits(diverged, step, mesh)
        state, history, finite = advance(stacked, told, state, forget, retain, limits)
        reached, finite = np.asarray(state.step), np.asarray(finite)
        seconds += time.perf_counter() - clock
        for i in range(size):
            if diverged[i] is None and not finite[i]:
                diverged[i] = int(reached[i])
        alive = np.array([at is None for at in diverged])
        if alive.any():
            last = (step - 1) % program.chunk_steps
            means = {k: float(np.asarray(h)[alive, last].mean()) for k, h in history.items()}
            on_progress(Progress(step, num_steps, seconds, means))
    members = jax.device_get((state.params, state.model_state))
    weights = [
        None if diverged[i] is not None else Weights(*jax.tree.map(itemgetter(i), members))
        for i in range(size)
    ]
    guards = guard_records(state) if told else []
    return Group(weights, guards, diverged, seconds, compile_seconds)


def fitting_size(
    program: Program,
    numbers: Numbers,
    start: Weights,
    forget: Arrays,
    retain: Arrays,
    *,
    most: int,
) -> int:
    """How many runs fit the memory of a device at once, by what the compiler says it needs.

    Args:
        program: from `training.compile_program`.
        numbers: of any member.
        start: the weights that all members begin with.
        forget: all forget examples.
        retain: all retain examples.
        most: the largest group that is wanted; if it fits, `run_group` compiles nothing more.

    Returns:
        The size of a group, from 1 to `most`; 1 is not judged.
    """
    size, limit = most, memory_limit()
    while size > 1:
        needed = memory_needed(program, [numbers] * size, start, forget, retain)
        if needed <= limit:
            break
        size = max(1, min(size - 1, int(size * limit / needed)))  # what is shared does not shrink
    return size


def memory_needed(
    program: Program, numbers: Sequence[Numbers], start: Weights, forget: Arrays, retain: Arrays
) -> int:
    """The bytes that a group needs on a device while it runs, from its compiled program."""
    init, chunk = _grouped(program)
    inputs = _inputs(program, numbers, [0] * len(numbers), start, forget, retain)
    everywhere = NamedSharding(program.mesh, PartitionSpec())
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        jax.eval_shape(init, *inputs),
    )
    limits = _limits([None] * len(numbers), 0, program.mesh)
    compiled, _ = executable_for(chunk, *inputs[:2], state, *inputs[-2:], limits)
    found = compiled.memory_analysis()
    together = found.argument_size_in_bytes + found.output_size_in_bytes
    return together + found.temp_size_in_bytes - found.alias_size_in_bytes


def memory_limit() -> int:
    """The bytes of a device that groups may take: nine tenths; of a CPU's memory, half."""
    told = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in told:
        return int(0.9 * told["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _inputs(
    program: Program,
    numbers: Sequence[Numbers],
    seeds: Sequence[int],
    start: Weights,
    forget: Arrays,
    retain: Arrays,
) -> tuple[Any, ...]:
    """The arguments of a group's `init`: numbers, arrays told, keys, weights and data."""
    stacked = {
        name: jnp.asarray([member[name] for member in numbers], jnp.float32)
        for name, value in numbers[0].items()
        if isinstance(value, float)
    }
    told = {name: value for name, value in numbers[0].items() if name not in stacked}
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    return replicate((stacked, told, keys, *start, forget, retain), program.mesh)


def _limits(diverged: list[int | None], step: int, mesh: Any) -> jax.Array:
    """Where each member shall stop: those that diverged take no more steps."""
    return replicate(jnp.asarray([step if at is None else 0 for at in diverged], jnp.int32), mesh)


@functools.lru_cache
def _grouped(program: Program) -> tuple[Any, Any]:
    """Both functions of a program for a whole group. Weights and data are shared in the first."""

    def init(numbers: Numbers, told: Numbers, *others: Any) -> Any:
        return program.init(numbers | told, *others)

    def chunk(numbers: Numbers, told: Numbers, *others: Any) -> Any:
        return program.chunk(numbers | told, *others)

    over = _in_turn if program.mesh.devices.flat[0].platform == "cpu" else jax.vmap
    return (
        jax.jit(over(init, in_axes=(0, None, 0, None, None, None, None))),
        jax.jit(over(chunk, in_axes=(0, None, 0, None, None, 0)), donate_argnums=2),
    )


def _in_turn(function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """What `vmap` would give, one member after the other."""

    def whole(*args: Any) -> Any:
        def one(own: list[Any]) -> Any:
            rest = iter(own)
            pairs = zip(args, in_axes, strict=True)
            return function(*(arg if axis is None else next(rest) for arg, axis in pairs))

        own = [arg for arg, axis in zip(args, in_axes, strict=True) if axis is not None]
        return jax.lax.map(one, own)

    return whole
