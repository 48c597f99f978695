"""One device and eight, by jit or pmap: the same numbers, and what the devices send one another.

Long forms, over all methods and fifty steps: `experiments/verification/devices.py`.
"""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxunlearn import models, multiplier, tasks, training
from jaxunlearn.tasks.shard_over_axis import shard_over_axis
from jaxunlearn.training import Program, compilation, compile_program
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.devices import make_mesh, placement_of, shardings
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import Task, TrainState
from tests import toy
from tests.helpers import relative_error

pytestmark = pytest.mark.long

KEY = jax.random.key(0)


@functools.cache
def runner_of(name: str, task: Task) -> toy.Runner:
    return toy.Runner(name, {}, task)


@functools.cache
def program_of(
    runner: toy.Runner, devices: int, parameters: str = "replicated", axis_name: str | None = None
) -> Program:
    return compile_program(
        runner.build,
        forget_batch_size=8,
        retain_batch_size=8,
        chunk_steps=4,
        mesh=make_mesh(devices, parameters),
        axis_name=axis_name,
    )


def executable_of(program: Program) -> Any:
    """The chunk of a program that has run once."""
    (found,) = [run for key, run in compilation._executables.items() if key[0] is program.chunk]
    return found


@functools.cache
def network(axis_name: str | None = None) -> tuple[Task, tuple[Any, ...], tuple[Any, ...]]:
    """A residual network with BatchNorm and 48 images: the task, what to start from, the data."""
    rng = np.random.default_rng(0)
    everything = {
        "image": rng.integers(0, 256, (48, 6, 6, 1)).astype(np.uint8),
        "label": rng.integers(0, 3, 48).astype(np.int32),
        "index": np.arange(48, dtype=np.int32),
    }
    data = tuple(
        {name: values[part] for name, values in everything.items()}
        for part in np.split(np.arange(48), [16])
    )
    small = {"stem_width": 4, "widths": (4,), "blocks": (1,), "strides": (1,)}
    model = models.create("resnet-tiny", 3, **small, axis_name=axis_name)
    task = tasks.classification(model, image_shape=(6, 6, 1), num_classes=3)
    return task, jax.jit(task.init)(KEY), data


