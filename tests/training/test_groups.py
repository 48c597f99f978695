"""A member of a group ends where the same run ends alone, whatever happens to its neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods, training
from jaxunlearn.training import devices, groups, loop
from jaxunlearn.training.groups import run_group
from jaxunlearn.types import Weights
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.long

# A plain one, and one with two optimizers, a multiplier and a mask, which is fitted to the data
# before the first step.
METHODS = ("finetune", "eupmu_sfron")
NUM_STEPS = 7


@functools.cache
def make_program(name):
    static = {"num_steps": NUM_STEPS, "mask_batch_size": 4, "num_fast_steps": 2}
    settings = methods.settings(
        name, {k: v for k, v in static.items() if k in methods.settings(name)}
    )
    fixed = {k: v for k, v in settings.items() if not isinstance(v, float)}
    program = training.compile_program(
        lambda numbers: methods.build(toy.TASK, name, fixed | numbers),
        forget_batch_size=toy.FORGET_BATCH,
        retain_batch_size=toy.RETAIN_BATCH,
        chunk_steps=3,
        mesh=devices.make_mesh(1),
    )
    return program, {k: v for k, v in settings.items() if isinstance(v, float)}


def inputs():
    problem = toy.problem()
    return Weights(problem.params, problem.model_state), problem.forget, problem.retain


def alone(program, numbers, seed):
    state = training.run(program, numbers, *inputs(), num_steps=NUM_STEPS, seed=seed).state
    return Weights(state.params, state.model_state)


@pytest.mark.parametrize("name", METHODS)
def test_every_member_equals_the_run_done_alone(name):
    program, defaults = make_program(name)
    members = [
        (defaults | {"learning_rate": rate, "weight_decay": decay}, seed)
        for rate, decay, seed in ((0.01, 0.0, 0), (0.1, 0.0, 0), (0.1, 0.01, 0), (0.1, 0.0, 5))
    ]
    numbers, seeds = zip(*members, strict=True)
    group = run_group(program, numbers, seeds, *inputs(), num_steps=NUM_STEPS)
    assert group.diverged == [None] * 4 and group.seconds > 0
    for (settings, seed), weights in zip(members, group.weights, strict=True):
        expected = alone(program, settings, seed)
        assert_trees_close(weights, expected, rtol=1e-5, atol=1e-6)
    ends = [np.asarray(weights.params["kernel"]) for weights in group.weights]
    for i in range(4):  # and so the comparison above could have failed
        for j in range(i):
            assert np.abs(ends[i] - ends[j]).max() > 1e-5


def test_a_diverged_member_spoils_and_stops_nobody():
    program, defaults = make_program("finetune")
    numbers = [defaults | {"learning_rate": rate} for rate in (0.05, 1e30, 0.2, 1e30)]
    seen = []
    group = run_group(
        program, numbers, [1, 1, 1, 1], *inputs(), num_steps=NUM_STEPS, on_progress=seen.append
    )
    with pytest.raises(training.Diverged) as caught:
        alone(program, numbers[1], 1)
    assert group.weights[1] is group.weights[3] is None
    assert f"at step {group.diverged[1]} of" in str(caught.value)
    healthy = [group.weights[0], group.weights[2]]
    for settings, weights in zip([numbers[0], numbers[2]], healthy, strict=True):
        assert_trees_close(weights, alone(program, settings, 1), rtol=1e-5, atol=1e-6)
    assert [progress.step for progress in seen] == [3, 6, 7]
    assert all(np.isfinite(progress.metrics["retain_loss"]) for progress in seen)


def test_where_all_diverge_the_group_ends():
    program, defaults = make_program("finetune")
    numbers = [defaults | {"learning_rate": 1e30}] * 4
    seen = []
    group = run_group(
        program, numbers, [0, 1, 2, 3], *inputs(), num_steps=NUM_STEPS, on_progress=seen.append
    )
    assert group.weights == [None] * 4 and None not in group.diverged
    assert seen == []


def test_groups_of_one_size_share_a_program_and_leave_their_inputs_alone():
    program, defaults = make_program("finetune")
    start, forget, retain = inputs()
    before = jax.tree.map(jnp.copy, (start, forget, retain))
    for rate, seeds in ((0.01, [0, 1, 2, 3]), (0.3, [4, 5, 6, 7])):
        numbers = [defaults | {"learning_rate": rate}] * 4
        group = run_group(program, numbers, seeds, start, forget, retain, num_steps=NUM_STEPS)
    assert group.compile_seconds == 0
    assert_trees_equal((start, forget, retain), before)


def test_a_group_is_as_large_as_its_memory(monkeypatch):
    program, defaults = make_program("finetune")

    def needed(size):
        return groups.memory_needed(program, [defaults] * size, *inputs())

    for limit, expected in ((needed(4), 4), (needed(3), 3), (needed(4) - 1, 3), (1, 1)):
        monkeypatch.setattr(groups, "memory_limit", lambda limit=limit: limit)
        assert groups.fitting_size(program, defaults, *inputs(), most=4) == expected
    state = 4 * sum(leaf.nbytes for leaf in jax.tree.leaves(inputs()[0]))
    assert needed(4) > 2 * state  # the weights and their momentum


def test_what_the_memory_was_judged_by_is_what_runs():
    program, defaults = make_program("finetune")
    groups.memory_needed(program, [defaults] * 3, *inputs())
    kept = dict(loop._executables)
    run_group(program, [defaults] * 3, [0, 1, 2], *inputs(), num_steps=NUM_STEPS)
    assert len(loop._executables.keys() - kept.keys()) <= 1  # that of `init`


def test_half_of_this_machine_is_the_limit():
    assert 2**28 < groups.memory_limit() < 2**46
