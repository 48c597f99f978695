"""Balanced logistic regression on one feature: scikit-learn's answers."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxunlearn.evaluation.logistic import balanced_logistic_regression

CASES = {  # features of the members and of the others
    "overlapping": lambda draw: (draw.gamma(1, 0.3, 900), draw.gamma(1.5, 0.4, 100)),
    "members near 0": lambda draw: (draw.gamma(0.05, 0.01, 4000), draw.gamma(0.1, 0.8, 300)),
    "separated": lambda draw: (draw.uniform(0, 0.1, 50), draw.uniform(20, 69, 5)),
    "the same": lambda draw: (np.full(30, 0.4), np.full(70, 0.4)),
    "one of each": lambda draw: (np.array([0.2]), np.array([0.1])),
}


@pytest.mark.parametrize("kind", CASES)
def test_decisions_equal_those_of_scikit_learn(kind):
    members, others = CASES[kind](np.random.default_rng(0))
    feature = np.concatenate([members, others])
    positive = np.repeat([1, 0], [len(members), len(others)])
    oracle = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10000)
    oracle.fit(feature[:, None], positive)
    asked = np.linspace(-0.1, feature.max(), 50)
    found = balanced_logistic_regression(feature, positive)(asked)
    np.testing.assert_allclose(found, oracle.decision_function(asked[:, None]), atol=1e-4)
