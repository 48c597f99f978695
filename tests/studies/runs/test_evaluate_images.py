"""Models that generate, from the command line: train, forget, sample, judge, compare, report."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxunlearn import models
from jaxunlearn.data import ForgetRequest
from jaxunlearn.evaluation import features
from jaxunlearn.files import read_arrays
from jaxunlearn.studies import sample, sampling
from jaxunlearn.studies.config import Aim, load_study
from jaxunlearn.studies.problem import _check_images, load_dataset, load_task
from jaxunlearn.studies.runs import evaluate, evaluate_images, generate, prepare, run_config, train
from jaxunlearn.studies.runs.folder import load_weights
from jaxunlearn.tasks import classification
from jaxunlearn.types import InputError, Weights
from tests.helpers import assert_trees_equal
from tests.once import made_once
from tests.shell.commands import assert_refused, call, copy, done, snapshot

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

STUDY = """
title = "Tiny generating study"
seeds = [0]

[problem]
data_dir = "{data_dir}"
model = "ddpm-tiny"
[problem.diffusion]
num_timesteps = 10
sampling_steps = 2
samples = 5
guidance = 1.0
[problem.training]
num_steps = 3
retain_batch_size = 8
forget_batch_size = 8

[classifier]
model = "mlp-tiny"
training = {{num_steps = 100}}

[[requests]]
classes = [3]

[methods.esd]
num_steps = 2
forget_batch_size = 4
retain_batch_size = 4
learning_rate = 0.1
trainable = "attention"
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory, data_dir):
    path = tmp_path_factory.mktemp("config") / "study.toml"
    path.write_text(STUDY.format(data_dir=data_dir))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory, config):
    """The study, run once. It is not to be written to."""

    def make(folder):
        done("compare", folder / "study", "--config", config)

    return made_once(tmp_path_factory, "generating", make) / "study"


@pytest.fixture(scope="session")
def cell(finished):
    return finished / "seed-0" / "class-3"


def changed(config, tmp_path, *pairs):
    """A study file with some of its text replaced."""
    text = config.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = tmp_path / "changed.toml"
    path.write_text(text)
    return path


def test_every_model_is_judged_and_reported(finished, cell):
    for name in ("original", "retrain", "esd"):
        results = json.loads((cell / name / "results.json").read_text())
        assert results["counts"]["generated_forget"] == 5
        assert results["counts"]["generated_retain"] == 45
        assert (results["forgotten"], results["class_names"][3]) == ([3], "3")
        assert results["features"] == {"name": "last features of mlp-tiny", "dimension": 32}
        assert results["judge"]["test_accuracy"] > 50
        metrics = results["metrics"]
        assert 0 <= metrics["generated_forget_accuracy"] <= 100
        assert 0 <= metrics["generated_forget_entropy"] <= np.log(10) + 1e-5
        assert metrics["frechet_retain"] > metrics["frechet_floor"] > 0
        assert ("share_of_retraining" in results) == (name == "esd")
    told = json.loads((finished / "results.json").read_text())["requests"]["class-3"]["runs"]
    ours, theirs = (told[name]["metrics"] for name in ("esd", "original"))
    ratio = ours["frechet_retain"]["mean"] / theirs["frechet_retain"]["mean"]
    assert ours["frechet_ratio"]["mean"] == pytest.approx(ratio)
    assert theirs["frechet_ratio"]["mean"] == 1.0
    page = (finished / "report.html").read_text()
    text = (finished / "report.md").read_text()
    assert "![Images that the models generate](samples-class-3.png)" in text
    assert (finished / "samples-class-3.png").read_bytes()[1:4] == b"PNG"
    for part in ("Forgotten class seen", "Frechet distance", "Recall"):
        assert part in page and part in text
    assert 'src="data:image/png;base64,' in page


