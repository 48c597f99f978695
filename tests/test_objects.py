"""Objects and modules of the user, by name."""

import sys

import pytest

from jaxunlearn.objects import load_module, load_object
from jaxunlearn.types import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_a_module_of_the_working_folder(folder):
    (folder / "nets_of_mine.py").write_text("class Net:\n    width = 3\n")
    assert load_object("nets_of_mine:Net.width", "the model") == 3


def test_a_file_is_executed_once(folder):
    (folder / "plugin.py").write_text("calls = []\ncalls.append(1)\n")
    first = load_module("plugin.py", "the plug-in")
    first.calls.append(2)
    assert load_module("plugin.py", "the plug-in").calls == [1, 2]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("mlp", "the model is 'mlp', but must have the form module:object"),
        ("no_such_module_here:Net", "which is not installed and not in the working folder"),
        ("math:pie", "math has no 'pie' (did you mean 'pi'?)"),
        ("fails:Net", "the model cannot be loaded, because fails raises ValueError: no luck."),
        ("needs:Net", "because needs raises ModuleNotFoundError: No module named 'absent_one'."),
    ],
)
def test_bad_paths(folder, path, sentence):
    (folder / "fails.py").write_text("raise ValueError('no luck.')\n")
    (folder / "needs.py").write_text("import absent_one\n")
    with pytest.raises(InputError) as error:
        load_object(path, "the model")
    assert sentence in str(error.value)


def test_files_that_are_missing_or_fail(folder):
    (folder / "bad.py").write_text("1 / 0\n")
    for _ in range(2):  # a failed file is not remembered as loaded
        with pytest.raises(InputError, match=r"bad\.py raises ZeroDivisionError"):
            load_module("bad.py", "the plug-in")
    with pytest.raises(InputError, match=r"none\.py does not exist"):
        load_module("none.py", "the plug-in")
