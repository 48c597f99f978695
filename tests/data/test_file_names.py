"""Examples by the names of their files: requests, validation data, and names that are wrong."""

import json

import numpy as np
import pytest

from jaxunlearn.data import ForgetRequest, hold_out, split
from jaxunlearn.types import InputError
from tests.data.toys import toy

NAMES = tuple(f"train/{('cat', 'ночь и снег')[i % 2]}/{i:03}.png" for i in range(20))
NAMED = toy(
    20, 4, 2, names=NAMES, test_names=tuple(f"test/cat/{i:03}.png" for i in range(100, 104))
)


def chosen(*names, **fields):
    parts = split(NAMED, ForgetRequest(names=names, **fields), validation_fraction=0.0)
    return parts.forget.index.tolist()


def test_names_and_their_ends():
    assert chosen("train/cat/004.png", "002.png", "./cat/006.png") == [2, 4, 6]
    assert chosen("ночь и снег/007.png") == [7]
    assert chosen("/home/me/images/train/cat/008.png") == [8]


@pytest.mark.parametrize("as_json", [False, True])
def test_names_in_a_file(tmp_path, as_json):
    names, path = [NAMES[9], NAMES[2]], tmp_path / "forget these.txt"
    path.write_text(
        json.dumps(names) if as_json else "\ufeff" + "\r\n".join(names) + "\n\n", "utf-8"
    )
    request = ForgetRequest(names=str(path))
    assert request.name == ForgetRequest(names=names).name and request.name.startswith("names-2-")
    assert request.resolved() == ForgetRequest(names=tuple(names))
    assert split(NAMED, request, validation_fraction=0.0).forget.index.tolist() == [2, 9]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a", "train/cot/002.png", "b", "c", NAMES[3]],
            "^4 of the 5 names are unknown in 'toy': 'a', 'b', 'c' and others; correct or remove",
        ),
        (["train/cot/002.png"], r"unknown in 'toy': .* .did you mean 'train/cat/002.png'\?"),
        ([NAMES[1], NAMES[1], NAMES[2]], "^names has 1 of its names more than once: 'train/ночь"),
        ([NAMES[1], "001.png"], "^1 of the 2 names are given more than once, in several spell"),
        ([""], "is '', but must be a text that is not empty"),
    ],
)
def test_names_that_are_wrong(names, message):
    with pytest.raises(InputError, match=message):
        chosen(*names)


def test_names_that_are_not_unique():
    named = toy(4, 2, 2, names=tuple(f"{i}/a.png" for i in range(4)))
    request = ForgetRequest(names=["a.png", "0/a.png"])
    with pytest.raises(
        InputError, match="1 of the 2 .* end of several .* such as '0/a.png' or '1/"
    ):
        split(named, request, validation_fraction=0.0)


def test_data_without_names():
    with pytest.raises(InputError, match="but 'toy' has no file names; give their positions"):
        split(toy(), ForgetRequest(names=["a"]))


def test_held_out_examples_are_dropped_only_on_request():
    eligible, held_out = hold_out(NAMED, validation_fraction=0.3, seed=3)
    names = [NAMES[held_out[0]], "103.png", *(NAMES[i] for i in eligible[:2])]
    request = ForgetRequest(names=names)
    message = f"^2 of the 4 names are validation or test data.*: {NAMES[held_out[0]]}, test/cat/103"
    with pytest.raises(InputError, match=f"{message}.*--drop-held-out"):
        split(NAMED, request, validation_fraction=0.3, seed=3)
    dropping = ForgetRequest(names=names, drop_held_out=True)
    parts = split(NAMED, dropping, validation_fraction=0.3, seed=3)
    np.testing.assert_array_equal(parts.forget.index, eligible[:2])
    np.testing.assert_array_equal(parts.validation.index, held_out)
    by_index = ForgetRequest(indices=[held_out[0], eligible[0]], drop_held_out=True)
    found = split(NAMED, by_index, validation_fraction=0.3, seed=3).forget.index
    np.testing.assert_array_equal(found, eligible[:1])
    with pytest.raises(InputError, match="selects none of the 14 training examples"):
        split(
            NAMED,
            ForgetRequest(names=names[:2], drop_held_out=True),
            validation_fraction=0.3,
            seed=3,
        )
    with pytest.raises(InputError, match="drop_held_out is given with fraction, but must be"):
        ForgetRequest(fraction=0.1, drop_held_out=True)


def test_validation_data_of_the_user():
    for seed in range(2):
        learned, held_out = hold_out(NAMED, seed=seed, validation_names=("005.png", NAMES[2]))
        np.testing.assert_array_equal(held_out, [2, 5])
        np.testing.assert_array_equal(learned, np.setdiff1d(np.arange(20), [2, 5]))
    learned, held_out = hold_out(NAMED, train_size=4, seed=1, validation_names=("005.png",))
    assert held_out.tolist() == [5] and len(learned) == 4 and 5 not in learned
    for names, message in (
        (("101.png",), "1 of the 1 validation_names are test data .first: test/cat/101.png"),
        (NAMES, "validation_names name all 20 training examples"),
        (("a",), "1 of the 1 names are unknown"),
    ):
        with pytest.raises(InputError, match=message):
            hold_out(NAMED, validation_names=names)


def test_classes_by_name():
    named = toy(class_names=("cat", "dog", "owl", "4", "3"))
    assert ForgetRequest(classes=["dog", 0, "cat"]).name == "classes-0-cat-dog"
    assert ForgetRequest(classes=[1, "cat"]).labels(named) == (0, 1)
    assert ForgetRequest(classes=[0, "cat"]).labels(named) == (0,)
    for given, message in (
        (
            "cot",
            r"class 'cot' does not exist in 'toy' \(did you mean 'cat'\?\), which has the .* cat",
        ),
        (4, "class 4 is the number of '3' and the name of the class with the number 3, but must"),
        (7, "class 7 does not exist in 'toy', which has the classes 0 to 4"),
    ):
        with pytest.raises(InputError, match=message):
            ForgetRequest(classes=[given]).labels(named)


def test_the_former_field_of_a_file(tmp_path):
    """Old records and studies have it."""
    path = tmp_path / "a.txt"
    path.write_text("3\n1\n")
    assert ForgetRequest(file=str(path)).resolved() == ForgetRequest(indices=(1, 3))
    assert ForgetRequest(fraction=0.5, file=None) == ForgetRequest(fraction=0.5)
