"""load and available: the table, and names and options that cannot be right."""

import pytest

from jaxunlearn.data import available, load
from jaxunlearn.data.dataset import AUGMENTATIONS
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
def test_an_unknown_name_is_told_the_closest(tmp_path, name, closest):
    with pytest.raises(InputError, match=f"{name!r}.*did you mean '{closest}'.*digits, fashion"):
        load(name, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["qqqqqqqq", "", "a/b/c/d", None])
def test_a_name_like_no_other(tmp_path, name):
    with pytest.raises(InputError, match=f"{name!r}.* known data sets are digits, fashion_mnist"):
        load(name, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_folder_for_a_set_that_takes_none(tmp_path, name):
    with pytest.raises(InputError, match="folder= belongs to fashion_mnist, .* only"):
        load(name, data_dir=tmp_path, folder=tmp_path)


def test_a_known_set_that_tfds_cannot_open(tmp_path):
    with pytest.raises(InputError, match=r"tfds cannot open the data set 'eurosat/none'.*none"):
        load("eurosat/none", data_dir=tmp_path)
