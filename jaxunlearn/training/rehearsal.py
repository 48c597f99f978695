"""A rehearsal of a run: a few of its steps in memory, for its time and its memory."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.training.compilation import executable_for
from jaxunlearn.training.devices import replicate
from jaxunlearn.training.loop import inputs_of, stretches, visiting
from jaxunlearn.training.programs import Numbers, Program
from jaxunlearn.training.streaming import Stream, supplied
from jaxunlearn.types import Arrays, Weights

_SECONDS = 2.0  # of steps that are timed


class Rehearsal(NamedTuple):
    """An estimate of a run.

    Attributes:
        seconds: duration of the first state and of all steps, without compilation.
        compile_seconds: duration of compilation.
        memory: bytes on each device, data and program together.
    """

    seconds: float
    compile_seconds: float
    memory: int


def rehearse(
    program: Program,
    numbers: Numbers,
    start: Weights,
    forget: Arrays | Stream,
    retain: Arrays | Stream,
    steps: int,
) -> Rehearsal:
    """Takes the first steps of a run of `steps`, and extrapolates; nothing is written."""
    sets = [x if isinstance(x, Stream) else replicate(x, program.mesh) for x in (forget, retain)]
    present = [{} if isinstance(x, Stream) else x for x in sets]
    inputs = inputs_of(program, numbers, start, present[0], present[1], 0)
    init, compiling = executable_for(program.init, *inputs)
    clock = time.perf_counter()
    state = jax.block_until_ready(init(*inputs))
    beginning = time.perf_counter() - clock
    visited, more = visiting(program, inputs[0], state, sets)
    compiling += more
    with supplied(sets, visited, program.chunk_steps, steps, program.mesh) as data_at:
        [first] = stretches(program, inputs[0], state, data_at, [1])
        few = max(int(_SECONDS / first.seconds), 3)
        if any(isinstance(x, Stream) for x in sets):
            few = program.chunk_steps  # whose examples are read together
        few = min(few, program.chunk_steps, steps - 1)
        state, each = first.state, first.seconds
        if few:
            [more_steps] = stretches(program, inputs[0], state, data_at, [1 + few])
            state, each = more_steps.state, more_steps.seconds / few
        limit = replicate(jnp.int32(0), program.mesh)
        chunk, _ = executable_for(program.chunk, inputs[0], state, *data_at(0), limit)
    found = chunk.memory_analysis()
    memory = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    memory += sum(leaf.nbytes for leaf in jax.tree.leaves(present)) - found.alias_size_in_bytes
    return Rehearsal(beginning + steps * each, compiling + first.compile_seconds, int(memory))