def test_a_study_that_is_done_is_not_done_again(finished, config):
    before = snapshot(finished)
    out = done("compare", finished, "--config", config)
    assert "2 runs besides the pretraining, 2 of them finished already" in out
    after = snapshot(finished)
    changing = {"report.html", "report.md", "results.json", "study.json", "samples-class-3.png"}
    assert {p for p in before if before[p] != after[p]} <= changing


def test_only_what_may_move_has_moved(finished, cell, config):
    problem = load_study(config).problem
    before = load_weights(finished / "seed-0" / "pretrain", problem)
    after = load_weights(cell / "esd", problem)
    old, new = (flatten_dict(weights.params, sep="/") for weights in (before, after))
    assert {path for path in old if not np.array_equal(old[path], new[path])} == {
        path for path in old if "attention" in path
    }


def test_an_image_depends_on_its_class_and_number_alone(finished, cell, config):
    problem = load_study(config).problem
    weights = load_weights(finished / "seed-0" / "pretrain", problem)
    kept = read_arrays(cell / "original" / "samples.npz", "image", "label")
    labels, numbers = np.array([3, 8, 8]), np.array([1, 0, 2])
    again = generate.generate(problem, weights, labels, numbers)
    expected = np.stack(
        [
            kept["image"][kept["label"] == label][number]
            for label, number in zip(labels, numbers, strict=True)
        ]
    )
    assert again.dtype == np.uint8
    assert np.abs(again.astype(int) - expected.astype(int)).max() <= 1
    assert np.abs(again[1].astype(int) - again[2].astype(int)).max() > 10


def test_the_retrained_model_has_a_frechet_distance_too(finished, cell):
    told = json.loads((finished / "results.json").read_text())["requests"]["class-3"]["runs"]
    for name in ("original", "retrain", "esd"):
        own = json.loads((cell / name / "results.json").read_text())["metrics"]
        for key in ("frechet_retain", "precision_retain", "recall_retain"):
            assert told[name]["metrics"][key]["mean"] == own[key]


def test_a_single_run_is_sampled_and_evaluated(finished, cell, tmp_path):
    picture = tmp_path / "new" / "grid.png"
    out = done("sample", picture, "--run", cell / "esd", "--labels", 3, 1, "--count", 2)
    assert picture.read_bytes()[1:4] == b"PNG" and str(picture) in out
    kept = json.loads((cell / "esd" / "results.json").read_text())["metrics"]
    words = ["--classifier", finished / "classifier", "--retrained", cell / "retrain"]
    out = done("evaluate", cell / "esd", *words)
    line = next(line for line in out.splitlines() if line.startswith("generated_forget_entropy"))
    assert line.endswith("nats") and len(line.split()) == 5  # the retrained model's beside it
    assert "judge: mlp-tiny" in out and "last features of mlp-tiny, 32 dimensions, 45" in out
    assert json.loads((cell / "esd" / "results.json").read_text())["metrics"] == kept


def test_real_images_are_described_once_and_inception_stands_in(
    finished, config, tmp_path, monkeypatch
):
    (kept,) = (finished / "classifier").glob("real-*.npz")
    study = copy(finished, tmp_path / "study")
    run, oracle = (study / "seed-0" / "class-3" / name for name in ("esd", "retrain"))
    own = features.Features("rows 8", 8, "0" * 64, lambda images: images.mean((2, 3)))
    monkeypatch.setattr(evaluate, "of_inception", lambda path: {Path("weights"): own}[path])
    words = ["--classifier", study / "classifier", "--inception", "weights"]
    refused = call("evaluate", run, *words, "--retrained", oracle)
    assert_refused(refused, "retrain was evaluated by the features", "rows 8", "evaluate it again")
    done("evaluate", oracle, *words)
    done("evaluate", run, *words, "--retrained", oracle)
    for each in (run, oracle):
        found, before = (
            json.loads((folder / each.relative_to(study) / "results.json").read_text())
            for folder in (study, finished)
        )
        assert found["features"] == {"name": "rows 8", "dimension": 8}
        assert found["metrics"]["frechet_retain"] != before["metrics"]["frechet_retain"]
        for name in ("generated_forget_accuracy", "generated_retain_accuracy"):
            assert found["metrics"][name] == before["metrics"][name]
    files = {path.name for path in (study / "classifier").glob("real-*.npz")}
    assert len(files) == 2 and kept.name in files

    problem, request = load_study(config).problem, ForgetRequest(classes=(3,))
    large = own._replace(dimension=700)
    with pytest.raises(InputError, match="than the 700 features called rows 8; draw 78 or more"):
        evaluate_images.check_images(large, problem, 0, request)
    problem = replace(problem, diffusion=replace(problem.diffusion, samples=78))
    with pytest.raises(InputError, match="leaves 11.. real images .* so 1402 are needed"):
        evaluate_images.check_images(large, problem, 0, request)


