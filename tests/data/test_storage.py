"""Where prepared data lies, and that preparing is repeatable and whole or not at all."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxunlearn.data import load, storage
from jaxunlearn.data.digits import JaxunlearnDigits
from jaxunlearn.types import InputError


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


def test_default_place_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    load("digits")
    assert (tmp_path / "jaxunlearn_digits" / "1.0.0" / "dataset_info.json").is_file()


SILENT = """
import sys
import jaxunlearn.data
heavy = {"tensorflow_datasets", "sklearn", "PIL", "matplotlib", "flax"} & set(sys.modules)
assert not heavy, heavy
jaxunlearn.data.load("digits", data_dir=sys.argv[1])
assert "tensorflow" not in sys.modules
"""


def test_importing_is_light_and_preparing_is_silent_without_tensorflow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SILENT, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.glob("**/*incomplete*"))


@pytest.fixture
def place(digits_place, tmp_path):
    """A private copy of prepared digits."""
    shutil.copytree(digits_place, tmp_path / "data")
    return tmp_path / "data"


def test_preparing_again_writes_nothing(place):
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in place.rglob("*")}

    before = times()
    first, second = load("digits", data_dir=place), load("digits", data_dir=place)
    assert times() == before
    assert first.fingerprint == second.fingerprint


def test_another_process_that_finishes_first(monkeypatch, digits_place, tmp_path):
    def beaten(self, **kwargs):
        shutil.copytree(digits_place, tmp_path / "data")
        raise OSError("Directory not empty")

    monkeypatch.setattr(JaxunlearnDigits, "download_and_prepare", beaten)
    builder = storage.prepare(JaxunlearnDigits, tmp_path / "data")
    assert builder.info.splits["train"].num_examples == 1442


def test_an_interrupted_preparation_leaves_nothing_and_can_be_repeated(monkeypatch, tmp_path):
    whole = JaxunlearnDigits._generate_examples

    def interrupted(self, images, labels):
        yield from list(whole(self, images, labels))[:100]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JaxunlearnDigits, "_generate_examples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load("digits", data_dir=tmp_path)
    assert not list(tmp_path.glob("jaxunlearn_digits/*"))
    assert len(load("digits", data_dir=tmp_path).train) == 1442


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot prepare the data set in .*data_dir="):
        load("digits", data_dir=tmp_path / "file")


def test_a_folder_that_holds_something_else(place):
    (place / "jaxunlearn_digits/1.0.0/dataset_info.json").unlink()
    with pytest.raises(InputError, match="exists but holds no complete data set; remove"):
        load("digits", data_dir=place)


@pytest.mark.parametrize("text", ["{}", '{"a":'])
def test_a_damaged_description(place, text):
    (place / "jaxunlearn_digits/1.0.0/dataset_info.json").write_text(text)
    with pytest.raises(InputError, match=r"description of the data in .* is damaged"):
        load("digits", data_dir=place)


@pytest.mark.parametrize("damage", ["truncated", "garbled", "missing"])
def test_damaged_records(place, damage):
    (path,) = place.glob("jaxunlearn_digits/1.0.0/*train*")
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[:20000])
    elif damage == "garbled":
        data[5000:5050] = bytes(50)
        path.write_bytes(data)
    else:
        path.unlink()
    where = re.escape(str(place / "jaxunlearn_digits/1.0.0"))
    with pytest.raises(InputError, match=f"prepared data in {where} cannot be read.*remove"):
        load("digits", data_dir=place)
