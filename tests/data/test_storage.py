"""Where prepared data is, and what is said of records that cannot be read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxunlearn.data import load, storage
from jaxunlearn.types import InputError
from tests.data.toys import make_builder


def test_data_folder_prefers_argument_then_tfds_then_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert storage.data_folder() == tmp_path / "home/.cache/jaxunlearn/data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert storage.data_folder() == tmp_path / "cache/jaxunlearn/data"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert storage.data_folder() == tmp_path / "tfds"
    assert storage.data_folder("~/mine") == tmp_path / "home/mine"
    monkeypatch.chdir(tmp_path)
    assert storage.data_folder("here") == tmp_path / "here"
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
    assert storage.data_folder() == Path("/cache/jaxunlearn/data")


BUILT_IN = """
import os, pwd, socket, sys
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
write_fashion_mnist(jaxunlearn.data.storage.Path("files"))
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


@pytest.fixture(scope="module")
def builder() -> type:
    """A small set of tfds."""
    features = {
        "image": tfds.features.Tensor(shape=(4, 4, 3), dtype=np.uint8),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    images = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 3)).astype(np.uint8)
    records = [{"image": image, "label": i % 3} for i, image in enumerate(images)]
    return make_builder("standin_stored", features, {"train": records, "test": records[:6]})


@pytest.fixture
def prepared(builder, tmp_path) -> Path:
    """The folder of that set, prepared."""
    builder(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    return tmp_path / "standin_stored/1.0.0"


def test_reading_writes_and_prints_nothing(prepared, capfd):
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in prepared.parent.rglob("*")}

    before = times()
    capfd.readouterr()
    assert len(load("standin_stored", data_dir=prepared.parents[1]).train) == 600
    assert times() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["truncated", "garbled", "missing"])
def test_damaged_records(prepared, damage):
    (path,) = prepared.glob("*train*")
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[:20000])
    elif damage == "garbled":
        data[5000:5050] = bytes(50)
        path.write_bytes(data)
    else:
        path.unlink()
    where = re.escape(str(prepared))
    with pytest.raises(InputError, match=f"prepared data in {where} cannot be read.*are damaged"):
        load("standin_stored", data_dir=prepared.parents[1])


@pytest.mark.parametrize("text", ["{}", '{"a":'])
def test_a_damaged_description(prepared, text):
    (prepared / "dataset_info.json").write_text(text)
    with pytest.raises(InputError, match=r"tfds cannot open the data set 'standin_stored'"):
        load("standin_stored", data_dir=prepared.parents[1])
