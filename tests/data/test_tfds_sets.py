"""Sets of tfds: those of the table on tfds's mock, others on small builders made here."""

import importlib.util
import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxunlearn.data import ForgetRequest, channel_statistics, load, split
from jaxunlearn.data.table import TABLE
from jaxunlearn.types import InputError
from tests.data.toys import make_builder

IMAGE = tfds.features.Tensor(shape=(4, 4, 3), dtype=np.uint8)


def records(count, *, image=(4, 4, 3), dtype=np.uint8, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"image": rng.integers(0, 256, image).astype(dtype), "label": position % classes}
        for position in range(count)
    ]


def png(array):
    """A picture as a file, which tfds stores without TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    file.seek(0)
    return file


def prepared(name, place, features, splits):
    make_builder(name, features, splits)(data_dir=place).download_and_prepare(
        file_format="array_record"
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar20", "svhn_cropped"])
def test_sets_of_the_table(tmp_path, name):
    with tfds.testing.mock_data(num_examples=30):
        data = load(name, data_dir=tmp_path)
    entry = TABLE[name]
    assert data.train.image.shape == data.test.image.shape == (30, 32, 32, 3)
    assert data.train.image.dtype == np.uint8
    assert (data.mean, data.std) == (entry.mean, entry.std)
    assert data.num_classes == len(data.class_names) == entry.num_classes
    assert data.augmentation == ("crop" if name == "svhn_cropped" else "flip_crop")
    assert (data.coarse is None) == (name in ("cifar10", "svhn_cropped"))


def test_cifar20_is_cifar100_by_its_coarse_classes(tmp_path):
    with tfds.testing.mock_data(num_examples=40):
        fine, coarse = load("cifar100", data_dir=tmp_path), load("cifar20", data_dir=tmp_path)
    np.testing.assert_array_equal(fine.train.image, coarse.train.image)
    np.testing.assert_array_equal(coarse.train.label, fine.coarse)
    np.testing.assert_array_equal(coarse.fine, fine.train.label)
    np.testing.assert_array_equal(coarse.fine_test, fine.test.label)
    assert len(fine.coarse_names) == len(coarse.class_names) == 20
    assert len(coarse.fine_names) == 100
    request = ForgetRequest(subclass=int(fine.train.label[0]))
    chosen = [split(data, request, validation_fraction=0.0).forget for data in (fine, coarse)]
    np.testing.assert_array_equal(chosen[0].index, chosen[1].index)
    assert 0 in chosen[0].index


def test_cifar100_from_records_on_disk(tmp_path, monkeypatch):
    """Encoded pictures, decoded without TensorFlow, and the class names that were prepared."""
    cifar100 = tfds.image_classification.Cifar100
    pictures = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3)).astype(np.uint8)

    def generate(positions):
        for position in positions:
            labels = {"label": position % 100, "coarse_label": position % 20}
            yield position, {"id": str(position), "image": png(pictures[position])} | labels

    def generators(self, dl_manager):
        self.info.features["label"].names = [f"fine {label}" for label in range(100)]
        self.info.features["coarse_label"].names = [f"coarse {label}" for label in range(20)]
        return {"train": generate(range(20)), "test": generate(range(20, 30))}

    with monkeypatch.context() as patch:
        patch.setattr(cifar100, "_split_generators", generators)
        cifar100(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    data = load("cifar100", data_dir=tmp_path)
    # tfds shuffles the records of a split once, when it prepares them.
    order = data.train.label
    assert sorted(order) == list(range(20))
    np.testing.assert_array_equal(data.train.image, pictures[order])
    np.testing.assert_array_equal(data.test.image, pictures[data.test.label])
    np.testing.assert_array_equal(data.coarse, order)
    assert data.class_names[99] == "fine 99"
    assert data.coarse_names[19] == "coarse 19"
    assert load("cifar20", data_dir=tmp_path).class_names == data.coarse_names


def test_the_mock_of_a_set_outside_the_table(tmp_path):
    with tfds.testing.mock_data(num_examples=12):
        data = load("mnist", data_dir=tmp_path)
    assert data.train.image.shape == (12, 28, 28, 1)
    assert data.num_classes == 10
    assert (data.mean, data.std) == channel_statistics(data.train.image)
    assert data.augmentation == "none"


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_an_empty_split(tmp_path, name):
    with (
        tfds.testing.mock_data(num_examples=0),
        pytest.raises(InputError, match=f"the training split of '{name}' is empty"),
    ):
        load(name, data_dir=tmp_path)


def test_another_set_takes_its_settings_from_features_and_images(tmp_path):
    features = {"image": IMAGE, "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"])}
    train, test = records(2100), records(7, seed=1)
    prepared("standin_plain", tmp_path, features, {"train": train, "validation": test})
    data = load("standin_plain", data_dir=tmp_path)
    assert (len(data.train), len(data.test)) == (2100, 7)
    np.testing.assert_array_equal(data.train.image, np.stack([r["image"] for r in train]))
    np.testing.assert_array_equal(data.test.image, np.stack([r["image"] for r in test]))
    np.testing.assert_array_equal(data.train.label, np.arange(2100) % 3)
    assert data.class_names == ("cat", "dog", "eel")
    assert data.mean == channel_statistics(data.train.image)[0]


@pytest.mark.parametrize(
    ("name", "dtype", "spoil", "message"),
    [
        (
            "standin_nan",
            np.float32,
            {"image": np.full((4, 4, 3), np.nan, np.float32)},
            "1 of 6 images hold NaN or infinity, the first at position 2",
        ),
        (
            "standin_unlabelled",
            np.uint8,
            {"label": -1},
            "test labels of .* include -1 at position 2",
        ),
    ],
)
def test_bad_values_in_prepared_data(tmp_path, name, dtype, spoil, message):
    features = {
        "image": tfds.features.Tensor(shape=(4, 4, 3), dtype=dtype),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    test = records(6, dtype=dtype)
    test[2] |= spoil
    prepared(name, tmp_path, features, {"train": records(6, dtype=dtype), "test": test})
    with pytest.raises(InputError, match=message):
        load(name, data_dir=tmp_path)


def test_images_of_different_sizes(tmp_path):
    features = {
        "image": tfds.features.Tensor(shape=(None, 4, 3), dtype=np.uint8),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    mixed = records(3) + records(3, image=(5, 4, 3))
    prepared("standin_sizes", tmp_path, features, {"train": mixed, "test": mixed})
    with pytest.raises(InputError, match=r"the shapes \(4, 4, 3\) and \(5, 4, 3\), but .*resize"):
        load("standin_sizes", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        (
            "standin_text",
            {"text": tfds.features.Text()},
            "must have an image of rank 3 and a label",
        ),
        (
            "standin_flat",
            {"image": tfds.features.Tensor(shape=(16,), dtype=np.uint8)},
            "must have an image of rank 3 and a label",
        ),
        ("standin_real", {"image": IMAGE, "label": np.float32}, "must be a class label"),
        (
            "standin_open",
            {"image": IMAGE, "label": tfds.features.ClassLabel()},
            "known number of classes",
        ),
    ],
)
def test_sets_that_are_not_for_classification(tmp_path, name, features, message):
    features = {"label": tfds.features.ClassLabel(num_classes=3)} | features
    make_builder(name, features, {})
    with pytest.raises(InputError, match=message):
        load(name, data_dir=tmp_path)


def test_a_set_without_a_test_split(tmp_path):
    features = {"image": IMAGE, "label": tfds.features.ClassLabel(num_classes=3)}
    prepared("standin_untested", tmp_path, features, {"train": records(3), "extra": records(3)})
    with pytest.raises(InputError, match="must have a train split and a test or validation split"):
        load("standin_untested", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "svhn_cropped", "kmnist"])
def test_not_prepared(tmp_path, monkeypatch, name):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "tensorflow" else find_spec(n, *a)
    )
    with pytest.raises(InputError) as caught:
        load(name, data_dir=tmp_path)
    message = str(caught.value)
    assert f"data set {name!r} is not prepared in {tmp_path}" in message
    assert "TensorFlow is not installed" in message
    assert "pip install 'jaxunlearn[tfds-prepare]'" in message
    assert f"tfds build {name} --data_dir={tmp_path} --file_format=array_record" in message
    assert "must have a train split and a test or validation split" in message
    assert "\n" not in message
    assert not list(tmp_path.iterdir())


@pytest.fixture
def with_tensorflow(monkeypatch):
    """A machine on which TensorFlow seems to be installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: True if n == "tensorflow" else find_spec(n, *a)
    )


