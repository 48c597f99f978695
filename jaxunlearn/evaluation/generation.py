"""What is said of generated images: by a classifier of their classes, by features of their looks.

A model that generates images of a class asked for has forgotten a class if a classifier no longer
finds it there: low accuracy on forgotten classes, and high entropy where the images show no class
at all. The other classes must stay as good as they were. None of these numbers has a good value of
its own: the goal is the value of the model retrained without the forget data, and the original
model's belongs beside it.

The classifier sees images that none of the models was trained to please it with; it must know all
classes, and its own accuracy on real images is the most that `generated_retain_accuracy` can mean.
"""

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
    """What a classifier says of generated images.

    Args:
        forget: the classifier's `probabilities [N, C]` on images that a forgotten class was asked
            for, and as `labels [N]` the classes asked for.
        retain: the same where another class was asked for.

    Returns:
        A dict, for "forget" and "retain" alike: "generated_forget_accuracy" (how often the most
        probable class is the one asked for, percent), "generated_forget_probability" (mean
        probability of the class asked for, 0 to 1) and "generated_forget_entropy" (mean entropy of
        the prediction, nats, from 0 where it is sure to log C where it sees nothing). Where several
        classes are forgotten, any of them counts as asked for, and their probabilities are added:
        who asks for an inverted sneaker and gets an upright one still sees a sneaker.

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
            f"class {both[0]} was asked for among the forgotten and among the retained classes, "
            "but must be one of them; divide the generated images by the class asked for."
        )
    metrics = {}
    for name, predictions in named.items():
        probabilities, labels = predictions
        of_asked = attack_feature(predictions, "confidence")
        if name == "forget":  # any forgotten class will do
            forgotten, seen = np.unique(labels), probabilities.argmax(axis=1)
            labels = np.where(np.isin(seen, forgotten), seen, labels)
            of_asked = probabilities[:, forgotten].sum(axis=1)
        metrics[f"generated_{name}_accuracy"] = accuracy(Predictions(probabilities, labels))
        metrics[f"generated_{name}_probability"] = float(of_asked.mean())
        entropy = attack_feature(predictions, "entropy")
        metrics[f"generated_{name}_entropy"] = float(entropy.mean())
    return metrics


class RealImages(NamedTuple):
    """What generated images are compared with, made once for all models.

    Attributes:
        features: of real images of the retained classes.                 # shape=(N, D)
        statistics: the Gaussian fitted to them.
        radii: squared distance of each to its third nearest neighbour.   # shape=(N,)
        floor: the Frechet distance between two random halves of them.
    """

    features: np.ndarray
    statistics: Statistics
    radii: np.ndarray
    floor: float


def describe_real(features: Any, name: str) -> RealImages:
    """What `compare_generated` needs of real images.

    Args:
        features: `[N, D]` of real images of the retained classes, N at least 2 D + 2.
        name: what the features are called.

    Returns:
        The `RealImages`.

    Raises:
        InputError: malformed features, or too few images.
    """
    fitted, floor = statistics(features, name), halves_distance(features)
    return RealImages(np.asarray(features), fitted, squared_radii(features), floor)


def compare_generated(real: RealImages, generated: Any) -> dict[str, float]:
    """How much generated images of the retained classes look like real ones.

    Report the features' name and dimension and both numbers of images with these, and the same for
    the original model.

    Args:
        real: real images of the retained classes, by `describe_real`.
        generated: features `[M, D]` of images generated when these classes were asked for.

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
