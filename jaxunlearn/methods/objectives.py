"""Forget objectives: losses to minimise on the forget data.

An objective is a function `(task, params, model_state, batch, key) -> scalar`. `loss_pair` pairs it
with the retain loss, for any surgery, aggregator or weighting.

    ascent             -mean_i l_i
    adaptive ascent    -mean_i c_i l_i,  c_i ~ 1 / (sg(l_i)^exponent + epsilon)      (SFR-on)
    random labels      mean_i l_i against random labels                               (SalUn, EUPMU)
    match unseen       mean_i huber(phi(l_(i)) - phi(u_(i))), u the losses of unseen examples
    track unseen       the same, with u under the current parameters
    match ranked       mean_i huber(phi(l_i) - phi(u_i)), u_i the loss of an unseen partner of i
    track ranked       track unseen, with the forget examples in the teachers' order
    match teachers     mean_i huber(phi(l_i) - t_i), t the confidences of teachers
    match class        mean_i KL(q_{y_i} || p_i), q_c the mean prediction of unseen examples (ReGUn)

with `phi(l) = log(p / (1 - p))`, `p = exp(-l)`: the logit of the confidence in the true label. The
last six stop by themselves: the gradient vanishes when forget examples look like unseen ones. So
do the others under `until_unseen`. Objectives that need unseen examples are in `_unseen.py`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxunlearn.methods._limits import Choices
from jaxunlearn.methods._unseen import Objective as Objective
from jaxunlearn.methods._unseen import check_partners as check_partners
from jaxunlearn.methods._unseen import (
    distance,
    forget_losses,
    match_class,
    match_ranked,
    match_teachers,
    match_unseen,
    track_ranked,
    track_unseen,
    until_unseen,
)
from jaxunlearn.methods._unseen import logit as logit
from jaxunlearn.methods._unseen import with_class_means as with_class_means
from jaxunlearn.methods._unseen import with_ranked as with_ranked
from jaxunlearn.methods._unseen import with_teachers as with_teachers
from jaxunlearn.methods._unseen import with_unseen as with_unseen
from jaxunlearn.names import closest
from jaxunlearn.transforms import adaptive_weights
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    LossPair,
    ModelState,
    Params,
    Task,
    example_keys,
)

Redraw = Literal["every_epoch", "once"]

_CONFIDENCE = "original_confidence"  # a leaf of retain data

_UNSEEN_OBJECTIVES = {
    "match_unseen": match_unseen,
    "track_unseen": track_unseen,
    "match_ranked": match_ranked,
    "track_ranked": track_ranked,
    "match_teachers": match_teachers,
    "match_class": match_class,
}
_RANKED = ("match_ranked", "track_ranked")
_TAUGHT = (*_RANKED, "match_teachers")
_OF_CLASSES = (*_RANKED, "match_class")
_UNTIL = "_until_unseen"
_PLAIN = ("ascent", "adaptive_ascent", "random_labels")
NAMES = (*_PLAIN, *(name + _UNTIL for name in _PLAIN), *_UNSEEN_OBJECTIVES)
ObjectiveName = Annotated[
    str,
    Choices(
        NAMES,
        "match_anchor, match_noise, esd, spm or concept_ablation for models that generate images",
    ),
]


def ascent(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Gradient ascent on the ordinary loss: `-mean_i l_i`."""
    losses, _ = forget_losses(task)(params, model_state, batch, key, True)
    return -jnp.mean(losses)


def adaptive_ascent(
    exponent: float | jax.Array = 0.5,
    axis_name: str | None = None,
    epsilon: float | jax.Array = 0.25,
) -> Objective:
    """Ascent that spares forgotten examples: `-mean_i c_i l_i`, with `adaptive_weights`.

        c_i ~ 1 / (sg(l_i)^exponent + epsilon)

    Args:
        exponent: exponent of the weights; 0 is plain ascent.
        axis_name: mapped axis of the batch, if any.
        epsilon: number that limits the weight of an example with a loss of 0.

    Reference: Huang et al. (SFR-on, arXiv 2409.19732), NeurIPS 2024.
    """

    def objective(
        task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
    ) -> jax.Array:
        losses, _ = forget_losses(task)(params, model_state, batch, key, True)
        weights = adaptive_weights(losses, exponent, axis_name, epsilon=epsilon)
        return -jnp.mean(weights * losses)

    return objective


def random_labels(redraw: Redraw = "every_epoch", exclude_true_label: bool = False) -> Objective:
    """The ordinary loss against labels drawn uniformly at random.

    Args:
        redraw: "every_epoch" for a new label at each visit of an example, "once" for one label.
        exclude_true_label: whether the true label is never drawn.

    Raises:
        InputError: an unknown `redraw`; in the objective, no class but the true one.
    """
    if redraw not in get_args(Redraw):
        raise InputError(f"redraw is {redraw!r}, but must be one of {', '.join(get_args(Redraw))}.")

    def objective(
        task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
    ) -> jax.Array:
        check_conditional(task, "random labels")
        if exclude_true_label and task.num_classes < 2:
            raise InputError(
                "random labels exclude the true label, but there is only one class; set "
                "exclude_true_label to false, or choose another objective, such as ascent."
            )
        visit = batch if redraw == "every_epoch" else batch | {"epoch": batch["epoch"] * 0}
        keys = example_keys(jax.random.fold_in(key, 1), visit)
        draw = jax.vmap(lambda k, n: jax.random.randint(k, (), 0, n), in_axes=(0, None))
        if exclude_true_label:
            labels = (batch["label"] + 1 + draw(keys, task.num_classes - 1)) % task.num_classes
        else:
            labels = draw(keys, task.num_classes)
        losses, _ = forget_losses(task)(params, model_state, batch | {"label": labels}, key, True)
        return jnp.mean(losses)

    return objective


