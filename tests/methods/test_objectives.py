"""Forget objectives against closed forms, and random labels against what "random" promises."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.methods import objectives
from jaxunlearn.types import Batch, InputError, Task
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal

KEY = jax.random.key(0)


def task_of(losses: Any, num_classes: int = 5) -> Task:
    """A task whose losses are `losses(params, batch)`."""
    return Task(
        init=lambda key: (jnp.ones(()), {}),
        losses=lambda params, state, batch, key, train: (losses(params, batch), state),
        predict=lambda params, state, batch: batch["image"],
        num_classes=num_classes,
    )


LINEAR = task_of(lambda params, batch: params * batch["image"])  # l_i = p x_i
BATCH = {"image": jnp.array([0.5, 1.0, 4.0])}


def value_and_slope(objective: objectives.Objective, p: float = 2.0) -> tuple[float, float]:
    value, slope = jax.value_and_grad(lambda p: objective(LINEAR, p, {}, BATCH, KEY))(p)
    return float(value), float(slope)


def test_ascent() -> None:
    value, slope = value_and_slope(objectives.ascent)
    assert np.isclose(value, -2.0 * 5.5 / 3) and np.isclose(slope, -5.5 / 3)


@pytest.mark.parametrize("epsilon", [1e-15, 0.25])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_adaptive_ascent(exponent: float, epsilon: float) -> None:
    """`-mean c_i l_i` with `c_i` held fixed: no gradient flows through the weights."""
    losses = 2.0 * np.array([0.5, 1.0, 4.0])
    coefficients = 1.0 / (losses**exponent + epsilon)
    weights = coefficients / np.mean(coefficients)
    value, slope = value_and_slope(objectives.adaptive_ascent(exponent, epsilon=epsilon))
    assert np.isclose(value, -np.mean(weights * losses), rtol=1e-6)
    assert np.isclose(slope, -np.mean(weights * losses) / 2.0, rtol=1e-6)


def test_adaptive_ascent_without_exponent_is_ascent() -> None:
    assert np.allclose(
        value_and_slope(objectives.adaptive_ascent(0.0)), value_and_slope(objectives.ascent)
    )


def test_adaptive_ascent_over_a_mapped_axis() -> None:
    """Weights have mean 1 over the whole batch, whatever part of it is here."""
    whole = {"image": jnp.array([0.5, 1.0, 4.0, 0.25])}
    halves = {"image": whole["image"].reshape(2, 2)}

    def value(objective: objectives.Objective, batch: Batch) -> jax.Array:
        return objective(LINEAR, 2.0, {}, batch, KEY)

    mapped = jax.vmap(
        lambda half: value(objectives.adaptive_ascent(1.0, axis_name="i"), half), axis_name="i"
    )(halves)
    alone = jax.vmap(lambda half: value(objectives.adaptive_ascent(1.0), half))(halves)
    assert np.isclose(mapped.mean(), value(objectives.adaptive_ascent(1.0), whole))
    assert not np.isclose(alone.mean(), mapped.mean())


CLASSES = 5
REVEALING = task_of(lambda params, batch: params * batch["label"], CLASSES)


def drawn(
    index: np.ndarray, epoch: int = 0, label: Any = 0, seed: int = 0, **options: Any
) -> np.ndarray:
    """The labels that are drawn: the gradient of `mean_i p_i label_i` by p, times B."""
    size = len(index)
    batch = {
        "index": jnp.asarray(index),
        "epoch": jnp.full(size, epoch),
        "label": jnp.broadcast_to(jnp.asarray(label, jnp.int32), (size,)),
    }
    objective = objectives.random_labels(**options)
    gradient = jax.grad(lambda p: objective(REVEALING, p, {}, batch, jax.random.key(seed)))
    return np.rint(size * np.asarray(gradient(jnp.ones(size)))).astype(int)


def test_labels_are_drawn_again_at_every_visit_or_once() -> None:
    index = np.arange(5000)
    first, second = drawn(index, 0), drawn(index, 1)
    assert 0.15 < np.mean(first == second) < 0.25  # one in five by chance
    once = [drawn(index, epoch, redraw="once") for epoch in (0, 1, 7)]
    np.testing.assert_array_equal(once[0], once[1])
    np.testing.assert_array_equal(once[0], once[2])
    np.testing.assert_array_equal(once[0], first)
    assert np.mean(first == drawn(index, 0, seed=1)) < 0.25


def test_a_label_depends_on_its_example_alone() -> None:
    """Neither batch size nor order matters."""
    index = np.arange(5000)
    everything = drawn(index, 3)
    some = np.array([71, 5, 42])
    np.testing.assert_array_equal(drawn(some, 3), everything[some])
    np.testing.assert_array_equal(drawn(index[::-1], 3), everything[::-1])


def test_of_one_class_no_other_label_can_be_drawn() -> None:
    batch = BATCH | {name: jnp.zeros(3, jnp.int32) for name in ("index", "epoch", "label")}
    one = task_of(lambda params, batch: params * batch["label"], num_classes=1)
    assert objectives.random_labels()(one, 1.0, {}, batch, KEY) == 0.0
    with pytest.raises(InputError, match="exclude the true label, but there is only one class"):
        objectives.random_labels(exclude_true_label=True)(one, 1.0, {}, batch, KEY)


@pytest.mark.parametrize("exclude", [False, True])
def test_labels_are_uniform(exclude: bool) -> None:
    """Over all classes, or over all but the true one, whichever that is."""
    label = np.tile(np.arange(CLASSES), 1000)
    labels = drawn(np.arange(label.size), label=label, exclude_true_label=exclude)
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (label, labels), 1 / 1000)
    expected = np.full((CLASSES, CLASSES), 0.2)
    if exclude:
        expected = (1 - np.eye(CLASSES)) / 4
        assert not np.any(labels == label)
    assert np.max(np.abs(table - expected)) < 4 * np.sqrt(0.25 * 0.75 / 1000)


def test_only_the_labels_are_replaced() -> None:
    """Augmentation still goes by the true visit, although labels are drawn once."""
    task = task_of(lambda params, batch: batch["epoch"] + 10.0 * batch["image"])
    batch = BATCH | {name: jnp.full(3, 2) for name in ("index", "epoch", "label")}
    value = objectives.random_labels("once")(task, 1.0, {}, batch, KEY)
    assert np.isclose(value, 2.0 + 55.0 / 3)


def test_a_loss_pair_is_both_losses_and_the_retain_state() -> None:
    problem = toy.problem()
    forget = toy.nth_batch(problem.forget, 0, 4)
    retain = toy.nth_batch(problem.retain, 0, 6)
    losses_fn = objectives.loss_pair(toy.TASK, objectives.ascent)
    pair, state = losses_fn(problem.params, problem.model_state, forget, retain, KEY)
    expected = toy.TASK.losses(problem.params, problem.model_state, forget, KEY, True)[0]
    assert np.isclose(pair.forget, -expected.mean())
    losses, kept = toy.TASK.losses(problem.params, problem.model_state, retain, KEY, True)
    assert np.isclose(pair.retain, losses.mean())
    assert_trees_equal(state, kept)
    other = forget | {"image": forget["image"] + 1.0}
    other_pair, other_state = losses_fn(problem.params, problem.model_state, other, retain, KEY)
    assert_trees_equal(state, other_state)
    assert other_pair.forget != pair.forget and other_pair.retain == pair.retain


def test_objectives_by_name() -> None:
    assert objectives.named("ascent") is objectives.ascent
    ours, plain = (
        value_and_slope(objectives.named("adaptive_ascent", exponent)) for exponent in (2.0, 0.0)
    )
    assert np.allclose(ours, value_and_slope(objectives.adaptive_ascent(2.0)))
    assert not np.allclose(ours, plain)
    problem = toy.problem()
    batch = toy.nth_batch(problem.forget, 0, 4)
    values = [
        objective(toy.TASK, problem.params, problem.model_state, batch, KEY)
        for objective in (objectives.named("random_labels"), objectives.random_labels())
    ]
    assert_trees_close(*values)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(InputError, match="redraw is 'daily', but must be one of every_epoch, once"):
        objectives.random_labels("daily")
    with pytest.raises(InputError, match="objective is 'forget', but must be one of ascent, adap"):
        objectives.named("forget")
    for name in ("track_ranked", "match_teachers"):
        with pytest.raises(
            InputError, match="for a model that generates images, since it compares"
        ):
            objectives.named(name, task=LINEAR._replace(predict=None))


UNSEEN = jnp.array([3.0, 0.2, 0.7])


def bringing(losses: jax.Array, images: jax.Array | None = None) -> dict[str, jax.Array]:
    """The batch with unseen examples that had these losses, and have those of these images."""
    images = jnp.zeros_like(losses) if images is None else images
    return BATCH | {"unseen_image": images, "unseen_loss": losses}


def logit(losses: Any) -> np.ndarray:
    confidence = np.exp(-np.asarray(losses, np.float64))
    return np.log(confidence / (1.0 - confidence))


def test_confidences_have_their_whole_gradient_at_any_margin() -> None:
    """Of two logits, phi of the first is their difference: 20 is the loss 2e-9, -90 the loss 90."""

    def phi(margins: jax.Array) -> jax.Array:
        logits = jnp.stack([margins, jnp.zeros_like(margins)], axis=1)
        return objectives.logit(objectives.cross_entropy(logits, jnp.zeros(len(margins), int)))

    margins = jnp.array([-90.0, 0.0, 13.0, 14.0, 20.0, 60.0])
    np.testing.assert_allclose(phi(margins), margins, rtol=1e-5, atol=1e-6)
    slopes = jax.grad(lambda margins: jnp.sum(phi(margins)))(margins)
    np.testing.assert_allclose(slopes, 1.0, rtol=1e-5)


def test_match_unseen_is_the_distance_between_sorted_logits() -> None:
    batch = bringing(UNSEEN)
    value = objectives.match_unseen(LINEAR, jnp.float32(2.0), {}, batch, KEY)
    ours, theirs = logit(2.0 * BATCH["image"]), logit(UNSEEN)
    difference = np.abs(np.sort(ours) - np.sort(theirs))
    assert np.min(difference) < 2.0 < np.max(difference)  # both parts of the Huber loss
    huber = np.where(difference < 2.0, 0.5 * difference**2, 2.0 * (difference - 1.0))
    assert np.isclose(value, np.mean(huber), rtol=1e-5)


def test_match_unseen_ends_where_the_confidences_are_alike_in_any_order() -> None:
    batch = bringing(2.0 * BATCH["image"][jnp.array([2, 0, 1])])
    value, slope = jax.value_and_grad(lambda p: objectives.match_unseen(LINEAR, p, {}, batch, KEY))(
        2.0
    )
    assert value == 0.0 and slope == 0.0


def test_match_unseen_moves_confident_examples_up_and_hopeless_ones_down() -> None:
    batch = bringing(jnp.full(3, 2.0))  # the losses are 1, 2 and 8

    def value(offsets: jax.Array) -> jax.Array:
        task = task_of(lambda params, batch: 2.0 * batch["image"] + params)
        return objectives.match_unseen(task, offsets, {}, batch, KEY)

    slopes = jax.grad(value)(jnp.zeros(3))
    assert slopes[0] < 0.0 and slopes[2] > 0.0


@pytest.mark.parametrize("p", [0.5, 2.0])
def test_track_unseen_follows_the_unseen_examples_but_does_not_move_them(p: float) -> None:
    """Its value sees the parameters through both losses, its gradient through one."""
    tracked, matched = (
        jax.value_and_grad(lambda p, b=batch, f=objective: f(LINEAR, p, {}, b, KEY))(p)
        for objective, batch in (
            (objectives.track_unseen, bringing(jnp.zeros(3), images=UNSEEN)),
            (objectives.match_unseen, bringing(p * UNSEEN)),
        )
    )
    assert np.allclose(tracked, matched, rtol=1e-5)
    assert abs(tracked[1]) > 1e-3


def test_partners_are_unseen_examples_of_the_class_in_the_order_of_ranks() -> None:
    """By hand: at the quantiles of confidences."""
    forget = {"label": jnp.array([0, 0, 1, 1, 0])}
    unseen = {"label": jnp.array([1, 0, 0, 1, 0, 0]), "image": jnp.arange(10, 16)}
    ranks = np.array([0.0, 2.0, 7.0, 5.0, 1.0])
    confidences = np.array([3.0, 1.0, 2.0, 4.0, 8.0, 9.0])
    brought = objectives.with_ranked(forget, ranks, unseen, confidences)
    assert brought["unseen_image"].tolist() == [11, 15, 13, 10, 14]
    assert brought["unseen_score"].tolist() == [1.0, 9.0, 4.0, 3.0, 8.0]
    with pytest.raises(InputError, match="class 1 has none that may be copied; raise validation"):
        objectives.with_ranked(forget, ranks, {"label": jnp.zeros(6, int)}, confidences)


@pytest.mark.parametrize("name", ["match_ranked", "track_ranked"])
def test_ranked_objectives_move_each_example_to_the_loss_of_one_as_hard(name: str) -> None:
    """The losses are right as a set but belong to the wrong examples: `track_unseen` rests there.

    The ranks are those of a perfect teacher.
    """
    task = task_of(lambda losses, batch: losses[batch["image"]])
    right = jnp.array([0.2, 3.0, 0.7])
    wrong = right[jnp.array([2, 0, 1])]
    forget, unseen = ({"label": jnp.zeros(3, int), "image": i + jnp.arange(3)} for i in (0, 3))
    scores = np.asarray(objectives.logit(right))
    batch = objectives.with_ranked(forget, scores, unseen, scores)
    batch |= {"unseen_loss": right}

    def found(objective: objectives.Objective, losses: jax.Array) -> tuple[Any, Any]:
        every = jnp.concatenate([losses, right])
        return jax.value_and_grad(lambda p: objective(task, p, {}, batch, KEY))(every)

    assert np.isclose(found(objectives.track_unseen, wrong)[0], 0.0)
    value, slopes = found(objectives.named(name), wrong)
    assert value > 0.5
    np.testing.assert_array_equal(np.sign(slopes[:3]), np.sign(wrong - right))
    np.testing.assert_array_equal(slopes[3:], 0.0)
    value, slopes = found(objectives.named(name), right)
    assert np.isclose(value, 0.0, atol=1e-9) and np.allclose(slopes, 0.0, atol=1e-5)


def test_match_ranked_moves_an_example_as_fast_as_it_is_far() -> None:
    """Up to a distance of 6: phi of five and of seven above the partner's, 0."""
    task = task_of(lambda phi, batch: jnp.log1p(jnp.exp(-phi)))
    batch = {"label": jnp.zeros(2, int), "unseen_label": jnp.zeros(2, int)}
    batch |= {"unseen_score": jnp.zeros(2)}
    found = jax.value_and_grad(lambda phi: objectives.match_ranked(task, phi, {}, batch, KEY))
    value, slopes = found(jnp.array([5.0, 7.0]))
    np.testing.assert_allclose(value, (12.5 + 6.0 * (7.0 - 3.0)) / 2, rtol=1e-4)
    np.testing.assert_allclose(slopes, [2.5, 3.0], rtol=1e-3)


