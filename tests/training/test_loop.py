"""Runs: resuming to the bit, stopping, and what a program promises.

The program is EUPMU with the next-batch multiplier on the toy task, in chunks of four steps.
"""

import gc
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import training
from jaxunlearn.data import order
from jaxunlearn.training import (
    Diverged,
    Interrupted,
    Outcome,
    Program,
    compilation,
    compile_program,
)
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.devices import make_mesh, replicate
from jaxunlearn.types import InputError, Method, TrainState
from tests import toy
from tests.helpers import assert_trees_equal, flat

KEY = jax.random.key(0)
STEPS = 10


def program_of(runner: toy.Runner, devices: int = 1, **sizes: int) -> Program:
    sizes = {"forget_batch_size": toy.FORGET_BATCH, "retain_batch_size": toy.RETAIN_BATCH} | sizes
    return compile_program(runner.build, chunk_steps=4, mesh=make_mesh(devices), **sizes)


@pytest.fixture(scope="module")
def runner() -> toy.Runner:
    return toy.runner("eupmu", estimator="next_batch")


@pytest.fixture(scope="module")
def program(runner: toy.Runner) -> Program:
    return program_of(runner)


@pytest.fixture(scope="module")
def go(program: Program, runner: toy.Runner) -> Callable[..., Outcome]:
    """Runs the program; in a folder, with checkpoints and metrics there."""

    def run(
        folder: Path | None = None, num_steps: int = STEPS, seed: int = 0, **rest: Any
    ) -> Outcome:
        problem, numbers = toy.problem(), runner.numbers | rest.pop("numbers", {})
        if folder is not None:
            rest |= {
                "checkpointer": Checkpointer(folder / "checkpoints"),
                "metrics_file": folder / "metrics.jsonl",
                "checkpoint_every": rest.get("checkpoint_every", 4),
            }
        return training.run(
            program,
            numbers,
            (problem.params, problem.model_state),
            problem.forget,
            problem.retain,
            num_steps=num_steps,
            seed=seed,
            **rest,
        )

    return run


class Finished:
    """What a run left behind: its state and its metrics file."""

    def __init__(self, outcome: Outcome, folder: Path) -> None:
        self.state = jax.device_get(outcome.state)
        self.metrics = (folder / "metrics.jsonl").read_bytes()

    def assert_same(self, other: "Finished") -> None:
        assert_trees_equal(self.state, other.state)
        assert self.metrics == other.metrics