def test_prepared_on_the_way_where_tensorflow_is_installed(tmp_path, with_tensorflow):
    features = {"image": IMAGE, "label": tfds.features.ClassLabel(num_classes=3)}
    make_builder("standin_fetched", features, {"train": records(6), "test": records(3)})
    assert len(load("standin_fetched", data_dir=tmp_path).train) == 6
    assert (tmp_path / "standin_fetched" / "1.0.0").is_dir()


def test_no_network(tmp_path, with_tensorflow):
    class Offline(dict):
        def items(self):
            raise ConnectionError("name or service not known")

    features = {"image": IMAGE, "label": tfds.features.ClassLabel(num_classes=3)}
    make_builder("standin_offline", features, Offline())
    with pytest.raises(InputError, match=r"cannot be prepared here .ConnectionError.*tfds build"):
        load("standin_offline", data_dir=tmp_path)
    assert not list(tmp_path.glob("standin_offline/*"))


def test_prepared_in_a_format_without_random_access(tmp_path):
    features = {"image": IMAGE, "label": tfds.features.ClassLabel(num_classes=3)}
    prepared("standin_format", tmp_path, features, {"train": records(6), "test": records(3)})
    info = tmp_path / "standin_format/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match=r"cannot be read .*in the format array_record"):
        load("standin_format", data_dir=tmp_path)


