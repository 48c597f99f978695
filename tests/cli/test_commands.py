"""The commands as a stranger uses them: help, lists, and one run after the other."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxunlearn
from jaxunlearn import data, methods, transforms
from jaxunlearn.cli import commands
from jaxunlearn.cli.main import COMMANDS, one_sentence
from jaxunlearn.evaluation import SplitPredictions
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.report.study import read_lines
from tests.shell.commands import QUICK, assert_refused, call, copy, done, problem_words, start, wait

pytest_plugins = ["tests.shell.fixtures"]

FORGET = [
    *["--fraction", "--classes", "--words", "--subclass", "--indices", "--names"],
    *["--drop-held-out", "--no-drop-held-out"],
]
LAYOUT = [
    *["--devices", "--parameters", "--distributed", "--no-distributed", "--micro-batch"],
    *["--parallel", "--chunk-steps", "--checkpoint-every", "--log", "--validate-every"],
    *["--stream", "--no-stream"],
]
SOME = ["--devices", "--micro-batch", "--chunk-steps"]
DIFFUSION = [
    prefix + field.name.replace("_", "-")
    for field in dataclasses.fields(Diffusion)
    for prefix in (("", "no-") if "bool" in str(field.type) else ("",))
]
TRAINING = [name.replace("_", "-") for name in methods.settings("retrain")]
TRAINING += ["ema", "clip-norm"]  # settings without a default
PROBLEM = [
    *["--data", "--model", "--data-dir", "--folder", "--validation-fraction"],
    *["--train-size", "--augmentation", "--model-settings", "--mean", "--std"],
    *["--image-size", "--test-fraction", "--label", "--broken", "--captions"],
    "--validation-names",
    *[f"--diffusion.{name}" for name in DIFFUSION],
    *[f"--{prefix}training.{name}" for prefix in ("", "autoencoder.") for name in TRAINING],
    *["--autoencoder.model", "--autoencoder.model-settings", "--autoencoder.checkpoint"],
]
FLAGS = {
    "pretrain": [*PROBLEM, "--seed", "--keep", *LAYOUT],
    "adopt": [*PROBLEM, "--seed", "--checkpoint", "--step", "--params-key", "--tokenizer"],
    "export": ["--layout", "--pretrained", "--data-dir"],
    "retrain": ["--pretrained", *FORGET, "--data-dir", *LAYOUT],
    "unlearn": [
        *["--pretrained", *FORGET, *LAYOUT],
        *["--trainable", "--adapter-rank", "--anchor", "--data-dir"],
    ],
    "evaluate": [
        "--retrained",
        "--original",
        "--classifier",
        "--inception",
        "--data-dir",
        "--micro-batch",
    ],
    "sample": ["--run", "--labels", "--prompts", "--count", "--data-dir", "--micro-batch"],
    "compare": ["--config", "--seeds", "--shard", "--data-dir", *LAYOUT],
    "select": ["--pretrained", "--by", "--fraction", "--data-dir", *SOME],
    "evidence": ["--data-dir"],
    "revive": [
        *["--classifier", "--retrained", "--original", "--steps", "--learning-rate"],
        *["--data-dir", "--micro-batch"],
    ],
    "ulira": [
        *["--config", "--shadows", "--group-size", "--fpr", "--epsilon", "--no-epsilon"],
        *["--data-dir", *SOME],
    ],
    "sweep": [
        *["--pretrained", "--vary", *FORGET, "--trials", "--seeds"],
        *["--retrained", "--group-size", "--shard", "--data-dir", *SOME],
    ],
    "tune": ["--config", "--data-dir", *SOME, "--checkpoint-every", "--log"],
    "verify": ["--data-dir"],
    "status": [],
    "report": ["--rank-by"],
    "list": [],
    "schema": [],
}
for command in FLAGS:
    FLAGS[command] += ["--json"] * (command != "schema")
    if command in ("pretrain", "retrain", "unlearn", "compare"):
        FLAGS[command] += ["--overwrite", "--dry-run"]
    if command not in ("list", "schema"):
        FLAGS[command] += ["--quiet", "--verbose"]


@pytest.mark.parametrize("command", FLAGS)
def test_the_help_of_a_command_explains_every_flag(command):
    text = done(command, "--help")
    assert not re.search(r"\b(of|the|images|whose|\w+,) {20,}│\n", text)  # no line ends early
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*", text))
    assert flags == {"--help", *FLAGS[command]}
    for flag in FLAGS[command]:
        explanation = text.replace("|", " ").split(f" {flag} ")[-1].split("--")[0]
        assert len(explanation.split()) > 4, flag
    assert "None" not in text


@pytest.mark.parametrize("method", ["eupmu", "sfron", "salun"])
def test_the_help_of_a_method_has_its_settings_with_types_choices_limits_and_defaults(method):
    words = " ".join(done("unlearn", method, "--help").replace("│", " ").split())
    assert words == " ".join(
        done("unlearn", "run", method, "--fraction", "--help").replace("│", " ").split()
    )
    for name, value in methods.settings(method).items():
        flag = f"--{name.replace('_', '-')}".replace("--fraction", "--salun.fraction")
        shown = value if isinstance(value, str) else json.dumps(value)
        assert re.search(rf"{flag}\b[^-].{{10,}}?\(default: {re.escape(shown)}\)", words), flag
    for name, limits in methods.limits(method).items():
        is_choice = isinstance(limits, methods.Choices) and not limits.others
        shown = "{" + ",".join(limits.names) + "}" if is_choice else f"({limits})."
        if not is_choice and name in methods.settings(method):
            shown += " (default"
        assert shown in words, name
    assert "{sgd,adamw,clipped_adamw}" in words and methods.summary(method) in words


def test_the_help_lists_every_command_and_every_method():
    assert set(COMMANDS) == set(FLAGS) == set(commands.COMMANDS)
    text = done("--help")
    for command in FLAGS:
        assert f"jaxunlearn {command}" in text
    statuses = "0 done, 1 an unexpected error, 2 bad input, 3 a loss diverged, 4 out of memory"
    assert f"Exit status: {statuses}, 130 stopped" in " ".join(text.split())
    known = done("unlearn", "--help")
    assert all(f"• {name}" in known for name in methods.available() if name != "retrain")


def test_the_version_and_unknown_commands():
    assert done("--version") == f"jaxunlearn {jaxunlearn.__version__}\n"
    assert_refused(
        call("unlern"), "the command is 'unlern' (did you mean 'unlearn'?)", "pretrain, "
    )


def test_completion_knows_commands_methods_and_flags():
    script = done("--tyro-print-completion", "bash")
    assert "complete" in script
    for word in (*FLAGS, "eupmu_sfron", "--training.num-steps", "--slow-step-size"):
        assert word in script, word


def test_help_imports_neither_jax_nor_anything_else_that_is_slow():
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from jaxunlearn.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "slow = {'jax', 'numpy', 'optax', 'flax', 'orbax', 'scipy', 'sklearn', 'matplotlib'}\n"
        "sys.exit(' '.join(slow & set(sys.modules)) or 0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_package_is_lazy_and_complete():
    names: dict[str, object] = {}
    exec("from jaxunlearn import *", names)
    core = set(jaxunlearn.__all__)
    assert {"implicit_surgery", "fast_slow", "InputError", "LossPair", "__version__"} <= core
    assert all(hasattr(transforms, name) for name in core - {"__version__"})
    assert "surgery" not in core  # a module, no name of the contract
    assert core <= names.keys()
    assert {*core, "transforms", "types"} <= set(dir(jaxunlearn))
    assert jaxunlearn.implicit_surgery is transforms.implicit_surgery
    assert jaxunlearn.types.InputError is jaxunlearn.InputError
    with pytest.raises(AttributeError, match="'jaxunlearn' has no attribute 'implicit_surgey'"):
        _ = jaxunlearn.implicit_surgey


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["pretrain"],
        ["pretrain", "{}", "--seed", "one"],
        ["pretrain", "{}", "--sed", "1"],
        ["unlearn", "{}", "eupmu"],
        ["compare", "{}"],
        ["compare", "{}", "--config"],
    ],
)
def test_a_command_that_cannot_be_parsed(tmp_path, words):
    run = tmp_path / "run"
    result = call(*(word.format(run) for word in words))
    assert result.status == 2
    assert result.err and not result.out
    assert "Traceback" not in result.err
    assert not run.exists()


def test_pretrain(pretrained, data_dir):
    assert {path.name for path in pretrained.iterdir()} == {
        *["config.json", "fingerprints.json", "metrics.jsonl", "checkpoints", "weights"],
        *["done.json", ".lock"],
    }
    config = json.loads((pretrained / "config.json").read_text())
    assert (config["stage"], config["seed"]) == ("pretrain", 0)
    assert config["problem"]["model"] == "mlp-tiny"
    assert config["settings"]["num_steps"] == 200
    assert config["settings"]["learning_rate_schedule"] == "one_cycle"
    dataset = data.load("digits", data_dir=data_dir)
    fingerprints = json.loads((pretrained / "fingerprints.json").read_text())
    assert fingerprints["data"] == dataset.fingerprint
    lines = read_lines(pretrained / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 201))
    assert lines[-1]["retain_loss"] < 0.1 * lines[0]["retain_loss"]
    record = json.loads((pretrained / "done.json").read_text())
    assert record["steps"] == 200 and record["seconds"] > 0 and len(record["weights"]) == 64
    assert record["machine"]["platform"] == "cpu"
    again = done("pretrain", pretrained, *problem_words(data_dir))
    assert again == (
        f"{pretrained} is already finished; nothing to do\n"
        f"original model: {pretrained / 'weights'}\n"
    )


def test_retrain_and_evaluate(retrained, pretrained):
    assert {path.name for path in retrained.iterdir()} == {
        *["config.json", "fingerprints.json", "forget_request.json", "metrics.jsonl"],
        *["checkpoints", "weights", "done.json", "results.json", "predictions.npz"],
        ".lock",
    }
    request = json.loads((retrained / "forget_request.json").read_text())
    assert request["name"] == "random-0.1" and len(request["forget"]) == 130
    results = json.loads((retrained / "results.json").read_text())
    assert (results["method"], results["request"], results["seed"]) == ("retrain", "random-0.1", 0)
    assert (results["dataset"], results["model"], results["steps"]) == ("digits", "mlp-tiny", 200)
    assert results["counts"] == {
        **{"forget": 130, "retain": 1168, "validation": 144, "test": 355, "test_forget": 0}
    }
    assert results["metrics"]["test_accuracy"] > 90
    assert "kl_to_retrained" not in results["metrics"]
    predictions = SplitPredictions.load(retrained / "predictions.npz")
    assert predictions.forget.probabilities.shape == (130, 10)
    assert predictions.test_forget.probabilities.shape == (0, 10)
    accuracy = np.mean(predictions.test.probabilities.argmax(1) == predictions.test.labels)
    assert 100 * accuracy == pytest.approx(results["metrics"]["test_accuracy"])


def test_unlearn_and_evaluate_against_the_retrained_model(unlearned, retrained, tmp_path):
    run = copy(unlearned, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    assert (config["stage"], config["method"]) == ("unlearn", "finetune")
    assert config["settings"]["learning_rate"] == 0.01  # a default, on record all the same
    original = json.loads((unlearned / "done.json").read_text())["weights"]
    assert config["start"] != original and len(config["start"]) == 64
    assert len(read_lines(run / "metrics.jsonl")) == 4

    printed = done("evaluate", run, "--retrained", retrained)
    results = json.loads((run / "results.json").read_text())
    metrics = results["metrics"]
    assert metrics["kl_to_retrained"] > metrics["js_to_retrained"] > 0
    assert 0 < metrics["tow"] <= 1
    oracle = json.loads((retrained / "results.json").read_text())
    assert results["retrain_seconds"] == oracle["seconds"]
    assert results["share_of_retraining"] == 100 * results["seconds"] / oracle["seconds"]
    assert 0 < results["weights_moved"] < 100 and "weights_moved" not in oracle
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    assert rows.keys() == {"model", *metrics, "results:"}
    value, theirs = metrics["forget_accuracy"], oracle["metrics"]["forget_accuracy"]
    assert rows["forget_accuracy"] == [
        f"{value:.2f}",
        f"{theirs:.2f}",
        f"{value - theirs:+.2f}",
        "%",
    ]


def test_a_forget_file_is_not_needed_again(pretrained, data_dir, tmp_path):
    file = tmp_path / "forget.txt"
    indices = data.hold_out(data.load("digits", data_dir=data_dir), seed=0)[0][:130]
    file.write_text("\n".join(map(str, indices.tolist())))
    run = tmp_path / "run"
    words = ["unlearn", run, "--pretrained", pretrained, "finetune"]
    done(*words, "--indices", file, *QUICK)
    file.unlink()
    done("evaluate", run)
    results = json.loads((run / "results.json").read_text())
    assert results["counts"]["forget"] == 130
    assert results["request"].startswith("indices-130-")


def test_the_installed_command_runs_in_a_process_of_its_own(tmp_path, data_dir):
    words = problem_words(data_dir, num_steps=3)
    ended = wait(start("pretrain", "run", *words, cache=tmp_path / "cache", cwd=tmp_path))
    assert ended.status == 0, ended.err
    assert ended.err == ""
    first, second = ended.out.splitlines()
    assert first.startswith("3 steps in ") and first.endswith(" s of compilation")
    assert second == f"original model: {Path('run') / 'weights'}"
    assert any((tmp_path / "cache" / "jaxunlearn" / "xla").iterdir())  # compiled programs
    assert json.loads((tmp_path / "run" / "done.json").read_text())["programs_read"] == 0

    shutil.rmtree(tmp_path / "run")
    ended = wait(start("pretrain", "run", *words, cache=tmp_path / "cache", cwd=tmp_path))
    assert re.search(
        r"of compilation, [1-9]\d* of the compiled programs read from the cache$",
        ended.out.splitlines()[0],
    )

    ended = wait(start("pretrain", "run", *words, "--seed", 1, cache=tmp_path, cwd=tmp_path))
    assert_refused(ended, "run holds another run: seed is 0 there, but 1 now")
    assert not ended.out


def test_a_cache_that_cannot_be_used_costs_a_warning_only(tmp_path, data_dir):
    (tmp_path / "cache").write_text("a file where a folder should be")
    words = problem_words(data_dir, num_steps=3)
    ended = wait(start("pretrain", "run", *words, cache=tmp_path / "cache", cwd=tmp_path))
    assert ended.status == 0 and ended.out.startswith("3 steps in "), ended
    assert "persistent compilation cache" in ended.err and "Traceback" not in ended.err


def test_a_device_without_memory_left_costs_one_sentence(capsys):
    with pytest.raises(SystemExit) as ended, one_sentence():
        jax.jit(lambda x: jnp.zeros((1 << 46,)) + x)(1.0)  # 256 TiB
    assert ended.value.code == 4
    said = capsys.readouterr().err
    assert said.startswith("jaxunlearn: the device is out of memory; ")
    assert "--micro-batch" in said and said.count("\n") == 1