def share_of_one_device(state: TrainState) -> float:
    """The part of the bytes of a state's matrices that one device holds."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim > 1]
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    return held / sum(leaf.nbytes for leaf in leaves)


@pytest.mark.parametrize(
    ("name", "layouts"), [("eupmu", ["replicated"]), ("sfron", ["replicated", "sharded"])]
)
def test_one_device_and_eight_compute_the_same(name: str, layouts: list[str]) -> None:
    """Weights, statistics over the whole batch, multiplier, mask, momentum, losses.

    The toy task has noise by example, and sfron a mask; the network has BatchNorm.
    """
    problem = toy.problem()
    task, start, data = toy.TASK, (problem.params, problem.model_state), problem[2:]
    numbers = {"learning_rate": 0.05}
    if name == "eupmu":
        task, start, data = network()
        numbers |= {"tolerance": -0.5}
    runner = runner_of(name, task)
    states, work, shares = [], [], []
    for devices, parameters in ((1, "replicated"), *((8, layout) for layout in layouts)):
        program = program_of(runner, devices, parameters)
        outcome = training.run(program, runner.numbers | numbers, start, *data, num_steps=3, seed=0)
        assert len(outcome.state.step.sharding.device_set) == devices
        assert shares_of(outcome.state, program)
        shares.append(share_of_one_device(outcome.state))
        states.append(jax.device_get(outcome.state))
        work.append(executable_of(program).cost_analysis()["flops"])
    for state in states[1:]:
        assert relative_error(state.params, states[0].params) < 1e-6
        assert relative_error(state.model_state, states[0].model_state) < 1e-6
        assert relative_error(state.opt_state, states[0].opt_state) < 1e-6
    assert relative_error(states[0].params, jax.device_get(start[0])) > 1e-3
    assert shares == [1.0, 1.0, 1 / 8][: len(shares)]
    if name == "eupmu":
        one, eight = (float(multiplier(state.opt_state)) for state in states)
        assert one > 0 and np.isclose(one, eight, rtol=1e-6)
        assert work[1] < 0.2 * work[0]  # each device does its share of both batches only


def shares_of(state: TrainState, program: Program) -> bool:
    """Whether every array of a state lies where the rules put it."""
    places = shardings(state, program.mesh)
    fits = jax.tree.map(lambda x, place: x.sharding.is_equivalent_to(place, x.ndim), state, places)
    return all(jax.tree.leaves(fits))


def test_a_sharded_run_continues_replicated_on_another_number_of_devices(tmp_path: Path) -> None:
    """A checkpoint does not say how many devices wrote it."""
    problem = toy.problem()
    runner = toy.runner("eupmu", estimator="next_batch")

    def go(program: Program, steps: int, keep: Checkpointer | None = None) -> TrainState:
        state = training.run(
            program,
            runner.numbers,
            (problem.params, problem.model_state),
            problem.forget,
            problem.retain,
            num_steps=steps,
            seed=0,
            checkpointer=keep,
        ).state
        assert shares_of(state, program)
        return state

    one, sharded = program_of(runner, 1), program_of(runner, 2, "sharded")
    kept = Checkpointer(tmp_path / "checkpoints")
    for steps, program in ((2, sharded), (4, one), (6, sharded)):
        state = go(program, steps, kept)
        assert kept.newest_step() == steps
    assert relative_error(state, go(one, 6)) < 1e-6


@pytest.mark.parametrize("name", ["eupmu", "sfron"])
def test_pmap_computes_the_same_and_jit_continues_from_there(name: str, tmp_path: Path) -> None:
    """BatchNorm, multiplier and noise by example, mask and momentum; and what is sent."""
    axis_name = placement_of(Layout(devices=8, parallel="pmap")).axis_name
    problem, numbers = toy.problem(), {"learning_rate": 0.05}
    task, start, data = toy.WITHOUT_STATISTICS, (problem.params, {}), problem[2:]
    whole = task
    if name == "eupmu":
        whole, start, data = network()
        task, *_ = network(axis_name)
        numbers |= {"tolerance": -0.5}
    one = program_of(runner_of(name, whole), 1)
    eight = program_of(runner_of(name, shard_over_axis(task, axis_name)), 8, axis_name=axis_name)

    def go(program: Program, steps: int, keep: Checkpointer | None = None) -> TrainState:
        given = runner_of(name, whole).numbers | numbers
        state = training.run(
            program, given, start, *data, num_steps=steps, seed=0, checkpointer=keep
        ).state
        assert shares_of(state, program)
        return jax.device_get(state)

    kept = Checkpointer(tmp_path / "checkpoints")
    for steps, program in ((3, eight), (5, one)):
        found, expected = go(program, steps, kept), go(one, steps)
        for ours, theirs in zip(found[1:4], expected[1:4], strict=True):
            assert not theirs or relative_error(ours, theirs) < 1e-6  # some have no statistics
        if name == "eupmu":
            assert multiplier(found.opt_state) > 0
            np.testing.assert_allclose(
                *map(multiplier, (found.opt_state, expected.opt_state)), 1e-6
            )
    assert relative_error(expected.params, jax.device_get(start[0])) > 1e-3
    if name == "sfron":
        text = executable_of(eight).as_text()
        assert len(re.findall(r" all-reduce(?:-start)?\(", text)) == BACKWARD_PASSES[name]


# ---- what the devices send one another ----------------------------------------------------------


def all_reduces(program: Program, runner: toy.Runner, start: Any, data: Any) -> list[list[str]]:
    """The shapes that each collective of a chunk reduces; there is no other kind of collective."""
    numbers = {name: np.float32(value) for name, value in runner.numbers.items()}
    state = jax.eval_shape(program.init, numbers, KEY, *start, *data)
    text = program.chunk.lower(numbers, state, *data, np.int32(4)).compile().as_text()
    for other in ("all-gather", "reduce-scatter", "all-to-all", "collective-permute"):
        assert not re.search(rf"= .* {other}(-start)?\(", text)
    found = re.findall(r"= (.*) all-reduce(?:-start)?\(", text)
    return [re.findall(r"\w+\[[\d,]*\]", shapes) for shapes in found]


BACKWARD_PASSES = {"eupmu": 1, "sfron": 2}


@pytest.mark.parametrize("name", BACKWARD_PASSES)
def test_one_all_reduce_for_each_backward_pass_and_a_scalar_for_the_multiplier(name: str) -> None:
    """Gradients of all leaves are sent at once, with the loss; sfron has two passes in its program.

    The multiplier wants the retain loss after the step, adaptive weights their mean.
    """
    _, _, data = network()
    task = tasks.classification(models.create("mlp-tiny", 3), image_shape=(6, 6, 1), num_classes=3)
    start = jax.eval_shape(task.init, KEY)
    runner = toy.Runner(name, {}, task)
    found = all_reduces(program_of(runner, 8), runner, start, data)
    gradients = [shapes for shapes in found if set(shapes) != {"f32[]"}]
    sizes = {int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(start[0])}
    for shapes in gradients:
        numbers = [np.fromstring(shape[4:-1] or "1", int, sep=",").prod() for shape in shapes]
        assert sizes <= set(numbers)
    assert len(gradients) == BACKWARD_PASSES[name]
    assert len(found) - len(gradients) <= 1
