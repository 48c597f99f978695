"""Forget requests: what they choose, what they are called, and what they refuse."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.data import ForgetRequest
from jaxunlearn.data.forget import random_keys, read_indices
from jaxunlearn.types import InputError
from tests.data.toys import toy, toy_of_coarse_classes, toy_with_coarse_classes

ALL = np.arange(60)


def chosen(request, data=None, eligible=ALL, seed=0):
    return request.select(data or toy(), eligible, seed).tolist()


def test_random_keys_are_the_same_for_ever():
    assert random_keys(0, 1, 2).tolist() == [12492077108140196533, 4482314363672241088]
    assert random_keys(7, 0, 3).tolist()[:2] == random_keys(7, 0, 2).tolist()
    assert random_keys(7, 0, 2).tolist() != random_keys(7, 1, 2).tolist()
    assert random_keys(np.int64(7), 0, 2).tolist() == random_keys(7, 0, 2).tolist()


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0", None])
def test_seeds_that_cannot_be(seed):
    with pytest.raises(InputError, match="seed is .*, but must be an integer of at least 0"):
        random_keys(seed, 0, 2)


def test_a_random_fraction_golden():
    assert chosen(ForgetRequest(fraction=0.1)) == [14, 15, 34, 54, 55, 59]


def test_a_random_fraction_depends_on_the_seed_and_nothing_else():
    request = ForgetRequest(fraction=0.3)
    assert len(chosen(request)) == 18
    assert chosen(request) == chosen(request) == sorted(chosen(request))
    assert chosen(request) != chosen(request, seed=1)
    assert chosen(request, eligible=ALL[::-1]) == chosen(request)


def test_a_larger_fraction_contains_a_smaller_one():
    small, large = chosen(ForgetRequest(fraction=0.1)), chosen(ForgetRequest(fraction=0.5))
    assert set(small) < set(large)


def test_a_random_fraction_takes_no_class_sooner_than_another():
    data = toy(train=4000)
    labels = data.train.label[chosen(ForgetRequest(fraction=0.5), data, np.arange(4000))]
    # Five standard deviations of a fair draw.
    assert np.all(np.abs(np.bincount(labels) - 400) < 5 * np.sqrt(4000 * 0.25 * 0.2))


def test_classes_take_all_their_examples():
    data = toy()
    assert chosen(ForgetRequest(classes=(3,))) == np.flatnonzero(data.train.label == 3).tolist()
    both = chosen(ForgetRequest(classes=[4, 1]), eligible=ALL[:30], seed=9)
    assert both == [1, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 29]


@pytest.mark.parametrize("make", [toy_with_coarse_classes, toy_of_coarse_classes])
def test_a_subclass_is_part_of_its_coarse_class(make):
    data = make()
    positions = chosen(ForgetRequest(subclass=7), data, np.arange(100))
    assert positions == list(range(7, 100, 10))
    assert set(data.coarse[positions]) == {3}
    assert np.sum(data.coarse == 3) == 20


CAPTIONED = toy(classes=4, class_names=("a coat", "a bag", "an old Coat", "an old bag"))


@pytest.mark.parametrize(
    ("words", "labels"), [(["coat"], (0, 2)), (["OLD"], (2, 3)), (["old", "Coat"], (0, 2, 3))]
)
def test_a_word_names_all_classes_that_have_it(words, labels):
    request, same = ForgetRequest(words=words), ForgetRequest(classes=labels)
    assert request.labels(CAPTIONED) == labels == same.labels(CAPTIONED)
    assert chosen(request, CAPTIONED) == chosen(same, CAPTIONED)
    for one, other in zip(request.forgotten(CAPTIONED), same.forgotten(CAPTIONED), strict=True):
        np.testing.assert_array_equal(one, other)
    assert request.names_classes and not ForgetRequest(fraction=0.1).names_classes


def test_a_word_that_no_class_has():
    with pytest.raises(InputError, match="the word 'shoe' in its name; the words are a, coat, bag"):
        chosen(ForgetRequest(words=["shoe"]), CAPTIONED)
    with pytest.raises(InputError, match="words-a-an would forget all"):
        chosen(ForgetRequest(words=["a", "an"]), CAPTIONED)
    for words in ("coat", 3, ("old coat",), (1,), ("",)):
        with pytest.raises(InputError, match="words (are|include) .*, but must be"):
            ForgetRequest(words=words)


def test_indices_and_files(tmp_path):
    assert chosen(ForgetRequest(indices=(9, 2, 5))) == [2, 5, 9]
    (tmp_path / "a.json").write_text("[9, 2,\n 5]\n")
    (tmp_path / "a.txt").write_text("9\r\n2\n\n 5 \n")
    for name in ("a.json", "a.txt"):
        assert chosen(ForgetRequest(indices=tmp_path / name)) == [2, 5, 9]


def test_names(tmp_path):
    assert ForgetRequest(fraction=0.1).name == "random-0.1"
    assert ForgetRequest(fraction=np.float64(0.25)).name == "random-0.25"
    assert ForgetRequest(classes=(3,)).name == "class-3"
    assert ForgetRequest(classes=(2, 1)).name == "classes-1-2"
    assert ForgetRequest(words=("Sneaker",)).name == "word-sneaker"
    assert ForgetRequest(words=("t-shirt/top", "bag")).name == "words-bag-t-shirt-top_10836dd6"
    assert ForgetRequest(subclass=7).name == "subclass-7"
    name = ForgetRequest(indices=(9, 2, 5)).name
    assert name == "indices-3-f5e1d39f"
    (tmp_path / "a").write_text("5\n9\n2\n")
    assert ForgetRequest(indices=str(tmp_path / "a")).name == name
    assert ForgetRequest(indices=(9, 2, 6)).name != name
    assert ForgetRequest(indices=(92, 5, 0)).name != ForgetRequest(indices=(9, 25, 0)).name


DIFFERENT = [
    [("猫",), ("犬",)],
    [("größe",), ("gräße",), ("grosse",)],
    [("a-b", "c"), ("a", "b-c"), ("a", "b", "c"), ("a.b.c",), ("a/b/c",), ("a_b_c",)],
    [("x" * 300,), ("x" * 301,), ("猫" * 90,), ("猫" * 91,)],
    [tuple(f"word{i}" for i in range(100)), tuple(f"word{i}" for i in range(99))],
]


@pytest.mark.parametrize("words", DIFFERENT, ids=range(len(DIFFERENT)))
def test_other_words_have_other_names_and_each_is_a_folder(tmp_path, words):
    names = [ForgetRequest(words=each).name for each in words]
    for name in names:
        (tmp_path / name).mkdir()  # refuses one that is there
        assert len(name.encode()) <= 255 and not set(name) & set("/\\.[]*?: ")
    assert len(list(tmp_path.iterdir())) == len(words)


def test_names_show_what_can_be_read():
    assert ForgetRequest(words=("猫",)).name == "word-猫"
    assert ForgetRequest(words=("Größe",)).name == "word-grösse"
    assert ForgetRequest(words=("a-b", "c")).name.startswith("words-a-b-c_")
    many = ForgetRequest(classes=range(100))
    assert many.name.startswith("classes-0-1-2-3-") and len(many.name) < 120
    assert many.name != ForgetRequest(classes=range(101)).name


def test_order_and_spelling_do_not_change_a_request():
    one, other = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"  # one letter, or o and two dots
    data = toy(classes=2, class_names=("ein " + other.upper(), "ein Hund"))
    assert ForgetRequest(words=(one,)) == ForgetRequest(words=(other,))
    assert ForgetRequest(words=(one,)).labels(data) == (0,)
    for name, values in {"classes": (2, 1), "indices": (9, 2, 5)}.items():
        same = ForgetRequest(**{name: values}), ForgetRequest(**{name: sorted(values)})
        assert same[0] == same[1] and hash(same[0]) == hash(same[1])
        assert same[0].name == same[1].name and getattr(same[0], name) == tuple(sorted(values))


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_arrays_of_both_libraries_are_taken(array):
    assert ForgetRequest(indices=array([5, 3])) == ForgetRequest(indices=(3, 5))
    assert ForgetRequest(classes=array([5, 3], "uint8")) == ForgetRequest(classes=(3, 5))
    assert ForgetRequest(classes=tuple(array([5, 3]))) == ForgetRequest(classes=(3, 5))
    assert ForgetRequest(subclass=array(3)) == ForgetRequest(subclass=3)
    assert ForgetRequest(fraction=array(0.1, "float32")) == ForgetRequest(fraction=0.1)
    assert ForgetRequest(fraction=array(0.1, "float32")).name == "random-0.1"
    kinds = [type(i) for i in ForgetRequest(indices=array([5, 3])).indices]
    assert kinds == [int, int] and type(ForgetRequest(subclass=array(3)).subclass) is int
    assert random_keys(array(7), 0, 2).tolist() == random_keys(7, 0, 2).tolist()
    for wrong in ([0.5], [True], [[1, 2]]):
        with pytest.raises(InputError, match="a number in indices is .*, but must be an integer"):
            ForgetRequest(indices=array(wrong))
    with pytest.raises(InputError, match="indices are 3, but must be a list of integers"):
        ForgetRequest(indices=array(3))


def test_a_file_is_read_once(tmp_path):
    (tmp_path / "a").write_text("5\n9\n2\n")
    request = ForgetRequest(indices=str(tmp_path / "a"))
    name = request.name
    (tmp_path / "a").unlink()
    assert request.name == name == request.resolved().name
    assert chosen(request) == chosen(request.resolved()) == [2, 5, 9]
    assert request.resolved() == ForgetRequest(indices=(2, 5, 9))
    assert ForgetRequest(classes=(1,)).resolved() == ForgetRequest(classes=(1,))


def test_requests_compare_and_hash_by_value():
    assert ForgetRequest(classes=[1, 2]) == ForgetRequest(classes=np.array([1, 2]))
    assert len({ForgetRequest(fraction=0.1), ForgetRequest(fraction=0.1)}) == 1


@pytest.mark.parametrize(
    ("fields", "got"),
    [
        ({}, "none"),
        ({"classes": (), "indices": []}, "none"),
        ({"fraction": 0.1, "classes": (1,)}, "fraction and classes"),
        ({"subclass": 0, "file": "a", "indices": (1,)}, "subclass and indices and file"),
    ],
)
def test_exactly_one_kind(fields, got):
    with pytest.raises(
        InputError, match=f"a forget request has {got}, but must .*exactly one of fraction, classes"
    ):
        ForgetRequest(**fields)


@pytest.mark.parametrize("fraction", [0, 0.0, 1, 1.0, -0.1, 1.5, float("nan"), "0.1", True])
def test_fractions_outside_zero_to_one(fraction):
    with pytest.raises(
        InputError, match="fraction is .*, but must be between 0 and 1, both excluded"
    ):
        ForgetRequest(fraction=fraction)


@pytest.mark.parametrize("kind", ["classes", "indices"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2, 1), "number 1 is in KIND more than once"),
        ((1, -2), "in KIND is -2, but must be at least 0"),
        ((1.0,), "in KIND is 1.0, but must be an integer"),
        ((True,), "in KIND is True, but must be an integer"),
        (3, "KIND are 3, but must be a list of "),
        (None, "KIND are None, but must be a list of "),
    ],
)
def test_lists_that_cannot_be_right(kind, values, message):
    with pytest.raises(InputError, match=message.replace("KIND", kind)):
        ForgetRequest(**{kind: values})


@pytest.mark.parametrize("subclass", [-1, 1.5, "7"])
def test_subclasses_that_cannot_be_right(subclass):
    with pytest.raises(InputError, match="a number in subclass is"):
        ForgetRequest(subclass=subclass)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            ForgetRequest(classes=(1, 5)),
            "class 5 does not exist in 'toy', which has the classes 0 to 4",
        ),
        (ForgetRequest(subclass=1), "subclass 1 needs a data set with coarse classes"),
        (ForgetRequest(indices=(3, 60)), "index 60 is outside .* positions 0 to 59"),
        (ForgetRequest(indices=(2**80,)), "is outside the training split"),
        (ForgetRequest(fraction=0.001), "fraction 0.001 of 60 .* less than one example"),
        (ForgetRequest(fraction=0.999), "random-0.999 would forget all 60 training examples"),
        (ForgetRequest(classes=range(5)), "classes-0-1-2-3-4 would forget all 60"),
        (ForgetRequest(indices=range(60)), "would forget all 60 .*leave some to retain"),
    ],
)
def test_requests_that_do_not_fit_the_data(request_, message):
    with pytest.raises(InputError, match=message):
        chosen(request_)


def test_a_subclass_that_does_not_exist():
    for data in (toy_with_coarse_classes(), toy_of_coarse_classes()):
        with pytest.raises(
            InputError, match=r"subclass is 10, but must be a fine class of .*, from 0 to 9"
        ):
            chosen(ForgetRequest(subclass=10), data, np.arange(100))


def test_a_class_without_training_examples():
    with pytest.raises(
        InputError, match="class-4 selects none of the 4 training examples of 'toy'"
    ):
        chosen(ForgetRequest(classes=(4,)), eligible=np.arange(4))


def test_everything_that_is_eligible_is_everything():
    with pytest.raises(InputError, match="would forget all 3"):
        chosen(ForgetRequest(indices=(1, 2, 3)), eligible=np.array([1, 2, 3]))


def test_indices_in_validation_data():
    with pytest.raises(
        InputError, match=r"2 of the 3 indices are validation data.*\(first: 7, 8\)"
    ):
        chosen(ForgetRequest(indices=(8, 7, 2)), eligible=np.array([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("[]", "is empty"),
        ("[1, 2", "is not valid JSON"),
        ('{"indices": [1]}', "holds a dict, but must hold a JSON list"),
        ("[1, 2.5]", "is 2.5, but must be an integer"),
        ("[1, NaN]", "is nan, but must be an integer"),
        ('[1, "2"]', "is '2', but must be an integer"),
        ("[1, true]", "is True, but must be an integer"),
        ("[1, [2]]", r"is \[2\], but must be an integer"),
        ("1\n2\nthree\n", "line 3 of forget file .* is 'three', but must be one number"),
        ("1, 2\n", "line 1"),
        ("1\n-4\n", "is -4, but must be at least 0"),
        ("1\n2\n1\n", "number 1 is in .* more than once"),
    ],
)
def test_malformed_files(tmp_path, text, message):
    path = tmp_path / "indices"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        chosen(ForgetRequest(indices=str(path)))


@pytest.mark.parametrize("text", ["[4, 2]", "4\r\n2\r\n"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path, text):
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_indices(str(tmp_path / "file")) == (4, 2)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary", "."):
        with pytest.raises(InputError, match=r"forget file .* cannot be read"):
            read_indices(str(tmp_path / name))


def test_a_file_out_of_range(tmp_path):
    (tmp_path / "a").write_text(json.dumps([1, 60]))
    with pytest.raises(InputError, match="index 60 is outside"):
        chosen(ForgetRequest(indices=str(tmp_path / "a")))
