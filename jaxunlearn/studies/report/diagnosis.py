"""Diagnosis of each method: nothing moved, no effect at this rate, or over-forgotten.

The evidence is the movement of the weights, and the predictions on the forget data, compared with
the original and the retrained model of the same seed. The retrained model never saw the
forget data, so its confidence in them is the confidence in unseen data.
"""

import math
from collections.abc import Callable

import numpy as np

from jaxunlearn.evaluation import SplitPredictions, js_divergence, summarize
from jaxunlearn.studies.report.ranking import METRIC
from jaxunlearn.studies.report.study import Study

NOT_MOVED, NO_EFFECT, OVER_FORGOTTEN = "nothing moved", "no effect", "over-forgotten"
LEAST_MOVEMENT = 0.01  # percent of the norm of the weights
LEAST_EFFECT = 0.1  # of the way from the original to the retrained model, by JS distance
MOST_UNSURE = 2.0  # percentage points of confidence below the retrained model's


def diagnose(study: Study, request: str) -> dict[str, str]:
    """The diagnosis of every method that has one, by name.

    With several seeds, a difference in confidence counts if its 95% t-interval, paired over seeds,
    is beyond the limit.
    """
    original, retrained = (_predictions(study, request, name) for name in ("original", "retrain"))
    found = {}
    for name in study.methods:
        runs = [run for run in study.select(request, name) if METRIC in run.metrics]
        moved = [run.metrics["weights_moved"] for run in runs if "weights_moved" in run.metrics]
        if moved and max(moved) < LEAST_MOVEMENT:
            found[name] = NOT_MOVED
            continue
        ours = _predictions(study, request, name) if runs else {}
        effects = _paired(_distance, ours, original)
        ways = _paired(_distance, retrained, original)
        if effects and ways and np.mean(effects) < LEAST_EFFECT * np.mean(ways):
            found[name] = NO_EFFECT
            continue
        differences = _paired(_confidence_below, ours, retrained)
        if differences:
            below = summarize(differences)
            if below.mean - (below.half_width or 0.0) > MOST_UNSURE:
                found[name] = OVER_FORGOTTEN
    return found


def _predictions(study: Study, request: str, name: str) -> dict[int, SplitPredictions]:
    """The predictions of one model by seed, as far as they were kept."""
    found = {run.seed: run.predictions() for run in study.select(request, name)}
    return {seed: predictions for seed, predictions in found.items() if predictions is not None}


def _paired(
    function: Callable[[SplitPredictions, SplitPredictions], float],
    ours: dict[int, SplitPredictions],
    theirs: dict[int, SplitPredictions],
) -> list[float]:
    """A function of two models' predictions, for every seed that both have."""
    return [function(ours[seed], theirs[seed]) for seed in ours if seed in theirs]


def _distance(ours: SplitPredictions, theirs: SplitPredictions) -> float:
    """The Jensen-Shannon distance, of which the divergence is the square."""
    return math.sqrt(js_divergence(theirs.forget.probabilities, ours.forget.probabilities))


def _confidence_below(ours: SplitPredictions, theirs: SplitPredictions) -> float:
    """How much less confident the first model is in the true classes, in percentage points."""
    means = [
        np.mean(each.forget.probabilities[np.arange(len(each.forget.labels)), each.forget.labels])
        for each in (ours, theirs)
    ]
    return float(100.0 * (means[1] - means[0]))
