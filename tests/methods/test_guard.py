"""The utility budget: held where the method alone collapses, and free where it does not bite."""

import functools
import itertools
import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods, training
from jaxunlearn.methods._winding_back import wound_back
from jaxunlearn.training import Program, devices
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.groups import Member, run_many
from jaxunlearn.training.programs import split
from jaxunlearn.transforms import implicit_surgery
from jaxunlearn.types import Arrays, InputError, Task, TrainState, Weights
from tests import toy, toy_diffusion
from tests.helpers import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.long

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
    constants, numbers = split(settings)
    program = training.compile_program(
        lambda traced: methods.build(task, name, constants | traced),
        forget_batch_size=toy.FORGET_BATCH,
        retain_batch_size=toy.RETAIN_BATCH,
        chunk_steps=10,
        mesh=devices.make_mesh(1),
    )
    return program, numbers


def run(
    kind: str, name: str = "gradient_ascent", guarded: bool = True, keep: Any = None, **given: float
) -> TrainState:
    """The last state of a run at ten times its rate; `keep` goes to `training.run`."""
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


def counts(opt_state: Any) -> list[int]:
    """Those of all schedules, wherever they are."""
    is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)  # noqa: E731
    nodes = jax.tree.leaves(opt_state, is_leaf=is_schedule)
    return sorted(int(node.count) for node in nodes if is_schedule(node))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gradient_ascent", [STEPS]),
        ("eupmu", [STEPS]),
        ("sfron", [STEPS, 5 * STEPS]),  # of alpha, and of the fast optimizer
    ],
)
def test_schedules_end_with_a_run_that_is_wound_back(name: str, expected: list[int]) -> None:
    """Time continues: at the last step the learning rate and alpha have decayed."""
    state = run("classifier", name, learning_rate=1.0, guard_budget=0.001)
    assert methods.guard_records(state)[0]["rollbacks"] >= 1
    assert counts(state.opt_state.opt_state) == expected


def test_what_is_wound_back_and_what_continues() -> None:
    """Momentum, moments and the multiplier are, and of the counts only those that go with them."""
    params, rate = {"w": jnp.ones(3)}, optax.linear_schedule(1.0, 0.0, 10)
    tx = optax.chain(
        optax.inject_hyperparams(optax.scale_by_learning_rate)(rate),
        optax.scale_by_adam(),
        optax.trace(0.9),
        optax.masked(optax.scale_by_schedule(rate), {"w": True}),
        implicit_surgery(optax.adam(0.1), tolerance=rate),
    )

    def after(state: Any, num_steps: int) -> Any:
        told = {"retain_value": jnp.float32(1.0), "retain_value_fn": lambda p: jnp.float32(2.0)}
        for _ in range(num_steps):
            _, state = tx.update(params, state, params, **told)
        return state

    safe = after(tx.init(params), 2)
    latest = after(safe, 3)
    injected, adam, trace, masked, surgery = wound_back(safe, latest)
    assert int(injected.count) == int(masked.inner_state.count) == int(surgery.count) == 5
    assert_trees_equal((adam, trace), (safe[1], safe[2]))
    assert_trees_equal(surgery._replace(count=safe[4].count), safe[4])
    assert float(latest[4].multiplier) > float(safe[4].multiplier)


def test_a_method_that_remembers_losses_forgets_them_at_the_start() -> None:
    """ "next_batch" compares with the loss of the previous call, of which there is none again."""
    tx = implicit_surgery(optax.sgd(1.0), estimator="next_batch")
    start = tx.init(None)
    _, later = tx.update(None, start, retain_value=jnp.float32(3.0))
    _, again = tx.update(None, wound_back(start, later), retain_value=jnp.float32(5.0))
    assert float(again.multiplier) == 0.0


@pytest.mark.parametrize("name", ["eupmu", "eupmu_sfron"])
def test_the_multiplier_sees_the_step_that_is_taken(name: str) -> None:
    """At half a step: half the updates, and the multiplier of a method whose steps are halves."""
    task, _, _, start, forget, retain, _ = problem("classifier")
    extra = {} if name == "eupmu" else {"num_steps": 9, "num_fast_steps": 2, "mask_batch_size": 4}
    method = getattr(methods, name)(task, optax.sgd(0.1, momentum=0.9), **extra)
    state = method.init(jax.random.key(0), *start, forget, retain)
    batches = (
        toy.nth_batch(forget, 0, toy.FORGET_BATCH),
        toy.nth_retain_batches(retain, 0, method.retain_batches),
    )
    whole, half = (jax.jit(method.scaled_step)(state, *batches, scale) for scale in (1.0, 0.5))
    plain, _ = jax.jit(method.step)(state, *batches)
    assert_trees_equal(whole[0], plain)
    halves = jax.tree.map(lambda x, y: 0.5 * (x + y), state.params, plain.params)
    assert_trees_close(half[0].params, halves, rtol=1e-5)
    key = jax.random.key(0)
    batch = jax.tree.map(lambda x: x[0], batches[1])
    losses = [
        float(jnp.mean(task.losses(p, start.model_state, batch, key, True)[0]))
        for p in (state.params, half[0].params)
    ]
    rise = np.log(losses[1]) - np.log(losses[0])
    # Adam's first moment remembers the dual gradient: a tenth of it.
    surgery = optax.tree.get(half[0].opt_state, "optimizer_state")
    (moment,) = jax.tree.leaves(optax.tree.get(surgery, "mu"))
    np.testing.assert_allclose(moment, -0.1 * rise, rtol=1e-2)


def test_a_guard_that_never_bites_changes_no_bit() -> None:
    """In a process of its own: what XLA does not optimise it rounds in another order."""
    code = "from tests.methods.test_guard import never_bites; never_bites('eupmu')"
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | own, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


def never_bites(name: str) -> None:
    alone = run("classifier", name, guarded=False)
    state = run("classifier", name, guard_budget=1e9)
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
    members = [
        Member(told | {"guard_budget": some}, 3, start, forget, retain)
        for some in (budget / 5, budget, 1e9)
    ]
    group = list(run_many(program, members, num_steps=STEPS, most=3))
    weights_of, guards = [each.weights for each in group], [each.guard for each in group]
    assert guards[0]["rollbacks"] >= guards[1]["rollbacks"] > 0
    assert guards[2]["rollbacks"] == 0 and guards[2]["end"] > guards[1]["limit"]
    for weights, record in zip(weights_of, guards, strict=True):
        assert record["end"] <= record["limit"]
        np.testing.assert_allclose(held_out_loss("classifier", weights), record["end"], rtol=1e-5)
    alone = run("classifier")
    assert_trees_close(weights_of[1], Weights(alone.params, alone.model_state), rtol=1e-5)


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
