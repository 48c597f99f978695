"""U-LiRA against closed forms, brute force, and worlds in which there is nothing to find."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from jaxunlearn.evaluation import Predictions
from jaxunlearn.evaluation.ulira import (
    Scores,
    attack,
    logit_confidence,
    needed_scores,
    roc_curve,
    ulira_scores,
)
from jaxunlearn.types import InputError


def gaussians(models, examples, shift=0.0, scale=1.0, seed=0):
    """Both sides around a mean of each example's own."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 3, examples)
    unlearned = means[None] + shift + scale * rng.normal(size=(models, examples))
    return unlearned, means[None] + rng.normal(size=(models, examples))


def auc(scores):
    return attack(scores, (0.01,), num_resamples=0).auc.value


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("variance", ["example", "shared"])
def test_two_gaussians_of_known_distance_give_the_known_auc(shift, variance):
    scores = ulira_scores(*gaussians(150, 150, shift), variance)
    # The likelihood ratio is linear in o, so AUC = P[N(shift, 1) > N(0, 1)].
    assert auc(scores) == pytest.approx(100 * norm.cdf(shift / math.sqrt(2)), abs=1.0)


def test_the_true_positive_rate_of_two_known_gaussians():
    found = attack(ulira_scores(*gaussians(150, 150, 2.0), "shared"), (0.01, 0.1), num_resamples=0)
    for rate, estimate in found.tpr.items():
        assert estimate.value == pytest.approx(100 * norm.cdf(2.0 + norm.ppf(rate)), abs=3.0)


@pytest.mark.parametrize("variance", ["example", "shared"])
def test_two_gaussians_that_differ_in_width_alone_give_the_known_auc(variance):
    # |N(0, 2)| against |N(0, 1)|: P[first is larger] = 2 / pi * arctan 2.
    exact = 100 * 2 / math.pi * math.atan(2.0)
    scores = ulira_scores(*gaussians(150, 150, scale=2.0), variance)
    assert auc(scores) == pytest.approx(exact, abs=1.0)
    assert auc(Scores(scores.retrained, scores.retrained)) == 50.0


@pytest.mark.parametrize("models", [3, 4, 8])
@pytest.mark.parametrize("variance", ["example", "shared"])
def test_one_distribution_gives_a_coin_however_few_the_models(models, variance):
    found = [auc(ulira_scores(*gaussians(models, 400, seed=s), variance)) for s in range(12)]
    assert abs(np.mean(found) - 50) < 4 * np.std(found, ddof=1) / math.sqrt(len(found)) + 0.05
    assert np.std(found, ddof=1) < 3


def test_leaving_out_one_side_alone_would_be_seen():
    """The test above can fail: Gaussians of unequal numbers of models bias the coin."""
    found = []
    for seed in range(6):
        u, r = gaussians(4, 400, seed=seed)

        def density(values, others):
            return norm.logpdf(values, others.mean(0), others.std(0, ddof=1))

        rows = [
            (
                density(u[m], np.delete(u, m, 0)) - density(u[m], r),
                density(r[m], u) - density(r[m], np.delete(r, m, 0)),
            )
            for m in range(4)
        ]
        found.append(auc(Scores(*map(np.array, zip(*rows, strict=True)))))
    assert np.mean(found) < 45


def test_scores_equal_those_of_a_loop_over_models_and_examples():
    u, r = gaussians(5, 7, 0.7, 1.3)
    scores = ulira_scores(u, r)
    for m in range(5):
        for n in range(7):
            others = [np.delete(side[:, n], m) for side in (u, r)]
            for side, value in ((scores.unlearned, u[m, n]), (scores.retrained, r[m, n])):
                densities = [norm.logpdf(value, o.mean(), o.std(ddof=1)) for o in others]
                assert side[m, n] == pytest.approx(densities[0] - densities[1], rel=1e-9)


