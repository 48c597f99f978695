"""Plug-ins by flag, by environment variable and by entry point; the sentences for bad ones."""

import os
import re
import sys
from pathlib import Path

import pytest

from jaxunlearn import methods, models, plugins
from jaxunlearn.data import registry
from jaxunlearn.evaluation import custom, units
from jaxunlearn.files import read_json
from jaxunlearn.models import denoisers
from jaxunlearn.studies.config import Problem
from tests.shell.commands import assert_refused, call, done

REGISTRIES = (
    (plugins, "_MODULES", "_OWNERS"),
    (methods, "_METHODS"),
    (models, "_PRESETS", "ABOUT"),
    (denoisers, "_PRESETS", "ABOUT"),
    (registry, "_LOADERS"),
    (custom, "_MEASURES"),
    (units, "OWN_UNITS"),
)
METHOD = """
from jaxunlearn import methods

@methods.register
def {name}(task, optimizer, *, factor: methods.Share = 0.5):
    \"\"\"A method of {name}.\"\"\"
    return methods.finetune(task, optimizer)
"""
BROKEN = {
    "fails.py": ("1 / 0", "cannot be loaded, because fails.py raises ZeroDivisionError: division"),
    "ends.py": ("raise SystemExit(3)", "cannot be loaded, because ends.py raises SystemExit: 3."),
    "syntax.py": ("def f(:", "cannot be loaded, because syntax.py raises SyntaxError: "),
    "empty.py": ("x = 1", "the plug-in empty.py registers nothing, but must register a method"),
    "shadow.py": (METHOD.format(name="finetune"), "the method finetune already exists; choose ano"),
    "again.py": (METHOD.format(name="first"), "first already exists in the plug-in first.py; choo"),
    "wrong.py": (
        METHOD.format(name="wrong").replace("task, ", ""),
        "method wrong takes (optimizer, *, factor: ",
    ),
    "unset.py": (
        METHOD.format(name="unset").replace(" = 0.5", ""),
        "setting factor of method unset has no default",
    ),
    "list.py": (
        METHOD.format(name="list").replace("0.5", "(1, 2)"),
        "factor of method list is (1, 2) by default, but must be a number",
    ),
}


@pytest.fixture
def forgotten(monkeypatch):
    """Everything that is registered is forgotten at the end; call it to forget it at once."""

    def forget():
        for module, *names in REGISTRIES:
            for name in names:
                monkeypatch.setattr(module, name, dict(usual[module, name]))

    usual = {
        (module, name): getattr(module, name) for module, *names in REGISTRIES for name in names
    }
    forget()
    return forget