def test_names_with_versions_and_in_other_spellings_are_the_same_set(tmp_path, monkeypatch):
    """Its settings are those of the table; a version is taken as asked, or what is prepared."""
    cifar10 = tfds.image_classification.Cifar10
    pictures = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3)).astype(np.uint8)

    def generate(positions):
        for position in positions:
            yield (
                position,
                {"id": str(position), "image": png(pictures[position]), "label": position % 10},
            )

    splits = {"train": generate(range(20)), "test": generate(range(20, 30))}
    with monkeypatch.context() as patch:
        patch.setattr(cifar10, "_split_generators", lambda self, manager: splits)
        cifar10(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    (folder,) = (tmp_path / "cifar10").iterdir()
    plain = load("cifar10", data_dir=tmp_path)
    assert (plain.mean, plain.augmentation) == (TABLE["cifar10"].mean, "flip_crop")

    def same(name):
        data = load(name, data_dir=tmp_path)
        assert (data.name, data.fingerprint) == ("cifar10", plain.fingerprint)
        assert (data.mean, data.std, data.augmentation) == (plain.mean, plain.std, "flip_crop")

    for name in (f"cifar10:{folder.name}", "Cifar10", f"Cifar10:{folder.name}"):
        same(name)
    older = folder.rename(folder.with_name("3.0.1"))
    info = older / "dataset_info.json"
    info.write_text(info.read_text().replace(f'"{folder.name}"', '"3.0.1"'))
    for name in ("cifar10", "cifar10:3.0.1"):
        same(name)
    with pytest.raises(InputError, match=r"'cifar10:3.0.2' is not prepared.* only in version 3.0"):
        load("cifar10:3.0.2", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"tfds cannot open the data set 'cifar10:9.9.9'"):
        load("cifar10:9.9.9", data_dir=tmp_path)
    with tfds.testing.mock_data(num_examples=30):
        coarse = load("cifar20:3.0.2", data_dir=tmp_path)
    assert (coarse.name, coarse.num_classes, coarse.augmentation) == ("cifar20", 20, "flip_crop")


def test_a_set_outside_the_table_has_one_name(tmp_path):
    with tfds.testing.mock_data(num_examples=12):
        names = [load(name, data_dir=tmp_path).name for name in ("mnist", "Mnist", "mnist:3.0.1")]
        names.append(load("cmaterdb/bangla:1.0.0", data_dir=tmp_path).name)
    assert names == ["mnist", "mnist", "mnist", "cmaterdb/bangla"]


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "what"),
    [
        ("standin_sixteen", (4, 4, 1), np.uint16, "uint16 with 1 channels"),
        ("standin_channels", (None, None, None), np.uint8, "uint8 with any number of channels"),
    ],
)
def test_sound_images_that_are_not_supported_are_not_called_damaged(
    tmp_path, name, shape, dtype, what
):
    features = {
        "image": tfds.features.Image(shape=shape, dtype=dtype),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    few = [{"image": png(np.full((4, 4), 7 * label, dtype)), "label": label} for label in range(3)]
    prepared(name, tmp_path, features, {"train": few, "test": few})
    with pytest.raises(InputError, match=f"images of data set '{name}' are {what}") as caught:
        load(name, data_dir=tmp_path)
    assert "must be uint8 or float32" in str(caught.value)
    assert "remove" not in str(caught.value)


def test_a_download_is_announced(tmp_path, with_tensorflow, capsys):
    features = {"image": IMAGE, "label": tfds.features.ClassLabel(num_classes=3)}
    builder = make_builder("standin_large", features, {"train": records(6), "test": records(3)})
    builder.url_infos = {"https://example.org/a": SimpleNamespace(size=3 * 2**30)}
    load("standin_large", data_dir=tmp_path)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"preparing standin_large in {tmp_path}: up to 3.00 GiB to download\n"
    load("standin_large", data_dir=tmp_path)
    assert capsys.readouterr() == ("", "")


@pytest.fixture(scope="module")
def stored_builder() -> type:
    """A small set of tfds."""
    features = {
        "image": tfds.features.Tensor(shape=(4, 4, 3), dtype=np.uint8),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    images = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 3)).astype(np.uint8)
    records = [{"image": image, "label": i % 3} for i, image in enumerate(images)]
    return make_builder("standin_stored", features, {"train": records, "test": records[:6]})


@pytest.fixture
def stored(stored_builder, tmp_path) -> Path:
    """The folder of that set, prepared."""
    stored_builder(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    return tmp_path / "standin_stored/1.0.0"


def test_reading_writes_and_prints_nothing(stored, capfd):
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in stored.parent.rglob("*")}

    before = times()
    capfd.readouterr()
    assert len(load("standin_stored", data_dir=stored.parents[1]).train) == 600
    assert times() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["truncated", "garbled", "missing"])
def test_damaged_records(stored, damage):
    (path,) = stored.glob("*train*")
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[:20000])
    elif damage == "garbled":
        data[5000:5050] = bytes(50)
        path.write_bytes(data)
    else:
        path.unlink()
    where = re.escape(str(stored))
    with pytest.raises(InputError, match=f"prepared data in {where} cannot be read.*are damaged"):
        load("standin_stored", data_dir=stored.parents[1])


@pytest.mark.parametrize("text", ["{}", '{"a":'])
def test_a_damaged_description(stored, text):
    (stored / "dataset_info.json").write_text(text)
    with pytest.raises(InputError, match=r"tfds cannot open the data set 'standin_stored'"):
        load("standin_stored", data_dir=stored.parents[1])
