"""The settings that methods share, by their meanings and limits."""

import dataclasses
from typing import Literal

from jaxunlearn.methods._limits import (
    Count,
    CountOrZero,
    Decay,
    Guidance,
    NotNegative,
    Positive,
    Share,
)
from jaxunlearn.methods.optimizers import OptimizerName, ScheduleName


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """The settings that all methods share.

    Attributes:
        num_steps: number of steps.
        forget_batch_size: number of forget examples in a step.
        retain_batch_size: number of examples in each retain batch of a step.
        optimizer: optimizer of the method.
        learning_rate: peak learning rate of the optimizer.
        learning_rate_schedule: schedule of the learning rate over the run.
        momentum: momentum of SGD; for AdamW, the decay of the first moment.
        weight_decay: weight decay, coupled for SGD and decoupled for AdamW.
    """

    num_steps: Count = 100
    forget_batch_size: Count = 64
    retain_batch_size: Count = 128
    optimizer: OptimizerName = "sgd"
    learning_rate: NotNegative = 0.01
    learning_rate_schedule: ScheduleName = "cosine"
    momentum: Share = 0.9
    weight_decay: NotNegative = 5e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """The settings of the guard, for any method but `retrain`.

    Attributes:
        guard_budget: largest rise of the held-out retain loss; without it, there is no guard.
        guard_every: number of steps between two audits of the guard.
    """

    guard_budget: NotNegative = 0.0
    guard_every: Count = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionalSettings:
    """Settings which a run has only if they are given.

    Attributes:
        clip_norm: largest global norm of the gradients, for any optimizer; without it, only
            clipped_adamw clips. Methods with a `clip_norm` of their own keep its meaning.
        ema: decay of an average of the weights, such as 0.999, for pretraining and retraining; the
            average then takes the place of the last weights.
        forget_weight: weight of the forget loss in the gradient; the multiplier and the metrics see
            the loss itself.
        retain_weight: weight of the retain loss in the gradient, likewise.
        joint_batch: whether the forget and the retain examples of a step pass the network together,
            with the same batch statistics, which then enter the running ones.
        keep_weight: weight of the distance of the confidences in retain examples from the original
            model's, a part of the retain loss: see `objectives.retain_loss`.
        saliency_fraction: fraction of the parameters that may move: those with the largest summed
            forget gradients, as in salun.
        fisher_clip_norm: largest norm of the gradients that the Fisher diagonals square.
        rewind: share of the pretraining's steps after which the run starts, from the weights of
            that step; the schedule of the learning rate begins at the same share of its course.
    """

    clip_norm: Positive = 1.0
    ema: Decay = 0.999
    forget_weight: NotNegative = 0.1
    retain_weight: NotNegative = 0.9
    joint_batch: bool = True
    keep_weight: NotNegative = 0.1
    saliency_fraction: Share = 0.5
    fisher_clip_norm: Positive = 1.0
    rewind: Share = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """Settings of forget objectives, which a run has only if they are given.

    Attributes:
        anchor_guidance: weight w of classifier-free guidance in the target of match_anchor,
            `(1 + w) out(anchor) - w out(null)`.
        negative_guidance: strength eta of the guidance away from the class in the objectives esd
            (by default 1) and spm (by default 2).
        retain_objective: distance that takes the place of the retain loss: match_original, the
            distance of the outputs from those of the original model.
        teacher_share: share of the steps of pretraining for which a teacher, of match_ranked,
            track_ranked or match_teachers, is trained on retain data alone (by default 0.1).
        teacher_rate: peak learning rate of the teachers, as a multiple of that of pretraining (by
            default 1 for match_teachers, whose teachers start from new weights, and 2 for the
            others, which start from the original model's).
        teacher_weight: weight of the teachers' confidences against the original model's, in
            match_ranked and track_ranked (by default 0.5).
        num_teachers: number of teachers, whose ranks or confidences are averaged (by default 1).
        adversarial_steps: number of steps, before each step of the method, of an adversary that
            seeks the embedding of the forgotten images; match_anchor is descended there too.
        revival_steps: number of steps on retain data after which an attacker inside the run starts
            again from the weights of the run; the objective is descended at its weights too.
        revival_rate: learning rate of this attacker (by default the learning rate of the run).
    """

    anchor_guidance: Guidance = 2.0
    negative_guidance: NotNegative = 1.0
    retain_objective: Literal["match_original"] = "match_original"
    teacher_share: Share = 0.1
    teacher_rate: Positive = 2.0
    teacher_weight: Share = 0.5
    num_teachers: Count = 1
    adversarial_steps: CountOrZero = 1
    revival_steps: CountOrZero = 10
    revival_rate: Positive = 1e-3
