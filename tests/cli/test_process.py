"""The process of a command: its streams, its environment, its memory, and how it ends."""

import errno
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import pytest

from jaxunlearn import EXTRAS
from jaxunlearn.cli import main as cli
from jaxunlearn.cli import run_commands
from jaxunlearn.data.dataset import AUGMENTATIONS
from jaxunlearn.studies.audits.worst_cases import SCORES
from jaxunlearn.studies.config import Problem
from jaxunlearn.training import Diverged, Interrupted, hosts
from jaxunlearn.training.devices import PARALLEL, PARAMETERS
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError
from tests.shell.commands import call

ROOT = Path(__file__).parents[2]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs `jaxunlearn` as a shell does, with a redirection of its streams."""
    words = f"'{sys.executable}' -m jaxunlearn {command}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run(["sh", "-c", words], capture_output=True, env=environment, cwd=ROOT)


@pytest.mark.parametrize("encoding", ["ascii", "cp932"])
def test_an_output_without_some_characters_gets_plain_ones(encoding):
    ended = shell("list --help", PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, b"")
    text = ended.stdout.decode(encoding)
    assert "the name of a method" in text and "?" not in text


def test_a_file_name_that_is_no_text_can_be_printed():
    ended = shell("compare study --config \"$(printf 'b\\377d.toml')\"", PYTHONIOENCODING="ascii")
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        b"jaxunlearn: the configuration b?d.toml cannot be read (No such"
    )


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-", "<&-"])
def test_streams_that_are_closed(closed):
    ended = shell(f"--help {closed}")
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_what_a_library_prints_never_reaches_a_file_where_output_is_closed(tmp_path):
    code = (
        "import os, sys; from jaxunlearn import __main__\n"
        "from jaxunlearn.cli import main as cli\n"
        "def work():\n"
        "    with open(sys.argv[1], 'wb') as file:\n"
        "        os.write(1, b'noise'); os.write(2, b'noise'); file.write(b'work')\n"
        "cli.main = work; __main__.main()"
    )
    words = [f"'{sys.executable}'", "-c", f'"{code}"', str(tmp_path / "file"), ">&- 2>&- <&-"]
    assert subprocess.run(["sh", "-c", " ".join(words)], cwd=ROOT).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"work"


def test_an_output_that_is_full():
    ended = shell("--help >/dev/full")
    assert ended.returncode == 2
    assert ended.stderr.decode() == (
        f"jaxunlearn: the output cannot be written ({os.strerror(errno.ENOSPC)}); the same command "
        "continues.\n"
    )
    assert shell("compare study --config none.toml 2>/dev/full").returncode == 2


def test_shards_leave_memory_of_a_gpu_to_others():
    code = (
        "import os, sys; from jaxunlearn import __main__\n"
        "from jaxunlearn.cli import main as cli\n"
        "cli.main = lambda: print(os.environ.get('XLA_PYTHON_CLIENT_PREALLOCATE'))\n"
        "for words in (['compare'], ['compare', '--shard=1/2']):\n"
        "    sys.argv[1:] = words\n"
        "    __main__.main()\n"
    )
    unset = {k: v for k, v in os.environ.items() if k != "XLA_PYTHON_CLIENT_PREALLOCATE"}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=unset
    )
    assert ended.stdout.splitlines() == ["None", "false"]


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    code = (
        "import sys; from jaxunlearn import __main__\n"
        "from jaxunlearn.cli import main as cli\n"
        "for name in ('tyro', 'safetensors', 'jax_privacy.auditing', 'tensorflow'):\n"
        "    sys.modules[name] = None\n"
        "    cli.main = lambda: __import__(name)\n"
        "    try: __main__.main()\n"
        "    except SystemExit as end: assert end.code == 2\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    extras = {"tyro": "pipeline", "safetensors": "pipeline", "jax_privacy.auditing": "audit"}
    assert ended.stderr.splitlines() == [
        f"jaxunlearn: the command needs the package {name}, which is not installed; install "
        f"jaxunlearn[{extra}]."
        for name, extra in (extras | {"tensorflow": "tfds-prepare"}).items()
    ]


def test_the_extras_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package, extra in EXTRAS.items():
        packages = " ".join(project["optional-dependencies"][extra]).replace("-", "_")
        assert package in packages


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (InputError("steps is 0."), 2, "steps is 0."),
        (Diverged("a loss became NaN."), 3, "a loss became NaN."),
        (Interrupted("stopped at step 3."), 130, "stopped at step 3."),
        (KeyboardInterrupt(), 130, "stopped; the same command continues."),
        (PermissionError(errno.EACCES, "denied", "a/b"), 2, "a/b cannot be read or written (denie"),
        (
            FileNotFoundError(errno.ENOENT, "os.getcwd"),
            2,
            "the working folder no longer exists; change to",
        ),
        (RecursionError("maximum depth"), 2, "the input is nested too deeply; write it with fewer"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory while"),
            4,
            "the device is out of memory; compute",
        ),
        (MemoryError(), 4, "this machine is out of memory; use a smaller model or less data."),
    ],
)
def test_each_failure_has_its_status(error, status, sentence, capsys):
    with pytest.raises(SystemExit) as end, cli.one_sentence():
        raise error
    assert end.value.code == status
    assert capsys.readouterr().err.startswith(f"jaxunlearn: {sentence}")


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), OSError("no name"), AssertionError(), KeyError(1)]
)
def test_an_unexpected_error_is_not_hidden(error):
    with pytest.raises(type(error)) as caught, cli.one_sentence():
        raise error
    assert caught.value is error


@pytest.fixture
def setting(request):
    """A setting of JAX, changed for a while."""
    name, value = request.param
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    yield request.param
    jax.config.update(name, before)


@pytest.mark.parametrize(
    "setting",
    [
        ("jax_disable_jit", True),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_transfer_guard", "disallow"),
        ("jax_transfer_guard_host_to_device", "disallow_explicit"),
        ("jax_transfer_guard_device_to_host", "disallow"),
    ],
    indirect=True,
)
def test_a_setting_of_jax_that_stops_compiled_programs_is_named(setting):
    name, value = setting
    with pytest.raises(InputError, match=f"{name.upper()} is {value}, but must be .*; un"):
        hosts.check_devices()


def test_an_unknown_home_folder_is_no_matter_to_built_in_data(tmp_path):
    """As of a numeric user of a container: nothing is written but the run."""
    (tmp_path / "hooks").mkdir()
    code = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
    (tmp_path / "hooks" / "sitecustomize.py").write_text(code)
    (tmp_path / "work").mkdir()
    unset = ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPATH": f"{tmp_path / 'hooks'}:{ROOT}", "JAX_PLATFORMS": "cpu"}
    words = ["pretrain", "run", "--model", "mlp-tiny", "--training.num-steps=2"]
    ended = subprocess.run(
        [sys.executable, "-m", "jaxunlearn", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path / "work",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["run"]


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "run", "--model-settings", "x=" + "[" * 3000],
        ["compare", "run", "--config", "deep.toml"],
        ["pretrain", "run", "--model-settings", "hidden=" + "[" * 400 + "]" * 400],
    ],
)
def test_input_that_is_nested_too_deeply(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deep.toml").write_text("x = " + "[" * 3000 + "]" * 3000)
    result = call(*words)
    assert result.status == 2 and result.err.count("\n") == 1, result
    assert "Traceback" not in result.err and len(result.err) < 2000
    assert not Path("run").exists()


def test_a_device_without_memory_for_the_model(tmp_path):
    words = ["--training.num-steps=2", "--model-settings", "hidden=[10000000000000]"]
    result = call("pretrain", tmp_path / "run", *words)
    assert result.status == 4 and result.err.count("\n") == 1, result
    assert result.err.startswith("jaxunlearn: the device is out of memory; compute batches in")
    assert "--micro-batch" in result.err


def test_choices_that_the_help_shows_are_those_there_are():
    hints = get_type_hints(Problem) | get_type_hints(run_commands.select) | get_type_hints(Layout)
    assert get_args(get_args(hints["augmentation"])[0]) == AUGMENTATIONS
    assert get_args(hints["by"]) == SCORES
    assert get_args(hints["parameters"]) == PARAMETERS
    assert get_args(hints["parallel"]) == PARALLEL


def test_settings_of_jax_that_are_not_there(tmp_path):
    """Platforms that this machine lacks, and values that JAX refuses while it is imported."""
    for name, value, fragments in (
        ("JAX_PLATFORMS", "cuda", ("JAX_PLATFORMS=cuda", "such as cpu, or unset it")),
        ("JAX_PLATFORMS", "gpuu", ("JAX_PLATFORMS=gpuu", "'gpuu'", "such as cpu, or unset it")),
        ("JAX_ENABLE_X64", "maybe", ("JAX cannot start", "'maybe'", "'JAX_ENABLE_X64'")),
    ):
        environment = {**os.environ, name: value}
        words = ["-m", "jaxunlearn", "pretrain", str(tmp_path / "run"), "--model", "mlp-tiny"]
        ended = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=ROOT
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert all(fragment in ended.stderr for fragment in fragments), ended.stderr
    assert not (tmp_path / "run").exists()
