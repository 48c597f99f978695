"""Two published membership attacks on forgotten data.

An attacker is fitted to separate training examples (members: retain data) from unseen ones
(non-members: test data) by the outputs of the model, and is then applied to the forget data. The
two attacks differ in the classifier, the feature, and the DIRECTION:

- `svc_non_member_rate`: support vectors with a radial kernel (C 3, gamma one over the number of
  features) on the confidence in the true class; the share of forget data called NON-member. Used
  by Fan et al., "SalUn", ICLR 2024, and in comparisons with it.
- `entropy_member_rate`: class-balanced logistic regression on the entropy of the prediction; the
  share of forget data called MEMBER. Used by Huang et al., "Unified Gradient-Based Machine
  Unlearning with Remain Geometry Enhancement", NeurIPS 2024.

The two are not comparable, and the goal of both is the value of the model retrained without the
forget data.

Features, for a prediction p and the true class y:
    correctness       1[argmax p = y]
    confidence        p_y
    entropy           -sum_i p_i log p_i
    modified_entropy  -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i)
    probability       all of p
The modified entropy is by Song and Mittal, "Systematic Evaluation of Privacy Risks of Machine
Learning Models", USENIX Security 2021. It is 0 for a confident right answer and large for a
confident wrong one; the entropy is the same for both.
"""

from collections.abc import Callable

import numpy as np

from jaxunlearn.evaluation.logistic import balanced_logistic_regression
from jaxunlearn.evaluation.predictions import Predictions, check_predictions
from jaxunlearn.evaluation.support_vectors import support_vector_machine
from jaxunlearn.names import closest
from jaxunlearn.types import InputError

_TINY = 1e-30


def _true_class(predictions: Predictions) -> np.ndarray:
    return predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, _TINY))


def _correctness(predictions: Predictions) -> np.ndarray:
    return (predictions.probabilities.argmax(axis=1) == predictions.labels).astype(np.float64)


def _entropy(predictions: Predictions) -> np.ndarray:
    return -(predictions.probabilities * _log(predictions.probabilities)).sum(axis=1)


def _modified_entropy(predictions: Predictions) -> np.ndarray:
    true = _true_class(predictions)
    others = predictions.probabilities.copy()
    others[np.arange(len(true)), predictions.labels] = 0.0
    return -(1.0 - true) * _log(true) - (others * _log(1.0 - others)).sum(axis=1)


_FEATURES: dict[str, Callable[[Predictions], np.ndarray]] = {
    "correctness": _correctness,
    "confidence": _true_class,
    "entropy": _entropy,
    "modified_entropy": _modified_entropy,
    "probability": lambda predictions: predictions.probabilities,
}
FEATURES: tuple[str, ...] = tuple(_FEATURES)


def attack_feature(predictions: Predictions, feature: str) -> np.ndarray:
    """A feature of predictions; the formulas are at the top of the module.

    Args:
        predictions: `probabilities [N, C]` and `labels [N]`.
        feature: name of the feature, one of `FEATURES`.

    Returns:
        Values `[N, F]`; F is C for "probability" and 1 for the others.

    Raises:
        InputError: an unknown feature, or malformed predictions.

    Example:
        >>> right = Predictions(np.array([[0.9, 0.1]]), np.array([0]))
        >>> wrong = Predictions(np.array([[0.9, 0.1]]), np.array([1]))
        >>> for name in ("entropy", "modified_entropy"):
        ...     print(name, *(round(attack_feature(p, name).item(), 3) for p in (right, wrong)))
        entropy 0.325 0.325
        modified_entropy 0.021 4.145
    """
    if feature not in _FEATURES:
        raise InputError(
            f"feature is {feature!r}{closest(feature, FEATURES)}, but must be one of "
            f"{', '.join(FEATURES)}."
        )
    checked = check_predictions(predictions, "attacked")
    return _FEATURES[feature](checked).reshape(len(checked.labels), -1)


def _features(feature: str, **predictions: Predictions) -> list[np.ndarray]:
    """A feature of predictions by name, which must all have the same number of classes."""
    checked = [check_predictions(given, name) for name, given in predictions.items()]
    widths = {n: p.probabilities.shape[1] for n, p in zip(predictions, checked, strict=True)}
    if len(set(widths.values())) != 1:
        raise InputError(
            f"the predictions have {widths} classes, but must all have the same number."
        )
    return [attack_feature(given, feature) for given in checked]