def check_conditional(task: Task, what: str) -> None:
    """Raises an InputError that names `what` if the model has no classes."""
    if not task.conditional:
        raise InputError(
            f"{what} needs a model with classes, but this model has none (its num_classes is "
            "None); choose the objective 'ascent', or a model with classes."
        )


def needs_unseen(settings: Mapping[str, Any]) -> bool:
    """Whether the objective in the settings needs forget data with unseen examples."""
    name = settings.get("objective", "")
    return name in _UNSEEN_OBJECTIVES or name.endswith(_UNTIL)


def needs_teachers(settings: Mapping[str, Any]) -> bool:
    """Whether the objective in the settings needs teachers."""
    return settings.get("objective") in _TAUGHT


def needs_classes(settings: Mapping[str, Any]) -> bool:
    """Whether the objective in the settings needs unseen examples of each forgotten class."""
    return settings.get("objective") in _OF_CLASSES


TEACHER_SETTINGS = ("teacher_share", "teacher_rate", "teacher_weight", "num_teachers")
# The options of single objectives, which are settings of methods.
_KEYWORDS = {"anchor_guidance": ("match_anchor",), "negative_guidance": ("esd", "spm")}
_GENERATING = ("match_anchor", "match_noise", "esd", "spm", "concept_ablation")
_OPTIONS = _KEYWORDS | {
    "adversarial_steps": ("match_anchor",),
    **dict.fromkeys(("revival_steps", "revival_rate"), _GENERATING),
    **dict.fromkeys(TEACHER_SETTINGS, _TAUGHT),
    "teacher_weight": _RANKED,
}


def check_options(options: Mapping[str, Any], objective: str | None) -> None:
    """Raises an InputError unless an objective has these options."""
    for option in sorted(options.keys() & _OPTIONS.keys()):
        if objective not in _OPTIONS[option]:
            allowed = " or ".join(_OPTIONS[option])
            raise InputError(
                f"objective is {objective!r}, but must be {allowed} with the setting {option}; set "
                f"objective={_OPTIONS[option][0]}, or leave {option} out."
            )
    if "revival_rate" in options and not options.get("revival_steps"):
        raise InputError(
            "revival_rate is the learning rate of an attacker, but without revival_steps there is "
            "none; give revival_steps too, or leave revival_rate out."
        )


def with_options(task: Task, settings: Mapping[str, Any]) -> Task:
    """The task whose objectives have the options among the settings of a method."""
    name = settings.get("objective")
    comparing = (("match_class", name), ("match_original", settings.get("retain_objective")))
    for each, given in comparing:
        if each == given and settings.get("joint_batch"):
            raise InputError(
                f"joint_batch is true, but must be false with {each}, which compares predictions "
                "instead of losses; leave joint_batch out."
            )
    if "retain_objective" in settings and "keep_weight" in settings:
        raise InputError(
            "keep_weight compares confidences, but under match_original the retain loss is a "
            "distance of predictions, which has none; leave keep_weight or retain_objective out."
        )
    options = {
        key: settings[key] for key, names in _KEYWORDS.items() if name in names and key in settings
    }
    if not options:
        return task
    found = dict(task.objectives)
    if name in found:
        found[name] = functools.partial(found[name], **options)
    return task._replace(objectives=tuple(found.items()))


def named(
    name: str,
    exponent: float | jax.Array = 0.5,
    task: Task | None = None,
    epsilon: float | jax.Array = 0.25,
) -> Objective:
    """An objective by name: one of `NAMES`, or of the objectives of the task.

    `exponent` and `epsilon` belong to adaptive ascent.

    Raises:
        InputError: an unknown name.
    """
    objectives = {
        "ascent": ascent,
        "adaptive_ascent": adaptive_ascent(exponent, epsilon=epsilon),
        "random_labels": random_labels(),
    }
    objectives |= {name + _UNTIL: until_unseen(objective) for name, objective in objectives.items()}
    objectives |= _UNSEEN_OBJECTIVES
    if name in (*_TAUGHT, *_OF_CLASSES) and task is not None and task.predict is None:
        raise InputError(
            f"objective is {name!r}, but must be another for a model that generates images, since "
            "it compares predictions of classes; choose match_anchor, or match_unseen."
        )
    objectives |= dict(task.objectives if task else ())
    if name not in objectives:
        raise InputError(
            f"objective is {name!r}{closest(name, objectives)}, but must be one of "
            f"{', '.join(objectives)}."
        )
    return objectives[name]


