"""Files of captions, and folders of images in which each caption is a class."""

import json
import shutil

import numpy as np
import pytest

from jaxunlearn.data import ForgetRequest, Reading, load, split
from jaxunlearn.data.caption_file import read_captions
from jaxunlearn.types import InputError
from tests.data.pictures import picture


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "my images"
    (folder / "test").mkdir(parents=True)
    for number in range(4):
        picture(number).save(folder / f"{number}.png")
    picture(4).save(folder / "test" / "4.png")
    return folder


def write(file, rows):
    """The same captions as JSON lines or as CSV, by the suffix."""
    if file.suffix == ".jsonl":
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    else:
        lines = ["text,file_name,author", *(f'"{text}",{name},x' for name, text in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


ROWS = [
    ("1.png", "a church, in  Paris"),
    ("0.png", "a house"),
    ("3.png", "a house"),
    ("test/4.png", "a red church"),
]


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.csv"])
@pytest.mark.parametrize("inside", [True, False])
def test_each_caption_is_a_class(name, inside, images, tmp_path, capsys):
    file = write((images if inside else tmp_path) / name, ROWS)
    data = load(f"folder:{images}", reading=Reading(captions=str(file)))
    assert "1 images without a caption are left out" in capsys.readouterr().err
    assert data.class_names == ("a church, in Paris", "a house", "a red church")
    assert data.names == ("0.png", "1.png", "3.png") and data.test_names == ("test/4.png",)
    assert data.train.label.tolist() == [1, 0, 1] and data.test.label.tolist() == [2]
    np.testing.assert_array_equal(data.train.image[1], np.asarray(picture(1)))
    forgotten = split(data, ForgetRequest(words=("church,",)), validation_fraction=0.0, seed=0)
    assert forgotten.forget.index.tolist() == [1]


def test_other_captions_are_other_data(images):
    file = write(images / "captions.csv", ROWS)
    reading = Reading(captions=str(file))
    first = load(f"folder:{images}", reading=reading).fingerprint
    write(file, [(name, text.replace("house", "home")) for name, text in ROWS])
    assert load(f"folder:{images}", reading=reading).fingerprint != first


def test_captions_of_a_subfolder_begin_there(images, tmp_path):
    shutil.copytree(images, tmp_path / "all" / "train")
    file = write(tmp_path / "all" / "train" / "metadata.jsonl", ROWS[:3])
    assert list(read_captions(file, tmp_path / "all")) == [f"train/{row[0]}" for row in ROWS[:3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no captions"),
        ("name,text\n", "holds no captions"),
        ("file_nam,text\n0.png,a\n", "has the columns file_nam, text, but needs one of .*file_nam"),
        ("name,text\n0.png,a, b\n", "entry 1 .* more values than there are columns"),
        ("name,text\n0.png,\n", "entry 1 .* has the text '', but must have a text"),
        ("name,text\n0.png,a\n0.png,b\n1.png,a", r"1 images more than once \(0.png\)"),
        ("name,text\n../0.png,a\n", "must name a path below the folder"),
        ("name,text\n0.png,a\n1.png,a\n", "the single caption 'a'"),
        ("name,text\n0.png,a\n9.png,b\n8.pn,c\n", r"2 images that are not in .*\(8.pn, 9.png"),
        ("name,text\ntest/4.png,a\n./test/4.png,b\n", "more than once"),
        ('{"name": "0.png", "text": "a"}\n{"name": \n', "line 2 .* is not JSON"),
        ('{"name": "0.png", "text": 3}\n', "entry 1 .* has the text 3"),
        ("\xff", "cannot be read"),
    ],
)
def test_refused(text, message, images):
    file = images / "captions.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        load(f"folder:{images}", reading=Reading(captions=str(file)))
    assert str(caught.value).count(". ") == 0, caught.value


def test_captions_are_for_folders():
    with pytest.raises(InputError, match="captions is 'a.csv', but is for data of the form folder"):
        load("digits", reading=Reading(captions="a.csv"))
