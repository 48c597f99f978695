"""Tiny ImageNet from its standard layout."""

import numpy as np
import pytest
from PIL import Image

from jaxunlearn.data import load
from jaxunlearn.types import InputError
from tests.data.toys import write_tiny_imagenet


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "cache"))
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    return tmp_path / "tiny-imagenet-200"


def test_images_labels_and_settings(tree):
    data = load("tiny_imagenet", folder=tree)
    assert data.train.image.shape == (9, 8, 8, 3)
    assert data.test.image.shape == (6, 8, 8, 3)
    assert data.class_names == ("n01", "n02", "n03")
    assert data.train.label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.mean == (0.4802, 0.4481, 0.3975)
    assert data.augmentation == "flip_crop"
    assert data.fingerprint.startswith("5c0088274c523b7a")  # as of all earlier versions
    assert isinstance(data.train.image, np.memmap)
    # The tree's colours: red tells the class, in the order in which the tree was made.
    for examples in (data.train.take([0, 3, 6]), data.test):
        red = np.asarray(examples.image)[:, 4, 4, 0].astype(int)
        expected = np.array([60, 100, 20])[examples.label]
        np.testing.assert_allclose(red, expected, atol=3)


def test_grey_images_get_three_channels(tree):
    data = load("tiny_imagenet", folder=tree)
    grey = data.train.image[2]
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert np.any(data.train.image[0][..., 0] != data.train.image[0][..., 2])


def test_the_default_folder_is_in_the_data_dir(tree):
    assert len(load("tiny_imagenet", data_dir=tree.parent).train) == 9


def test_names_from_words(tree):
    (tree / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn03\tpier\nn99\tother\n")
    data = load("tiny_imagenet", folder=tree)
    assert data.class_names == ("goldfish, Carassius auratus", "n02", "pier")


def test_wnids_choose_the_classes(tree):
    (tree / "wnids.txt").write_text("n01\nn02\nn03\n")
    (tree / "train" / "leftover").mkdir()
    assert load("tiny_imagenet", folder=tree).num_classes == 3


def refused(tree, message):
    with pytest.raises(InputError, match=message) as caught:
        load("tiny_imagenet", folder=tree)
    assert "folder=" in str(caught.value)


def test_folder_absent(tmp_path):
    refused(tmp_path / "none", "train is not a folder, but must hold")


def test_a_class_that_wnids_lists_is_absent(tree):
    (tree / "wnids.txt").write_text("n01\nn02\nn03\nn04\n")
    refused(tree, r"lacks 1 of the 4 classes in .*wnids.txt \(first: n04\)")


def test_no_classes(tmp_path):
    (tmp_path / "train").mkdir()
    refused(tmp_path, "train holds no folder, but must")


def test_a_class_without_images(tree):
    for path in (tree / "train" / "n02" / "images").iterdir():
        path.unlink()
    refused(tree, "1 of the 3 classes of .* no training example .first: 'n02'")


def test_annotations_absent(tree):
    (tree / "val" / "val_annotations.txt").unlink()
    refused(tree, "val_annotations.txt does not exist, but must list the test images; unpack")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "names no image"),
        ("val_0.JPEG\n", "line 1 of .* must hold a file name and a class"),
        ("val_0.JPEG\tn01\nval_1.JPEG\tn77\t0\n", "line 2 of .* is 'val_1.JPEG"),
        (
            "val_0.JPEG\tn01\nabsent.JPEG\tn01\n",
            "1 of the 11 images .* cannot be read, such as val/images/absent.JPEG",
        ),
    ],
)
def test_malformed_annotations(tree, text, message):
    (tree / "val" / "val_annotations.txt").write_text(text)
    refused(tree, message)


def test_a_damaged_image(tree):
    path = tree / "train" / "n02" / "images" / "n02_1.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    refused(
        tree, "1 of the 15 images .* cannot be read, such as train/n02/images/n02_1.JPEG .*; unpack"
    )


def test_an_image_of_another_size(tree):
    path = tree / "train" / "n02" / "images" / "n02_1.JPEG"
    Image.new("RGB", (9, 8)).save(path)
    refused(
        tree, r"n02_1.JPEG in .* has 9x8 pixels and .* has 8x8, but all must have one size; unpack"
    )
