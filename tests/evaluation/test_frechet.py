"""The Frechet distance against closed forms, scipy's matrix root, and files against damage."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxunlearn.evaluation import Statistics, frechet, frechet_distance, halves_distance
from jaxunlearn.evaluation.frechet import statistics
from jaxunlearn.types import InputError


def draw(seed, count=200, dimension=6, scale=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dimension)) @ rng.normal(size=(dimension, dimension)) * scale


def gaussian(mean, covariance):
    return Statistics(np.asarray(mean, float), np.asarray(covariance, float), 100, "by hand", "")


def test_statistics_are_those_of_numpy_however_the_rows_are_cut(monkeypatch):
    features = draw(0)
    whole = statistics(features, "x")
    monkeypatch.setattr(frechet, "_ROWS", 7)
    for found in (whole, statistics(features, "x")):
        np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-12)
        assert (found.num_images, found.name, found.dimension) == (200, "x", 6)
        assert found.source == whole.source


def test_short_floats_are_summed_in_double_precision():
    features = np.asarray(draw(0) + 1000.0, np.float32)
    found = statistics(jnp.asarray(features), "x")
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-9)
    assert found.covariance.dtype == found.mean.dtype == np.float64
    assert found.source == statistics(features.astype(np.float64), "x").source
    assert found.source != statistics(features[::-1], "x").source
    half = jnp.asarray(features[:, :2], jnp.bfloat16)
    assert statistics(half, "x").mean.tolist() == np.asarray(half, float).mean(axis=0).tolist()


def test_diagonal_gaussians_have_a_closed_form():
    rng = np.random.default_rng(1)
    means, deviations = rng.normal(size=(2, 5)), rng.uniform(0.1, 3.0, size=(2, 5))
    a, b = (gaussian(m, np.diag(s**2)) for m, s in zip(means, deviations, strict=True))
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-12)


def test_features_in_one_dimension():
    a, b = gaussian([1.0], [[4.0]]), gaussian([4.0], [[9.0]])
    assert frechet_distance(a, b) == pytest.approx(3.0**2 + 1.0)


@pytest.mark.parametrize("dimension", [2, 6, 20])
def test_scipy_agrees_where_covariances_do_not_commute(dimension):
    a, b = (statistics(draw(seed, dimension=dimension), "x") for seed in (1, 2))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2)
    expected += np.trace(a.covariance + b.covariance - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    naive = np.sum((scipy.linalg.sqrtm(a.covariance) - scipy.linalg.sqrtm(b.covariance)).real ** 2)
    assert naive > 1.01 * (expected - np.sum((a.mean - b.mean) ** 2))  # not the same formula


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equal_sets_have_no_distance_even_where_features_depend_on_each_other(scale):
    independent = statistics(draw(3), "x")
    assert frechet_distance(independent, independent) == pytest.approx(0.0, abs=1e-8)
    rng = np.random.default_rng(4)
    dependent = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 64)) * scale
    found = statistics(dependent, "x")
    distance = frechet_distance(found, statistics(dependent, "x"))
    assert abs(distance) <= 1e-13 * np.trace(found.covariance)
    moved = statistics(dependent + scale, "x")
    assert frechet_distance(found, moved) == pytest.approx(64 * scale**2, rel=1e-9)


def test_a_distance_is_never_below_zero_nor_complex():
    rng = np.random.default_rng(5)
    for _ in range(20):
        rows = rng.normal(size=(2, 3, 12))  # rank 3 in 12 dimensions
        a, b = (gaussian(np.zeros(12), r.T @ r) for r in rows)
        for pair in ((a, a), (a, b)):
            distance = frechet_distance(*pair)
            assert isinstance(distance, float)
            assert 0.0 <= distance < np.trace(a.covariance) + np.trace(b.covariance)


def test_rotating_and_moving_both_sets_changes_nothing():
    x, y = draw(6), draw(7) + 0.5
    rotation = np.linalg.qr(draw(8, count=6))[0]
    expected = frechet_distance(statistics(x, "x"), statistics(y, "x"))
    turned = (statistics(z @ rotation + 3.0, "x") for z in (x, y))
    assert frechet_distance(*turned) == pytest.approx(expected, rel=1e-9)
    stretched = (statistics(2.0 * z, "x") for z in (x, y))
    assert frechet_distance(*stretched) == pytest.approx(4.0 * expected, rel=1e-9)


def test_halves_are_as_far_apart_as_chance_makes_them():
    features = np.random.default_rng(9).normal(size=(2001, 3))
    floor = halves_distance(features, seed=1)
    assert floor == halves_distance(features, seed=1)
    assert floor != halves_distance(features, seed=2)
    mean = np.mean([halves_distance(features, seed) for seed in range(40)])
    # Near the identity the distance is |mu_a - mu_b|^2 + |S_a - S_b|^2 / 4. With n = 1000 in each
    # half, means differ by a variance of 2 / n, covariances by 4 / n on the diagonal, else 2 / n.
    expected = 3 * 2 / 1000 + (3 * 4 / 1000 + 6 * 2 / 1000) / 4
    assert mean == pytest.approx(expected, rel=0.1)
    order = np.random.default_rng(1).permutation(2001)
    halves = (statistics(features[order[i : i + 1000]], "x") for i in (0, 1000))
    assert floor == pytest.approx(frechet_distance(*halves), rel=1e-12)


@pytest.mark.parametrize(
    ("features", "name", "message"),
    [
        (np.zeros((6, 6)), "x", "6 images for 6 x features, but must be at least 7"),
        (np.zeros(6), "x", r"must have \[images, features\]"),
        (np.zeros((6, 0)), "x", r"must have \[images, features\]"),
        (np.array([[0.0], [np.nan], [np.inf]]), "x", "not finite in 2 of 3 rows"),
        (np.zeros((6, 2), complex), "x", "complex128, but must be real"),
        (np.array([["a"], ["b"]]), "x", "must be real numbers"),
        (np.zeros((6, 2)), "", "name of the features is ''"),
        (np.zeros((6, 2)), None, "name of the features is None"),
    ],
)
def test_features_that_cannot_be_fitted_are_refused(features, name, message):
    with pytest.raises(InputError, match=message):
        statistics(features, name)


def test_too_few_images_for_halves_are_counted():
    with pytest.raises(InputError, match="13 images for 6 features.*at least 14"):
        halves_distance(draw(0, count=13))
    assert halves_distance(draw(0, count=14)) > 0


def test_only_the_same_features_are_compared():
    a, b = statistics(draw(0), "inception"), statistics(draw(0), "resnet")
    with pytest.raises(InputError, match="6 features called 'inception' and the other 6 called"):
        frechet_distance(a, b)
    with pytest.raises(InputError, match="the other 5 called 'inception'"):
        frechet_distance(a, statistics(draw(0)[:, :5], "inception"))
    with pytest.raises(InputError, match=r"must have \[D\] and \[D, D\]"):
        frechet_distance(a, a._replace(covariance=np.zeros((6, 5))))
    with pytest.raises(InputError, match="not all finite"):
        frechet_distance(a._replace(mean=np.full(6, np.nan)), a)
