"""Metrics of generated images: their classes by a classifier, their quality by features.

A model has forgotten a class if a classifier no longer finds it in images that were generated for
it: low accuracy on forgotten classes, and high entropy if the images show no class at all. The
other classes must stay as good as before. The goal of each number is the value of the model
retrained without the forget data, to be read beside the value of the original model.

The classifier must know all classes, and no model may have been trained against it; its accuracy on
real images is the upper limit of `generated_retain_accuracy`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.evaluation.attacks import attack_feature
from jaxunlearn.evaluation.frechet import (
    Statistics,
    frechet_distance,
    halves_distance,
    statistics,
)
from jaxunlearn.evaluation.metrics import accuracy
from jaxunlearn.evaluation.precision_recall import precision_recall, squared_radii
from jaxunlearn.evaluation.predictions import Predictions, check_predictions
from jaxunlearn.types import InputError


def classify_generated(forget: Predictions, retain: Predictions) -> dict[str, float]:
    """Numbers from the predictions of a classifier for generated images.

    Args:
        forget: predictions of the classifier for images of forgotten classes, with the requested
            classes as `labels [N]`.
        retain: predictions for images of other classes, likewise.

    Returns:
        A dict, for "forget" and "retain" alike: "generated_forget_accuracy" (share of images whose
        most probable class is the requested one, percent), "generated_forget_probability" (mean
        probability of the requested class, 0 to 1) and "generated_forget_entropy" (mean entropy of
        the prediction in nats, from 0 for a sure one to log C for an image of no class). Any of
        several forgotten classes counts as the requested one, and their probabilities are added:
        an upright sneaker in place of an inverted one is still a sneaker.

    Raises:
        InputError: malformed predictions, or a class that is both forgotten and kept.

    Example:
        >>> forget = Predictions(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([1, 1]))
        >>> retain = Predictions(np.array([[1.0, 0.0]]), np.array([0]))
        >>> found = classify_generated(forget, retain)
        >>> found["generated_forget_probability"], found["generated_retain_accuracy"]
        (0.25, 100.0)
    """
    named = {
        "forget": check_predictions(forget, "generated forget"),
        "retain": check_predictions(retain, "generated retain"),
    }
    both = np.intersect1d(named["forget"].labels, named["retain"].labels)
    if len(both):
        raise InputError(
            f"class {both[0]} is among the forgotten and among the retained classes, but must be "
            "in one group only; divide the generated images by the requested class."
        )
    metrics = {}
    for name, predictions in named.items():
        probabilities, labels = predictions
        of_asked = attack_feature(predictions, "confidence")
        if name == "forget":  # any forgotten class counts
            forgotten, seen = np.unique(labels), probabilities.argmax(axis=1)
            labels = np.where(np.isin(seen, forgotten), seen, labels)
            of_asked = probabilities[:, forgotten].sum(axis=1)
        metrics[f"generated_{name}_accuracy"] = accuracy(Predictions(probabilities, labels))
        metrics[f"generated_{name}_probability"] = float(of_asked.mean())
        entropy = attack_feature(predictions, "entropy")
        metrics[f"generated_{name}_entropy"] = float(entropy.mean())
    return metrics


def keep_of_prompts(
    retain: Predictions, grid: np.ndarray, forgotten: Sequence[int], nearest: Sequence[int]
) -> dict[str, float]:
    """How well a model keeps the styles, the subjects and the neighbours of forgotten prompts.

    Args:
        retain: predictions of the classifier for images of kept prompts, with the requested prompts
            as `labels [N]`.
        grid: style and subject of each of C prompts, `[C, 2]`.
        forgotten: forgotten prompts.
        nearest: kept prompts that are nearest to them.

    Returns:
        A dict, all in percent of images: "nearest_accuracy" (the most probable prompt is the
        requested one, images of the nearest prompts alone); and if all prompts of some styles are
        forgotten, "in_domain_accuracy" (its style is right) and "cross_domain_accuracy" (its
        subject is right), or the other way round if all prompts of some subjects are forgotten.

    Example:
        >>> grid = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> retain = Predictions(np.eye(4)[[0, 3]], np.array([0, 1]))
        >>> keep_of_prompts(retain, grid, [2, 3], [1])
        {'nearest_accuracy': 0.0, 'in_domain_accuracy': 50.0, 'cross_domain_accuracy': 100.0}

    Reference: Zhang et al., UnlearnCanvas, NeurIPS 2024 (IRA and CRA).
    """
    seen, asked = np.asarray(retain.probabilities).argmax(axis=1), np.asarray(retain.labels)
    near = np.isin(asked, nearest)
    found = {"nearest_accuracy": 100.0 * float(np.mean((seen == asked)[near]))}
    for domain in (0, 1):
        gone = np.isin(grid[:, domain], grid[list(forgotten), domain])
        if np.array_equal(np.flatnonzero(gone), np.sort(forgotten)):
            right = 100.0 * (grid[seen] == grid[asked]).mean(axis=0)
            found["in_domain_accuracy"] = float(right[domain])
            found["cross_domain_accuracy"] = float(right[1 - domain])
    return found


class RealImages(NamedTuple):
    """Real images as features, computed once for all comparisons.

    Attributes:
        features: features of real images of the retained classes.        # shape=(N, D)
        statistics: Gaussian fitted to the features.
        radii: squared distance of each to its third nearest neighbour.   # shape=(N,)
        floor: Frechet distance between two random halves of the images.
    """

    features: np.ndarray
    statistics: Statistics
    radii: np.ndarray
    floor: float


def describe_real(features: Any, name: str) -> RealImages:
    """Real images of the retained classes, for `compare_generated`.

    Args:
        features: features `[N, D]` of the images, N at least 2 D + 2.
        name: name of the features.

    Raises:
        InputError: malformed features, or too few images.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(100, 2))
        >>> describe_real(features, "by hand").radii.shape
        (100,)
    """
    fitted, floor = statistics(features, name), halves_distance(features)
    return RealImages(np.asarray(features), fitted, squared_radii(features), floor)


def compare_generated(real: RealImages, generated: Any) -> dict[str, float]:
    """The similarity of generated and real images of the retained classes.

    Report it with the name and dimension of the features and both numbers of images, beside the
    numbers of the original model.

    Args:
        real: real images of the retained classes, from `describe_real`.
        generated: features `[M, D]` of images generated for these classes.

    Returns:
        A dict: "frechet_retain" (from 0, lower is better), "precision_retain" and "recall_retain"
        (0 to 1, higher is better), and "frechet_floor", the distance between two random halves of
        the real images.

    Raises:
        InputError: malformed features, different dimensions, or too few images.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(100, 2))
        >>> found = compare_generated(describe_real(features, "by hand"), features + 100.0)
        >>> round(found["frechet_retain"]), found["precision_retain"], found["recall_retain"]
        (20000, 0.0, 0.0)
    """
    distance = frechet_distance(real.statistics, statistics(generated, real.statistics.name))
    precision, recall = precision_recall(real.features, generated, real_radii=real.radii)
    return {
        "frechet_retain": distance,
        "precision_retain": precision,
        "recall_retain": recall,
        "frechet_floor": real.floor,
    }