def test_match_teachers_rests_where_each_example_is_as_hard_as_for_teachers() -> None:
    """On the original model's scale; in another order of the same confidences it does not rest."""
    task = task_of(lambda losses, batch: losses[batch["image"]])
    losses = jnp.array([0.2, 3.0, 0.7])
    forget = {"label": jnp.zeros(3, int), "image": jnp.arange(3)}
    unseen = np.array([-1.0, 3.0])
    taught = 4 * np.asarray(objectives.logit(losses))
    batch = objectives.with_teachers(forget, taught, unseen, unseen / 4)
    found = jax.value_and_grad(lambda p: objectives.match_teachers(task, p, {}, batch, KEY))
    value, slopes = found(losses)
    assert value < 1e-10 and np.all(np.abs(slopes) < 1e-5)
    wrong = losses[jnp.array([2, 0, 1])]
    value, slopes = found(wrong)
    assert value > 0.5
    np.testing.assert_array_equal(np.sign(slopes), np.sign(wrong - losses))
    with pytest.raises(InputError, match="with those of teachers, but the forget data have none"):
        objectives.match_teachers(task, losses, {}, forget, KEY)


@pytest.mark.parametrize(("unseen", "rests"), [(10.0, False), (0.1, True)])
def test_until_unseen_rests_once_forget_data_are_no_more_confident(
    unseen: float, rests: bool
) -> None:
    batch = bringing(jnp.full(3, unseen))
    objective = objectives.named("ascent_until_unseen")
    value, slope = jax.value_and_grad(lambda p: objective(LINEAR, p, {}, batch, KEY))(2.0)
    wanted = (0.0, 0.0) if rests else value_and_slope(objectives.ascent)
    assert np.allclose((value, slope), wanted)