@pytest.fixture
def here(tmp_path, monkeypatch, forgotten):
    """A working folder with three plug-ins, of a method each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("first", "second", "third"):
        (tmp_path / f"{name}.py").write_text(METHOD.format(name=name))
    return tmp_path


def test_flags_the_variable_and_installed_packages_all_count(here, monkeypatch):
    monkeypatch.setenv("JAXUNLEARN_PLUGINS", f"second.py{os.pathsep}")
    (here / "installed-1.0.dist-info").mkdir()
    (here / "installed-1.0.dist-info" / "METADATA").write_text("Name: installed\nVersion: 1.0\n")
    points = here / "installed-1.0.dist-info" / "entry_points.txt"
    points.write_text("[jaxunlearn.plugins]\nmine = third\n")
    monkeypatch.syspath_prepend(here)
    for _ in range(2):  # a plug-in is imported once
        listed = done("list", "--plugin", "first.py", "methods", "--plugin=./first.py")
        for name in ("first", "second", "third"):
            assert f"A method of {name}." in listed
    (here / "third.py").write_text("1 / 0")
    sys.modules.pop("third")
    assert_refused(call("list"), "because third raises ZeroDivis", "belongs to the package inst")


def test_a_method_of_a_plug_in_has_its_flags_and_its_place_in_the_schema(here):
    assert "--factor" in done("unlearn", "--plugin", "first.py", "first", "--help")
    assert '"first"' in done("--plugin=first.py", "schema", "study")
    assert "factor = 0.5" in done("--plugin", "first.py", "list", "first")


@pytest.mark.parametrize("name", BROKEN)
def test_a_plug_in_that_cannot_be_used_is_refused(here, name):
    (here / name).write_text(BROKEN[name][0])
    plug_ins = ["--plugin", "first.py", "--plugin", name]
    assert_refused(call(*plug_ins, "list"), f"the plug-in {name} ", BROKEN[name][1])
    assert name.removesuffix(".py") not in {*methods.available()} - {"finetune"}


def test_a_plug_in_that_is_not_there_is_refused(here):
    assert_refused(call("--plugin", "none.py", "list"), "because none.py does not exist; give")
    assert_refused(call("--plugin", "absent_one", "list"), "'absent_one', which is not installed")
    assert_refused(call("list", "--plugin"), "--plugin is empty, but must be a Python file or a")
    (here / "other").mkdir()
    (here / "other" / "first.py").write_text(METHOD.format(name="other"))
    words = ["--plugin", "first.py", "--plugin", "other/first.py"]
    assert_refused(call(*words, "list"), "other/first.py has the name of another plug-in")


def test_the_record_of_a_run_names_the_plug_ins_that_it_needs(here):
    plugins.load("first.py")
    used = [("method", "first"), ("method", "eupmu"), ("model", "mlp")]
    record = plugins.needed(used)
    assert record == {"method first": {"plugin": "first.py", "digest": plugins.digest("first.py")}}
    (here / "first.py").write_text("# another version")
    assert plugins.digest("first.py") != record["method first"]["digest"]


def test_the_digest_of_a_package_covers_all_its_modules(here):
    (here / "own").mkdir()
    (here / "own" / "__init__.py").write_text("")
    (here / "own" / "inner.py").write_text(METHOD.format(name="packaged"))
    (here / "own" / "plugin.py").write_text("import own.inner")
    assert plugins.load("own.plugin") == "own.plugin"
    before = plugins.digest("own.plugin")
    (here / "own" / "inner.py").write_text("# another version")
    assert plugins.digest("own.plugin") != before


MODELS = """
import numpy as np
from dataclasses import replace
from flax import linen as nn
from jaxunlearn import data, models
from jaxunlearn.models import denoisers

@data.register
def few_digits():
    \"\"\"The first digits.\"\"\"
    digits = data.load("digits")
    return replace(digits, name="few_digits", train=digits.train.take(np.arange(200)))

@models.register
class Linear(nn.Module):
    \"\"\"One layer.\"\"\"
    num_classes: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes)(self.scale * images.reshape(len(images), -1))

@denoisers.register
def small_unet(image_shape, num_classes, *, widths=(4, 8)):
    \"\"\"A small U-Net.\"\"\"
    return denoisers.create("ddpm-tiny", image_shape, num_classes, widths=widths)
