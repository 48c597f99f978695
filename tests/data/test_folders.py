"""Folders of the user's own images: layouts, sizes, modes, broken files, and the cached array."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxunlearn.data import ForgetRequest, Reading, decoding, load, split
from jaxunlearn.data.examples import Rows
from jaxunlearn.types import InputError
from tests.data.pictures import picture, write_pictures


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    return tmp_path / "prepared"


def load_folder(folder, **reading):
    return load(f"folder:{folder}", reading=Reading(**reading))


def refused(message, folder, **reading):
    with pytest.raises(InputError, match=message) as caught:
        load_folder(folder, **reading)
    assert str(caught.value).count(". ") == 0, caught.value
    return str(caught.value)


def test_train_and_test(tmp_path):
    folder = write_pictures(tmp_path / "my images", classes=("dog", "кот"))
    (folder / "train" / "dog" / "notes.txt").write_text("no image")
    (folder / "train" / ".hidden").mkdir()
    data = load_folder(folder)
    assert repr(data) == (
        "Dataset('folder:my images', 8 training and 8 test images of 4x6x3, 2 classes)"
    )
    assert data.class_names == ("dog", "кот") and data.train.label.tolist() == [0] * 4 + [1] * 4
    assert data.names[:2] == ("train/dog/dog 0.png", "train/dog/dog 1.png")
    assert data.test_names[-1] == "test/кот/кот 3.png"
    for number, name in enumerate(data.names + data.test_names):
        examples = data.train if number < 8 else data.test
        expected = np.asarray(Image.open(folder / name))
        np.testing.assert_array_equal(examples.image[number % 8], expected)
    mean, std = np.mean(data.train.image, (0, 1, 2)) / 255, np.std(data.train.image, (0, 1, 2))
    np.testing.assert_allclose([data.mean, data.std], [mean, std / 255], rtol=1e-9)


def test_a_second_load_reads_the_array(tmp_path, cache, capsys, monkeypatch):
    folder = write_pictures(tmp_path / "images")
    first = load_folder(folder)
    assert f"reading 16 images of {folder}" in capsys.readouterr().err
    monkeypatch.setattr(decoding, "image_of", None)
    second = load_folder(folder)
    assert capsys.readouterr().err == "" and isinstance(second.train.image, np.memmap)
    assert (second.fingerprint, second.mean) == (first.fingerprint, first.mean)
    monkeypatch.undo()
    monkeypatch.setenv("TFDS_DATA_DIR", str(cache))
    # The fingerprint is the one that the pixels have, wherever the folder is.
    del vars(second)["fingerprint"]
    assert second.fingerprint == first.fingerprint
    shutil.copytree(folder, tmp_path / "elsewhere" / "other name")
    assert load_folder(tmp_path / "elsewhere" / "other name").fingerprint == first.fingerprint


@pytest.mark.parametrize("change", ["content", "time", "new", "gone", "array", "record"])
def test_a_changed_folder_is_read_again(tmp_path, cache, capsys, change):
    folder = write_pictures(tmp_path / "images")
    before, path = load_folder(folder).fingerprint, folder / "train" / "cat" / "cat 0.png"
    (array,), (record,) = cache.rglob("images.npy"), cache.rglob("images.json")
    capsys.readouterr()
    if change == "content":
        picture(99).resize((6, 4)).save(path)
    elif change == "time":
        os.utime(path, (1, 1))
    elif change == "new":
        picture(98).save(path.with_name("a.png"))
    elif change == "gone":
        path.unlink()
    elif change == "array":
        array.write_bytes(array.read_bytes()[:50])
    else:
        record.write_text("{}")
    after = load_folder(folder).fingerprint
    assert "reading" in capsys.readouterr().err
    assert (after == before) == (change in ("time", "array", "record"))


def test_test_data_is_drawn_by_the_names_alone(tmp_path):
    folder = write_pictures(tmp_path / "flat", splits=("",), count=10)
    data = load_folder(folder, test_fraction=0.3)
    assert (len(data.train), len(data.test)) == (14, 6)
    assert not set(data.names) & set(data.test_names)
    picture(99).save(folder / "cat" / "new.png")
    more = load_folder(folder, test_fraction=0.3)
    assert len(set(data.test_names) - set(more.test_names)) <= 1
    refused("flat has no folder test, but needs test data; draw some with --test-fr", folder)
    refused("test_fraction is 1.5, but must be between", folder, test_fraction=1.5)
    both = write_pictures(tmp_path / "both")
    refused("test_fraction is 0.5, but .*test has test images; leave", both, test_fraction=0.5)


def test_sizes(tmp_path):
    folder = write_pictures(tmp_path / "images")
    picture(50, sides=(20, 10)).save(folder / "test" / "cat" / "wide.png")
    refused(
        "test/cat/wide.png in .* has 20x10 pixels and train/cat/cat 0.png has 6x4, but all must "
        "have one size; resize them with --image-size .*such as 32",
        folder,
    )
    data = load_folder(folder, image_size=4)
    assert data.train.image.shape == (8, 4, 4, 3)
    # The middle of the wide image, at two fifths of its size.
    middle = picture(50, sides=(20, 10)).resize((4, 4), Image.BILINEAR, box=(5, 0, 15, 10))
    found = data.test.image[data.test_names.index("test/cat/wide.png")]
    np.testing.assert_array_equal(found, np.asarray(middle))
    refused("image_size is 0, but must be 1 or more", folder, image_size=0)


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("L", "png", 1),
        ("1", "png", 1),
        ("LA", "png", 1),
        ("I;16", "png", 1),
        ("P", "gif", 3),
        ("RGBA", "webp", 3),
        ("CMYK", "jpg", 3),
    ],
)
def test_modes(tmp_path, mode, suffix, channels):
    folder = write_pictures(tmp_path / "images", mode="L" if channels == 1 else "RGB")
    if mode == "I;16":
        made = Image.fromarray(np.asarray(picture(70, "L")).astype(np.uint16) * 257)
    else:
        made = picture(70, mode)
    made.save(folder / "train" / "cat" / f"a.{suffix}")
    data = load_folder(folder)
    assert data.train.image.shape[1:] == (4, 6, channels)
    if mode == "I;16":
        np.testing.assert_array_equal(data.train.image[0, ..., 0], np.asarray(picture(70, "L")))
    colour = folder / "train" / "dog" / "z.png"  # one colour image makes three channels
    picture(71).save(colour)
    found = load_folder(folder).train.image
    assert found.shape == (10, 4, 6, 3)
    np.testing.assert_array_equal(found[-1], np.asarray(picture(71)))


def test_orientation(tmp_path):
    folder = write_pictures(tmp_path / "images")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    turned = picture(60).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "train" / "cat" / "a.png", exif=exif)
    np.testing.assert_array_equal(load_folder(folder).train.image[0], np.asarray(picture(60)))


def test_broken_files(tmp_path, capsys):
    folder = write_pictures(tmp_path / "images", count=6)
    for number in range(4):
        (folder / "train" / "cat" / f"cat {number}.png").write_bytes(b"no image")
    (folder / "test" / "cat" / "cat 1.png").write_bytes(b"")
    (folder / "test" / "dog" / "gone.png").symlink_to(tmp_path / "nowhere")
    text = refused(r"^6 of the 25 images of .* cannot be read, such as train/cat/cat 0.png", folder)
    assert text.count(".png") == 3 and text.endswith("--broken skip (broken='skip').")
    assert "cat 0.png (cannot identify image file)" in text
    capsys.readouterr()
    for _ in range(2):
        data = load_folder(folder, broken="skip")
        assert data.names[:3] == (
            "train/cat/cat 4.png",
            "train/cat/cat 5.png",
            "train/dog/dog 0.png",
        )
        assert (len(data.train), len(data.test), data.train.label.sum()) == (8, 11, 6)
        np.testing.assert_array_equal(
            data.train.image[0], np.asarray(Image.open(folder / data.names[0]))
        )
    assert "6 broken images are left out" in capsys.readouterr().err
    for path in folder.rglob("*.png"):
        path.unlink()
        path.write_bytes(b"no image")
    assert "--broken" not in refused("^25 of the 25 images", folder, broken="skip")


def test_images_that_the_disk_has_no_room_for(tmp_path):
    folder = write_pictures(tmp_path / "images")
    refused("images take .* GB, but .* has .* GB free; choose a smaller", folder, image_size=10**7)
    assert not list(tmp_path.rglob("images.npy"))


def test_links(tmp_path):
    """A linked class counts; a link to a folder that it is in does not."""
    folder = write_pictures(tmp_path / "images")
    (folder / "train" / "cat" / "up").symlink_to("..")
    write_pictures(tmp_path / "other", classes=("owl",))
    (folder / "train" / "owl").symlink_to(tmp_path / "other" / "train" / "owl")
    data = load_folder(folder)
    assert data.class_names == ("cat", "dog", "owl") and not any("up" in n for n in data.names)
    assert np.bincount(data.train.label)[2] == np.bincount(data.train.label)[0]


def test_folders_that_are_no_data(tmp_path):
    refused("nowhere is not a folder, but must hold", tmp_path / "nowhere")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    refused("train holds no folder, but must hold a folder for each", tmp_path / "empty")
    (tmp_path / "empty" / "train" / "cat").mkdir()
    (tmp_path / "empty" / "test" / "cat").mkdir(parents=True)
    refused("train holds no image in 1 class folders, but must", tmp_path / "empty")
    one = write_pictures(tmp_path / "one", classes=("cat",))
    refused("train holds the single class 'cat', but must hold at least two", one)
    single = write_pictures(tmp_path / "single", splits=("",), count=6)
    (single / "lone").mkdir()
    picture(1).save(single / "lone" / "a.png")
    refused("of the 3 classes of .* no training example .first: 'dog'.", single, test_fraction=0.9)
    more = write_pictures(tmp_path / "more")
    write_pictures(more, splits=("test",), classes=("owl",))
    refused("test has 1 folders that are no classes of .*train .first: owl.", more)


def test_unreadable_folders(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "images")
    real = os.scandir

    def refusing(place):
        if str(place).endswith("train/dog"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", refusing)
    refused("train/dog cannot be read .Permission denied.", folder)


def test_options_of_other_data(tmp_path):
    for reading, message in (
        (Reading(image_size=8), "image_size is 8, but is for data of the form folder:PATH only"),
        (Reading(label="y"), "label is 'y', but is for data of the form csv:PATH only"),
        (Reading(test_fraction=0.1), "folder:PATH or npz:PATH or csv:PATH only; leave --test-fr"),
    ):
        with pytest.raises(InputError, match=message):
            load("digits", reading=reading)
    with pytest.raises(InputError, match="data is 'folder', but must have a path"):
        load("folder")


def test_choices_are_read_when_they_are_used(tmp_path):
    data = load_folder(write_pictures(tmp_path / "images", count=10))
    parts = split(data, ForgetRequest(fraction=0.3), validation_fraction=0.1)
    forget = parts.forget
    assert isinstance(forget.image, Rows) and isinstance(forget.take([2, 0]).image, Rows)
    np.testing.assert_array_equal(forget.take([2, 0]).image, data.train.image[forget.index[[2, 0]]])
    assert repr(forget) == "Examples(5 uint8 images of 4x6x3)"
