"""The columns of the results table: name, meaning in plain words, and direction."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxunlearn.evaluation.units import Unit, unit_of
from jaxunlearn.studies.report.numerals import significant_decimals

Direction = Literal["near", "low", "high", "cost", "neither"]

DIRECTIONS: dict[Direction, str] = {
    "near": "near retrained",
    "low": "lower is better",
    "high": "higher is better",
    "cost": "lower is cheaper",
    "neither": "neither is better",
}


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        key: name in results.json.
        group: heading that neighbouring columns share.
        title: heading of the column itself, below the group's.
        short: heading for narrow terminals.
        decimals: number of digits after the point, or the largest number for costs and movements.
        direction: the good values: near the retrained model's, low, high, cheap, or neither.
        meaning: explanation for the legend.
        own_unit: unit of the user's metric; None for others.
    """

    key: str
    group: str
    title: str
    short: str
    decimals: int
    direction: Direction
    meaning: str
    own_unit: Unit | None = None

    @property
    def unit(self) -> Unit:
        """The unit of its numbers."""
        return self.own_unit or unit_of(self.key)

    def digits(self, value: float) -> int:
        """The number of digits after the point of a value; costs have three significant digits."""
        if self.direction in ("cost", "neither"):
            return min(self.decimals, significant_decimals(value))
        return self.decimals


_GROUPS = (
    "Accuracy, %",
    "Attacks on forget data, %",
    "A classifier on generated images",
    "Forgotten class seen after an attack, %",
    "Generated images of the other classes beside real ones",
    "Distance to the retrained model",
    "Metrics of plug-ins",
    "Cost",
)
ACCURACY, ATTACK, GENERATED, REVIVED, LOOKS, DISTANCE, OWN, COST = _GROUPS

_SEEN = (
    "Share of the images generated for a forgotten class in which the classifier sees one, after"
)
# The attacks of `jaxunlearn revive`: title, heading for narrow terminals, and meaning.
REVIVALS: dict[str, tuple[str, str, str]] = {
    "revival": (
        "Revival",
        "revival",
        f"{_SEEN} the attacker has trained all weights on retain data alone.",
    ),
    **{
        f"relearning_{count}": (
            f"Relearning, {count} image{'s' * (count > 1)}",
            f"relearn\n{count}",
            f"{_SEEN} the attacker has trained all weights on {count} forget "
            f"image{'s' * (count > 1)}.",
        )
        for count in (1, 10, 100)
    },
    "inversion": (
        "Inversion",
        "inver-\nsion",
        f"{_SEEN} the attacker has trained the embeddings of the forgotten classes, or the hidden "
        "states of their prompts, on forget images; the weights do not move.",
    ),
    "token_inversion": (
        "Inverted tokens",
        "inv.\ntokens",
        f"{_SEEN} the attacker has trained the embeddings of tokens that only forgotten prompts "
        "have, on forget images.",
    ),
    "old_embeddings": (
        "Old embeddings",
        "old\nembed.",
        f"{_SEEN} the attacker has put back the original model's embeddings of classes or hidden "
        "states of prompts.",
    ),
    "revival_old_embeddings": (
        "Old, then revival",
        "old +\nrevival",
        f"{_SEEN} the attacker has put back the original model's embeddings of classes or hidden "
        "states of prompts, and then trained the other weights on retain data alone.",
    ),
    "paraphrases": (
        "Paraphrases",
        "para-\nphrases",
        f"{_SEEN} the attacker has asked for the words of the forgotten prompts in two other "
        "orders.",
    ),
}

