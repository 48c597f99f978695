"""The numbers of the results table, from predictions and times.

Write FA, RA and TA for the accuracy on forget, retain and test data, and d for the difference to
the model retrained without the forget data (the oracle). Then
    average gap by an attack = (|dFA| + |dRA| + |dTA| + |d attack|) / 4,  in percentage points,
    ToW (tug of war)         = (1 - |dFA|)(1 - |dRA|)(1 - |dTA|),         accuracies from 0 to 1,
so the gap is best at 0 and ToW at 1 (Zhao et al., "What makes unlearning hard and what to do about
it", NeurIPS 2024). When whole classes are forgotten, TA leaves them out, and the accuracy on their
test examples is a separate number.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxunlearn.evaluation.attacks import entropy_member_rate, same_number, svc_non_member_rate
from jaxunlearn.evaluation.custom import measured
from jaxunlearn.evaluation.divergences import js_divergence, kl_divergence
from jaxunlearn.evaluation.predictions import Predictions, SplitPredictions, check_predictions
from jaxunlearn.files import whole
from jaxunlearn.types import InputError

ATTACKS: tuple[str, ...] = ("svc_non_member_rate", "entropy_member_rate")
_ACCURACIES = ("forget_accuracy", "retain_accuracy", "test_accuracy")


def accuracy(predictions: Predictions) -> float:
    """Share of examples whose most probable class is the true one, in percent.

    Args:
        predictions: `probabilities [N, C]` and `labels [N]`.

    Returns:
        A number from 0 to 100.

    Raises:
        InputError: malformed predictions.

    Example:
        >>> accuracy(Predictions(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1])))
        50.0
    """
    checked = check_predictions(predictions, "evaluated")
    return 100.0 * float(np.mean(checked.probabilities.argmax(axis=1) == checked.labels))


def _distances(
    metrics: Mapping[str, float], retrained: Mapping[str, float], *names: str
) -> np.ndarray:
    """The absolute differences of these numbers."""
    return np.abs(_values(metrics, names) - _values(retrained, names))


def _values(metrics: Mapping[str, float], names: tuple[str, ...]) -> np.ndarray:
    missing = [name for name in names if name not in metrics]
    if missing:
        raise InputError(
            f"the metrics lack {', '.join(missing)}, but must have them for a comparison with the "
            "retrained model; evaluate both models on all splits."
        )
    return np.array([metrics[name] for name in names], np.float64)


def average_gap(metrics: Mapping[str, float], retrained: Mapping[str, float], attack: str) -> float:
    """Mean distance to the retrained model over FA, RA, TA and one attack.

    Args:
        metrics: numbers of the model in percent, from `evaluate`.
        retrained: numbers of the retrained model.
        attack: name of the attack, "svc_non_member_rate" or "entropy_member_rate".

    Returns:
        Percentage points; 0 is best.

    Raises:
        InputError: an unknown attack or missing numbers.

    Example:
        >>> model = {"forget_accuracy": 98.0, "retain_accuracy": 100.0, "test_accuracy": 94.0}
        >>> oracle = {"forget_accuracy": 95.0, "retain_accuracy": 100.0, "test_accuracy": 95.0}
        >>> model["svc_non_member_rate"], oracle["svc_non_member_rate"] = 9.0, 13.0
        >>> average_gap(model, oracle, attack="svc_non_member_rate")
        2.0
    """
    if attack not in ATTACKS:
        raise InputError(f"attack is {attack!r}, but must be one of {', '.join(ATTACKS)}.")
    return float(np.mean(_distances(metrics, retrained, *_ACCURACIES, attack)))


def five_part_gap(metrics: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """Mean distance to the retrained model over FA, RA, TA and both attacks.

    The two attacks see different features, and a model may look retrained to only one of them.

    Args:
        metrics: numbers of the model in percent, from `evaluate`.
        retrained: numbers of the retrained model.

    Returns:
        Percentage points; 0 is best.

    Raises:
        InputError: missing numbers.

    Example:
        >>> oracle = {"forget_accuracy": 95.0, "retain_accuracy": 100.0, "test_accuracy": 95.0}
        >>> oracle |= {"svc_non_member_rate": 13.0, "entropy_member_rate": 75.0}
        >>> five_part_gap(oracle | {"forget_accuracy": 98.0, "entropy_member_rate": 68.0}, oracle)
        2.0
    """
    return float(np.mean(_distances(metrics, retrained, *_ACCURACIES, *ATTACKS)))


def tug_of_war(metrics: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """Tug of war (ToW): the product of one minus the distance of each accuracy to the oracle's.

    Args:
        metrics: accuracies of the model in percent, from `evaluate`.
        retrained: accuracies of the retrained model.

    Returns:
        A number from 0 to 1; 1 is best.

    Raises:
        InputError: missing accuracies.

    Example:
        >>> oracle = {"forget_accuracy": 90.0, "retain_accuracy": 100.0, "test_accuracy": 90.0}
        >>> model = {**oracle, "forget_accuracy": 100.0, "test_accuracy": 80.0}
        >>> round(tug_of_war(model, oracle), 6)
        0.81
    """
    return float(np.prod(1.0 - _distances(metrics, retrained, *_ACCURACIES) / 100.0))


def distances(metrics: Mapping[str, float], retrained: Mapping[str, float]) -> dict[str, float]:
    """All distances between the metrics of two models: the gaps and ToW.

    Args:
        metrics: numbers of the model in percent, from `evaluate`.
        retrained: numbers of the retrained model.

    Returns:
        A dict with "average_gap_svc_non_member_rate", "average_gap_entropy_member_rate",
        "five_part_gap" and "tow".

    Raises:
        InputError: missing numbers.
    """
    gaps = {f"average_gap_{attack}": average_gap(metrics, retrained, attack) for attack in ATTACKS}
    gaps["five_part_gap"] = five_part_gap(metrics, retrained)
    return {**gaps, "tow": tug_of_war(metrics, retrained)}


def divergences(model: SplitPredictions, retrained: SplitPredictions) -> dict[str, float]:
    """Both divergences from the retrained model on the forget data.

    Args:
        model: predictions of the model.
        retrained: predictions of the retrained model for the same examples.

    Returns:
        A dict with "kl_to_retrained" and "js_to_retrained", in nats.

    Raises:
        InputError: the models were evaluated on different forget data.
    """
    if not np.array_equal(np.asarray(model.forget.labels), np.asarray(retrained.forget.labels)):
        raise InputError(
            f"the model has {len(model.forget.labels)} forget examples and the retrained model "
            f"{len(retrained.forget.labels)} with other labels, but both must have the same "
            "examples; use the retrained model of the same forget request and seed."
        )
    p, q = retrained.forget.probabilities, model.forget.probabilities
    return {"kl_to_retrained": kl_divergence(p, q), "js_to_retrained": js_divergence(p, q)}


def evaluate(
    model: SplitPredictions,
    retrained: SplitPredictions | None = None,
    retrained_metrics: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """All metrics of a model, and its distances to the retrained model if given.

    The attack of `svc_non_member_rate` is fitted on the confidence of as many retain as test
    examples (see `same_number`); the attack of `entropy_member_rate` on all of them.

    Args:
        model: predictions of the model on every split.
        retrained: predictions of the retrained model on the same splits.
        retrained_metrics: result of `evaluate(retrained)`, if known, to fit the attacks to the
            retrained model only once.

    Returns:
        A dict, in percent from 0 to 100: "forget_accuracy", "retain_accuracy",
        "validation_accuracy" (if there are validation examples), "test_accuracy",
        "test_forget_accuracy" (if there are test examples of forgotten classes),
        "svc_non_member_rate", "entropy_member_rate". With a retrained model also "kl_to_retrained"
        and "js_to_retrained" (nats, on forget data), "average_gap_svc_non_member_rate",
        "average_gap_entropy_member_rate" and "five_part_gap" (percentage points) and "tow" (0 to
        1). Last the custom metrics and attacks that are registered.

    Raises:
        InputError: malformed predictions, an empty forget, retain or test split, a retrained model
            that was evaluated on other examples, or a custom metric that fails.
    """
    metrics = {}
    for name in ("forget", "retain", "validation", "test", "test_forget"):
        predictions = getattr(model, name)
        if name in ("validation", "test_forget") and len(predictions.labels) == 0:
            continue
        metrics[f"{name}_accuracy"] = accuracy(check_predictions(predictions, name))
    count = min(len(model.retain.labels), len(model.test.labels))
    members, others = (same_number(part, count) for part in (model.retain, model.test))
    metrics["svc_non_member_rate"] = 100.0 * svc_non_member_rate(members, others, model.forget)
    metrics["entropy_member_rate"] = 100.0 * entropy_member_rate(
        model.retain, model.test, model.forget
    )
    if retrained is not None:
        if retrained_metrics is None:
            retrained_metrics = evaluate(retrained)
        metrics.update(divergences(model, retrained))
        metrics.update(distances(metrics, retrained_metrics))
    return metrics | measured(model, retrained)


def weights_moved(before: Any, after: Any) -> float:
    """The norm of the change of all parameters, in percent of their norm before.

    Args:
        before: tree of parameters.
        after: tree of the same structure.

    Returns:
        `100 ||after - before|| / ||before||`; 0 for parameters that were all zero.

    Example:
        >>> weights_moved({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 4.5])})
        10.0
    """
    change = norm = 0.0
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        old, new = (whole(leaf).astype(np.float64) for leaf in (old, new))
        change, norm = change + np.sum((new - old) ** 2), norm + np.sum(old**2)
    return float(100.0 * np.sqrt(change / norm)) if norm else 0.0


def share_of_time(cost: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """The time of one run in percent of the time of another.

    Args:
        cost: "seconds" and "machine" of the run, where known.
        other: "seconds" and "machine" of the other run, where known.

    Returns:
        Percent; None if a time is unknown, or if the runs were on different machines.

    Example:
        >>> share_of_time({"seconds": 1.0}, {"seconds": 4.0})
        25.0
        >>> share_of_time({"seconds": 1.0, "machine": {"platform": "gpu"}}, {"seconds": 4.0})
    """
    if "seconds" not in cost or not other.get("seconds"):
        return None
    if (cost.get("machine") or {}) != (other.get("machine") or {}):
        return None
    return 100.0 * cost["seconds"] / other["seconds"]