def retain_loss(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> tuple[jax.Array, ModelState]:
    """The retain loss of a batch, and the model state after it.

        mean_i l_i + keep_weight mean_i huber(phi(l_i) - phi(l0_i))

    l0 are the losses under the original model, and phi is as above. The second part, of a task with
    a `keep_weight`, keeps the confidence in every retain example where it was: the mean loss hardly
    rises when a high confidence sinks, but an attacker sees it. It needs the leaf
    "original_confidence" of `with_confidences`.

    Raises:
        InputError: the task has a `keep_weight`, but the batch has no such leaf.
    """
    losses, model_state = task.losses(params, model_state, batch, key, True)
    return _mean_retained(task, losses, batch), model_state


def _mean_retained(task: Task, losses: jax.Array, batch: Batch) -> jax.Array:
    value = jnp.mean(losses)
    if task.keep_weight is not None:
        if _CONFIDENCE not in batch:
            raise InputError(
                "keep_weight compares the confidences in retain examples with those of the "
                "original model, but the retain data have none; add them with "
                "objectives.with_confidences, or leave keep_weight out."
            )
        value += task.keep_weight * distance(logit(losses) - batch[_CONFIDENCE])
    return _weighed(value, task.weights and task.weights.retain)


def with_confidences(retain: Arrays, losses: jax.Array) -> Arrays:
    """Retain data with the confidence of the original model in each example, for `keep_weight`.

    Args:
        retain: retain examples, leaves `[N, ...]`.
        losses: their losses under the original model, `[N]`.

    Returns:
        The retain data with the leaf "original_confidence" `[N]`: `log(p / (1 - p))` of the
        probability p of the true class.

    Example:
        >>> retain = with_confidences({"label": jnp.array([3])}, jnp.log(jnp.array([4.0])))
        >>> print(f"{retain['original_confidence'][0]:.4f}")
        -1.0986
    """
    return retain | {_CONFIDENCE: logit(losses)}


def forget_loss(
    task: Task,
    objective: Objective,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
) -> jax.Array:
    """The forget objective of a batch."""
    value = objective(task, params, model_state, batch, key)
    return _weighed(value, task.weights and task.weights.forget)


def _weighed(value: jax.Array, weight: float | jax.Array | None) -> jax.Array:
    """The same value, with `weight` times its gradient."""
    if weight is None:
        return value
    return value + (weight - 1.0) * (value - jax.lax.stop_gradient(value))


def loss_pair(task: Task, objective: Objective) -> Callable[..., tuple[LossPair, Any]]:
    """Both losses of one step, for `surgery_value_and_grad(..., has_aux=True)`.

    Args:
        task: the unlearning task.
        objective: forget objective.

    Returns:
        `losses_fn(params, model_state, forget, retain, key) -> (LossPair, model_state)`, the model
        state after the *retain* batch: forget data never update running statistics, except in a
        joint batch.
    """

    def losses_fn(
        params: Params, model_state: ModelState, forget: Batch, retain: Batch, key: jax.Array
    ) -> tuple[LossPair, ModelState]:
        forget_value = forget_loss(task, objective, params, model_state, forget, key)
        retain_value, new_state = retain_loss(task, params, model_state, retain, key)
        return LossPair(forget_value, retain_value), new_state

    def joint_fn(
        params: Params, model_state: ModelState, forget: Batch, retain: Batch, key: jax.Array
    ) -> tuple[LossPair, ModelState]:
        passed: list[tuple[jax.Array, ModelState]] = []

        def together(
            params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
        ) -> tuple[jax.Array, ModelState]:
            names = batch.keys() & retain.keys()
            both = {name: jnp.concatenate([batch[name], retain[name]]) for name in names}
            losses, new_state = task.losses(params, model_state, both, key, train)
            of_forget, of_retain = jnp.split(losses, [len(forget["label"])])
            passed.append((_mean_retained(task, of_retain, retain), new_state))
            return of_forget, new_state

        joint = task._replace(forget_losses=together)
        forget_value = forget_loss(joint, objective, params, model_state, forget, key)
        retain_value, new_state = passed[0]
        return LossPair(forget_value, retain_value), new_state

    return joint_fn if task.joint_batch else losses_fn


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The cross-entropy of each example, exact for losses of any size.

        -log p_y = log(1 + sum_{j != y} exp(z_j - z_y)) = softplus(logsumexp_{j != y} z_j - z_y)

    `logsumexp - z_y` and `log_softmax` round every loss below about 1e-7 to 0, but adaptive weights
    divide by the loss.

    Args:
        logits: z, `[B, C]`, of any floating-point type.
        labels: y, integers `[B]`.

    Returns:
        Nats, `[B]`, in float32 or wider.

    Example:
        >>> loss = cross_entropy(jnp.array([[20.0, 0.0]]), jnp.array([0]))
        >>> print(f"{loss[0]:.6g}")
        2.06115e-09
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    true = labels[:, None] == jnp.arange(logits.shape[1])[None]
    others = jax.nn.logsumexp(jnp.where(true, jnp.finfo(logits.dtype).min, logits), axis=1)
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jax.nn.softplus(others - chosen)