def test_one_class_is_forgotten_after_another(finished, cell, tmp_path):
    settings = json.loads((cell / "esd" / "config.json").read_text())["settings"]
    quick = [f"{name}={value}" for name, value in settings.items()]
    words = ["esd", "--trainable", "attention", *quick]
    run, pretrained = tmp_path / "run", finished / "seed-0" / "pretrain"
    done("unlearn", run, "--pretrained", cell / "esd", "--classes", 5, *words)
    judged = ["--classifier", finished / "classifier", "--original", pretrained]
    out = done("evaluate", run, *judged)
    results = json.loads((run / "results.json").read_text())
    assert results["counts"]["generated_forget"] == 5
    assert results["counts"]["generated_retain"] == 40
    rows, kept = results["drift"]["requests"], results["drift"]["kept"]
    assert [(row["request"], row["examples"]) for row in rows] == [("class-3", 5), ("class-5", 5)]
    assert rows[1]["accuracy"] == results["metrics"]["generated_forget_accuracy"]
    before = json.loads((cell / "original" / "results.json").read_text())["metrics"]
    assert rows[0]["original_accuracy"] == before["generated_forget_accuracy"]
    assert kept["model"]["frechet_retain"] == results["metrics"]["frechet_retain"]
    assert kept["original"]["frechet_retain"] not in (0, before["frechet_retain"])  # of 8 classes
    assert "class-3 (5)" in out and "frechet_retain" in out
    words = ["--pretrained", cell / "esd", "esd", "--classes", 3]
    refused = call("unlearn", tmp_path / "next", *words)
    assert_refused(refused, "class-3 holds none of the")
    assert not (tmp_path / "next").exists()


def test_adapters_and_an_anchor_from_the_command_line(finished, tmp_path):
    words = ["--pretrained", finished / "seed-0" / "pretrain", "eupmu", "--classes", 3]
    quick = ["--num-steps=2", "--forget-batch-size=4", "--retain-batch-size=4"]
    quick += ["--learning-rate=0.1"]
    quick += ["--objective=match_anchor"]
    aims = ["--trainable", "attention", "--adapter-rank", 2, "--anchor", 1]
    run = tmp_path / "adapted"
    done("unlearn", run, *words, *aims, *quick)
    aim = json.loads((run / "config.json").read_text())["aim"]
    assert aim == {"trainable": "attention", "adapter_rank": 2, "anchor": 1}
    other = call("unlearn", run, *words, *quick)
    assert_refused(other, "holds another run: aim")


def test_a_method_that_shrinks_weights_leaves_no_adapters_at_zero(finished, tmp_path):
    words = ["--pretrained", finished / "seed-0" / "pretrain", "ssd", "--classes", 3]
    result = call("unlearn", tmp_path / "run", *words, "--adapter-rank", 2)
    assert_refused(result, "adapters begin at zero", "leave out --adapter-rank")
    assert not (tmp_path / "run").exists()


