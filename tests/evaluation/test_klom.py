"""KLOM against numbers by hand and closed forms; the most and the least memorised examples."""

import math

import numpy as np
import pytest

from jaxunlearn.evaluation.klom import gaussian_klom, klom
from jaxunlearn.evaluation.memorised import memorised_ends
from jaxunlearn.types import InputError


def test_histograms_give_the_numbers_by_hand():
    unlearned = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    retrained = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    # 3/4 and 1/4 of the models against 1/2 and 1/2; half of them against no retrained model.
    wanted = [
        0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5),
        0.5 * math.log(0.5 / 1.0) + 0.5 * math.log(0.5 / 1e-5),
    ]
    np.testing.assert_allclose(klom(unlearned, retrained), wanted, rtol=1e-12)
    assert klom(retrained, unlearned)[0] != pytest.approx(wanted[0])  # it is not symmetric


def test_bins_are_shared_and_margins_are_cut():
    # Bins of width 1 from 0 to 20: 0.9 is in the first, 1.1 in the second, 20 in the last.
    unlearned, retrained = np.array([[0.9], [20.0]]), np.array([[1.1], [0.0]])
    wanted = 0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 1e-5)
    assert klom(unlearned, retrained) == pytest.approx([wanted])
    far = klom(np.array([[1e9], [100.0]]), np.array([[100.0], [500.0]]))
    assert far == pytest.approx([0.0]) and klom(retrained, retrained, bins=3).tolist() == [0.0]


def test_two_gaussians_give_the_closed_form():
    rng = np.random.default_rng(0)
    retrained = rng.normal(0.0, 1.0, (40000, 2))
    unlearned = rng.normal(0.0, 1.0, (40000, 2)) * (0.5, 1.5) + (0.0, 1.0)
    # log(1 / 0.5) + 0.25 / 2 - 1/2 and log(1 / 1.5) + (2.25 + 1) / 2 - 1/2
    wanted = [math.log(2) + 0.125 - 0.5, -math.log(1.5) + 1.625 - 0.5]
    np.testing.assert_allclose(gaussian_klom(unlearned, retrained), wanted, rtol=0.05)
    np.testing.assert_allclose(klom(unlearned, retrained), wanted, rtol=0.15)


def test_few_models_have_a_floor_that_falls_with_their_number():
    rng = np.random.default_rng(0)
    for measure in (klom, gaussian_klom):
        floors = [
            np.quantile(measure(*rng.normal(size=(2, models, 400))), 0.95) for models in (4, 16, 64)
        ]
        assert floors == sorted(floors, reverse=True) and floors[-1] > 0


def test_margins_of_other_examples_or_single_models_are_refused():
    margins = np.zeros((3, 4))
    for measure in (klom, gaussian_klom):
        for other, words in (
            (margins[:, :3], "the same examples"),
            (margins[0], "the same examples"),
            (margins[:1], "3 unlearned and 1 retrained models"),
            (margins * np.nan, "not all finite"),
        ):
            with pytest.raises(InputError, match=words):
                measure(margins, other)


def test_memorised_examples_are_those_that_learning_made_likely():
    learned = np.array([[3.0, 3.0, -3.0, 0.0], [3.0, 3.0, -3.0, 0.0]])
    unseen = np.array([[3.0, -3.0, -3.0, 1.0], [-3.0, -3.0, -3.0, 1.0]])
    # Gains in probability: 0.45, 0.91, 0 and -0.23.
    most, least = memorised_ends(learned, unseen, 0.5)
    assert (most.tolist(), least.tolist()) == ([1, 0], [3, 2])
    assert [ends.size for ends in memorised_ends(learned, unseen, 0.01)] == [1, 1]
    most, least = memorised_ends(learned[:, :3], unseen[:, :3], 0.5)  # no example is at both ends
    assert (most.tolist(), least.tolist()) == ([1], [2])
    for wrong in (
        (learned, unseen, 0.6),
        (learned, unseen[:, :2]),
        (learned[:, :1], unseen[:, :1]),
        (learned[:0], unseen),
        (learned * np.nan, unseen),
    ):
        with pytest.raises(InputError):
            memorised_ends(*wrong)