COLUMNS: tuple[Column, ...] = (
    Column(
        "forget_accuracy",
        ACCURACY,
        "Forget (FA)",
        "FA",
        2,
        "near",
        "Share of the forget data classified correctly. The retrained model never saw these "
        "examples, yet classifies many of them correctly: a lower share means too much forgetting, "
        "a higher one too little.",
    ),
    Column(
        "retain_accuracy",
        ACCURACY,
        "Retain (RA)",
        "RA",
        2,
        "near",
        "Share of the retain data, all other training data, classified correctly.",
    ),
    Column(
        "test_accuracy",
        ACCURACY,
        "Test (TA)",
        "TA",
        2,
        "near",
        "Share of the test data classified correctly, without forgotten classes.",
    ),
    Column(
        "test_forget_accuracy",
        ACCURACY,
        "Test, forgotten classes",
        "TA\nforgot.",
        2,
        "near",
        "Share of the test examples of the forgotten classes classified correctly: about 0 for "
        "a model that never saw the class.",
    ),
    Column(
        "svc_non_member_rate",
        ATTACK,
        "svc_non_member_rate",
        "svc\nnon-\nmember",
        2,
        "near",
        "Share of the forget data that a support vector attacker calls NON-members. The attacker "
        "is trained to tell retain data from test data by the confidence in the true class, on "
        "equal numbers of both. Higher: more examples look forgotten.",
    ),
    Column(
        "entropy_member_rate",
        ATTACK,
        "entropy_member_rate",
        "entropy\nmember",
        2,
        "near",
        "Share of the forget data that a logistic attacker calls MEMBERS. The attacker is "
        "trained to tell all retain data from test data by the entropy of the prediction. Higher: "
        "more examples look remembered. The direction is opposite to svc_non_member_rate, so the "
        "two cannot be compared.",
    ),
    Column(
        "generated_forget_accuracy",
        GENERATED,
        "Forgotten class seen, %",
        "forgot.\nseen",
        2,
        "near",
        "Share of the images generated for a forgotten class in which the classifier sees a "
        "forgotten class. The retrained model never saw one.",
    ),
    Column(
        "generated_forget_probability",
        GENERATED,
        "its probability",
        "prob.",
        3,
        "near",
        "Mean probability of the forgotten classes on these images, from 0 to 1.",
    ),
    Column(
        "generated_forget_entropy",
        GENERATED,
        "entropy, nats",
        "entropy",
        3,
        "near",
        "Mean entropy of the classifier on these images: high for images without a clear class.",
    ),
    Column(
        "generated_retain_accuracy",
        GENERATED,
        "Other classes seen, %",
        "others\nseen",
        2,
        "near",
        "Share of the images of all other classes in which the classifier sees the requested "
        "class.",
    ),
    Column(
        "nearest_accuracy",
        GENERATED,
        "Nearest prompts seen, %",
        "near\nseen",
        2,
        "near",
        "The same share of the images of those kept prompts that have the most words in common "
        "with a forgotten one: damage beside the target.",
    ),
    Column(
        "in_domain_accuracy",
        GENERATED,
        "In-domain (IRA), %",
        "IRA",
        2,
        "near",
        "Where a style is forgotten: share of the images of kept prompts in which the classifier "
        "sees the requested style, with any subject. Where a subject is forgotten: the requested "
        "subject, in any style.",
    ),
    Column(
        "cross_domain_accuracy",
        GENERATED,
        "Cross-domain (CRA), %",
        "CRA",
        2,
        "near",
        "The other way round: the requested subject where a style is forgotten, the requested "
        "style where a subject is forgotten.",
    ),
    *(
        Column(f"seen_after_{name}", REVIVED, *texts[:2], 1, "near", texts[2])
        for name, texts in REVIVALS.items()
    ),
    Column(
        "frechet_retain",
        LOOKS,
        "Frechet distance",
        "Frechet",
        3,
        "low",
        "Frechet distance between generated images of the other classes and all real retain "
        "images, by the features named above. Distances by other features or numbers of images "
        "cannot be compared with it.",
    ),
    Column(
        "frechet_ratio",
        LOOKS,
        "Frechet distance / original's",
        "/ orig.",
        2,
        "low",
        "The same distance divided by the original model's of the same seed. Above 1: forgetting "
        "one class has harmed the others.",
    ),
    Column(
        "frechet_floor",
        LOOKS,
        "Frechet distance of real halves",
        "floor",
        3,
        "near",
        "The same distance between two random halves of the real images: differences below it mean "
        "nothing.",
    ),
    Column(
        "precision_retain",
        LOOKS,
        "Precision",
        "prec.",
        3,
        "high",
        "Share of these generated images among real ones, by nearest neighbours (k = 3).",
    ),
    Column(
        "recall_retain",
        LOOKS,
        "Recall",
        "recall",
        3,
        "high",
        "Share of the real images among generated ones, by the same neighbours.",
    ),
    Column(
        "kl_to_retrained",
        DISTANCE,
        "KL, nats",
        "KL",
        3,
        "low",
        "Kullback-Leibler divergence of the predictions on forget data, with the retrained model's "
        "prediction first, mean over examples.",
    ),
    Column(
        "js_to_retrained",
        DISTANCE,
        "JS, nats",
        "JS",
        3,
        "low",
        "Jensen-Shannon divergence of the same predictions: symmetric, at most 0.693.",
    ),
    Column(
        "five_part_gap",
        DISTANCE,
        "Five-part gap",
        "5-part\ngap",
        2,
        "low",
        "Mean absolute difference to the retrained model, in percentage points, over forget, "
        "retain and test accuracy, svc_non_member_rate and entropy_member_rate.",
    ),
    Column(
        "average_gap_svc_non_member_rate",
        DISTANCE,
        "Average gap by svc_non_member_rate",
        "gap\nby svc",
        2,
        "low",
        "Mean absolute difference to the retrained model, in percentage points, over forget, "
        "retain and test accuracy and svc_non_member_rate.",
    ),
    Column(
        "average_gap_entropy_member_rate",
        DISTANCE,
        "Average gap by entropy_member_rate",
        "gap by\nentropy",
        2,
        "low",
        "The same mean with entropy_member_rate as its fourth part.",
    ),
    Column(
        "tow",
        DISTANCE,
        "Tug of war (ToW)",
        "ToW",
        3,
        "high",
        "Product of one minus the difference to the retrained model in forget, retain and test "
        "accuracy: 1 where all three are equal.",
    ),
    Column(
        "seconds",
        COST,
        "Seconds",
        "s",
        3,
        "cost",
        "Wall-clock time of the whole run, with masks and Fisher information, without "
        "compilation. Times of different machines cannot be compared.",
    ),
    Column(
        "share_of_retraining",
        COST,
        "% of retraining",
        "% of\nretrain",
        3,
        "cost",
        "The same time in percent of the time of retraining from scratch.",
    ),
    Column(
        "weights_moved",
        COST,
        "Weights moved, %",
        "moved\n%",
        3,
        "neither",
        "Norm of the change of all weights, in percent of the norm of the weights before.",
    ),
)