@pytest.fixture(scope="module")
def undisturbed(go: Any, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("undisturbed")
    return Finished(go(folder), folder)


def test_a_run_is_the_steps_of_the_method(undisturbed: Finished, runner: toy.Runner) -> None:
    """One by one, on batches of the stream, by the keys that the run derives from its seed."""
    problem, numbers = toy.problem(), {k: jnp.float32(v) for k, v in runner.numbers.items()}
    forget, retain = (
        order.visits(jax.random.fold_in(KEY, child), arrays, jnp.int32(0), size, 4)
        for child, arrays, size in ((2, problem.forget, 4), (3, problem.retain, 6))
    )
    state = runner.start(seed=0)
    lines = undisturbed.metrics.decode().splitlines()
    for n in range(4):
        batch = order.take(problem.retain, retain, jnp.int32(n))
        stacked = jax.tree.map(lambda x: x[None], batch)
        batch = order.take(problem.forget, forget, jnp.int32(n))
        state, metrics = runner.step(numbers, state, batch, stacked)
        line = json.loads(lines[n])
        assert line.pop("step") == n + 1
        assert line.keys() == {"forget_loss", "retain_loss", "multiplier", "gradient_norm"}
        for name, value in line.items():
            assert np.isclose(value, metrics[name], rtol=1e-5)
    assert len(lines) == STEPS and int(undisturbed.state.step) == STEPS


# Stopping and going on.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [4, STEPS])
def test_a_stopped_run_continues_as_if_it_had_not_stopped(
    number: int, at: int, go: Any, undisturbed: Finished, tmp_path: Path
) -> None:
    """Weights, multiplier and metrics are the same to the bit. It stops even in its last chunk."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def stop(progress: training.Progress) -> None:
        if progress.step == at:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=f"stopped at step {at} of 10; .* from step {at}"):
        go(tmp_path, on_progress=stop, checkpoint_every=1000)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert Checkpointer(tmp_path / "checkpoints").newest_step() == at
    Finished(go(tmp_path), tmp_path).assert_same(undisturbed)


def test_a_killed_run_continues_from_its_last_checkpoint(
    go: Any, undisturbed: Finished, tmp_path: Path
) -> None:
    """Metrics after the checkpoint, and the line that was being written, are written again."""

    def kill(progress: training.Progress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, on_progress=kill)
    assert Checkpointer(tmp_path / "checkpoints").newest_step() == 4
    path = tmp_path / "metrics.jsonl"
    assert len(path.read_text().splitlines()) == 8
    path.write_text(path.read_text() + '{"step": 9, "forget_l')
    Finished(go(tmp_path), tmp_path).assert_same(undisturbed)


@pytest.mark.parametrize("line", [1, 6])
def test_altered_metrics_are_written_again(
    go: Any, undisturbed: Finished, tmp_path: Path, line: int
) -> None:
    """A checkpoint counts as sound only with the metrics of all steps before it."""
    go(tmp_path, num_steps=8)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace("0.", "0.1", 1)
    path.write_text("".join(lines))
    if line == 1:
        with pytest.raises(InputError, match="metrics.jsonl was cut short or altered .* again"):
            go(tmp_path)
        return
    with pytest.warns(UserWarning, match="step 8 .* the run continues from step 4"):
        outcome = go(tmp_path)
    Finished(outcome, tmp_path).assert_same(undisturbed)


def test_chunks_may_end_anywhere(go: Any, undisturbed: Finished, tmp_path: Path) -> None:
    """Three steps, then three and four more, are ten; a finished run is left as it is."""
    for steps in (3, STEPS, STEPS):
        outcome = go(tmp_path, num_steps=steps)
    assert outcome.compile_seconds == 0.0
    Finished(outcome, tmp_path).assert_same(undisturbed)


def test_seconds_add_up_over_interruptions(go: Any, tmp_path: Path) -> None:
    first = go(tmp_path, num_steps=4).seconds
    assert go(tmp_path).seconds > first > 0


def test_old_metrics_of_a_run_without_checkpoints_are_dropped(go: Any, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    go(metrics_file=path, num_steps=3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and "retain_loss" in lines[0]


def test_a_run_in_another_thread_needs_no_signals(go: Any, undisturbed: Finished) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(go()))
    thread.start()
    thread.join()
    assert_trees_equal(jax.device_get(outcomes[0].state), undisturbed.state)


# Runs that fail.

WILD = {"learning_rate": 1e38, "weight_decay": 1e38}


@pytest.mark.parametrize("steps", [5, STEPS])
def test_divergence_keeps_the_last_good_checkpoint(
    steps: int, go: Any, undisturbed: Finished, tmp_path: Path
) -> None:
    """Also where the chunk ends before a loss can show what the weights have become."""
    go(tmp_path, num_steps=4)
    with pytest.raises(Diverged, match=r"at step [56] of .* checkpoint is of step 4\. Lower the"):
        go(tmp_path, num_steps=steps, numbers=WILD)
    assert Checkpointer(tmp_path / "checkpoints").newest_step() == 4
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert steps == 5 or "nan" in last.values()
    Finished(go(tmp_path), tmp_path).assert_same(undisturbed)


def test_divergence_without_checkpoints(go: Any) -> None:
    seen: list[training.Progress] = []
    with pytest.raises(Diverged, match="at step 2 of 10; no checkpoint was saved before"):
        go(numbers=WILD, on_progress=seen.append)
    assert seen == []


@pytest.mark.parametrize("name", ["forget_batch_size", "retain_batch_size"])
def test_batches_must_divide_over_the_devices(name: str, runner: toy.Runner) -> None:
    sizes = {"forget_batch_size": 8, "retain_batch_size": 8} | {name: 12}
    with pytest.raises(InputError, match=f"{name} is 12, .* multiple of the 8 devices; .* 16"):
        program_of(runner, devices=8, **sizes)


# What one program promises.


def test_progress_is_reported_after_each_chunk(go: Any, undisturbed: Finished) -> None:
    seen: list[training.Progress] = []
    go(on_progress=seen.append)
    assert [progress.step for progress in seen] == [4, 8, 10]
    assert all(progress.num_steps == STEPS for progress in seen)
    assert 0 < seen[0].seconds < seen[1].seconds < seen[2].seconds
    line = json.loads(undisturbed.metrics.decode().splitlines()[-1])
    assert seen[-1].metrics == {name: line[name] for name in line if name != "step"}


def test_another_seed_is_another_run(go: Any, undisturbed: Finished) -> None:
    assert np.any(flat(go(seed=1).state.params) != flat(undisturbed.state.params))


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_a_seed_that_would_be_cut_to_32_bits_is_refused(go: Any, seed: int) -> None:
    with pytest.raises(InputError, match=f"seed is {seed}, but must be from 0 to 4294967295"):
        go(seed=seed)


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """The events of compilation while the test runs."""
    events: list[str] = []

    def listen(event: str, duration: float, **rest: Any) -> None:
        if "compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_other_numbers_seeds_and_lengths_compile_nothing(
    go: Any, undisturbed: Finished, compilations: list[str], tmp_path: Path
) -> None:
    """Neither does another chunk, nor going on from a checkpoint."""
    first = go(tmp_path, numbers={"tolerance": 0.5}, seed=3, num_steps=6)
    again = go(tmp_path, numbers={"tolerance": 0.5}, seed=3, num_steps=11)
    assert compilations == [] and first.compile_seconds == again.compile_seconds == 0.0
    jax.jit(lambda x: x * 1.2345)(jnp.ones(3))
    assert compilations != []


def test_data_of_another_size_compile_no_new_chunk(
    program: Program, runner: toy.Runner, undisturbed: Finished
) -> None:
    """Steps see batches only: other requests and seeds of a study share the costly program."""
    problem, before = toy.problem(), executable_of(program)
    fewer = {name: values[:-3] for name, values in problem.forget.items()}
    more = {name: jnp.concatenate([x, x[:5]]) for name, x in problem.retain.items()}
    start = (problem.params, problem.model_state)
    outcome = training.run(program, runner.numbers, start, fewer, more, num_steps=STEPS, seed=0)
    assert executable_of(program) is before
    assert np.any(flat(outcome.state.params) != flat(undisturbed.state.params))


def executable_of(program: Program) -> Any:
    """The chunk of a program that has run once."""
    (found,) = [run for key, run in compilation._executables.items() if key[0] is program.chunk]
    return found


@pytest.fixture
def chunk(program: Program, runner: toy.Runner) -> tuple[Any, tuple[Any, ...]]:
    """The executable of a chunk, and its arguments."""
    problem = toy.problem()
    numbers = replicate({k: jnp.float32(v) for k, v in runner.numbers.items()}, program.mesh)
    state = program.init(numbers, KEY, *problem)
    stop = replicate(jnp.int32(4), program.mesh)
    args = (numbers, state, problem.forget, problem.retain, stop)
    args = (args[0], args[1], *replicate(args[2:], program.mesh))
    return training.executable_for(program.chunk, *args)[0], args


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux limits memory maps")
def test_programs_are_let_go_before_they_are_too_many(
    go: Any, undisturbed: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where each is one too many, a run goes as any other, and those of before are gone."""

    def maps() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    go()
    held, limit = maps(), tmp_path / "limit"
    limit.write_text("1\n")
    monkeypatch.setattr(compilation, "_MOST_MAPS", limit)
    monkeypatch.setattr(compilation, "_own_process", False)
    kept, theirs = len(compilation._executables), jax.jit(lambda x: x * 3.0)
    theirs(jnp.ones(3))
    training.executable_for(jax.jit(lambda x: x + 2.0), jnp.ones(3))
    assert len(compilation._executables) == kept + 1 and theirs._cache_size() == 1  # others' stay
    monkeypatch.setattr(compilation, "_own_process", True)
    training.executable_for(jax.jit(lambda x: x + 1.0), jnp.ones(3))
    assert len(compilation._executables) == 1 and theirs._cache_size() == 0
    gc.collect()
    assert maps() < held
    Finished(go(tmp_path), tmp_path).assert_same(undisturbed)


def test_the_programs_that_were_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_executables", {})
    monkeypatch.setattr(compilation, "_MOST_EXECUTABLES", 2)
    first, second, third = (jax.jit(lambda x, c=c: x + c) for c in range(3))
    for function in (first, second, first, third):
        training.executable_for(function, jnp.ones(3))
    assert [key[0] for key in compilation._executables] == [first, third]


@pytest.mark.parametrize(("limit", "expected"), [("1", True), ("2000000000", False), ("?", False)])
def test_programs_are_too_many_by_the_limit_of_the_system(
    limit: str, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "limit"
    monkeypatch.setattr(compilation, "_MOST_MAPS", path)
    assert not compilation.too_many()  # no limit that can be read
    path.write_text(limit)
    assert compilation.too_many() == (expected and Path("/proc/self/maps").exists())


def test_nothing_moves_to_or_from_the_host_within_a_chunk(chunk: Any) -> None:
    executable, args = chunk
    with jax.transfer_guard("disallow"):
        state, _, finite = executable(*args)
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            jnp.add(state.step, np.int32(1))
    assert int(state.step) == 4 and finite


def test_the_state_is_donated(chunk: Any) -> None:
    """Its buffers become those of the new state, so that memory does not double."""
    executable, args = chunk
    state = args[1]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert executable.memory_analysis().alias_size_in_bytes >= size
    executable(*args)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(toy.problem()))


def test_a_chunk_stops_at_its_stop_and_where_a_loss_is_not_finite(chunk: Any) -> None:
    executable, (numbers, state, *data, _) = chunk
    numbers = numbers | {"learning_rate": jnp.float32(np.nan)}
    state, history, finite = executable(numbers, state, *data, jnp.int32(4))
    assert int(state.step) == 2 and not finite  # losses are of the weights before the step
    assert np.isnan(history["retain_loss"][1]) and history["retain_loss"][2] == 0.0


@pytest.mark.parametrize("devices", [1, 2])
def test_the_start_survives_even_a_method_that_copies_nothing(devices: int) -> None:
    """Its init hands the caller's arrays through; the run donates its state all the same."""

    def build(numbers: Any) -> Method:
        def init(key: Any, params: Any, model_state: Any, forget: Any, retain: Any) -> TrainState:
            return TrainState(
                jnp.zeros([], jnp.int32), params, model_state, (), jax.random.key_data(key)
            )

        def step(state: TrainState, forget: Any, retain: Any) -> Any:
            state = state._replace(step=state.step + 1, params=state.params + numbers["rate"])
            return state, {"retain_loss": jnp.sum(state.params)}

        return Method(init, step)

    mesh = make_mesh(devices)
    program = compile_program(
        build, forget_batch_size=2, retain_batch_size=2, chunk_steps=2, mesh=mesh
    )
    problem, start = toy.problem(), (replicate(jnp.zeros(2), mesh), {"m": np.zeros(3)})
    for _ in range(2):
        outcome = training.run(
            program, {"rate": 0.5}, start, problem.forget, problem.retain, num_steps=3, seed=0
        )
        assert outcome.state.params.tolist() == [1.5, 1.5]
    assert start[0].tolist() == [0.0, 0.0]


def test_more_steps_than_can_be_counted_are_refused(go: Any) -> None:
    with pytest.raises(InputError, match="num_steps is 2147483648, but must be 2147483647 or less"):
        go(num_steps=2**31)
