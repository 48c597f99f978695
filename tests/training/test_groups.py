"""A member of a group ends where the same run ends alone, whatever happens to its neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods, training
from jaxunlearn.training import compilation, devices, groups
from jaxunlearn.training.groups import Member, run_many
from jaxunlearn.training.programs import split
from jaxunlearn.types import Weights
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal, relative_error

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
    constants, numbers = split(settings)
    program = training.compile_program(
        lambda numbers: methods.build(toy.TASK, name, constants | numbers),
        forget_batch_size=toy.FORGET_BATCH,
        retain_batch_size=toy.RETAIN_BATCH,
        chunk_steps=3,
        mesh=devices.make_mesh(1),
    )
    return program, numbers


PROBLEM = toy.problem()
START = Weights(PROBLEM.params, PROBLEM.model_state)


def member(numbers, seed, start=START, forget=PROBLEM.forget, retain=PROBLEM.retain):
    return Member(numbers, seed, start, forget, retain)


def at_once(program, members, most=4, **rest):
    return list(run_many(program, members, num_steps=NUM_STEPS, most=most, **rest))


def alone(program, member):
    numbers, seed, *rest = member
    state = training.run(program, numbers, *rest, num_steps=NUM_STEPS, seed=seed).state
    return Weights(state.params, state.model_state)


@pytest.mark.parametrize("name", METHODS)
def test_every_member_equals_the_run_done_alone(name):
    program, defaults = make_program(name)
    members = [
        member(defaults | {"learning_rate": rate, "weight_decay": decay}, seed)
        for rate, decay, seed in ((0.01, 0.0, 0), (0.1, 0.0, 0), (0.1, 0.01, 0), (0.1, 0.0, 5))
    ]
    group = at_once(program, members)
    assert all(each.diverged is None and each.seconds > 0 for each in group)
    for one, finished in zip(members, group, strict=True):
        assert finished.group_size == 4
        assert_trees_close(finished.weights, alone(program, one), rtol=1e-5, atol=1e-6)
    ends = [np.asarray(finished.weights.params["kernel"]) for finished in group]
    for i in range(4):  # and so the comparison above could have failed
        for j in range(i):
            assert np.abs(ends[i] - ends[j]).max() > 1e-5


def test_members_may_have_weights_and_data_of_their_own():
    program, defaults = make_program("eupmu_sfron")

    def shifted(tree, by):
        return jax.tree.map(lambda x: x + by if x.dtype == jnp.float32 else x, tree)

    members = [
        member(defaults, 0),
        member(defaults, jax.random.key(0), start=shifted(START, 0.5)),
        member(defaults, 0, forget=shifted(PROBLEM.forget, 0.5)),
        member(defaults, 0, retain=shifted(PROBLEM.retain, 0.5)),
    ]
    ends = [finished.weights for finished in at_once(program, members)]
    for i, one in enumerate(members):
        assert_trees_close(ends[i], alone(program, one), rtol=1e-4, atol=1e-5)
        assert all(relative_error(ends[i], other) > 1e-3 for other in ends[:i])


def test_in_turns_every_run_is_the_run_done_alone_to_the_bit():
    program, defaults = make_program("finetune")
    rates = (0.05, 1e30, 0.2)
    members = [member(defaults | {"learning_rate": rate}, 1) for rate in rates]
    in_turns = at_once(program, members, most=1)
    assert [each.group_size for each in in_turns] == [1, 1, 1]
    assert in_turns[1].weights is None and in_turns[1].diverged >= 1
    for i in (0, 2):
        assert_trees_equal(in_turns[i].weights, alone(program, members[i]))


def test_runs_take_turns_on_cpus_alone(monkeypatch):
    assert groups.at_once(16) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert groups.at_once(16) == 16


def test_a_diverged_member_spoils_and_stops_nobody():
    program, defaults = make_program("finetune")
    rates = (0.05, 1e30, 0.2, 1e30)
    members = [member(defaults | {"learning_rate": rate}, 1) for rate in rates]
    seen = []
    group = at_once(program, members, on_progress=seen.append)
    with pytest.raises(training.Diverged) as caught:
        alone(program, members[1])
    assert group[1].weights is group[3].weights is None
    assert group[1].diverged == caught.value.step
    assert f"at step {caught.value.step} of" in str(caught.value)
    for i in (0, 2):
        assert_trees_close(group[i].weights, alone(program, members[i]), rtol=1e-5, atol=1e-6)
    assert [progress.step for progress in seen] == [3, 6, 7]
    assert all(np.isfinite(progress.metrics["retain_loss"]) for progress in seen)


def test_where_all_diverge_the_group_ends():
    program, defaults = make_program("finetune")
    members = [member(defaults | {"learning_rate": 1e30}, seed) for seed in range(4)]
    seen = []
    group = at_once(program, members, on_progress=seen.append)
    assert all(each.weights is None and each.diverged for each in group)
    assert seen == []


def test_the_last_group_is_filled_up_and_shares_the_program_and_inputs_stay():
    program, defaults = make_program("finetune")
    before = jax.tree.map(jnp.copy, PROBLEM)
    members = [member(defaults | {"learning_rate": 0.01 * i}, i) for i in range(6)]
    at_once(program, members[:4])
    compiled = set(compilation._executables)
    group = at_once(program, members)
    assert set(compilation._executables) == compiled
    assert len(group) == 6 and {each.group_size for each in group} == {4}
    assert_trees_close(group[5].weights, alone(program, members[5]), rtol=1e-5, atol=1e-6)
    assert_trees_equal(PROBLEM, before)


def test_a_group_is_as_large_as_its_memory(monkeypatch):
    program, defaults = make_program("finetune")
    members = [member(defaults, 0)] * 4

    def needed(size):
        return groups.memory_needed(program, members[:size])

    for limit, expected in ((needed(4), 4), (needed(3), 3), (needed(4) - 1, 3), (1, 1)):
        monkeypatch.setattr(groups, "memory_limit", lambda limit=limit: limit)
        assert groups.fitting_size(program, members) == expected
    state = 4 * sum(leaf.nbytes for leaf in jax.tree.leaves(START))
    assert needed(4) > 2 * state  # the weights and their momentum


def test_the_program_whose_memory_was_judged_is_the_one_that_runs():
    program, defaults = make_program("finetune")
    members = [member(defaults, seed) for seed in range(3)]
    groups.memory_needed(program, members)
    kept = dict(compilation._executables)
    at_once(program, members, most=3)
    assert len(compilation._executables.keys() - kept.keys()) <= 1  # that of `init`


def test_half_of_this_machine_is_the_limit():
    assert 2**28 < groups.memory_limit() < 2**46
