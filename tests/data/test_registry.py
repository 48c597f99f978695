"""load and available: the table, the places of data, and names and options that are wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxunlearn.data import available, load
from jaxunlearn.data.dataset import AUGMENTATIONS
from jaxunlearn.data.registry import data_folder
from jaxunlearn.data.table import TABLE
from jaxunlearn.types import InputError

CLASSES = {
    "digits": 10,
    "fashion_mnist": 10,
    "cifar10": 10,
    "cifar100": 100,
    "cifar20": 20,
    "digits_captions": 40,
    "fashion_mnist_captions": 40,
    "svhn_cropped": 10,
    "tiny_imagenet": 200,
}


def test_the_table_is_complete():
    assert {name: TABLE[name].num_classes for name in available()} == CLASSES
    for name, entry in TABLE.items():
        channels = 1 if name.startswith(("digits", "fashion_mnist")) else 3
        assert len(entry.mean) == len(entry.std) == channels
        assert all(0 < value < 1 for value in (*entry.mean, *entry.std))
        assert entry.augmentation in AUGMENTATIONS
    # A mirrored digit is no digit.
    assert "flip" not in TABLE["digits"].augmentation + TABLE["svhn_cropped"].augmentation


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("digit", "digits"),
        ("cifar-10", "cifar10"),
        ("fasion_mnist", "fashion_mnist"),
        ("svhn_croped", "svhn_cropped"),
        ("kmnists", "kmnist"),
        ("eurosad/rgb", "eurosat"),
    ],
)
def test_an_unknown_name_gets_the_closest_one(tmp_path, name, closest):
    with pytest.raises(InputError, match=f"{name!r}.*did you mean '{closest}'.*digits, fashion"):
        load(name, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["qqqqqqqq", "", "a/b/c/d", None])
def test_a_name_like_no_other(tmp_path, name):
    with pytest.raises(InputError, match=f"{name!r}.* known data sets are digits, fashion_mnist"):
        load(name, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_folder_for_a_set_that_takes_none(tmp_path, name):
    with pytest.raises(InputError, match="folder= is for fashion_mnist, .* only"):
        load(name, data_dir=tmp_path, folder=tmp_path)


def test_a_known_set_that_tfds_cannot_open(tmp_path):
    with pytest.raises(InputError, match=r"tfds cannot open the data set 'eurosat/none'.*none"):
        load("eurosat/none", data_dir=tmp_path)


def test_data_folder_prefers_argument_then_tfds_then_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_folder() == tmp_path / "home/.cache/jaxunlearn/data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder() == tmp_path / "cache/jaxunlearn/data"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert data_folder() == tmp_path / "tfds"
    assert data_folder("~/mine") == tmp_path / "home/mine"
    monkeypatch.chdir(tmp_path)
    assert data_folder("here") == tmp_path / "here"
    assert list(tmp_path.iterdir()) == []


def test_a_home_folder_that_is_unknown(monkeypatch):
    """As of a numeric user of a container, who has no $HOME."""

    def unknown(*_):
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(InputError, match=r"home folder is unknown.*--data-dir.*XDG_CACHE_HOME"):
        load("cifar10")
    with pytest.raises(InputError, match=r"^~/mine begins with ~, but that home folder is unknown"):
        load("cifar10", data_dir="~/mine")
    with pytest.raises(InputError, match=r"~nobody-here/files begins with ~"):
        load("fashion_mnist", folder="~nobody-here/files")
    with pytest.raises(InputError, match="holds a null character"):
        load("cifar10", data_dir="a\0b")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_folder() == Path("/cache/jaxunlearn/data")


BUILT_IN = """
import os, pathlib, pwd, socket, sys
def refuse(*_): raise KeyError
pwd.getpwuid = refuse
class NoNetwork:
    def __init__(self, *_, **__): raise AssertionError("the network")
socket.socket = NoNetwork
import jaxunlearn.data
heavy = {"tensorflow_datasets", "sklearn", "PIL", "matplotlib", "flax"} & set(sys.modules)
assert not heavy, heavy
assert len(jaxunlearn.data.load("digits").train) == 1442
from tests.data.toys import write_fashion_mnist
write_fashion_mnist(pathlib.Path("files"))
assert len(jaxunlearn.data.load("fashion_mnist", folder="files").train) == 20
assert not {"tensorflow_datasets", "tensorflow"} & set(sys.modules)
"""


def test_built_in_sets_need_no_home_no_network_and_leave_nothing(tmp_path):
    root, place, temporary = Path(__file__).parents[2], tmp_path / "work", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()
    unset = ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPATH": str(root), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", BUILT_IN], cwd=place, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in place.iterdir()] == ["files"]
    assert list(temporary.iterdir()) == []