def test_the_auc_counts_pairs_and_half_of_ties():
    rng = np.random.default_rng(0)
    scores = Scores(rng.integers(0, 5, (4, 6)) + 0.0, rng.integers(0, 4, (4, 6)) + 0.0)
    truth = np.repeat([1, 0], 24)
    values = np.concatenate([scores.unlearned.ravel(), scores.retrained.ravel()])
    found = attack(scores, (0.5,), num_resamples=0)
    assert found.auc.value == pytest.approx(100 * roc_auc_score(truth, values), abs=1e-9)
    above = [
        np.mean(scores.unlearned >= t)
        for t in [*np.unique(values), np.inf]
        if np.mean(scores.retrained >= t) <= 0.5
    ]
    assert found.tpr[0.5].value == pytest.approx(100 * max(above), abs=1e-9)


def test_the_curve_runs_from_corner_to_corner_and_its_area_is_the_auc():
    scores = ulira_scores(*gaussians(6, 40, 1.0))
    fpr, tpr = roc_curve(scores)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
    assert 100 * np.trapezoid(tpr, fpr) == pytest.approx(auc(scores), abs=1e-9)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    exact, covered = 100 * norm.cdf(1.0 / math.sqrt(2)), 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # Models and examples both have an effect of their own; all in all the variance is 1.
        sides = [
            0.3 * rng.normal(size=(10, 1))
            + 0.3 * rng.normal(size=(1, 30))
            + math.sqrt(1 - 2 * 0.3**2) * rng.normal(size=(10, 30))
            for _ in range(2)
        ]
        found = attack(Scores(1.0 + sides[0], sides[1]), (0.1,), num_resamples=200).auc
        assert found.low <= found.value <= found.high
        covered += found.low <= exact <= found.high
    assert covered >= 34


def test_the_bootstrap_is_the_same_for_the_same_seed_only():
    scores = ulira_scores(*gaussians(6, 40, 1.0))
    one, same, other = (attack(scores, (0.1,), 50, seed) for seed in (0, 0, 1))
    assert one == same and one.auc.low != other.auc.low
    assert one.auc.value == other.auc.value


def test_logit_confidences_are_exact_where_the_model_is_sure():
    probabilities = np.array([[1.0, 1e-20, 0.0], [0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
    found = logit_confidence(Predictions(probabilities, np.array([0, 1, 1])))
    np.testing.assert_allclose(found[:2], [20 * math.log(10), 0.0], atol=1e-9)
    assert found[2] == pytest.approx(-38 * math.log(10))


def test_needed_scores():
    assert [needed_scores(rate) for rate in (0.5, 0.01, 0.001, 0.003)] == [2, 100, 1000, 334]


def test_what_cannot_be_attacked_is_refused():
    u, r = gaussians(4, 30)
    for call, words in (
        (lambda: ulira_scores(u[:2], r[:2]), "2 models on each side"),
        (lambda: ulira_scores(u, r[:3]), "(4, 30)"),
        (lambda: ulira_scores(u[0], r[0]), "models, examples"),
        (lambda: ulira_scores(u * np.nan, r), "not all finite"),
        (lambda: ulira_scores(u, r, "own"), "example, shared"),
        (lambda: attack(Scores(u, r[:3]), (0.05,)), "the shapes (4, 30) and (3, 30)"),
        (lambda: attack(Scores(u, r.T), (0.05,)), "the shapes (4, 30) and (30, 4)"),
        (lambda: roc_curve(Scores(u * np.nan, r)), "be finite"),
        (lambda: attack(ulira_scores(u, r), (0.001,)), "120 scores"),
        (lambda: attack(ulira_scores(u, r), (0.0,)), "between 0 and 1"),
        (lambda: attack(ulira_scores(u, r), (1.0,)), "between 0 and 1"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert words in str(error.value)
    assert attack(ulira_scores(u, r), (1 / 120,), 0).auc.value > 0