@pytest.mark.parametrize("scale", [1.0, 266.0, 1e5])
@pytest.mark.parametrize(("ratio", "rests"), [(1.01, False), (0.99, True)])
def test_until_unseen_compares_losses_of_any_size(scale: float, ratio: float, rests: bool) -> None:
    """Sums over pixels as well, whose exponentials are below what float32 can hold."""
    batch = BATCH | {"image": jnp.full(3, scale)}
    batch |= {"unseen_loss": jnp.full(3, ratio * scale), "unseen_image": batch["image"]}
    value = objectives.named("ascent_until_unseen")(LINEAR, 1.0, {}, batch, KEY)
    assert np.isclose(value, 0.0 if rests else -scale)


@pytest.mark.parametrize(("size", "count"), [(40_000, 60_000), (60_000, 40_000), (3, 10**6)])
def test_places_are_right_where_their_products_need_more_than_32_bits(
    size: int, count: int
) -> None:
    """Also inside a compiled program, where losses are traced."""
    order = np.random.default_rng(0).permutation(size)
    forget, unseen = {"label": jnp.arange(size)}, {"label": jnp.arange(count)}
    losses = jnp.asarray(order, jnp.float32), jnp.arange(count, dtype=jnp.float32)
    exact = [(2 * int(i) + 1) * count // (2 * size) for i in order]
    brought = jax.jit(objectives.with_unseen)(forget, losses[0], unseen, losses[1])
    np.testing.assert_array_equal(brought["unseen_label"], exact)


def test_unseen_examples_keep_the_order_and_the_distribution() -> None:
    forget = jax.random.uniform(jax.random.key(1), (50,))
    unseen = jax.random.exponential(jax.random.key(2), (200,))
    examples = {"label": jnp.arange(50)}, {"label": jnp.arange(200)}
    brought = objectives.with_unseen(examples[0], forget, examples[1], unseen)
    assert set(brought) == {"label", "unseen_label", "unseen_loss"}
    assert np.array_equal(brought["label"], examples[0]["label"])
    given = brought["unseen_loss"]
    assert np.array_equal(given, unseen[brought["unseen_label"]])
    assert np.array_equal(np.argsort(given), np.argsort(forget))
    assert np.array_equal(np.sort(given), np.sort(unseen)[2::4])


@pytest.mark.parametrize("name", ["match_unseen", "track_unseen", "random_labels_until_unseen"])
def test_objectives_that_compare_need_unseen_examples(name: str) -> None:
    assert objectives.needs_unseen({"objective": name})
    assert not objectives.needs_unseen({"objective": "random_labels"})
    assert not objectives.needs_unseen({})
    for lacking in (BATCH, BATCH | {"unseen_loss": UNSEEN}, BATCH | {"unseen_image": UNSEEN}):
        with pytest.raises(InputError, match="have no unseen examples and losses"):
            objectives.named(name)(LINEAR, jnp.float32(1.0), {}, lacking, KEY)


def test_match_class_is_the_divergence_from_the_mean_of_the_class() -> None:
    """It vanishes, with its gradient, where all predictions are that mean."""
    params, model_state, forget, _ = toy.problem()
    batch = toy.nth_batch(forget, 0, 4)
    labels = jnp.array([0, 1, 1, 2])
    q = jnp.array([[6, 2, 2], [0, 1, 9], [2, 3, 5], [1, 8, 1]]) / 10
    brought = objectives.with_class_means(batch, labels, q)
    means = np.array([[0.6, 0.2, 0.2], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]])[batch["label"]]
    np.testing.assert_allclose(brought["class_mean"], means, rtol=1e-6)
    key = jax.random.key(0)
    found = objectives.match_class(toy.TASK, params, model_state, brought, key)
    p = jax.nn.softmax(toy.TASK.outputs(params, model_state, batch, key, True)[0])
    np.testing.assert_allclose(found, (means * np.log(means / p)).sum(axis=1).mean(), rtol=1e-5)
    value, grads = jax.value_and_grad(
        lambda x: objectives.match_class(toy.TASK, x, model_state, batch | {"class_mean": p}, key)
    )(params)
    assert abs(value) < 1e-6 and all(np.all(abs(g) < 1e-6) for g in jax.tree.leaves(grads))


def test_match_class_refuses_what_it_cannot_compare() -> None:
    params, model_state, forget, _ = toy.problem()
    batch = toy.nth_batch(forget, 0, 4)
    with pytest.raises(InputError, match="add validation data with objectives.with_class_means"):
        objectives.match_class(toy.TASK, params, model_state, batch, jax.random.key(0))
    joint = methods.settings("eupmu", {"objective": "match_class", "joint_batch": True})
    with pytest.raises(
        InputError, match="joint_batch is true, but must be false with .*match_class"
    ):
        methods.build(toy.TASK, "eupmu", joint)
