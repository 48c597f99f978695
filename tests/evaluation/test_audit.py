"""The bound on epsilon: what it says where the auditor is installed, and where it is not."""

import builtins

import numpy as np
import pytest

from jaxunlearn.evaluation.audit import epsilon_lower_bound
from jaxunlearn.evaluation.ulira import Scores
from jaxunlearn.types import InputError


def scores(shift, size=2000):
    rng = np.random.default_rng(0)
    return Scores(shift + rng.normal(size=(4, size // 4)), rng.normal(size=(4, size // 4)))


def test_without_the_auditor_the_error_names_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.startswith("jax_privacy"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"jaxunlearn\[audit\]"):
        epsilon_lower_bound(scores(1.0))


def test_randomised_response_is_bounded_by_its_own_epsilon():
    rng = np.random.default_rng(0)
    # A true answer with probability e / (1 + e): epsilon is exactly 1.
    keep = np.e / (1 + np.e)
    said_yes = (rng.random((40, 500)) < keep, rng.random((40, 500)) >= keep)
    bound = epsilon_lower_bound(Scores(*(answers.astype(float) for answers in said_yes)))
    assert 0.9 < bound <= 1.0
    assert epsilon_lower_bound(scores(0.0)) < 0.1
    assert epsilon_lower_bound(scores(3.0)) > epsilon_lower_bound(scores(1.0)) > 0.5


@pytest.mark.parametrize("wrong", [{"significance": 0.0}, {"significance": 0.5}, {"delta": 1.5}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        epsilon_lower_bound(scores(1.0), **wrong)
