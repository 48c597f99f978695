"""Saved requests: read back exactly, for the very same data only."""

import json

import numpy as np
import pytest

from jaxunlearn.data import ForgetRequest, split
from jaxunlearn.files import SEAL, sealed
from jaxunlearn.studies.runs.request_file import load_request, save_request
from jaxunlearn.types import InputError
from tests.data.toys import toy

DATA = toy()
REQUEST = ForgetRequest(fraction=0.2)
SPLITS = split(DATA, REQUEST, seed=1)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run" / "forget.json"
    save_request(path, REQUEST, DATA, SPLITS)
    return path


def test_round_trip(saved):
    indices = load_request(saved, DATA)
    np.testing.assert_array_equal(indices, SPLITS.forget.index)
    explicit = split(DATA, ForgetRequest(indices=tuple(indices)), seed=1)
    np.testing.assert_array_equal(explicit.retain.index, SPLITS.retain.index)


def test_content(saved):
    content = json.loads(saved.read_text())
    assert content["name"] == "random-0.2"
    assert content["request"]["fraction"] == 0.2
    assert content["dataset"] == "toy"
    assert content["fingerprint"] == DATA.fingerprint
    assert content["counts"] == {
        "forget": 11,
        "retain": 43,
        "validation": 6,
        "test": 20,
        "test_forget": 0,
    }
    assert content["validation"] == SPLITS.validation.index.tolist()
    assert ForgetRequest(**content["request"]) == REQUEST


@pytest.mark.parametrize(
    "request_",
    [
        ForgetRequest(classes=np.array([2, 1])),
        ForgetRequest(indices=np.array([0, 1])),
        ForgetRequest(fraction=np.float32(0.25)),
    ],
)
def test_numbers_of_numpy(tmp_path, request_):
    splits = split(DATA, request_, validation_fraction=0.0)
    save_request(tmp_path / "a", request_, DATA, splits)
    np.testing.assert_array_equal(load_request(tmp_path / "a", DATA), splits.forget.index)


def test_saving_again_replaces_and_leaves_nothing_behind(saved):
    other = ForgetRequest(classes=(3,))
    splits = split(DATA, other)
    save_request(saved, other, DATA, splits)
    np.testing.assert_array_equal(load_request(saved, DATA), splits.forget.index)
    assert [path.name for path in saved.parent.iterdir()] == ["forget.json"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a.json cannot be written .* choose a folder"):
        save_request(tmp_path / "file" / "a.json", REQUEST, DATA, SPLITS)


def test_a_write_that_fails_keeps_the_old_file(saved, monkeypatch):
    before = saved.read_text()

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="no space left"):
        save_request(saved, ForgetRequest(classes=(3,)), DATA, SPLITS)
    assert saved.read_text() == before
    assert [path.name for path in saved.parent.iterdir()] == ["forget.json"]


def test_another_data_set(saved):
    with pytest.raises(InputError, match=r"belongs to other data: data set 'toy'.*'other' has"):
        load_request(saved, toy(name="other"))
    with pytest.raises(InputError, match="load the data it was saved for"):
        load_request(saved, toy(train=61))


def test_missing(tmp_path):
    with pytest.raises(InputError, match="none.json does not exist"):
        load_request(tmp_path / "none.json", DATA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not readable JSON"),
        ("[1, 2]", "must hold a JSON object"),
        ("{}", "was altered"),
        ('{"format": 1', "is not readable JSON"),
        ("\udcff", "is not readable JSON"),
    ],
)
def test_malformed(saved, text, message):
    saved.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message):
        load_request(saved, DATA)


def test_truncated(saved):
    text = saved.read_text()
    saved.write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match="is not readable JSON"):
        load_request(saved, DATA)


def test_another_format(saved):
    saved.write_text(json.dumps(sealed({"format": 2})))
    with pytest.raises(InputError, match="has format 2, but must have 1"):
        load_request(saved, DATA)


@pytest.mark.parametrize("forget", [None, [], 3, [1, 1], [1.0], ["1"], [True], [-1], [60], [2**70]])
def test_positions_that_cannot_be_right(saved, forget):
    content = json.loads(saved.read_text()) | {"forget": forget}
    saved.write_text(json.dumps(content))
    with pytest.raises(InputError, match="forget.json was altered after it was written"):
        load_request(saved, DATA)
    saved.write_text(json.dumps(sealed(without_seal(content))))
    with pytest.raises(InputError, match="positions"):
        load_request(saved, DATA)


def without_seal(content):
    return {key: value for key, value in content.items() if key != SEAL}


def test_a_request_without_its_seal_is_refused(saved):
    saved.write_text(json.dumps(without_seal(json.loads(saved.read_text()))))
    with pytest.raises(InputError, match="forget.json was altered after it was written"):
        load_request(saved, DATA)
