"""Support vectors on one feature: libsvm's answers, on the distributions that attacks meet."""

import numpy as np
import pytest
from sklearn.svm import SVC

from jaxunlearn.evaluation.support_vectors import support_vector_machine

COST = 3.0


def confidences(rng, mean, spread, wrong, count):
    """Confidences in float32 of a classifier; a share of them is wrong."""
    logits = np.where(
        rng.random(count) < wrong, rng.normal(-1, 3, count), rng.normal(mean, spread, count)
    )
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


# (mean, spread, share of errors) of members and of the others
KINDS = {
    "confident": ((9, 2, 0.0), (8, 2.5, 0.06)),
    "ties at 1": ((18, 4, 0.0), (15, 5, 0.06)),
    "mixed": ((3, 2, 0.0), (2, 3, 0.0)),
    "the same": ((1, 1, 0.0), (1, 1, 0.0)),
    "tiny range": ((9, 0.1, 0.0), (8.9, 0.1, 0.0)),
}


def data(kind, count, seed=0):
    rng = np.random.default_rng(seed)
    members, others = (confidences(rng, *law, count) for law in KINDS[kind])
    asked = np.concatenate([members[::2], others[::2], confidences(rng, *KINDS[kind][0], count)])
    return np.concatenate([members, others]), np.repeat([1, 0], count), asked


def libsvm(feature, positive, asked):
    machine = SVC(C=COST, gamma=1.0, tol=1e-7).fit(feature[:, None].astype(float), positive)
    return machine.decision_function(asked[:, None].astype(float))


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_equal_those_of_libsvm(kind):
    feature, positive, asked = data(kind, 500)
    found = support_vector_machine(feature, positive, COST)(asked)
    np.testing.assert_allclose(found, libsvm(feature, positive, asked), atol=1e-4)


@pytest.mark.parametrize(
    "members, others",
    [
        ([0.9] * 7, [0.4] * 5),
        ([1.0] * 9, [1.0] * 9),
        ([1.0] * 9 + [0.0], [1.0] * 8 + [0.0] * 4),
        (np.linspace(0.3, 0.9, 11), np.linspace(0.2, 0.8, 11)),  # all at their bounds: many biases
        ([0.7], [0.6]),
        (np.linspace(0, 60, 40), np.linspace(5, 80, 20)),  # many widths of the kernel
    ],
)
def test_few_and_equal_examples(members, others):
    feature = np.concatenate([members, others])
    positive = np.repeat([1, 0], [len(members), len(others)])
    asked = np.linspace(feature.min() - 0.1, feature.max() + 0.1, 50)
    found = support_vector_machine(feature, positive, COST)(asked)
    np.testing.assert_allclose(found, libsvm(feature, positive, asked), atol=1e-5)


def test_equal_examples_count_by_their_number():
    feature, positive, asked = data("mixed", 40)
    twice = support_vector_machine(np.tile(feature, 2), np.tile(positive, 2), COST)(asked)
    costly = support_vector_machine(feature, positive, 2 * COST)(asked)
    np.testing.assert_allclose(twice, costly, atol=1e-8)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["confident", "mixed"])
def test_rates_of_thousands_of_examples_equal_those_of_libsvm_to_a_tenth_of_a_point(kind):
    feature, positive, asked = data(kind, 1500, seed=1)
    found, expected = (
        100 * np.mean(decided < 0)
        for decided in (
            support_vector_machine(feature, positive, COST)(asked),
            libsvm(feature, positive, asked),
        )
    )
    assert abs(found - expected) < 0.1
