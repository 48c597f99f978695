"""The utility budget: held where the method alone collapses, and free where it does not bite."""

import functools
import itertools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods, parallel, training
from jaxunlearn.checkpoints import Checkpointer
from jaxunlearn.search.groups import run_group
from jaxunlearn.setting import Weights
from jaxunlearn.training import Program
from jaxunlearn.types import Arrays, InputError, Task, TrainState
from tests import toy, toy_diffusion
from tests.helpers import assert_trees_close, assert_trees_equal

STEPS, EVERY = 23, 2
GUARD = {"guard_budget": 0.05, "guard_every": EVERY}


class Problem(NamedTuple):
    """What is unlearned; ten times `rate` breaks `budget` by far."""

    task: Task
    rate: float
    budget: float
    start: Weights
    forget: Arrays
    retain: Arrays
    held_out: Arrays


@functools.cache
def problem(kind: str) -> Problem:
    if kind == "classifier":
        task, rate, budget, (*start, forget, retain) = toy.TASK, 0.05, 0.05, toy.problem()
    else:
        task, rate, budget, batch = toy_diffusion.toy(), 1e-3, 0.5, toy_diffusion.batch_of(48)
        start = task.init(jax.random.key(0))
        del batch["epoch"]
        forget = {name: values[:12] for name, values in batch.items()}
        retain = {name: values[12:] for name, values in batch.items()}
    held_out = {name: values[24:] for name, values in retain.items()}
    retain = {name: values[:24] for name, values in retain.items()}
    return Problem(task, rate, budget, Weights(*start), forget, retain, held_out)


@functools.cache
def compiled(task: Task, name: str, guarded: bool = False) -> tuple[Program, dict[str, float]]:
    """The program of a method, and its numbers."""
    settings = methods.settings(name, {"num_steps": STEPS} | (GUARD if guarded else {}))
    numbers = {k: v for k, v in settings.items() if isinstance(v, float)}
    fixed = {k: v for k, v in settings.items() if k not in numbers}
    program = training.compile_program(
        lambda traced: methods.build(task, name, fixed | traced),
        forget_batch_size=toy.FORGET_BATCH,
        retain_batch_size=toy.RETAIN_BATCH,
        chunk_steps=10,
        mesh=parallel.make_mesh(1),
    )
    return program, numbers


def run(
    kind: str, name: str = "gradient_ascent", guarded: bool = True, keep: Any = None, **given: float
) -> TrainState:
    """The last state of a run at ten times its rate; `keep` is told to `training.run`."""
    task, rate, budget, start, forget, retain, held_out = problem(kind)
    program, numbers = compiled(task, name, guarded)
    told = numbers | {"learning_rate": 10 * rate}
    told |= {"guard_budget": budget, "held_out": held_out} if guarded else {}
    keep = {"num_steps": STEPS} | (keep or {})
    return training.run(program, told | given, start, forget, retain, seed=3, **keep).state


def held_out_loss(kind: str, weights: Any) -> float:
    """Computed here, from all held-out examples at once."""
    task, held_out = problem(kind).task, problem(kind).held_out
    batch = held_out | {"epoch": jnp.zeros_like(held_out["index"])}
    losses, _ = task.losses(weights.params, weights.model_state, batch, jax.random.key(3), False)
    return float(jnp.mean(losses))


@pytest.mark.parametrize("kind", ["classifier", "diffusion"])
def test_ascent_at_ten_times_its_rate_collapses_alone_and_is_held_by_the_guard(kind: str) -> None:
    before, budget = held_out_loss(kind, problem(kind).start), problem(kind).budget
    alone = held_out_loss(kind, run(kind, guard_budget=1e9))  # the same as without a guard
    assert alone > before + 10 * budget
    state = run(kind)
    after, record = held_out_loss(kind, state), methods.guard_records(state)[0]
    assert before < after <= (before + budget) * (1 + 1e-5)  # it went where it may
    found = [record["start"], record["limit"], record["end"]]
    np.testing.assert_allclose(found, [before, before + budget, after], rtol=1e-5)
    assert record["rollbacks"] >= 1 and record["end"] <= record["limit"]
    assert float(state.opt_state.scale) == 0.5 ** record["rollbacks"]


def test_a_guard_that_never_bites_changes_no_bit() -> None:
    alone = run("classifier", "eupmu", guarded=False)
    state = run("classifier", "eupmu", guard_budget=1e9)
    assert methods.guard_records(state)[0]["rollbacks"] == 0
    assert_trees_equal(
        (state.params, state.model_state, state.opt_state.opt_state),
        (alone.params, alone.model_state, alone.opt_state),
    )


def test_what_would_have_diverged_is_wound_back() -> None:
    state = run("classifier", learning_rate=1e30)
    assert_trees_equal(Weights(state.params, state.model_state), problem("classifier").start)
    record = methods.guard_records(state)[0]
    assert record["end"] == record["start"] and record["rollbacks"] > STEPS // EVERY


def test_members_of_a_group_have_budgets_of_their_own() -> None:
    task, rate, budget, start, forget, retain, held_out = problem("classifier")
    program, numbers = compiled(task, "gradient_ascent", True)
    told = numbers | {"learning_rate": 10 * rate, "held_out": held_out}
    members = [told | {"guard_budget": some} for some in (budget / 5, budget, 1e9)]
    group = run_group(program, members, [3, 3, 3], start, forget, retain, num_steps=STEPS)
    assert group.guards[0]["rollbacks"] >= group.guards[1]["rollbacks"] > 0
    assert group.guards[2]["rollbacks"] == 0 and group.guards[2]["end"] > group.guards[1]["limit"]
    for weights, record in zip(group.weights, group.guards, strict=True):
        assert record["end"] <= record["limit"]
        np.testing.assert_allclose(held_out_loss("classifier", weights), record["end"], rtol=1e-5)
    alone = run("classifier")
    assert_trees_close(group.weights[1], Weights(alone.params, alone.model_state), rtol=1e-5)


def test_a_resumed_run_is_bit_equal_and_its_audits_are_on_record(tmp_path: Any) -> None:
    keep = {"checkpointer": Checkpointer(tmp_path / "kept"), "checkpoint_every": 10}
    run("classifier", keep=keep | {"num_steps": 10})  # the schedule is that of the program
    keep["metrics_file"] = tmp_path / "metrics.jsonl"
    state, expected = run("classifier", keep=keep), run("classifier")
    assert_trees_equal(state, expected)
    lines = [json.loads(line) for line in keep["metrics_file"].read_text().splitlines()]
    assert lines[-1]["guard_rollbacks"] == methods.guard_records(state)[0]["rollbacks"] > 1
    limit = methods.guard_records(state)[0]["limit"]
    after = [
        line
        for before, line in itertools.pairwise(lines)
        if line["guard_rollbacks"] > before["guard_rollbacks"]
    ]
    assert after and all(line["guard_loss"] > limit for line in after)
    assert all(line["step"] % EVERY == 0 or line["step"] == STEPS for line in after)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("eupmu", {"guard_every": 5}, "give guard_budget"),
        ("eupmu", {"guard_budget": -0.1}, "guard_budget .* must be 0 or more"),
        ("eupmu", {"guard_budget": 0.1, "guard_every": 0}, "guard_every .* must be positive"),
        ("retrain", {"guard_budget": 0.1}, "nothing to guard"),
    ],
)
def test_bad_budgets(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        methods.settings(name, given)
