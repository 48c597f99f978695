"""Fashion-MNIST from IDX files, gzipped or plain, in any folder."""

import gzip

import numpy as np
import pytest

from jaxunlearn.data import fashion_mnist, load
from jaxunlearn.data.fashion_mnist import read_idx
from jaxunlearn.types import InputError
from tests.data.toys import idx_bytes, toy_arrays, write_fashion_mnist


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    write_fashion_mnist(folder)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip(tmp_path, zipped):
    write_fashion_mnist(tmp_path / "files", zipped=zipped)
    data = load("fashion_mnist", data_dir=tmp_path / "data", folder=tmp_path / "files")
    assert not (tmp_path / "data").exists()
    for split, count, seed in ((data.train, 20, 2), (data.test, 10, 3)):
        images, labels = toy_arrays(count, 10, seed, (28, 28, 1))
        np.testing.assert_array_equal(split.image, images)
        np.testing.assert_array_equal(split.label, labels)
    assert data.class_names[9] == "Ankle boot"
    assert (data.mean, data.std, data.augmentation) == ((0.2860,), (0.3530,), "flip_crop")


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("fashion_mnist", "4d415226039e3a8bacdde45219e2efb70dd6e344a18f70925008392cad7b1d67"),
        (
            "fashion_mnist_captions",
            "dd194295cd3606038e5b75539af301b00cd72772c97cb1a0345a3946e872634a",
        ),
    ],
)
def test_golden_fingerprint(files, name, fingerprint):
    """That of every earlier version, so that runs of all versions are of the same data."""
    assert load(name, folder=files).fingerprint == fingerprint


def test_the_place_of_the_debian_package_is_the_default(files, tmp_path, monkeypatch):
    assert str(fashion_mnist.DEBIAN_FOLDER) == "/usr/share/datasets/fashion-mnist"
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", files)
    assert len(load("fashion_mnist", data_dir=tmp_path / "data").train) == 20


def test_a_folder_of_prepared_data_may_hold_the_files(tmp_path, monkeypatch):
    write_fashion_mnist(tmp_path / "data" / "fashion-mnist", train=30)
    assert len(load("fashion_mnist", data_dir=tmp_path / "data").train) == 30
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    assert len(load("fashion_mnist_captions").train) == 30


def refused(tmp_path, files, message):
    """Loading fails with this message and writes nothing."""
    with pytest.raises(InputError, match=message) as caught:
        load("fashion_mnist", data_dir=tmp_path / "data", folder=files)
    assert "dataset-fashion-mnist" in str(caught.value)
    assert "folder=" in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_files_absent(tmp_path):
    refused(tmp_path, tmp_path / "none", "none has no train-images-idx3-ubyte or .*gz")


def test_one_file_absent(tmp_path, files):
    (files / "t10k-labels-idx1-ubyte.gz").unlink()
    refused(tmp_path, files, "has no t10k-labels-idx1-ubyte")


def test_files_absent_in_the_default_place(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "none")
    refused(tmp_path, None, "has no train-images-idx3-ubyte")


def test_wrong_magic(tmp_path, files):
    path = files / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x09\x01" + bytes(24)))
    refused(
        tmp_path,
        files,
        "train-labels.* begins with 00 00 09 01, but must begin with the IDX bytes 00 00 08 01",
    )


def test_images_and_labels_exchanged(tmp_path, files):
    (files / "train-labels-idx1-ubyte.gz").write_bytes(
        (files / "train-images-idx3-ubyte.gz").read_bytes()
    )
    refused(
        tmp_path, files, "begins with 00 00 08 03, but must begin with the IDX bytes 00 00 08 01"
    )


def test_truncated(tmp_path, files):
    path = files / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    refused(tmp_path, files, "t10k-images.* is damaged or unreadable")


def test_wrong_length(tmp_path, files):
    path = files / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    refused(tmp_path, files, "holds 15679 bytes after its header, but must hold 15680")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(19), "20 images and .* 19 labels, but must hold"),
        ("train-labels-idx1-ubyte", np.full(20, 10), "is 10, but must be from 0 to 9"),
        ("train-images-idx3-ubyte", np.zeros((20, 28, 27)), "are 28x27 pixels, but must be 28x28"),
    ],
)
def test_mismatched(tmp_path, files, name, array, message):
    (files / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    refused(tmp_path, files, message)


def test_empty(tmp_path):
    write_fashion_mnist(tmp_path / "files", train=0)
    refused(tmp_path, tmp_path / "files", "holds no image")


@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)])
@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip_of_an_idx_file(tmp_path, shape, zipped):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    result = read_idx(path, len(shape))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, array)


WHOLE = idx_bytes(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with nothing, but must begin with the IDX bytes 00 00 08 03"),
        (b"\x00\x00\x0d\x03" + WHOLE[4:], "begins with 00 00 0d 03"),
        (b"\x00\x00\x08\x01" + WHOLE[4:], "begins with 00 00 08 01.* 3 axes"),
        (WHOLE[:10], "ends inside its header of 16 bytes"),
        (
            WHOLE[:-1],
            r"holds 23 bytes after its header, but must hold 24 for the shape \(2, 3, 4\)",
        ),
        (WHOLE + b"\x00", "holds 25 bytes"),
    ],
)
def test_damaged_idx_files(tmp_path, data, message):
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_idx(path, 3)


def test_truncated_garbled_and_false_gzip(tmp_path):
    path = tmp_path / "a.gz"
    packed = gzip.compress(WHOLE)
    garbled = packed[:14] + bytes(255 - byte for byte in packed[14:])
    for data in (packed[:-9], garbled, WHOLE, packed[:5]):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a.gz is damaged or unreadable|must begin with"):
            read_idx(path, 3)


def test_a_missing_idx_file(tmp_path):
    with pytest.raises(InputError, match="damaged or unreadable"):
        read_idx(tmp_path / "none", 3)
