"""Every published setting has a file that starts, whose step lowers at its full size.

Only shapes are at work at full size: no weights are made, and nothing is compiled.
"""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.data import Dataset, Examples, ForgetRequest
from jaxunlearn.data.table import TABLE
from jaxunlearn.studies import problem as problems
from jaxunlearn.studies import prompts
from jaxunlearn.studies.config import Aim, Problem
from jaxunlearn.studies.run_study import compare
from jaxunlearn.studies.runs.prepare import trainable_part
from jaxunlearn.studies.runs.status import status
from jaxunlearn.studies.study import load_study

FOLDER = Path(__file__).parent.parent / "experiments" / "configs" / "published"
FILES = sorted(FOLDER.glob("*.toml"))
STUDIES = {path.stem: load_study(path) for path in FILES}
LABELS = ("Source", "Published", "Deviations", "Time", "Status")
CLASSES = {"imagenet": 1000}  # of the user's own images; two are enough for all others


class Step(NamedTuple):
    """One step at its full size: a model, a method, and the constants of its program."""

    problem: Problem
    method: str
    settings: dict[str, Any]
    aim: Aim | None


def steps() -> dict[str, Step]:
    """The step of the first run of a file, by the file, for each model once, by either method."""
    found: dict[str, tuple[str, Step]] = {}
    for stem, study in STUDIES.items():
        request, run = study.requests[0], next(iter(study.methods))
        method, settings = study.run_settings(request, run)
        step = Step(study.problem, method, settings, study.run_aim(request, run))
        found.setdefault(study.problem.model, (stem, step))
    return dict(found.values())


STEPS = steps()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_of_a_file_has_every_part(path: Path) -> None:
    """One command, the source, the numbers, each deviation, the time, and whether it was run."""
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "#:schema ../study.schema.json"
    header = [line[1:] for line in itertools.takewhile(lambda line: line[:1] == "#", lines[1:])]
    header = [line for line in header if line]
    folder, own = f"runs/{path.stem.replace('_', '-')}", path.relative_to(FOLDER.parents[2])
    assert header[1].strip() == f"jaxunlearn compare {folder} --config {own}"
    told = re.split(rf"^ ({'|'.join(LABELS)}): ", "\n".join(header[2:]), flags=re.MULTILINE)
    found = dict(zip(told[1::2], told[2::2], strict=True))
    assert tuple(found) == LABELS
    assert all(len(text.split()) > 2 for text in found.values())
    assert re.search(r"\d.* (minutes|hours?)", found["Time"])
    assert re.match(r"(run|not run), .*\w", found["Status"])


@pytest.mark.long
@pytest.mark.parametrize("stem", STEPS)
def test_a_step_lowers_at_its_full_size(stem: str, fake_data: None) -> None:
    task, built, data, visits = program(STEPS[stem])
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(built.init, key, *jax.eval_shape(task.init, key), *data)
    after, _ = jax.jit(built.step).lower(state, *visits).out_info
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def program(given: Step) -> tuple[Any, Any, list[Any], list[Any]]:
    """The task, the method, and the shapes of its data and batches: forget and retain."""
    problem, method, settings, aim = given
    task, _ = trainable_part(problems.load_task(problem), aim)
    built = methods.build(task, method, settings)
    forget, retain = (settings[f"{part}_batch_size"] for part in ("forget", "retain"))
    sizes = {True: (forget,), False: (built.retain_batches, retain)}
    data = [arrays(problem, (16,), part) for part in sizes]
    return task, built, data, [visited(problem, size, part) for part, size in sizes.items()]


def arrays(problem: Problem, count: tuple[int, ...], forget: bool) -> dict[str, Any]:
    """The shapes of a data set: images, or latents as they are cached."""
    shape, dtype = problems.load_dataset(problem).train.image.shape[1:], jnp.uint8
    autoencoder = problems.load_autoencoder(problem)
    if autoencoder is not None:
        assert problem.diffusion is not None
        *sides, channels = problems.latent_shape(autoencoder, shape)
        channels *= (1 + (problem.diffusion.latents == "sampled")) * (1 + problem.diffusion.flip)
        shape, dtype = (*sides, channels), jnp.float32
    names = ("label", "index", *(("anchor",) if forget and problem.generates else ()))
    return {"image": jax.ShapeDtypeStruct((*count, *shape), dtype)} | {
        name: jax.ShapeDtypeStruct(count, jnp.int32) for name in names
    }


def visited(problem: Problem, count: tuple[int, ...], forget: bool) -> dict[str, Any]:
    """The shapes of a batch."""
    return arrays(problem, count, forget) | {"epoch": jax.ShapeDtypeStruct(count, jnp.int32)}