def test_the_judge_sees_images_on_the_scale_of_its_data(config):
    """One classifier, once told of pixels and once of numbers from -1 to 1: it says the same."""
    data = load_dataset(load_study(config).problem)
    signal = data.train.image / np.float32(127.5) - 1
    floats = replace(
        data,
        train=replace(data.train, image=signal),
        test=replace(data.test, image=data.test.image / np.float32(127.5) - 1),
        mean=tuple(2 * x - 1 for x in data.mean),
        std=tuple(2 * x for x in data.std),
    )
    drawn = data.test.image[:4]
    model, said = models.create("mlp-tiny", 10), []
    for each in (data, floats):
        shape, told = each.train.image.shape[1:], {"mean": each.mean, "std": each.std}
        task = classification(model, image_shape=shape, num_classes=10, **told)
        images = evaluate_images.on_scale_of(each, drawn)
        batch = {"image": images, "label": np.zeros(4, np.int32), "index": np.arange(4)}
        said.append(task.predict(*task.init(jax.random.key(0)), batch))
    np.testing.assert_allclose(*said, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [(None, "holds none"), (b"no tensors", "is damaged or unreadable"), (b"", "is damaged")],
)
def test_an_inception_that_is_none_is_refused(finished, cell, tmp_path, content, fragment):
    file = tmp_path / ("model.safetensors" if content is not None else "")
    if content is not None:
        file.write_bytes(content)
    before = snapshot(cell / "esd")
    words = ["--classifier", finished / "classifier", "--inception", file]
    assert_refused(call("evaluate", cell / "esd", *words), fragment)
    assert snapshot(cell / "esd") == before


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--labels", "12"], ["the class is 12, but must be", "0 to 9"]),
        (["--count", "0"], ["count is 0, but must be 1 or more"]),
        (["--prompts", "three"], ["'three'"]),
    ],
)
def test_bad_samplings_are_refused(cell, tmp_path, words, fragments):
    picture = tmp_path / "grid.png"
    assert_refused(call("sample", picture, "--run", cell / "esd", *words), *fragments)
    assert not picture.exists()


def test_a_picture_of_another_kind_is_refused_before_anything_is_drawn(cell, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "generate", lambda *_: pytest.fail("was drawn"))
    with pytest.raises(InputError, match=r"must be a file ending in \.png"):
        sample(tmp_path / "grid.jpg", cell / "esd", (), 1)


def test_five_hundred_images_are_one_program_whatever_the_guidance(cell, config):
    problem = load_study(config).problem
    weights = load_weights(cell / "esd", problem)
    labels, numbers = np.repeat(np.arange(10), 50), np.tile(np.arange(50), 10)
    compiled = generate.sample_images._cache_size
    before, drawn = compiled(), []
    for guidance in (1.0, 3.0):
        told = replace(problem, diffusion=replace(problem.diffusion, guidance=guidance))
        drawn.append(generate.generate(told, weights, labels, numbers))
    assert compiled() == before + 1
    assert drawn[0].shape == (500, 8, 8, 1)
    assert np.any(drawn[0] != drawn[1])


def test_pixels_are_kept_in_their_range_while_sampling(cell, config, monkeypatch):
    problem, told = load_study(config).problem, {}
    monkeypatch.setattr(generate, "sample_images", lambda *_, **kw: told.update(kw) or np.zeros(1))
    generate.generate(problem, load_weights(cell / "esd", problem), [1], [0])
    assert told == {"clip": True}


def test_a_learned_variance_from_the_command_line(tmp_path, data_dir):
    words = ["--data-dir", data_dir, "--model", "ddpm-tiny", "--model-settings"]
    words += ["learn_variance=true", "--diffusion.variance=learned_range"]
    words += ["--diffusion.sampler=ddpm", "--diffusion.num-timesteps=10"]
    words += ["--diffusion.sampling-steps=2", "--diffusion.fisher-guidance=1"]
    done(
        "pretrain",
        tmp_path / "run",
        *words,
        "--training.num-steps=2",
        "--training.retain-batch-size=4",
    )
    done("sample", tmp_path / "grid.png", "--run", tmp_path / "run", "--count", 1)
    quick = ["--num-steps=2", "--forget-batch-size=4", "--retain-batch-size=4"]
    quick += ["--num-mask-batches=1"]
    words = ["--pretrained", tmp_path / "run", "sfron", "--classes", 3]
    quick += ["--objective=match_anchor", "--learning-rate=1e-6", "--forget-learning-rate=1e-6"]
    done("unlearn", tmp_path / "less", *words, *quick)


