"""Pieces of denoisers: golden sinusoids, and the condition against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models.denoising import Condition, sinusoid

zeros = jax.nn.initializers.zeros


def test_golden_sinusoids():
    t = jnp.array([1, 500])
    sines = [[0.8415, 0.0998, 0.0100, 0.0010], [-0.4678, -0.2624, -0.9589, 0.4794]]
    cosines = [[0.5403, 0.9950, 1.0000, 1.0000], [-0.8839, 0.9650, 0.2837, 0.8776]]
    both = np.concatenate([sines, cosines], axis=1)
    np.testing.assert_allclose(sinusoid(t, 8), both, atol=1e-4)
    np.testing.assert_array_equal(sinusoid(t.astype(jnp.float32), 8), sinusoid(t, 8))
    other = np.concatenate([cosines, sines], axis=1)
    np.testing.assert_allclose(sinusoid(t, 8, cosine_first=True), other, atol=1e-4)


def test_shifted_frequencies_end_at_a_ten_thousandth():
    t = jnp.array([1.0, 500.0])
    shifted = sinusoid(t, 8, frequency_shift=1)
    expected = np.sin(np.outer([1, 500], 10_000.0 ** (-np.arange(4) / 3)))
    np.testing.assert_allclose(shifted[:, :4], expected, atol=1e-4)
    assert shifted[0, 3] == pytest.approx(1e-4)
    assert np.abs(shifted - sinusoid(t, 8)).max() > 0.1


def test_condition_formula(random_variables):
    layer = Condition(3, 8, 5, True, 0, kernel_init=zeros, table_init=zeros)
    t, labels = jnp.array([0, 7, 7]), jnp.array([3, 0, 2])
    params = random_variables(layer, t, labels)["params"]
    assert params["classes"]["embedding"].shape == (4, 5)
    x = np.asarray(sinusoid(t, 8, cosine_first=True))
    x = x @ params["time1"]["kernel"] + params["time1"]["bias"]
    x = x / (1 + np.exp(-x))
    x = x @ params["time2"]["kernel"] + params["time2"]["bias"]
    expected = x + params["classes"]["embedding"][np.asarray(labels)]
    out = layer.apply({"params": params}, t, labels)
    np.testing.assert_allclose(out, expected, atol=1e-5)

    unconditional = layer.clone(num_classes=None)
    del params["classes"]
    np.testing.assert_allclose(unconditional.apply({"params": params}, t, None), x, atol=1e-5)
