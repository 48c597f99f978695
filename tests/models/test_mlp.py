"""The MLP against its formula."""

import jax
import numpy as np
import pytest

from jaxunlearn.models.mlp import MLP

IMAGES = np.random.default_rng(1).normal(size=(2, 2, 3, 1)).astype(np.float32)
FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * np.asarray(jax.scipy.stats.norm.cdf(x)),
}


@pytest.mark.parametrize("activation", FORMULAS)
def test_formula(activation, random_variables):
    model = MLP(num_classes=3, hidden=(5, 4), activation=activation)
    variables = random_variables(model, IMAGES)
    params = variables["params"]
    x = IMAGES.reshape(2, 6)
    for name in ("hidden1", "hidden2"):
        x = FORMULAS[activation](x @ params[name]["kernel"] + params[name]["bias"])
    expected = x @ params["head"]["linear"]["kernel"] + params["head"]["linear"]["bias"]
    for train in (False, True):
        logits = model.apply(variables, IMAGES, train=train)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_no_hidden_layer_is_logistic_regression(random_variables):
    model = MLP(num_classes=3, hidden=())
    variables = random_variables(model, IMAGES)
    linear = variables["params"]["head"]["linear"]
    assert len(jax.tree.leaves(variables)) == 2
    expected = IMAGES.reshape(2, 6) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(model.apply(variables, IMAGES), expected, rtol=1e-4, atol=1e-5)