def test_a_forgotten_class_turns_into_none_that_was_forgotten_before(config):
    problem, dataset = load_study(config).problem, load_dataset(load_study(config).problem)
    settings = {"objective": "match_anchor"}
    request, earlier = ForgetRequest(classes=(2,)), (ForgetRequest(classes=(3,)),)
    told = run_config.unlearning(problem, 0, request, "eupmu", settings, earlier=earlier)
    task = load_task(problem)
    start = Weights(*task.init(jax.random.key(0)))
    forget, *_ = prepare.prepared_data(told, task, start, None)
    assert set(np.asarray(forget["anchor"]).tolist()) == {4}
    told = replace(told, aim=Aim(anchor=3))
    with pytest.raises(InputError, match="anchor is 3, a class that is forgotten itself"):
        train._check_anchor(told, dataset)


def test_images_of_another_range_are_refused(config):
    dataset = load_dataset(load_study(config).problem)
    floats = dataset.train.image.astype(np.float32)

    def check(images):
        _check_images(replace(dataset, train=replace(dataset.train, image=images)))

    with pytest.raises(InputError, match=r"from 0 to 255, but a .*, such as by x / 127.5 - 1"):
        check(floats)
    with pytest.raises(InputError, match=r"from 0 to 1, but a .*, such as by 2 x - 1"):
        check(floats / 255)
    check(floats / 127.5 - 1)


def test_images_judged_differently_are_in_no_one_report(finished, tmp_path, data_dir):
    study, judge = copy(finished, tmp_path / "study"), tmp_path / "judge"
    assert "**Judge of the images:** model mlp-tiny" in (study / "report.md").read_text()
    assert "**Features:** name last features of mlp-tiny" in (study / "report.md").read_text()
    words = ["--data-dir", data_dir, "--model", "mlp-tiny", "--training.num-steps=3"]
    done("pretrain", judge, *words)
    done("evaluate", study / "seed-0" / "class-3" / "esd", "--classifier", judge)
    assert_refused(call("report", study), "were judged differently", "judge.test_accuracy is")


