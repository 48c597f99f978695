"""Streamed runs: the same bits as in memory, read in order, once, one chunk ahead, by each host."""

import threading

import jax
import numpy as np
import pytest

from jaxunlearn import methods, training
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.devices import make_mesh, own_rows, place_rows
from jaxunlearn.training.streaming import Columns, Stream, Unread
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_equal
from tests.methods.cases import CONVOLUTIONAL, GENERATING

STEPS, CHUNK = 10, 4


class Noted(Columns):
    """Records that note which of them are read."""

    def __init__(self, *columns):
        super().__init__(*columns)
        self.read, self.lock = [], threading.Lock()

    def __getitem__(self, position):
        with self.lock:
            self.read.append(position)
        return super().__getitem__(position)


@pytest.fixture(scope="module")
def go():
    """Runs EUPMU on the toy task, with retain data in memory or as given."""
    runner, problem = toy.runner("eupmu", estimator="next_batch"), toy.problem()
    program = training.compile_program(
        runner.build,
        forget_batch_size=toy.FORGET_BATCH,
        retain_batch_size=toy.RETAIN_BATCH,
        chunk_steps=CHUNK,
        mesh=make_mesh(1),
    )

    def run(folder, retain=problem.retain, num_steps=STEPS, **rest):
        folder.mkdir(exist_ok=True)
        outcome = training.run(
            program,
            runner.numbers,
            (problem.params, problem.model_state),
            problem.forget,
            retain,
            num_steps=num_steps,
            seed=0,
            checkpointer=Checkpointer(folder / "checkpoints"),
            checkpoint_every=CHUNK,
            metrics_file=folder / "metrics.jsonl",
            **rest,
        )
        return jax.device_get(outcome.state), (folder / "metrics.jsonl").read_bytes()

    return run


@pytest.fixture
def noted():
    """The toy's retain data as a stream: the last 36 of 48 records."""
    whole = [np.zeros((12, toy.INPUTS), np.float32), np.zeros(12, np.int32)]
    retain = jax.device_get(toy.problem().retain)
    image, label = (
        np.concatenate([first, retain[name]])
        for first, name in zip(whole, ("image", "label"), strict=True)
    )
    return Stream(Noted(image, label), np.arange(12, 48))


def test_a_streamed_run_is_that_of_data_in_memory_to_the_bit(go, noted, tmp_path):
    """Weights, multiplier and metrics, also of a run that was killed and went on."""
    state, metrics = go(tmp_path / "memory")
    found, lines = go(tmp_path / "stream", noted)
    assert_trees_equal(found, state)
    assert lines == metrics
    order = sorted(noted.records.read)
    assert len(order) == STEPS * toy.RETAIN_BATCH  # what is not visited is not read
    assert min(np.unique(order, return_counts=True)[1]) >= STEPS * toy.RETAIN_BATCH // 36

    def kill(progress):
        if progress.step == 2 * CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed", noted, on_progress=kill)
    assert Checkpointer(tmp_path / "killed" / "checkpoints").newest_step() == CHUNK
    found, lines = go(tmp_path / "killed", noted)
    assert_trees_equal(found, state)
    assert lines == metrics


def test_one_chunk_is_read_ahead_and_nothing_beyond_the_end(go, noted, tmp_path):
    counts = []
    go(tmp_path, noted, on_progress=lambda progress: counts.append(len(noted.records.read)))
    chunks = [CHUNK, 2 * CHUNK, STEPS, STEPS]
    for count, done, ahead in zip(counts, chunks[:3], chunks[1:], strict=True):
        assert done * toy.RETAIN_BATCH <= count <= ahead * toy.RETAIN_BATCH


def test_reading_keeps_the_order_and_the_identity():
    images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    stream = Stream(Columns(images, np.arange(10) * 7), np.array([9, 2, 5]))
    found = stream.read(np.array([[2, 0], [1, 1]]))
    assert found["index"].tolist() == [[5, 9], [2, 2]]
    np.testing.assert_array_equal(found["image"], images[[[5, 9], [2, 2]]])
    assert found["label"].tolist() == [[35, 63], [14, 14]]
    assert (found["image"].dtype, found["label"].dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize(
    ("records", "index", "words"),
    [
        ([], [], "index is none, but must name at least one record"),
        ([{}], [0, 1], "index is 0 to 1, .*by numbers below 1"),
        ([{}], [0], r"record 0 cannot be read \(KeyError"),
        ([{"image": np.zeros(n), "label": 0} for n in (2, 3)], [0, 1], "record 1 has .* others"),
    ],
)
def test_what_cannot_be_streamed(records, index, words):
    with pytest.raises(InputError, match=words):
        Stream(records, np.array(index, int)).read(np.arange(len(index)))


# These look at retain data before their first step. SFR-on does so for its mask only.
LOOK = {"sfron", "sfron_released", "eupmu_sfron", "eupmu_budget", "influence", "ssd"}
LOOK |= {"fisher_forgetting", "msg", "dmm"}
ELSEWHERE = (*GENERATING, *CONVOLUTIONAL)


@pytest.mark.parametrize("name", [n for n in methods.available() if n not in ELSEWHERE])
def test_methods_that_look_at_all_retain_data_are_refused(name):
    problem, key = toy.problem(), jax.random.key(0)

    def init(**settings):
        method = methods.build(
            toy.TASK, name, methods.settings(name, {"num_steps": 16, **settings})
        )
        return jax.eval_shape(
            lambda: method.init(key, problem.params, problem.model_state, problem.forget, Unread())
        )

    if name not in LOOK:
        init()
        return
    with pytest.raises(InputError, match="needs all examples before .* streamed; keep them in"):
        init()
    if "saliency" in methods.settings(name):
        init(saliency=False)


def test_sfron_runs_on_streamed_data_as_it_is_advised_to(noted):
    with pytest.raises(InputError, match="variant = 'FR-on' for sfron"):
        Unread()["image"]
    runner, problem = toy.runner("sfron", variant="FR-on"), toy.problem()
    program = training.compile_program(
        runner.build,
        forget_batch_size=toy.FORGET_BATCH,
        retain_batch_size=toy.RETAIN_BATCH,
        chunk_steps=CHUNK,
        mesh=make_mesh(1),
    )

    def ended(retain):
        start = (problem.params, problem.model_state)
        told = {"num_steps": STEPS, "seed": 0}
        return training.run(program, runner.numbers, start, problem.forget, retain, **told).state

    assert_trees_equal(ended(noted), ended(problem.retain))


@pytest.mark.parametrize("axis", [1, 2])
def test_each_device_has_its_own_rows(axis):
    mesh = make_mesh(4)
    rows = own_rows(8, mesh)
    assert rows.tolist() == list(range(8))  # one process has them all
    shape = (3, 2, 8)[-axis - 1 :]
    values = np.arange(np.prod(shape) * 5).reshape(*shape, 5)
    placed = place_rows({"x": values}, 8, mesh, axis)["x"]
    np.testing.assert_array_equal(placed, values)
    for shard in placed.addressable_shards:
        assert shard.data.shape == (*shape[:-1], 2, 5)
