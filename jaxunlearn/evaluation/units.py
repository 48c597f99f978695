"""The unit and the bounds of every number in a result file; intervals are cut at the bounds."""

import math
from typing import NamedTuple


class Unit(NamedTuple):
    """The unit of a number.

    Attributes:
        name: printed name of the unit; empty for a plain number.
        low: least possible value.
        high: greatest possible value.
    """

    name: str = ""
    low: float = -math.inf
    high: float = math.inf


_PERCENT = Unit("%", 0.0, 100.0)
_POINTS = Unit("percentage points", 0.0, 100.0)
_NATS = Unit("nats", 0.0)
_SECONDS = Unit("s", 0.0)
_SHARE = Unit("of 1", 0.0, 1.0)
_DISTANCE = Unit(low=0.0)

UNITS: dict[str, Unit] = {
    **dict.fromkeys(
        (
            *(f"{part}_accuracy" for part in ("forget", "retain", "train", "validation", "test")),
            *("test_forget_accuracy", "generated_forget_accuracy", "generated_retain_accuracy"),
            *("svc_non_member_rate", "entropy_member_rate"),
            *("accuracy", "original_accuracy"),  # in "drift"
            *("relearning_curve", "probe_accuracy", "disagreement"),
            *("auc", "tpr", "fpr", "exposure_auc", "discrepancy"),
            *("nearest_accuracy", "in_domain_accuracy", "cross_domain_accuracy"),
            *("seen_after_revival", "seen_after_inversion", "seen_after_token_inversion"),
            *(f"seen_after_relearning_{count}" for count in (1, 10, 100)),
            *("seen_after_old_embeddings", "seen_after_revival_old_embeddings"),
            "seen_after_paraphrases",
        ),
        _PERCENT,
    ),
    **dict.fromkeys(
        (
            *("average_gap_svc_non_member_rate", "average_gap_entropy_member_rate"),
            *("five_part_gap", "calibration_error"),
        ),
        _POINTS,
    ),
    **dict.fromkeys(
        ("class_damage", "residual_knowledge"), Unit("percentage points", -100.0, 100.0)
    ),
    "kl_to_retrained": _NATS,
    "js_to_retrained": Unit("nats", 0.0, math.log(2)),
    "js_to_original": Unit("nats", 0.0, math.log(2)),
    "generated_forget_entropy": _NATS,
    "generated_retain_entropy": _NATS,
    "generated_forget_probability": _SHARE,
    "generated_retain_probability": _SHARE,
    "precision_retain": _SHARE,
    "recall_retain": _SHARE,
    "tow": Unit("best at 1", 0.0, 1.0),
    "brier_score": Unit("", 0.0, 2.0),
    "frechet_retain": _DISTANCE,
    "frechet_floor": _DISTANCE,
    "frechet_ratio": _DISTANCE,
    "seconds": _SECONDS,
    "compile_seconds": _SECONDS,
    "retrain_seconds": _SECONDS,
    "share_of_retraining": Unit("%", 0.0),
    "weights_moved": Unit("%", 0.0),
}


OWN_UNITS: dict[str, Unit] = {}  # of the user's metrics


def unit_of(name: str) -> Unit:
    """The unit of a number by its name; unknown names have no unit and no bounds."""
    return (UNITS | OWN_UNITS).get(name, Unit())