def with_own(own: Mapping[str, Mapping[str, Any]]) -> tuple[Column, ...]:
    """All columns, with the metrics and attacks of the user, from `evaluation.custom.records`."""
    made = (_own(name, record) for name, record in own.items())
    return tuple(sorted((*COLUMNS, *made), key=lambda column: _GROUPS.index(column.group)))


def _own(name: str, record: Mapping[str, Any]) -> Column:
    attack = record["kind"] == "attack"
    low, high = record["low"], record["high"]
    unit = Unit(
        record["unit"], -math.inf if low is None else low, math.inf if high is None else high
    )
    return Column(
        name,
        ATTACK if attack else OWN,
        name if attack or not unit.name else f"{name}, {unit.name}",
        name.replace("_", "\n"),
        2 if unit.name == "%" else 3,
        record["direction"],
        record["about"] or "No docstring explains it.",
        unit,
    )


REFERENCES: dict[str, tuple[str, str]] = {
    "original": ("Original", "before unlearning"),
    "retrain": ("Retrained", "the goal"),
    "retrain-again": ("Retrained again", "other seed: the floor"),
}

REFERENCE_MEANINGS: dict[str, str] = {
    "original": "The model trained on everything, before anything was forgotten.",
    "retrain": "The model retrained from scratch without the forget data: the goal of unlearning.",
    "retrain-again": "The same training with another seed. Its distance to the retrained model is "
    "due to chance alone: smaller differences between methods mean nothing.",
}