class FullTokens:
    """A tokenizer of CLIP's size, for which all prompts are the same."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.zeros((len(texts), 77), np.int32)


@pytest.fixture
def fake_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets of the right shapes and classes with hardly any images, and a fake tokenizer."""

    def load(key: Any) -> Dataset:
        name, _, folder, reading = key
        entry, side = TABLE.get(name), reading.image_size
        if entry is None:
            count, mean, std = CLASSES.get(Path(str(folder)).name, 2), (0.5,) * 3, (0.5,) * 3
        else:
            count, mean, std = entry.num_classes, entry.mean, entry.std
            side = 64 if name == "tiny_imagenet" else 32
        images = np.zeros((2, side, side, 3), np.uint8)
        examples = Examples.from_arrays(images, np.zeros(2, np.int32))
        names = tuple(f"a photo of a {number}" for number in range(count))
        return Dataset(name, examples, examples, count, names, mean, std, "flip_crop")

    cached = (problems._dataset, problems._module, problems._task, problems._autoencoder)
    for function in cached:
        monkeypatch.setattr(problems, function.__name__, function.__wrapped__)
    monkeypatch.setattr(problems, "_dataset", load)
    monkeypatch.setattr(prompts, "_clip_tokenizer", lambda place: FullTokens())


SMALL = {"num_steps": 2, "forget_batch_size": 4, "retain_batch_size": 4}
PASSES = {"mask_batch_size": 8, "num_mask_batches": 1}
TRAINED = {"num_steps": 4, "retain_batch_size": 16, "forget_batch_size": 1}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm-cifar10": ("ddpm-tiny", {"widths": [8], "attention_levels": [1]}),
    "latent-dit-xl/2": ("latent-dit-tiny-test", {"learn_variance": True, "depth": 1}),
}


@pytest.mark.long
def test_a_tiny_twin_of_classifiers_runs(tmp_path: Path) -> None:
    """The first run of a file with few steps of few examples and a tiny model, and its report."""
    given = STUDIES["eupmu_cifar10"]
    run, settings = next(iter(given.methods.items()))
    training = given.problem.training | TRAINED
    study = dataclasses.replace(
        given,
        problem=Problem(data="digits", train_size=300, model="mlp-tiny", training=training),
        requests=(ForgetRequest(fraction=0.1),),
        seeds=(0,),
        methods={run: settings | SMALL},
        overrides={},
    )
    assert compare(tmp_path / "study", study)["markdown"].exists()
    done = {path.parent.name for path in tmp_path.glob("study/seed-0/*/*/results.json")}
    assert done == {run, "original", "retrain", "retrain-again"}
    assert {each.state for each in status(tmp_path / "study")} == {"done"}


@pytest.mark.long
@pytest.mark.parametrize("stem", ["sfron_ddpm", "sfron_dit"])
def test_a_tiny_twin_that_generates_takes_a_step(stem: str, fake_data: None) -> None:
    """The first run of a file on a tiny model; whole studies of such models run in other tests."""
    study = STUDIES[stem]
    request, run = study.requests[0], next(iter(study.methods))
    method, settings = study.run_settings(request, run)
    settings |= {name: value for name, value in (SMALL | PASSES).items() if name in settings}
    model, fields = TINY[study.problem.model]
    tiny = {"model": model, "model_settings": fields, "image_size": 8}
    problem = dataclasses.replace(study.problem, data="folder:tiny", **tiny)
    task, built, data, visits = program(
        Step(problem, method, settings, study.run_aim(request, run))
    )
    key = jax.random.key(0)
    weights = jax.tree.map(wave, jax.eval_shape(task.init, key))
    before = jax.jit(built.init)(key, *weights, *map(filled, data))
    after, metrics = jax.jit(built.step)(before, *map(filled, visits))
    assert all(np.isfinite(value) for value in metrics.values())
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), after.params, before.params)
    assert any(jax.tree.leaves(moved))


def wave(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Weights none of which is zero, without the time of drawing them."""
    return jnp.asarray(0.3 * np.cos(np.arange(1, shape.size + 1)).reshape(shape.shape), shape.dtype)


def filled(shapes: dict[str, Any]) -> dict[str, Any]:
    """Waves as images; the forgotten class is 0, the kept one, which is the anchor too, 1."""
    kept = "anchor" if "anchor" in shapes else "label"
    zeros = {name: np.zeros(each.shape, each.dtype) for name, each in shapes.items()}
    image = wave(shapes["image"].update(dtype=jnp.float32))
    pixels = 255 * (image + 0.5) if zeros["image"].dtype == np.uint8 else image
    return zeros | {"image": pixels.astype(zeros["image"].dtype), kept: zeros[kept] + 1}
