"""Forget objectives that compare forget data with unseen data, and functions that pair the two."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.types import Arrays, Batch, InputError, ModelState, Params, Task

_HUBER_DELTA, _FAR = 2.0, 6.0  # distances up to which Huber losses are quadratic
_UNSEEN = "unseen_"

Objective = Callable[[Task, Params, ModelState, Batch, jax.Array], jax.Array]


def match_unseen(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Makes the model as confident in forget examples as in unseen ones.

        mean_i huber(phi(l_(i)) - phi(u_(i))),    phi(l) = log(p / (1 - p)),    p = exp(-l)

    Both the losses l and the unseen losses u of the batch are sorted; the Huber loss is quadratic
    up to 2. This is a transport distance between the two distributions, so any forget example may
    match any unseen one. The gradient of a matched example is 0.

    Needs the leaf "unseen_loss", `[B]`, of `with_unseen`: u under the original model.

    Raises:
        InputError: the batch has no such leaf.
    """
    unseen = _unseen_of(batch)["loss"]
    losses, _ = forget_losses(task)(params, model_state, batch, key, True)
    return _transport_distance(losses, unseen)


def track_unseen(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Makes the model as confident in forget examples as it currently is in unseen ones.

        mean_i huber(phi(l_(i)) - sg phi(u_(i)))

    Like `match_unseen`, but u are the losses of the unseen examples under the current parameters.
    Unlearning makes a model less confident in unseen data; forget examples with the original
    model's confidence would then stand out. A model retrained without the forget data is at the
    minimum. So is a model that is equally unsure of all data, but the retain loss prevents that.

    It costs a forward pass on the unseen examples, and needs the leaves "unseen_image",
    "unseen_label" and so on of `with_unseen`.

    Raises:
        InputError: the batch has no such leaves.
    """
    losses_of, unseen = forget_losses(task), _unseen_of(batch)
    losses, _ = losses_of(params, model_state, batch, key, True)
    unseen_losses, _ = losses_of(params, model_state, batch | unseen, key, True)
    return _transport_distance(losses, jax.lax.stop_gradient(unseen_losses))


def track_ranked(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Makes the model as confident in forget examples as in unseen ones, in the teachers' order.

        mean_i huber(phi(l_pi(i)) - sg phi(u_(i)))

    pi sorts the forget examples of the batch by the ranks that teachers gave them (`with_ranked`),
    and u are the sorted losses of their partners under the current parameters. So examples that are
    hard for a model that never saw them become hard. `track_unseen` sorts by the model's own
    losses: it matches the distribution but not each example, which U-LiRA detects.

    It costs a forward pass on the partners.

    Raises:
        InputError: the batch has no partners.
    """
    losses_of, unseen = forget_losses(task), _unseen_of(batch, "score")
    losses, _ = losses_of(params, model_state, batch, key, True)
    unseen_losses, _ = losses_of(params, model_state, batch | unseen, key, True)
    targets = jax.lax.stop_gradient(jnp.sort(logit(unseen_losses)))
    difference = logit(losses)[jnp.argsort(unseen["score"])] - targets
    return distance(difference)


def match_ranked(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Makes the model as confident in each example as the original was in its unseen partner.

        mean_i huber(phi(l_i) - phi(u_i))

    u_i is the loss of i's partner (`with_ranked`) under the original model: a fixed target for each
    example. This Huber loss is quadratic up to 6, so that memorised examples, which are far from
    their targets, move fastest. Under `track_ranked` the targets follow the model, which then
    becomes less confident in all unseen data.

    Raises:
        InputError: the batch has no partners.
    """
    targets = _unseen_of(batch, "score")["score"]
    losses, _ = forget_losses(task)(params, model_state, batch, key, True)
    return distance(logit(losses) - targets, _FAR)


def match_teachers(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Makes the model as confident in each example as teachers that never saw it.

        mean_i huber(phi(l_i) - t_i)

    For requests that are no random sample, such as the most memorised examples: few unseen
    examples are as hard. Needs the leaf "teacher_confidence", `[B]`, of `with_teachers`: t, the
    confidence of the teachers.

    Raises:
        InputError: the batch has no such leaf.
    """
    if "teacher_confidence" not in batch:
        raise InputError(
            "match_teachers compares confidences with those of teachers, but the forget data have "
            "none; add them with objectives.with_teachers, or choose another objective."
        )
    losses, _ = forget_losses(task)(params, model_state, batch, key, True)
    return distance(logit(losses) - batch["teacher_confidence"])


def match_class(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Matches predictions for forget examples to the mean one for unseen examples of their class.

        mean_i KL(q_{y_i} || p(x_i)),   q_c = mean of p_0(u) over the unseen examples u of class c

    p_0 is the original model. All forget examples of a class share one target, so their predictions
    differ less than those of a model that never saw them. Needs the leaf "class_mean", `[B, C]`, of
    `with_class_means`.

    Raises:
        InputError: the batch has no such leaf, or the task has no outputs or no divergence.

    Reference: ReGUn (arXiv 2603.11210), 2026. RAUL (arXiv 2606.00399), 2026, minimises the same
    distance by Jacobian descent.
    """
    if "class_mean" not in batch or task.outputs is None or task.divergence is None:
        raise InputError(
            "match_class compares predictions with mean predictions for unseen data, but the "
            "forget data have none, or the task has no outputs; add validation data with "
            "objectives.with_class_means, or choose another objective."
        )
    outputs, _ = task.outputs(params, model_state, batch, key, True)
    return jnp.mean(task.divergence(jnp.log(jnp.maximum(batch["class_mean"], 1e-30)), outputs))


def until_unseen(objective: Objective) -> Objective:
    """An objective that pauses while the batch is predicted no more confidently than unseen data.

        s L_u,    s = 1[mean_i exp(-l_i) > mean_i exp(-u_i)]

    The mean confidences in the true labels are compared as logarithms, since float32 cannot hold
    the confidence of a loss that is a sum over pixels. The objective needs the leaf "unseen_loss"
    of `with_unseen`.
    """

    def pausing(
        task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
    ) -> jax.Array:
        unseen = _unseen_of(batch)["loss"]
        losses = forget_losses(task)(params, model_state, batch, key, True)[0]
        continues = jax.nn.logsumexp(-losses) > jax.nn.logsumexp(-unseen)
        value = objective(task, params, model_state, batch, key)
        return jax.lax.stop_gradient(continues.astype(value.dtype)) * value

    return pausing


def with_unseen(
    forget: Arrays, forget_losses: jax.Array, unseen: Arrays, unseen_losses: jax.Array
) -> Arrays:
    """Forget data with an unseen example for each, of the same rank in the order of losses.

    The i-th of N forget examples, in the order of losses, gets the unseen example at the
    `(i + 1/2) / N` quantile of the unseen losses, so that any part of the forget data gets a
    representative sample.

    Args:
        forget: forget examples, leaves `[N, ...]`.
        forget_losses: losses of the forget examples under the original model, `[N]`.
        unseen: examples outside the training data, leaves `[M, ...]` with the same names.
        unseen_losses: losses of the unseen examples under the original model, `[M]`.

    Returns:
        The forget data with a leaf "unseen_NAME" `[N, ...]` beside each leaf NAME, and the leaf
        "unseen_loss" `[N]`.

    Example:
        >>> forget, unseen = {"label": jnp.array([0, 1, 2])}, {"label": jnp.array([7, 8, 9])}
        >>> losses = jnp.array([0.3, 0.1, 0.2]), jnp.array([1.0, 3.0, 2.0])
        >>> with_unseen(forget, losses[0], unseen, losses[1])["unseen_label"].tolist()
        [8, 7, 9]
    """
    size, count = forget_losses.shape[0], unseen_losses.shape[0]
    # NumPy's integers have 64 bits, enough for the product of both sizes.
    quantiles = (2 * np.arange(size, dtype=np.int64) + 1) * count // (2 * size)
    places = jnp.argsort(jnp.argsort(forget_losses))
    chosen = jnp.argsort(unseen_losses)[jnp.asarray(quantiles, jnp.int32)[places]]
    brought = unseen | {"loss": unseen_losses}
    return forget | {_UNSEEN + name: leaf[chosen] for name, leaf in brought.items()}


def with_ranked(
    forget: Arrays,
    ranks: np.ndarray,
    unseen: Arrays,
    confidences: np.ndarray,
) -> Arrays:
    """Forget data with an unseen partner for each example: of its class and of its rank.

    In each class, forget examples in the order of their ranks get the unseen examples at evenly
    spaced quantiles of their confidences.

    Args:
        forget: forget examples, leaves `[N, ...]`, among them "label".
        ranks: numbers that order the forget examples of a class, the hardest first, `[N]`.
        unseen: examples outside the training data, leaves `[M, ...]` with the same names.
        confidences: phi of the unseen examples under the original model, `[M]`.

    Returns:
        The forget data with a leaf "unseen_NAME" `[N, ...]` beside each leaf NAME, and the leaf
        "unseen_score" `[N]`, the confidence in the partner.

    Raises:
        InputError: a class of the forget data has no unseen examples.

    Example:
        >>> forget = {"label": jnp.array([0, 0, 1])}
        >>> unseen = {"label": jnp.array([0, 1, 0]), "image": jnp.array([5, 6, 7])}
        >>> ranks, confidences = np.array([2.0, 1.0, 1.0]), np.array([0.3, 0.0, 0.9])
        >>> with_ranked(forget, ranks, unseen, confidences)["unseen_image"].tolist()
        [7, 5, 6]
    """
    ours, theirs = np.asarray(forget["label"]), np.asarray(unseen["label"])
    check_partners(ours, theirs)
    partners = np.empty(len(ours), np.int64)
    for label in np.unique(ours):
        own, others = np.flatnonzero(ours == label), np.flatnonzero(theirs == label)
        others = others[np.argsort(confidences[others], kind="stable")]
        chosen = others[(2 * np.arange(len(own)) + 1) * len(others) // (2 * len(own))]
        partners[own[np.argsort(ranks[own], kind="stable")]] = chosen
    brought = {name: leaf[partners] for name, leaf in unseen.items()}
    brought["score"] = jnp.asarray(confidences[partners], jnp.float32)
    return forget | {_UNSEEN + name: leaf for name, leaf in brought.items()}


def with_teachers(
    forget: Arrays, taught: np.ndarray, unseen: np.ndarray, original: np.ndarray
) -> Arrays:
    """Forget data with the confidences of teachers, on the scale of the original model.

        t_i = b s_i,    b = sum_j s_j o_j / sum_j s_j^2

    A short training is more, or less, confident than a whole one. So b is the least-squares fit of
    the teachers' confidences s in unseen examples to the original model's o.

    Args:
        forget: forget examples, leaves `[N, ...]`.
        taught: s of the forget examples, the mean phi under teachers that never saw them, `[N]`.
        unseen: s of examples that neither teachers nor the original model saw, `[M]`.
        original: o, phi of the same unseen examples under the original model, `[M]`.

    Returns:
        The forget data with the leaf "teacher_confidence" `[N]`, in float32.

    Example:
        >>> forget, unseen = {"label": jnp.array([0, 1])}, np.array([2.0, -4.0])
        >>> brought = with_teachers(forget, np.array([-6.0, 8.0]), unseen, unseen / 2)
        >>> brought["teacher_confidence"].tolist()
        [-3.0, 4.0]
    """
    scale = unseen @ original / max(unseen @ unseen, 1e-30)
    return forget | {"teacher_confidence": jnp.asarray(scale * taught, jnp.float32)}


def with_class_means(forget: Arrays, labels: jax.Array, probabilities: jax.Array) -> Arrays:
    """Forget data with the mean prediction of the unseen examples of their classes.

    Args:
        forget: forget examples, leaves `[N, ...]`, among them "label".
        labels: labels of the unseen examples, `[M]`.
        probabilities: predictions of the original model for them, `[M, C]`.

    Returns:
        The forget data with the leaf "class_mean" `[N, C]`: zeros for a class without unseen
        examples.

    Example:
        >>> predictions = jnp.array([[0.875, 0.125], [0.625, 0.375], [0.25, 0.75]])
        >>> forget = {"label": jnp.array([1, 0])}
        >>> brought = with_class_means(forget, jnp.array([0, 0, 1]), predictions)
        >>> brought["class_mean"].tolist()
        [[0.25, 0.75], [0.75, 0.25]]
    """
    classes = jax.nn.one_hot(labels, probabilities.shape[1])
    sums, counts = classes.T @ probabilities, jnp.sum(classes, axis=0)
    return forget | {"class_mean": (sums / jnp.maximum(counts, 1.0)[:, None])[forget["label"]]}


def check_partners(forget: np.ndarray, unseen: np.ndarray) -> None:
    """Raises an InputError if a class of the forget data has no unseen examples."""
    alone = np.setdiff1d(forget, unseen)
    if len(alone):
        raise InputError(
            f"the objective compares forget examples with unseen ones of their class, but class "
            f"{alone[0]} has none that may be copied; raise validation_fraction, or choose another "
            "objective, such as track_unseen."
        )


def _unseen_of(batch: Batch, known: str = "loss") -> Batch:
    """The unseen examples in a forget batch, with their losses or scores."""
    unseen = {
        name.removeprefix(_UNSEEN): leaf for name, leaf in batch.items() if name.startswith(_UNSEEN)
    }
    if not {known} < unseen.keys():
        add = "with_unseen" if known == "loss" else "with_ranked"
        raise InputError(
            "this objective compares forget data with unseen data, but the forget data have no "
            f"unseen examples and {'losses' if known == 'loss' else 'scores'}; add validation data "
            f"with objectives.{add}."
        )
    return unseen


def _transport_distance(losses: jax.Array, unseen: jax.Array) -> jax.Array:
    return distance(jnp.sort(logit(losses)) - jnp.sort(logit(unseen)))


def distance(difference: jax.Array, delta: float = _HUBER_DELTA) -> jax.Array:
    """The mean Huber loss of differences of confidences, quadratic up to `delta`."""
    return jnp.mean(optax.losses.huber_loss(difference, delta=delta))


def logit(losses: jax.Array) -> jax.Array:
    """`log(p / (1 - p))` of `p = exp(-l)`, exact for losses of any size, as `cross_entropy` is.

    Losses below 1e-30, a confidence of 69, count as 1e-30 and have no gradient.
    """
    losses = jnp.maximum(losses, 1e-30)
    return -losses - jnp.log(-jnp.expm1(-losses))


def forget_losses(task: Task) -> Callable[..., tuple[jax.Array, ModelState]]:
    """The losses of forget examples."""
    return task.forget_losses or task.losses
