"""The discrepancy to the retrained model by the distance to the forget data, by hand."""

import numpy as np
import pytest

from jaxunlearn.evaluation.by_distance import discrepancy_by_distance, distance_to_forget
from jaxunlearn.types import InputError


def test_groups_are_equally_large_and_ordered_by_distance():
    retrained = np.tile([0.5, 0.5], (4, 1))
    model = np.array([[0.5, 0.5], [0.7, 0.3], [1.0, 0.0], [0.5, 0.5]])
    found = discrepancy_by_distance(model, retrained, [4.0, 2.0, 1.0, 3.0], groups=2)
    assert found == pytest.approx([(50 + 20) / 2, 0.0])
    assert discrepancy_by_distance(model, retrained, [4, 2, 1, 3], 9) == pytest.approx(
        [50, 20, 0, 0]
    )
    assert discrepancy_by_distance(model, model, [4, 2, 1, 3]) == [0.0] * 4


def test_the_distance_is_to_the_nearest():
    rng = np.random.default_rng(0)
    some, forget = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    wanted = np.linalg.norm(some[:, None] - forget[None], axis=2).min(axis=1)
    np.testing.assert_allclose(distance_to_forget(some, forget), wanted)


def test_predictions_of_other_examples_are_refused():
    some = np.tile([0.5, 0.5], (4, 1))
    for theirs, distances in ((some[:3], [1.0] * 4), (some, [1.0] * 3)):
        with pytest.raises(InputError, match="of the same examples"):
            discrepancy_by_distance(some, theirs, distances)
