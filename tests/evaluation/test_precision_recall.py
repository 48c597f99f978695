"""Precision and recall on points laid out by hand, and against the definition in loops."""

import sys
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.evaluation import PrecisionRecall, precision_recall
from jaxunlearn.types import InputError

module = sys.modules[precision_recall.__module__]


def by_definition(real, generated, k):
    """Both shares, point by point."""

    def share_among(points, others):
        radii = [sorted(np.linalg.norm(others - other, axis=1))[k] for other in others]
        inside = [
            any(np.linalg.norm(p - o) <= r for o, r in zip(others, radii, strict=True))
            for p in points
        ]
        return np.mean(inside)

    return share_among(generated, real), share_among(real, generated)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("rows", [3, 8, 1024])
def test_strips_of_any_height_give_the_definition(k, rows, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", rows)
    rng = np.random.default_rng(k)
    real, generated = rng.normal(size=(24, 4)), 1.2 * rng.normal(size=(19, 4)) + 0.6
    found = precision_recall(real, generated, k)
    assert found == pytest.approx(by_definition(real, generated, k))
    assert precision_recall(real, generated, k, module.squared_radii(real, k)) == found
    assert 0 < min(found) and max(found) < 1
    assert precision_recall(generated, real, k) == found[::-1]  # they are each other's mirror


def test_the_table_of_distances_is_never_there_as_a_whole(monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 20)
    points = np.random.default_rng(0).normal(size=(1000, 2))
    tracemalloc.start()
    precision_recall(points, points)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1000 * 1000 / 4


def line(*points):
    return np.array(points, float)[:, None]


def test_points_on_a_line():
    real = line(0, 1, 2, 3, 10)  # radii for k = 3: 3, 2, 2, 3, 9
    generated = line(-3, -3.5, 0.5, 12, 12.5, 13, 19, 19.1)
    # -3 lies on the edge of 0's ball and -3.5 beyond it; 19 on the edge of 10's, 19.1 beyond it.
    # Radii of the generated: 15, 15.5, 11.5, 6.5, ...: -3's reaches up to 12, so all are covered.
    assert precision_recall(real, generated) == PrecisionRecall(precision=6 / 8, recall=1.0)
    far = line(100, 101, 102, 103)
    assert precision_recall(real, far) == PrecisionRecall(0.0, 0.0)


def test_precision_sees_bad_images_and_recall_missing_variety():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 60, 2)) * 0.1
    real = np.concatenate([left, right + 50.0])
    collapsed = rng.normal(size=(120, 2)) * 0.05
    precision, recall = precision_recall(real, collapsed)
    assert precision > 0.95
    assert recall < 0.5
    strays = np.concatenate([left, right + 50.0, rng.normal(size=(120, 2)) * 0.1 + 500.0])
    precision, recall = precision_recall(real, strays)
    assert precision == pytest.approx(0.5)
    assert recall == 1.0


def test_a_set_covers_itself_in_any_precision():
    points = np.random.default_rng(0).normal(size=(30, 8))
    assert precision_recall(points, points) == (1.0, 1.0)
    assert precision_recall(jnp.asarray(points), jnp.asarray(points, jnp.bfloat16)) == (1.0, 1.0)
    assert precision_recall(points + 1e4, points[::-1] + 1e4) == (1.0, 1.0)


def test_neighbours_are_others_and_not_the_point_itself():
    # With itself among them, each point's nearest neighbour would be at 0 and cover nothing.
    assert precision_recall(line(0, 1), line(0.5, 0.6), num_neighbours=1).precision == 1.0
    copies = line(0, 0, 0, 0)  # but copies are neighbours
    assert precision_recall(copies, line(0.5, 2, 3, 4)).precision == 0.0


@pytest.mark.parametrize(
    ("real", "generated", "k", "message"),
    [
        (line(0, 1, 2), line(0, 1, 2, 3), 3, "3 real images, but must be at least 4"),
        (line(0, 1, 2, 3), line(0, 1), 3, "2 generated images, but must be at least 4"),
        (line(0, 1), line(0, 1), 0, "num_neighbours is 0"),
        (
            np.zeros((4, 2)),
            np.zeros((4, 3)),
            3,
            "real images have 2 features and generated images 3",
        ),
        (np.zeros(4), np.zeros((4, 3)), 3, "the real features have shape"),
        (np.zeros((4, 1)), line(0, 1, np.nan, 2), 3, "the generated features are not finite in 1"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(real, generated, k, message):
    with pytest.raises(InputError, match=message):
        precision_recall(real, generated, k)
