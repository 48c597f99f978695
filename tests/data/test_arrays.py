"""Data of the user's own in arrays and tables, and from functions of the user's own."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxunlearn import models
from jaxunlearn.data import Reading, load
from jaxunlearn.tasks import classification
from jaxunlearn.types import InputError
from tests.data.toys import toy, toy_arrays

X, Y = toy_arrays(20, 4)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def saved(**arrays):
    np.savez("mine.npz", **arrays)
    return "npz:mine.npz"


def refused(message, name, **reading):
    with pytest.raises(InputError, match=message):
        load(name, reading=Reading(**reading))


def test_images_of_four_arrays():
    data = load(saved(x_train=X, y_train=Y, x_test=X[:8], y_test=Y[:8]))
    assert repr(data) == (
        "Dataset('npz:mine.npz', 20 training and 8 test images of 4x4x1, 4 classes)"
    )
    np.testing.assert_array_equal(data.train.image, X)
    np.testing.assert_array_equal(data.test.label, Y[:8])
    assert data.class_names == ("0", "1", "2", "3")
    # Images without channels, labels in a column, as others store them.
    name = saved(x_train=X[..., 0], y_train=Y[:, None], x_test=X[:8, ..., 0], y_test=Y[:8])
    assert load(name).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["owl", "cat", "owl", "bee"]), ("bee", "cat", "owl")),
        (np.array([b"owl", b"cat", b"owl", b"bee"]), ("bee", "cat", "owl")),
        (np.array([30, 4, 30, -2]), ("-2", "4", "30")),
        (np.array(["10", "9", "10", "1"]), ("1", "9", "10")),
        (np.array(["+2", "--1", "+2", "0"]), ("+2", "--1", "0")),
        (np.array([True, False, True, True]), ("False", "True")),
    ],
)
def test_labels_become_classes(labels, names):
    data = load(saved(x_train=X[:4], y_train=labels, x_test=X[:2], y_test=labels[:2]))
    assert data.class_names == names
    found = [data.class_names[label] for label in data.train.label]
    assert found == [each.decode() if isinstance(each, bytes) else str(each) for each in labels]


def test_test_data_is_drawn():
    data = load(saved(x_train=X, y_train=Y), reading=Reading(test_fraction=0.25))
    assert (len(data.train), len(data.test)) == (15, 5)
    images = np.concatenate([data.train.image, data.test.image])
    np.testing.assert_array_equal(np.sort(images, axis=0), np.sort(X, axis=0))
    refused("has no test examples, but needs test data; draw", saved(x_train=X, y_train=Y))
    name = saved(x_train=X, y_train=Y, x_test=X, y_test=Y)
    refused("test_fraction is 0.5, but mine.npz|mine.npz has test", name, test_fraction=0.5)


def test_features():
    x = np.random.default_rng(0).normal(3.0, 2.0, (20, 5))
    data = load(saved(x_train=x, y_train=Y, x_test=x, y_test=Y))
    assert repr(data.train) == "Examples(20 float32 examples with 5 features)"
    np.testing.assert_allclose(data.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.std, x.std(0), rtol=1e-5)
    settings = {"image_shape": (5,), "num_classes": 4, "mean": data.mean, "std": data.std}
    task = classification(models.create("mlp-tiny", 4), **settings)
    with pytest.raises(InputError, match="choose the model mlp for features"):
        classification(models.create("resnet-tiny", 4), **settings).init(np.array([0, 0], "u4"))
    assert task.num_classes == 4
    with pytest.raises(InputError, match="augmentation is 'crop', but must be none for examples"):
        classification(models.create("mlp-tiny", 4), augmentation="crop", **settings)
    with pytest.raises(InputError, match="augmentation of 'toy' is 'crop', but must be 'none'"):
        toy(data.train, data.test, 4, mean=data.mean, std=data.std, augmentation="crop")


def test_normalised_features():
    """The first layer sees mean 0 and deviation 1."""
    import jax
    from flax import linen as nn

    class Same(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + self.param("none", nn.initializers.zeros, (1, 5))

    x = np.random.default_rng(0).normal(3.0, 2.0, (20, 5)).astype(np.float32)
    data = load(saved(x_train=x, y_train=Y, x_test=x, y_test=Y))
    task = classification(Same(), image_shape=(5,), num_classes=5, mean=data.mean, std=data.std)
    weights = task.init(jax.random.key(0))
    seen, _ = task.outputs(*weights, data.train.arrays(), jax.random.key(0), False)
    np.testing.assert_allclose(seen, (x - x.mean(0)) / x.std(0), atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_trian": X, "y_train": Y}, r"has no x_train \(did you mean 'x_trian'\?\), only x_tria"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "has no y_test.* the last two together"),
        ({"x_train": X[..., 0, 0, 0], "y_train": Y}, "has the shape .20,., but must be images"),
        ({"x_train": X, "y_train": np.eye(4)[Y]}, "has the shape .20, 4. and the type float64"),
        ({"x_train": X, "y_train": Y[:7]}, "20 examples with 7 labels"),
        ({"x_train": X, "y_train": 0 * Y}, "holds the single class '0'"),
        ({"x_train": np.array([object()] * 20), "y_train": Y}, "Python objects, which would be un"),
        ({"x_train": X, "y_train": np.array([b"\xff"] * 20)}, "y_train of .* not in UTF-8"),
        ({"x_train": X[..., 0, 0] * 1e300, "y_train": Y}, "of 10 examples hold NaN or infinity"),
        (
            {"x_train": X, "y_train": Y, "x_test": X / 255, "y_test": Y},
            "images of 'npz:mine.npz' are uint8 and float32, but must have the same type",
        ),
        ({"x_train": X.astype(int), "y_train": Y}, "images are int64, but must be uint8"),
    ],
)
def test_arrays_that_are_no_data(arrays, message):
    with pytest.raises(InputError, match=message):
        load(saved(**arrays), reading=Reading(test_fraction=None if "x_test" in arrays else 0.5))


def test_files_that_are_no_arrays(tmp_path):
    refused("nowhere.npz cannot be read .No such file", "npz:nowhere.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    refused("text.npz cannot be read .*give an .npz file of plain arrays", "npz:text.npz")
    np.save("one.npy", X)
    refused("one.npy cannot be read .a single array.", "npz:one.npy")
    Path("pickle.npz").write_bytes(pickle.dumps({"x_train": X}))
    refused("pickle.npz cannot be read .Python objects, which would", "npz:pickle.npz")


TABLE = "kind,width, height\n" + "".join(
    f"{('owl', 'cat')[i % 2]},{i},{i / 2}\n" for i in range(10)
)


def table(text):
    with open("mine.csv", "w", encoding="utf-8") as file:
        file.write(text)
    return "csv:mine.csv"


def test_a_table():
    data = load(table(TABLE), reading=Reading(label="kind", test_fraction=0.3))
    assert data.class_names == ("cat", "owl") and (len(data.train), len(data.test)) == (7, 3)
    rows = np.concatenate([data.train.image, data.test.image])
    np.testing.assert_allclose(rows[:, 0], 2 * rows[:, 1])
    labels = np.concatenate([data.train.label, data.test.label])
    np.testing.assert_array_equal(labels, 1 - rows[:, 0] % 2)


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (TABLE, None, "the label of .* is not given, but must be one of its columns, kind, width"),
        (TABLE, "knd", r"is 'knd' \(did you mean 'kind'\?\)"),
        (TABLE, "width", "1 of the 2 feature columns of .* finite numbers .'kind'."),
        (TABLE.replace("3,1.5", "3,"), "kind", "1 of the 2 .* finite numbers .' height'"),
        (TABLE.replace("3,1.5", "3,nan"), "kind", "1 of the 2 .* finite numbers .' height'"),
        (TABLE.replace("3,1.5", "3"), "kind", "1 lines with another number of values .*example 4"),
        ("kind,width\n", "kind", "has no example"),
        ("kind\nowl\ncat\n", "kind", "has no column besides kind"),
        (TABLE.replace(" height", "width"), "kind", "has several columns called 'width', but"),
        ("", "kind", "its columns, none"),
    ],
)
def test_tables_that_are_no_data(text, label, message):
    refused(message, table(text), label=label, test_fraction=0.3)


LOADERS = """
from tests.data.toys import toy
def load(): return toy()
def broken(): raise RuntimeError("no disk.")
def other(): return 3
def ends(): raise SystemExit(3)
"""


def test_functions_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load("my_data:load").name == "toy"
    refused("because my_data:broken raises RuntimeError: no disk.$", "my_data:broken")
    refused("because my_data:ends raises SystemExit: 3.$", "my_data:ends")
    refused("my_data:other returns int, but must return a jaxunlearn.data.Dataset", "my_data:other")
    refused("my_data has no 'laod' .did you mean 'load'", "my_data:laod")
    refused("image_size is 8, but is for data of the form folder", "my_data:load", image_size=8)
