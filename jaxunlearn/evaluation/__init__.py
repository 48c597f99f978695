"""Metrics of forgetting: accuracies, two attacks, divergences and gaps to the retrained model.

All are computed from `Predictions`; custom ones are registered by name. Generated images are judged
by the `Predictions` of a classifier and by features of a network, with the Frechet distance,
precision and recall.
"""

from jaxunlearn.evaluation.attacks import (
    FEATURES,
    attack_feature,
    entropy_member_rate,
    exposure_auc,
    same_number,
    svc_non_member_rate,
)
from jaxunlearn.evaluation.comparison import PairedDifference, Ranked, holm, paired_difference, rank
from jaxunlearn.evaluation.custom import register_attack, register_metric
from jaxunlearn.evaluation.divergences import js_divergence, kl_divergence
from jaxunlearn.evaluation.frechet import Statistics, frechet_distance, halves_distance
from jaxunlearn.evaluation.frechet import statistics as feature_statistics
from jaxunlearn.evaluation.generation import (
    RealImages,
    classify_generated,
    compare_generated,
    describe_real,
)
from jaxunlearn.evaluation.metrics import (
    ATTACKS,
    accuracy,
    average_gap,
    distances,
    divergences,
    evaluate,
    five_part_gap,
    share_of_time,
    tug_of_war,
    weights_moved,
)
from jaxunlearn.evaluation.pareto import hypervolume, pareto_front
from jaxunlearn.evaluation.precision_recall import PrecisionRecall, precision_recall
from jaxunlearn.evaluation.predictions import Predictions, SplitPredictions, predict
from jaxunlearn.evaluation.statistics import Summary, summarize

__all__ = [
    "ATTACKS",
    "FEATURES",
    "PairedDifference",
    "PrecisionRecall",
    "Predictions",
    "Ranked",
    "RealImages",
    "SplitPredictions",
    "Statistics",
    "Summary",
    "accuracy",
    "attack_feature",
    "average_gap",
    "classify_generated",
    "compare_generated",
    "feature_statistics",
    "five_part_gap",
    "frechet_distance",
    "halves_distance",
    "describe_real",
    "distances",
    "divergences",
    "entropy_member_rate",
    "exposure_auc",
    "evaluate",
    "holm",
    "hypervolume",
    "js_divergence",
    "kl_divergence",
    "paired_difference",
    "pareto_front",
    "precision_recall",
    "predict",
    "rank",
    "register_attack",
    "register_metric",
    "share_of_time",
    "same_number",
    "summarize",
    "svc_non_member_rate",
    "tug_of_war",
    "weights_moved",
]
