"""Which learning rate the search for models that generate chooses."""

import pytest

from experiments.ddpm_search import choice


def trials(**scores):
    return [{"learning_rate": float(rate[1:]), "score": score} for rate, score in scores.items()]


@pytest.mark.parametrize(
    ("found", "rate"),
    [
        (trials(_1=9.0), 1.0),
        (trials(_1=30.0, _2=6.0, _3=10.0, _4=80.0), 2.0),
        (trials(_1=100.0, _2=100.0, _3=5.0, _4=6.0), 4.0),  # the best stands beside a cliff
        (trials(_1=7.0, _2=8.0, _3=9.0, _4=1000.0), 1.0),  # the last one diverged
        (trials(_4=80.0, _3=10.0, _1=30.0, _2=6.0), 2.0),  # in whatever order
    ],
)
def test_a_rate_counts_twice_and_its_neighbours_once(found, rate):
    assert choice(found) == rate
