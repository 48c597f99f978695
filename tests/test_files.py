"""Files that are there in full or not at all."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from jaxunlearn.files import read_json, replacing, write_arrays, write_json, write_text
from jaxunlearn.models.pretrained import tensors
from jaxunlearn.studies.report import plots
from jaxunlearn.types import InputError


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "folder" / "file.json"
    write_json(path, {"a": [1, 2.5, None], "b": "ä"})
    assert read_json(path) == {"a": [1, 2.5, None], "b": "ä"}
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})

    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    monkeypatch.setattr("pathlib.Path.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def full(self, *args, **keywords):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match=r"file.txt cannot be written \(No space left on device\)"):
        write_text(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def write_picture(path):
    with plots.picture(path, 1, 1, (1.0, 1.0)) as figure:
        figure.subplots()


WRITERS = {
    "text.md": lambda path: write_text(path, "text"),
    "record.json": lambda path: write_json(path, {"a": 1}),
    "arrays.npz": lambda path: write_arrays(path, {"a": np.zeros(3)}),
    "picture.png": write_picture,
    "picture.svg": write_picture,
    "tensors.safetensors": lambda path: tensors.write(
        path, {"a": np.zeros(3, np.float32)}, lambda place: place[0]
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_two_processes_of_one_number_write_one_file(tmp_path, monkeypatch, name):
    """As two containers do on a folder they share: each has the process number 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path, replace, nested = tmp_path / name, Path.replace, []

    def interrupted(self, target):
        if not nested:  # the other process writes the same file, from beginning to end
            nested.append(self)
            WRITERS[name](path)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    WRITERS[name](path)
    assert len(nested) == 1 and [entry.name for entry in tmp_path.iterdir()] == [name]
    written = path.read_bytes()
    path.unlink()
    WRITERS[name](path)
    assert path.read_bytes() == written


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch, name):
    """A power loss keeps what was synced, in this order: the file, its name, the folder."""
    order, fsync, replace = [], os.fsync, Path.replace

    def synced(place):
        order.append("folder" if stat.S_ISDIR(os.fstat(place).st_mode) else os.fstat(place).st_size)
        fsync(place)

    def replaced(self, target):
        order.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    WRITERS[name](tmp_path / name)
    assert order == [(tmp_path / name).stat().st_size, "replace", "folder"]


def test_the_umask_of_the_process_decides_who_may_read_a_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError):
        with replacing(path) as file:
            file.write_text("half")
            raise ZeroDivisionError
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written \(.+\); choose a folder"):
        write_text(tmp_path / "file" / "inner" / "x.txt", "text")
    with pytest.raises(InputError, match="does not exist; run the stage that writes it first"):
        read_json(tmp_path / "file" / "x.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; run the stage that writes it first"),
        (b"", "is not readable JSON"),
        (b'{"a": ', "is not readable JSON"),
        (b"\xff\xfe", "is not readable JSON"),
        (b"[1, 2]", r"holds \[1, 2\], but must hold a JSON object"),
        (b"null", "holds None, but must hold a JSON object"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, content, message):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match="is not readable JSON"):
        read_json(tmp_path)