def _examples(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features of both, and their classes, 1 for members."""
    return np.concatenate([members, others]), np.repeat([1, 0], [len(members), len(others)])


def svc_non_member_rate(
    retain: Predictions, test: Predictions, forget: Predictions, feature: str = "confidence"
) -> float:
    """Share of the forget data that a support vector attack calls non-members.

    The attack is fitted on all given retain examples against all test examples. Published values
    use as many members as non-members; `same_number` chooses them.

    Args:
        retain: predictions for the members.
        test: predictions for the non-members.
        forget: predictions for the forget data.
        feature: feature of the attack, one of `FEATURES`; published values use "confidence".

    Returns:
        A share from 0 (all called members) to 1 (all called non-members).

    Raises:
        InputError: an unknown feature, or malformed predictions.

    Example:
        >>> sure, unsure = np.tile([0.99, 0.01], (20, 1)), np.tile([0.6, 0.4], (20, 1))
        >>> labels = np.zeros(20, int)
        >>> member, other = Predictions(sure, labels), Predictions(unsure, labels)
        >>> svc_non_member_rate(member, other, member), svc_non_member_rate(member, other, other)
        (0.0, 1.0)
    """
    members, others, asked = _features(feature, retain=retain, test=test, forget=forget)
    examples, member = _examples(members, others)
    if asked.shape[1] == 1:
        decide = support_vector_machine(examples[:, 0], member, cost=3.0)
        return float(np.mean(decide(asked[:, 0]) < 0))
    from sklearn.svm import SVC

    classifier = SVC(C=3.0, gamma="auto", kernel="rbf").fit(examples, member)
    return float(np.mean(classifier.predict(asked) == 0))


def entropy_member_rate(retain: Predictions, test: Predictions, forget: Predictions) -> float:
    """Share of the forget data that a logistic attack on the entropy calls members.

    The attack is fitted on all retain against all test examples, weighted so that both count the
    same.

    Args:
        retain: predictions for the members.
        test: predictions for the non-members.
        forget: predictions for the forget data.

    Returns:
        A share from 0 (all called non-members) to 1 (all called members).

    Raises:
        InputError: malformed predictions.

    Example:
        >>> sure, unsure = np.tile([0.99, 0.01], (20, 1)), np.tile([0.6, 0.4], (20, 1))
        >>> labels = np.zeros(20, int)
        >>> member, other = Predictions(sure, labels), Predictions(unsure, labels)
        >>> entropy_member_rate(member, other, member), entropy_member_rate(member, other, other)
        (1.0, 0.0)
    """
    members, others, asked = _features("entropy", retain=retain, test=test, forget=forget)
    examples, member = _examples(members, others)
    decide = balanced_logistic_regression(examples[:, 0], member)
    return float(np.mean(decide(asked[:, 0]) > 0))


def exposure_auc(retain: Predictions, unseen: Predictions) -> float:
    """The AUC with which the confidence in the true class tells retained from unseen examples.

    Unlearning can expose the examples that stay. The goal is the retrained model's value: anything
    above it is a risk that unlearning has added (Fu et al., Revisiting Privacy Leakage in Machine
    Unlearning, arXiv 2605.01129, whose attack also sees the model before unlearning).

    Args:
        retain: predictions for retained training examples.
        unseen: predictions for examples that the model never saw.

    Returns:
        Percent; 50 is a coin toss, and ties count half.

    Raises:
        InputError: malformed predictions.

    Example:
        >>> sure, unsure = np.tile([0.9, 0.1], (4, 1)), np.tile([0.6, 0.4], (4, 1))
        >>> labels = np.zeros(4, int)
        >>> exposure_auc(Predictions(sure, labels), Predictions(unsure, labels))
        100.0
    """
    from sklearn.metrics import roc_auc_score

    members, others = _features("confidence", retain=retain, unseen=unseen)
    examples, member = _examples(members, others)
    return 100.0 * float(roc_auc_score(member, examples[:, 0]))


def same_number(predictions: Predictions, count: int) -> Predictions:
    """A fixed random choice of `count` examples, in the original order; all, if there are fewer.

    The released code takes the first examples, which are the first classes where data is stored
    class by class.

    Example:
        >>> members = Predictions(np.full((9, 2), 0.5), np.arange(9) % 2)
        >>> same_number(members, 4).probabilities.shape
        (4, 2)
    """
    total = len(predictions.labels)
    chosen = np.sort(np.random.default_rng(0).permutation(total)[:count])
    return Predictions(
        np.asarray(predictions.probabilities)[chosen], np.asarray(predictions.labels)[chosen]
    )
