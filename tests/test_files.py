"""Files that are there in full or not at all."""

import json
import os

import pytest

from jaxunlearn.files import read_json, write_json, write_text
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
