"""The five sets: every example in its place, validation before and apart from everything else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxunlearn.data import ForgetRequest, hold_out, split
from jaxunlearn.data.splits import copied
from jaxunlearn.types import InputError
from tests.data.toys import toy, toy_of_coarse_classes

TOY = toy()

requests = st.one_of(
    st.floats(0.05, 0.9).map(lambda fraction: ForgetRequest(fraction=fraction)),
    st.sets(st.integers(0, 4), min_size=1, max_size=4).map(
        lambda labels: ForgetRequest(classes=tuple(labels))
    ),
)


@settings(max_examples=80, deadline=None)
@given(
    request=requests,
    validation_fraction=st.floats(0.0, 0.5),
    seed=st.integers(0, 2**64),
)
def test_every_example_is_in_its_place(request, validation_fraction, seed):
    parts = split(TOY, request, validation_fraction=validation_fraction, seed=seed)
    again = split(TOY, request, validation_fraction=validation_fraction, seed=seed)
    eligible, held_out = hold_out(TOY, validation_fraction=validation_fraction, seed=seed)
    for part, other in zip(parts, again, strict=True):
        np.testing.assert_array_equal(part.index, other.index)
        assert np.all(np.diff(part.index) > 0)

    forget, retain, validation = (set(part.index.tolist()) for part in parts[:3])
    assert forget and retain
    assert not forget & retain
    # What the original model learns from is the same for all requests.
    assert forget | retain == set(eligible.tolist())
    wanted = np.isin(TOY.train.label, request.classes)
    dropped = set(held_out[wanted[held_out]].tolist())
    assert validation == set(held_out.tolist()) - dropped
    assert not validation & (forget | retain)
    assert len(forget) + len(retain) + len(validation) + len(dropped) == 60

    assert sorted([*parts.test.index, *parts.test_forget.index]) == list(range(20))
    assert set(parts.test_forget.label.tolist()) == set(request.classes)
    for part in (parts.retain, parts.validation, parts.test):
        assert not np.isin(part.label, request.classes).any()
    for part, source in zip(parts, [TOY.train] * 3 + [TOY.test] * 2, strict=True):
        np.testing.assert_array_equal(part.image, source.image[part.index])
        np.testing.assert_array_equal(part.label, source.label[part.index])


def test_every_training_example_is_in_exactly_one_set_of_a_random_request(digits):
    parts = split(digits, ForgetRequest(fraction=0.1), seed=3)
    counts = np.bincount(np.concatenate([part.index for part in parts[:3]]), minlength=1442)
    assert np.all(counts == 1)
    assert [len(part) for part in parts] == [130, 1168, 144, 355, 0]


def test_validation_does_not_depend_on_the_request(digits):
    seven = digits.train.label == 7
    random = split(digits, ForgetRequest(fraction=0.1), seed=3).validation.index
    larger = split(digits, ForgetRequest(fraction=0.5), seed=3).validation.index
    class_wise = split(digits, ForgetRequest(classes=(7,)), seed=3).validation.index
    np.testing.assert_array_equal(random, larger)
    np.testing.assert_array_equal(class_wise, random[~seven[random]])
    other_seed = split(digits, ForgetRequest(fraction=0.1), seed=4).validation.index
    assert not np.array_equal(random, other_seed)


def test_what_is_forgotten_is_not_what_was_held_out():
    # One stream for both would make the forget set of one seed the validation set of no split.
    _, held_out = hold_out(TOY, validation_fraction=0.5, seed=0)
    forget = split(TOY, ForgetRequest(fraction=0.5), validation_fraction=0.0, seed=0).forget
    assert 5 < len(set(held_out) & set(forget.index)) < 25


def test_golden(digits):
    parts = split(digits, ForgetRequest(fraction=0.1), seed=0)
    assert parts.forget.index[:8].tolist() == [14, 15, 34, 54, 55, 59, 76, 85]
    assert parts.validation.index[:8].tolist() == [6, 17, 36, 43, 46, 60, 71, 101]


def test_class_wise_test_sets(digits):
    parts = split(digits, ForgetRequest(classes=(2, 7)))
    assert set(parts.forget.label) == set(parts.test_forget.label) == {2, 7}
    assert set(parts.retain.label) == set(parts.test.label) == {0, 1, 3, 4, 5, 6, 8, 9}
    assert set(parts.validation.label) == set(parts.test.label)
    assert len(parts.test) + len(parts.test_forget) == 355


def test_a_subclass_leaves_the_rest_of_its_coarse_class():
    data = toy_of_coarse_classes()
    parts = split(data, ForgetRequest(subclass=7))
    fine, fine_test = data.fine_labels
    assert set(fine[parts.forget.index]) == set(fine_test[parts.test_forget.index]) == {7}
    assert set(parts.forget.label) == set(parts.test_forget.label) == {3}
    assert 7 not in fine[parts.retain.index]
    assert 7 not in fine[parts.validation.index]
    assert 7 not in fine_test[parts.test.index]
    assert 3 in parts.retain.label
    assert 3 in parts.test.label


def test_no_validation_data():
    parts = split(TOY, ForgetRequest(indices=(0, 1)), validation_fraction=0.0)
    assert len(parts.validation) == 0
    assert parts.validation.image.shape == (0, 4, 4, 1)
    assert (len(parts.forget), len(parts.retain)) == (2, 58)


def test_at_least_one_validation_example():
    assert len(hold_out(TOY, validation_fraction=1e-6)[1]) == 1


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1, 2.5, float("nan"), "0.1", None, True])
def test_validation_fractions_outside_zero_to_one(fraction):
    with pytest.raises(
        InputError, match="validation_fraction is .*, but must be at least 0 and below 1"
    ):
        split(TOY, ForgetRequest(fraction=0.1), validation_fraction=fraction)


def test_sizes_that_are_more_than_there_is():
    most = len(hold_out(TOY)[0])
    with pytest.raises(InputError, match=f"training examples besides .* choose from 1 to {most}"):
        hold_out(TOY, train_size=most + 1)
    but_one = 1 - 1 / len(TOY.train)
    with pytest.raises(InputError, match="has 1 training example besides .* choose 1.$"):
        hold_out(TOY, validation_fraction=but_one, train_size=2)


def test_validation_that_takes_everything():
    with pytest.raises(InputError, match="holds out all 60 training examples"):
        split(TOY, ForgetRequest(fraction=0.1), validation_fraction=0.999)


def test_indices_that_are_validation_data():
    _, held_out = hold_out(TOY, seed=5)
    request = ForgetRequest(indices=tuple(held_out[:2]))
    with pytest.raises(InputError, match=rf"are validation data.*\(first: {held_out[0]}, "):
        split(TOY, request, seed=5)
    assert len(split(TOY, request, seed=5, validation_fraction=0.0).forget) == 2


def test_a_request_that_leaves_no_test_example():
    data = toy(test=1)
    with pytest.raises(InputError, match="class-0 leaves no test example of 'toy'"):
        split(data, ForgetRequest(classes=(0,)))


@settings(max_examples=80, deadline=None)
@given(labels=st.lists(st.integers(0, 4), max_size=30), cut=st.integers(0, 4))
def test_no_validation_example_is_copied_and_judges(labels, cut):
    """In each class both take turns, the judges first, whatever other classes there are."""
    labels = np.array(labels, np.int64)
    mask = copied(labels)
    for label in np.unique(labels):
        turns = mask[labels == label]
        np.testing.assert_array_equal(turns, np.arange(len(turns)) % 2 == 1)
    np.testing.assert_array_equal(copied(labels[labels != cut]), mask[labels != cut])


def test_the_halves_of_validation_data_are_the_same_for_all_requests(digits):
    parts = split(digits, ForgetRequest(fraction=0.1))
    both = np.concatenate([parts.copied.index, parts.judged.index])
    np.testing.assert_array_equal(np.sort(both), parts.validation.index)
    seven = split(digits, ForgetRequest(classes=(7,)))
    for half, other in ((parts.copied, seven.copied), (parts.judged, seven.judged)):
        np.testing.assert_array_equal(half.index[half.label != 7], other.index)