"""


def test_models_and_data_sets_of_a_plug_in(here):
    (here / "own_models.py").write_text(MODELS)
    plug_in = ["--plugin", "own_models.py"]
    assert "Linear" in done(*plug_in, "list", "models") and "small_unet" in done("list", "models")
    assert "few_digits   " in done(*plug_in, "list", "data")
    words = ["--data", "few_digits", "--training.num-steps=3", "--training.retain-batch-size=16"]
    words += ["--model", "Linear", "--model-settings", "scale=2.0"]
    done(*plug_in, "pretrain", "run", *words)
    assert Problem(model="small_unet").generates
    assert denoisers.create("small_unet", (8, 8, 1), 10, widths=(4, 12)).widths == (4, 12)
    assert read_json(Path("run/fingerprints.json"))["plugins"].keys() == {
        "data set few_digits",
        "model Linear",
    }
    assert "plug-ins" in done(*plug_in, "verify", "run")
    Path("own_models.py").write_text(MODELS + "# another version")
    changed = call(*plug_in, "verify", "run")
    assert (
        changed.status == 2 and "with another version of the plug-in own_models.py" in changed.out
    )
    Path("run/done.json").unlink()  # as if it was stopped
    assert_refused(call(*plug_in, "pretrain", "run", *words), "with another version of")
    wrong = call(*plug_in, "pretrain", "new", "--model", "Linear", "--model-settings", "scael=2.0")
    assert_refused(wrong, "model 'Linear' has no field 'scael' (did you mean 'scale'?)")
    wrong = call(*plug_in, "pretrain", "new", "--model", "Linear", "--model-settings", "scale=a")
    assert_refused(wrong, "the model 'Linear' raises TypeError at line 22 of ", "own_models.py: ")
    text = (
        "from jaxunlearn.models import denoisers\n@denoisers.register\ndef vgg16(image_shape): ..."
    )
    (here / "taken.py").write_text(text)
    assert_refused(call("--plugin=taken.py", "list"), "the model vgg16 already exists; choose anot")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("return 3", "bad() returns int, but must return a jaxunlearn.data.Dataset."),
        ("return 1 / 0", "because bad() raises ZeroDivisionError: division by zero."),
    ],
)
def test_a_data_set_of_a_plug_in_that_cannot_be_loaded(here, code, sentence):
    text = f"from jaxunlearn import data\n@data.register\ndef bad():\n    {code}\n"
    (here / "bad_data.py").write_text(text)
    assert_refused(call("--plugin", "bad_data.py", "pretrain", "run", "--data", "bad"), sentence)
    (here / "one.py").write_text(text.replace("bad()", "bad(one)"))
    assert_refused(call("--plugin", "one.py", "list"), "data set bad takes (one), but must take no")


PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text("utf-8")


def saved(folder):
    """The files that the page asks to save, and its commands."""
    for name, text in re.findall(r"Save this as `([\w.]+)`.*?```\w+\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(text)
    return "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()


@pytest.mark.long
def test_the_journey_of_the_page(tmp_path, monkeypatch, forgotten):
    """A method, metrics and an attack of a plug-in: listed, tuned, compared and reported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    commands = saved(tmp_path)
    assert [command.split()[-3] for command in commands] == [
        "bounded.py",
        "search",
        "study",
        "study",
    ]
    listed, tuned, compared, _ = (done(*command.split()[1:]) for command in commands)
    assert "level = 1.0" in listed and "forget loss at which ascent ends, in nats" in listed
    assert "chosen settings: search/tuned.toml" in tuned
    assert "confident" in compared and "the report is in study: report.md, report.html" in compared
    found = read_json(Path("study/results.json"))["requests"]["random-0.1"]
    chosen = found["settings"]["bounded_ascent"]["settings"]
    for name in ("level", "learning_rate"):
        assert f"{name} = {chosen[name]}\n" in Path("search/tuned.toml").read_text()
    run = found["runs"]["bounded_ascent"]["metrics"]
    assert run["confident"]["difference"] and run["forget_entropy"]["difference"]
    assert run["test_disagreement"]["low"] >= 0 and run["test_disagreement"]["difference"] is None
    assert found["ranking"]["metric"] == "test_disagreement"
    trained = Path("study/seed-0/random-0.1/bounded_ascent/done.json").read_text()

    forgotten()  # as in another process, without the plug-in
    done("report", "study")
    run = "study/seed-0/random-0.1/bounded_ascent"
    needed = "needs the method bounded_ascent of the plug-in bounded.py, which is not loaded; add"
    assert_refused(call("evaluate", run), needed)
    Path("more.py").write_text(
        "from jaxunlearn import evaluation\n"
        "@evaluation.register_metric(direction='high')\n"
        "def least(model):\n    return model.test.probabilities.min()\n"
    )
    sys.modules.pop(next(name for name in sys.modules if name.endswith("/bounded.py")))
    done("--plugin=more.py", *commands[2].split()[1:])
    page = Path("study/report.md").read_text()
    assert "| least |" in page and "| test\\_disagreement, % |" in page
    assert trained == Path(run, "done.json").read_text()  # evaluated again, not trained
    done("evaluate", run, "--plugin", "bounded.py", "--plugin", "more.py")
    assert "least" in read_json(Path(run, "results.json"))["own_metrics"]
