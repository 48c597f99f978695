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
from jaxunlearn.models import latent
from jaxunlearn.studies import problem as problems
from jaxunlearn.studies import prompts
from jaxunlearn.studies.config import Aim, Problem
from jaxunlearn.studies.run_study import compare
from jaxunlearn.studies.runs.prepare import trainable_part
from jaxunlearn.studies.runs.status import status
from jaxunlearn.studies.study import Study, load_study

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
    """The step of the first run of each file, by the file; the same model and method only once.

    Stable Diffusion's is lowered by one method alone, since it takes as long as all others.
    """
    found: dict[tuple[str, str], tuple[str, Step]] = {}
    for stem, study in STUDIES.items():
        request, run = study.requests[0], next(iter(study.methods))
        method, settings = study.run_settings(request, run)
        step = Step(study.problem, method, settings, study.run_aim(request, run))
        model = study.problem.model
        kind = "any" if model == "latent-sd-v1" else methods.method_of(method)
        found.setdefault((model, kind), (stem, step))
    return dict(found.values())


STEPS = steps()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_what_it_is(path: Path) -> None:
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
    problem, method, settings, aim = STEPS[stem]
    task, _ = trainable_part(problems.load_task(problem), aim)
    built = methods.build(task, method, settings)
    forget, retain = (arrays(problem, (16,), forget) for forget in (True, False))
    key = jax.eval_shape(jax.random.key, 0)
    start = jax.eval_shape(task.init, key)
    state = jax.eval_shape(built.init, key, *start, forget, retain)
    batch = visited(problem, (settings["forget_batch_size"],), True)
    sizes = (built.retain_batches, settings["retain_batch_size"])
    lowered = jax.jit(built.step).lower(state, batch, visited(problem, sizes, False))
    after, _ = lowered.out_info
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


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


SMALL = {
    "num_steps": 2,
    "forget_batch_size": 4,
    "retain_batch_size": 4,
    "mask_batch_size": 16,
    "num_mask_batches": 2,
    "num_fisher_batches": 2,
}
TRAINED = {"num_steps": 4, "retain_batch_size": 16, "forget_batch_size": 1}
TWINS = {  # with and without retrained models; the data, the model and the request of the twin
    "eupmu_cifar10": ("digits", "mlp-tiny", ForgetRequest(fraction=0.1)),
    "sfron_dit": ("digits", "latent-dit-tiny-test", ForgetRequest(classes=(3,))),
}


@pytest.mark.long
@pytest.mark.parametrize("stem", TWINS)
def test_a_tiny_twin_runs(stem: str, tmp_path: Path) -> None:
    """The first run of the file with few steps of few examples, and a tiny model."""
    study = twin(STUDIES[stem], *TWINS[stem])
    assert compare(tmp_path / "study", study)["markdown"].exists()
    (run,) = study.methods
    done = {path.parent.name for path in tmp_path.glob("study/seed-0/*/*/results.json")}
    again = {"retrain-again"} if study.problem.classifies else set()
    assert done == {run, "original", *({"retrain", *again} if study.oracle else ())}
    assert {each.state for each in status(tmp_path / "study")} == {"done"}


def twin(study: Study, data: str, model: str, request: ForgetRequest) -> Study:
    """A study with the first run of another one, and everything else tiny."""
    run, given = next(iter(study.methods.items()))
    _, settings = study.run_settings(study.requests[0], run)
    given |= {key: value for key, value in SMALL.items() if key in settings}
    diffusion, generates = study.problem.diffusion, study.problem.generates
    if "anchor" in given:
        given["anchor"] = "class+1"  # with ten classes, 100 more are the class itself
    learned = diffusion is not None and diffusion.variance == "learned_range"
    if diffusion is not None:
        changes = {"num_timesteps": 10, "sampling_steps": 2, "samples": 4}
        diffusion = dataclasses.replace(diffusion, **changes)
    problem = Problem(
        data=data,
        train_size=300,
        model=model,
        model_settings={"learn_variance": True} if learned else {},
        training=study.problem.training | TRAINED,
        diffusion=diffusion,
        autoencoder={"training": TRAINED} if model in latent.PIPELINES else None,
    )
    return dataclasses.replace(
        study,
        problem=problem,
        requests=(request,),
        seeds=(0,),
        methods={run: given},
        overrides={},
        classifier={"model": "mlp-tiny", "training": TRAINED} if generates else None,
    )