def test_classifiers_and_generators_are_not_confused(finished, cell, tmp_path):
    classifier, run = finished / "classifier", cell / "esd"
    refused = call("sample", tmp_path / "a.png", "--run", classifier)
    assert_refused(refused, "mlp-tiny, which classifies")
    assert_refused(call("evaluate", run), "give a classifier", "--classifier")
    judged = call("evaluate", run, "--classifier", finished / "seed-0" / "pretrain")
    assert_refused(judged, "ddpm-tiny, which generates images, but generated images are judged by")
    pretrained = finished / "seed-0" / "pretrain"
    words = ["--pretrained", pretrained, "finetune", "--fraction", 0.1]
    swept = call("sweep", tmp_path / "sweep", *words, "--vary", "learning_rate=0.1,0.2")
    assert_refused(swept, "sweep needs class probabilities")
    selected = call("select", tmp_path / "f.json", "--pretrained", pretrained, "--by", "nearest")
    assert_refused(selected, "select needs class probabilities")
    assert_refused(call("evidence", finished), "evidence needs class probabilities")
    refused = call("unlearn", tmp_path / "run", *words[:2], "scrub_r", "--classes", 3)
    assert_refused(refused, "method scrub_r needs the classes that a model predicts")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        ("classes = [3]", "fraction = 0.1", "random-0.1 forgets single examples"),
        ('[classifier]\nmodel = "mlp-tiny"\ntraining = {num_steps = 100}', "", "add [classifier]"),
        ('model = "mlp-tiny"', 'model = "ddpm-tiny"', "choose a model that classifies"),
        ('model = "mlp-tiny"', 'model = "mlp-tiny"\ndata = "digits"', "classifier gives data"),
        (
            "samples = 5",
            "samples = 3",
            "than the 32 features called last features of mlp-tiny; draw 4",
        ),
        ("seeds = [0]", 'seeds = [0]\ninception = "none"', "none"),
        ("sampling_steps = 2", "sampling_steps = 11", "from 1 to the 10 timesteps"),
        ("samples = 5", "samples = 0", "samples is 0"),
        ("guidance = 1.0", "guidance = 1.0\nlabel_drop = 0", "drop some labels"),
        (
            "guidance = 1.0",
            "guidance = 0\nlabel_drop = 0",
            "esd compares with the prediction for no",
        ),
        ("guidance = 1.0", 'sampler = "euler"', "must be one of ddpm, ddim"),
        ("guidance = 1.0", 'prediction = "x"', "must be one of epsilon, v"),
        ('"attention"', '"nothing"', "'nothing', which matches no parameter"),
        ('"attention"', '"attention"\nadapter_rank = -1', "adapter_rank is -1"),
        ('"attention"', '"attention"\nadapter_rank = 1000', "has ranks up to"),
        ('"attention"', '"attention"\nanchor = 10', "anchor is 10, but 'digits' has the classes"),
        ('"attention"', '"attention"\nanchor = 3', "anchor is 3, a class that is forgotten itself"),
        ('"attention"', '"attention"\nanchor = 1', "only the objective match_anchor"),
        ("guidance = 1.0", "guidance = nan", "guidance is nan, but must be a number at least -1"),
        ("guidance = 1.0", "eta = 1.5", "eta is 1.5, but must be a number from 0 to 1"),
        (
            "guidance = 1.0",
            'variance = "learned_range"',
            "output of the model has 1 channels for images of 1",
        ),
        (
            'model = "ddpm-tiny"',
            'model = "ddpm-tiny"\nmodel_settings = {learn_variance = true}',
            "has 2 channels for images of 1, but with the variance 'small' it must have 1",
        ),
        ('model = "ddpm-tiny"', 'model = "mlp"', "classifies, so there is no diffusion"),
    ],
)
def test_bad_studies_are_refused_before_anything_is_learned(config, tmp_path, old, new, fragment):
    folder = tmp_path / "study"
    path = changed(config, tmp_path, (old, new))
    assert_refused(call("compare", folder, "--config", path), fragment)
    assert not (folder / "seed-0").exists()


def test_a_tuner_and_shadow_models_want_classifiers(config, tmp_path):
    text = config.read_text().replace('title = "Tiny generating study"', "trials = 1")
    text = text[: text.index("[classifier]")] + "[[requests]]\nclasses = [3]\n[search.finetune]\n"
    path = tmp_path / "search.toml"
    path.write_text(text)
    refused = call("tune", tmp_path / "search", "--config", path)
    assert_refused(refused, "tune needs class probabilities")
    assert not (tmp_path / "search").exists()


def test_damaged_samples_are_named(finished, cell, tmp_path):
    study = copy(finished, tmp_path / "study")
    path = study / "seed-0" / "class-3" / "retrain" / "samples.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert_refused(call("report", study), "retrain/samples.npz was cut short or altered")


def test_weights_are_the_same_when_a_run_is_read_again(finished, config):
    problem = load_study(config).problem
    one, other = (load_weights(finished / "seed-0" / "pretrain", problem) for _ in range(2))
    assert_trees_equal(one, other)


def test_requests_of_single_examples_cannot_be_judged():
    with pytest.raises(InputError, match="seen by classes"):
        evaluate_images.check_request(ForgetRequest(indices=(1, 2)))
