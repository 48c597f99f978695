"""Images in class folders; tiny_imagenet from its standard layout."""

import numpy as np
import pytest
from PIL import Image

from jaxunlearn.data import load
from jaxunlearn.data.image_folder import read_image_folder
from jaxunlearn.types import InputError
from tests.data.toys import write_tiny_imagenet


@pytest.fixture
def tree(tmp_path):
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
    # The tree's colours: red tells the class, in the order in which the tree was made.
    for examples in (data.train.take([0, 3, 6]), data.test):
        red = examples.image[:, 4, 4, 0].astype(int)
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


@pytest.mark.parametrize("test", ["test", "val"])
def test_class_folders_of_both_splits(tmp_path, test):
    """The common layout: any depth, any format; other files and hidden ones do not count."""
    for split, count in (("train", 3), (test, 2)):
        for red, name in enumerate(("dog", "cat")):
            folder = tmp_path / split / name / "deeper"
            folder.mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (5, 4), (100 * red, number, 0))
                picture.save(folder / f"{number}.{('png', 'bmp')[number % 2]}")
            (folder / "._0.png").write_text("of a file manager")
            (folder / "notes.txt").write_text("no image")
    splits, names = read_image_folder(tmp_path)
    assert names == ("cat", "dog")
    for split, count in (("train", 3), ("test", 2)):
        images, labels = splits[split]
        assert images.shape == (2 * count, 4, 5, 3)
        assert labels.tolist() == [0] * count + [1] * count
        assert images[:, 0, 0, 0].tolist() == [100] * count + [0] * count
        assert images[:, 0, 0, 1].tolist() == [*range(count)] * 2


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
    refused(tree, "n02 holds no image, but must hold")


def test_annotations_absent(tree):
    (tree / "val" / "val_annotations.txt").unlink()
    refused(tree, "has no test images, but must have .*val_annotations.txt, or")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "names no image"),
        ("val_0.JPEG\n", "line 1 of .* must hold a file name and a class"),
        ("val_0.JPEG\tn01\nval_1.JPEG\tn77\t0\n", "line 2 of .* is 'val_1.JPEG"),
        ("val_0.JPEG\tn01\nabsent.JPEG\tn01\n", "absent.JPEG is missing or damaged"),
    ],
)
def test_malformed_annotations(tree, text, message):
    (tree / "val" / "val_annotations.txt").write_text(text)
    refused(tree, message)


def test_a_damaged_image(tree):
    path = tree / "train" / "n02" / "images" / "n02_1.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    refused(tree, "n02_1.JPEG is missing or damaged")


def test_an_image_of_another_size(tree):
    path = tree / "train" / "n02" / "images" / "n02_1.JPEG"
    Image.new("RGB", (9, 8)).save(path)
    refused(tree, "n02_1.JPEG has 9x8 pixels, but must have 8x8, like ")
