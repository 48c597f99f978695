"""Bad input to the commands: one clear sentence, status 2, nothing written, nothing lost."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxunlearn import data
from tests.data.toys import idx_bytes, make_builder, toy_arrays
from tests.shell.commands import (
    QUICK,
    assert_refused,
    call,
    problem_words,
    start,
    wait,
)

pytest_plugins = ["tests.shell.fixtures"]

PRETRAIN = {
    "data": ("--data digit", "unknown data set 'digit' (did you mean 'digits'?)", "fashion_mnist"),
    "data folder": ("--data fashion_mnist --folder none", "no train-images", "/none"),
    "folder of digits": ("--folder x", "folder= is for fashion_mnist", "'digits'"),
    "model": ("--model mlp-tny", "unknown model 'mlp-tny' (did you mean 'mlp-tiny'?)", "vit-s"),
    "model field": ("--model-settings hiden=[3]", "no field 'hiden' (did you mean 'hidden'?)"),
    "model value": ("--model-settings hidden=[-3]", "hidden is (-3,)", "at least 1"),
    "model choice": ("--model-settings activation=wave", "'wave'", "'relu', 'gelu'"),
    "model classes": ("--model-settings num_classes=3", "contain num_classes", "leave it out"),
    "model axis": ("--model-settings axis_name=data", "contain axis_name", "leave it out"),
    "model too large": ("--model vit-ti", "are 8x8, but must have sides that are multiples of 16"),
    "no pair": ("--model-settings hidden", "--model-settings is 'hidden'", "name=value"),
    "steps negative": ("--training.num-steps=-5", "num_steps", "is -5, but must be positive"),
    "steps zero": ("--training.num-steps=0", "is 0, but must be positive"),
    "rate negative": ("--training.learning-rate=-0.1", "is -0.1, but must be 0 or more", "0.01"),
    "rate nan": ("--training.learning-rate=nan", "learning_rate", "is NaN, but must be a number"),
    "rate infinite": ("--training.learning-rate=inf", "learning_rate", "is inf"),
    "momentum": ("--training.momentum=2", "is 2.0, but must be in [0, 1]"),
    "batch zero": ("--training.retain-batch-size=0", "is 0, but must be positive"),
    "validation all": ("--validation-fraction 1", "is 1.0, but must be", "below 1"),
    "validation negative": ("--validation-fraction -0.1", "is -0.1, but must be at least 0"),
    "validation NaN": ("--validation-fraction nan", "is nan"),
    "seed": ("--seed -1", "the seed is -1, but must be from 0 to 2147483647"),
    "devices too many": ("--devices 9", "devices is 9, but this machine has 8 (cpu)", "1 to 8"),
    "devices none": ("--devices 0", "devices is 0"),
    "pmap of shares": ("--parallel pmap --parameters sharded", "all parameters on each", "jit"),
    "batch over devices": (
        *["--devices 4 --training.retain-batch-size=66", "retain_batch_size is 66"],
        *["multiple of the 4 devices", "the nearest is 64"],
    ),
    "chunks of nothing": ("--chunk-steps 0", "chunk_steps is 0, but must be 1 or more"),
    "checkpoints never": ("--checkpoint-every 0", "checkpoint_every is 0, but must be 1 or more"),
    "micro-batch negative": ("--micro-batch -1", "micro_batch is -1, but must be 0 or more"),
    "batch in micro-batches": (
        *["--micro-batch 32 --training.retain-batch-size=66", "retain_batch_size is 66"],
        *["multiple of micro_batch, 32", "the nearest is 64"],
    ),
    "micro-batch over devices": (
        *["--devices 2 --micro-batch 1", "micro_batch is 1", "multiple of the 2 devices"],
    ),
    "micro-batch of statistics": (
        *["--micro-batch 32 --model resnet-tiny", "statistics of whole batches", "norm=group"],
    ),
}


@pytest.mark.parametrize("case", PRETRAIN)
def test_pretrain(here, data_dir, case):
    words, *fragments = PRETRAIN[case]
    given = words.split()
    if "--data" not in given:
        given += ["--data-dir", str(data_dir)]
    assert_refused(call("pretrain", "run", *given), *fragments)


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        ("--parameters split", ("replicated", "sharded")),
        ("--parallel map", ("jit", "pmap")),
        ("--augmentation flip", ("none", "crop", "flip_crop")),
    ],
)
def test_a_choice_that_does_not_exist(here, words, choices):
    result = call("pretrain", "run", *words.split())
    assert result.status == 2 and words.split()[1] in result.err
    assert all(choice in result.err for choice in choices)


REQUESTS = {
    "fraction 0": (
        "--fraction 0",
        "is 0.0, but must be between 0 and 1, both excluded",
        "0.1 forgets",
    ),
    "fraction 1": ("--fraction 1", "is 1.0, but must be between 0 and 1, both excluded"),
    "fraction 1.5": ("--fraction 1.5", "is 1.5"),
    "fraction negative": ("--fraction -0.1", "is -0.1"),
    "fraction NaN": ("--fraction nan", "is nan"),
    "fraction all": ("--fraction 0.9999", "would forget all 1298", "leave some to retain"),
    "fraction nothing": ("--fraction 0.0001", "less than one example", "ask for more"),
    "class": ("--classes 10", "class 10 does not exist", "classes 0 to 9"),
    "class name": ("--classes three", "class 'three' does not exist", "classes 0, 1, 2"),
    "class negative": ("--classes -1", "is -1, but must be at least 0"),
    "class twice": ("--classes 3 3", "number 3 is in", "more than once"),
    "classes all": ("--classes 0 1 2 3 4 5 6 7 8 9", "would forget all 1298"),
    "word": ("--words three", "no class of 'digits' has the word 'three'", "the words are 0, 1, 2"),
    "word empty": ("--words", "has none"),
    "subclass": ("--subclass 3", "needs a data set with coarse classes", "'digits' has none"),
    "index far": ("--indices 5 1442", "index 1442 is outside", "positions 0 to 1441"),
    "index negative": ("--indices -1", "is -1, but must be at least 0"),
    "index twice": ("--indices 5 5", "number 5 is in", "more than once"),
    "indices empty": ("--indices", "has none"),
    "file absent": ("--indices none.txt", "'none.txt' cannot be read", "one number a line"),
    "file empty": ("--indices empty.txt", "'empty.txt' is empty", "at least one entry"),
    "file twice": ("--indices twice.json", "number 3 is in", "more than once"),
    "file of words": ("--indices words.txt", "line 2 of", "is 'four'"),
    "file far": ("--indices far.txt", "index 1442 is outside"),
    "file folder": ("--indices full", "'full' cannot be read"),
}


@pytest.mark.parametrize("case", REQUESTS)
@pytest.mark.parametrize("command", ["retrain", "unlearn"])
def test_forget_request(here, pretrained, command, case):
    words, *fragments = REQUESTS[case]
    method = ["finetune"] if command == "unlearn" else []
    given = ["--pretrained", pretrained, *method, *words.split()]
    assert_refused(call(command, "run", *given), *fragments)


def test_a_method_for_other_models(here, pretrained):
    refused = call("unlearn", "run", "esd", "--pretrained", pretrained, "--classes", 3)
    assert_refused(refused, "jaxunlearn: method esd needs a model that generates images")


def test_indices_that_are_everything_or_held_out(here, pretrained, data_dir):
    eligible, held_out = data.hold_out(data.load("digits", data_dir=data_dir), seed=0)
    words = ["retrain", "run", "--pretrained", pretrained, "--indices"]
    assert_refused(call(*words, *eligible), "would forget all 1298", "leave some to retain")
    assert_refused(call(*words, eligible[0], held_out[0]), "1 of the 2 indices are validation data")


SETTINGS = {
    "objective": ("eupmu", "--objective=up", "objective", "is 'up'", "ascent, adaptive_ascent"),
    "scalar objective": ("scalarization", "--objective=up", "objective", "is 'up'"),
    "mask": ("salun", "--salun.fraction=1.5", "fraction of method salun is 1.5", "in [0, 1]"),
    "fast steps": ("sfron", "--num-fast-steps=0", "num_fast_steps", "is 0, but must be positive"),
    "decay": ("sfron", "--weight-decay=-1", "weight_decay", "is -1.0, but must be 0 or more"),
    "batch": ("eupmu", "--forget-batch-size=-1", "is -1, but must be positive"),
    "batch over devices": (
        *["eupmu", "--forget-batch-size=65", "forget_batch_size is 65"],
        *["positive multiple of the 2 devices", "the nearest is 64"],
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_method_and_settings(here, pretrained, case):
    method, setting, *fragments = SETTINGS[case]
    words = ["--pretrained", pretrained, method, "--fraction", 0.1, "--devices", 2]
    settings = [setting] if setting else []
    assert_refused(call("unlearn", "run", *words, *settings), *fragments)


UNKNOWN = {  # answered by tyro, in a box of several lines
    "method": ("eupm", "eupm"),
    "retrain": ("retrain", "retrain"),
    "setting": ("eupmu --tolerence=1", "--tolerence", "--tolerance"),
    "of another": ("finetune --tolerance=1", "--tolerance"),
    "optimizer": ("sfron --optimizer=adam", "adam", "clipped_adamw"),
    "schedule": ("sfron --learning-rate-schedule=cos", "cos", "one_cycle"),
    "multiplier": ("eupmu --estimator=dual", "dual", "same_batch", "next_batch", "exact"),
    "chained": ("eupmu_sfron --estimator=exact", "exact", "same_batch", "next_batch"),
    "alpha": ("sfron --alpha-schedule=cos", "cos", "cosine"),
    "variant": ("sfron --variant=S", "SFR-on", "FR-on", "R-on"),
    "redraw": ("random_labels --redraw=never", "never", "every_epoch", "once"),
    "not whole": ("sfron --num-steps=2.5", "--num-steps", "2.5"),
    "in words": ("sfron --learning-rate=high", "--learning-rate", "high"),
    "switch": ("eupmu --log-loss=1", "'1' is one word too many"),
    "no request": ("eupmu", "--fraction", "--classes", "--words", "--indices", "--names"),
    "two requests": ("eupmu --fraction 0.1 --classes 3", "--fraction and --classes"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_words_that_no_flag_has(here, pretrained, case):
    words, *fragments = UNKNOWN[case]
    given = [] if "request" in case else ["--fraction", 0.1]
    result = call("unlearn", "run", "--pretrained", pretrained, *given, *words.split())
    assert result.status == 2 and "Traceback" not in result.err, result.err
    assert all(fragment in result.err for fragment in fragments), result.err


def test_labels_out_of_range(pictures, tmp_path):
    prepared, files = pictures
    labels = np.arange(20)  # but there are ten classes
    (files / "train-labels-idx1-ubyte.gz").unlink()
    (files / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    words = ["--data", "fashion_mnist", "--data-dir", prepared, "--folder", files]
    result = call("pretrain", tmp_path / "run", *words)
    assert_refused(result, "label", "0 to 9")
    assert not (tmp_path / "run").exists()
    assert not prepared.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite(tmp_path, value):
    images, labels = toy_arrays(12, classes=3)
    records = [
        {"image": image.astype(np.float32), "label": int(label)}
        for image, label in zip(images, labels, strict=True)
    ]
    records[7]["image"][0, 0, 0] = value
    features = {
        "image": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.float32),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    name = f"shell_{value}"
    builder = make_builder(name, features, {"train": records, "test": records[:6]})
    builder(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    result = call("pretrain", tmp_path / "run", "--data", name, "--data-dir", tmp_path)
    assert_refused(result, "1 of 12 images hold NaN or infinity, the first at position 7")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(pretrained, tmp_path):
    run = tmp_path / "run"
    words = ["unlearn", run, "--pretrained", pretrained, "--fraction", 0.1, "finetune"]
    result = call(*words, *QUICK, "--learning-rate=1e30")
    assert result.status == 3
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    assert "became NaN or infinite at step " in result.err and " of 4" in result.err
    assert (
        "no checkpoint was saved before it" in result.err
        and "Lower the learning rate" in result.err
    )
    assert not (run / "done.json").exists() and not (run / "weights").exists()
    assert not (run / "checkpoints").exists()


def test_a_method_without_a_learning_rate_diverges_by_settings_that_it_has(pretrained, tmp_path):
    words = ["--pretrained", pretrained, "--fraction", 0.1, "influence"]
    quick = ["--num-steps=1", "--num-fisher-batches=1", "--alpha=1e38", "--damping=1e-30"]
    result = call("unlearn", tmp_path / "run", *words, *quick)
    assert result.status == 3
    assert "Raise damping or lower alpha." in result.err and "learning rate" not in result.err


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(data_dir, tmp_path):
    """Weights grow without bound once rate times decay exceeds 2, which is after 1063 steps."""
    run = tmp_path / "run"
    decay = {"learning_rate": 10.0, "weight_decay": 1.0, "momentum": 0.0}
    words = problem_words(data_dir, num_steps=24000, **decay)
    result = call("pretrain", run, *words)
    assert result.status == 3, result
    assert "the last good checkpoint is of step 1000" in result.err
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["1000"]
    assert not (run / "done.json").exists()
    assert_refused(
        call("retrain", tmp_path / "r", "--pretrained", run, "--fraction", 0.1), "diverged"
    )
    again = call("pretrain", run, *words)
    assert (again.status, again.err) == (3, result.err)


def test_in_processes_of_their_own(here, pretrained, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    words = ["--pretrained", pretrained, "--fraction", 0.1, "eupmu"]
    result = wait(start("unlearn", "run", *words, "--objective=up", cache=cache))
    assert_refused(result, "objective", "is 'up'", "ascent, adaptive_ascent")
    assert not result.out
    result = wait(start("compare", "run", "--config", "none.toml", cache=cache))
    assert_refused(result, "none.toml cannot be read")
    assert wait(start("pretrain", cache=cache)).status == 2
