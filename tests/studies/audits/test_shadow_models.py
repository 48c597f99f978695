"""Shadow models: who sees what, and that a group trains as its models would one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods, training
from jaxunlearn.data import Examples
from jaxunlearn.studies.audits import shadow_models as shadows
from jaxunlearn.training import devices, programs
from jaxunlearn.types import InputError
from tests import toy

pytestmark = pytest.mark.long

QUICK = {
    "num_steps": 7,
    "forget_batch_size": 4,
    "retain_batch_size": 6,
    "learning_rate_schedule": "constant",
}

FORGET, RETAIN = np.array([[0, 1, 2], [3, 4, 5]]), np.arange(10, 30)


def pool():
    _, _, forget, retain = toy.problem()
    return {name: jnp.concatenate([forget[name], retain[name]]) for name in forget}


def starts(count):
    return shadows.new_weights(toy.TASK, jax.random.split(jax.random.key(5), count))


def train(method, keys, forget, retain, weights, **settings):
    chosen = methods.settings(method, QUICK | settings)
    numbers = {name: v for name, v in chosen.items() if isinstance(v, float)}
    run = shadows.train(toy.TASK, method, chosen)
    unseen = {name: values[40:] for name, values in pool().items()}
    return run(numbers, keys, *weights, pool(), unseen, jnp.asarray(forget), jnp.asarray(retain))


@pytest.mark.parametrize("seed", [0, 1])
def test_every_target_is_forgotten_by_one_model_of_each_pair_and_unseen_by_the_other(seed):
    plan = shadows.plan_shadows(110, 8, 0.1, seed)
    assert plan.forgotten.shape == (8, 20) and len(plan.retain) == 90
    assert (plan.forgotten[0::2] ^ plan.forgotten[1::2]).all()
    assert (plan.forgotten.sum(axis=1) == 10).all()
    together = np.sort(np.concatenate([plan.retain, plan.targets]))
    np.testing.assert_array_equal(together, np.arange(110))
    for k, forget in enumerate(plan.forget(slice(2, 5)), start=2):
        np.testing.assert_array_equal(forget, plan.targets[plan.forgotten[k]])
    # A model learns 100 examples and forgets a tenth of them.
    assert plan.forget(slice(0, 1)).shape[1] == 0.1 * (len(plan.retain) + 10)


def test_pairs_and_seeds_draw_other_halves():
    one, other = (shadows.plan_shadows(110, 8, 0.1, seed) for seed in (0, 1))
    assert len({mask.tobytes() for mask in one.forgotten}) == 8
    assert one.targets.tolist() != other.targets.tolist()
    same = shadows.plan_shadows(110, 8, 0.1, 0)
    np.testing.assert_array_equal(one.forgotten, same.forgotten)


def test_more_models_leave_the_first_ones_as_they_are():
    few, many = (shadows.plan_shadows(110, count, 0.1, 0) for count in (8, 16))
    np.testing.assert_array_equal(few.targets, many.targets)
    np.testing.assert_array_equal(few.forgotten, many.forgotten[:8])


def test_sides_pick_the_model_that_forgot_or_the_one_that_did_not():
    plan = shadows.plan_shadows(33, 6, 0.1, 0)
    owner = np.broadcast_to(np.arange(6)[:, None], plan.forgotten.shape)
    for forgotten in (True, False):
        chosen = shadows.sides(plan, owner, forgotten)
        for pair, row in enumerate(chosen):
            assert set(row) == {2 * pair, 2 * pair + 1}
            assert [plan.forgotten[k, t] for t, k in enumerate(row)] == [forgotten] * len(row)


def test_a_group_trains_as_the_ordinary_program_trains_each_model():
    method = "salun"  # which looks at its data before the first step
    keys = jax.vmap(jax.random.key)(jnp.array([3, 4, 5]))
    forget = np.array([[0, 5, 9, 30], [1, 2, 3, 4], [40, 41, 42, 47]])
    retain = np.array([6, 7, 8, 10, 11, 12, 13, 14, 15, 20])
    weights = starts(3)
    group = train(method, keys, forget, retain, weights)
    settings = methods.settings(method, QUICK)
    numbers = {name: v for name, v in settings.items() if isinstance(v, float)}
    fixed = {name: v for name, v in settings.items() if name not in numbers}
    program = training.compile_program(
        lambda given: methods.build(toy.TASK, method, fixed | given),
        forget_batch_size=4,
        retain_batch_size=6,
        chunk_steps=7,
        mesh=devices.make_mesh(1),
    )
    for i in range(3):
        examples = [{name: v[p] for name, v in pool().items()} for p in (forget[i], retain)]
        start = jax.tree.map(lambda x, i=i: x[i], weights)
        alone = training.run(program, numbers, start, *examples, num_steps=7, seed=3 + i).state
        ours = jax.tree.map(lambda x, i=i: x[i], group)
        for a, b in zip(
            jax.tree.leaves(ours),
            jax.tree.leaves((alone.params, alone.model_state)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def test_a_guard_looks_at_the_same_validation_data_as_in_a_run(monkeypatch):
    """Of many validation examples, the few that `programs.arguments` takes decide all of it."""
    monkeypatch.setattr(programs, "_MOST_AUDITED", 4)
    settings = methods.settings("gradient_ascent", QUICK | {"guard_budget": 0.01, "guard_every": 2})
    numbers = programs.split(settings).numbers
    run, keys, weights = (
        shadows.train(toy.TASK, "gradient_ascent", settings),
        jax.random.split(jax.random.key(1), 2),
        starts(2),
    )
    unseen = {name: values[30:] for name, values in pool().items()}
    arguments = (pool(), unseen, jnp.asarray(FORGET), jnp.asarray(RETAIN))
    found = run(numbers, keys, *weights, *arguments)
    watched = Examples.from_arrays(np.zeros((18, 1, 1, 1), np.uint8), np.zeros(18, np.int32))
    seen = np.asarray(programs.arguments(settings, watched)["held_out"]["index"])
    assert seen.tolist() == [0, 5, 11, 17]
    for positions, same in ((np.delete(np.arange(18), seen), True), (seen, False)):
        spoilt = {"image": unseen["image"].at[positions].add(3.0)}
        spoilt["label"] = (unseen["label"].at[positions].add(1)) % toy.CLASSES
        spoilt = unseen | spoilt
        again = run(numbers, keys, *weights, arguments[0], spoilt, *arguments[2:])
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True)
        assert all((a == b).all() for a, b in pairs) == same


def test_a_group_of_one_and_a_retain_set_of_its_own_change_nothing():
    keys, weights = jax.random.split(jax.random.key(1), 2), starts(2)
    shared = train("finetune", keys, FORGET, RETAIN, weights)
    own = train("finetune", keys, FORGET, np.stack([RETAIN] * 2), weights)
    last = jax.tree.map(lambda x: x[1:], weights)
    alone = train("finetune", keys[1:], FORGET[1:], RETAIN, last)
    for a, b, c in zip(*map(jax.tree.leaves, (shared, own, alone)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a[1:], c, rtol=1e-5, atol=1e-6)


def test_other_numbers_share_the_program_and_reach_it():
    settings = [methods.settings("finetune", QUICK | {"learning_rate": r}) for r in (0.0, 0.1)]
    assert shadows.train(toy.TASK, "finetune", settings[0]) is shadows.train(
        toy.TASK, "finetune", settings[1]
    )
    keys, weights = jax.random.split(jax.random.key(1), 2), starts(2)
    still = train("finetune", keys, FORGET, RETAIN, weights, learning_rate=0.0)
    moved = train("finetune", keys, FORGET, RETAIN, weights, learning_rate=0.1)
    np.testing.assert_array_equal(still[0]["kernel"], weights[0]["kernel"])
    assert float(jnp.abs(moved[0]["kernel"] - weights[0]["kernel"]).min()) > 0


def test_predictions_are_those_of_the_task_for_any_number_of_examples(monkeypatch):
    monkeypatch.setattr(shadows, "_PREDICTION_BATCH", 20)
    weights, everything = starts(2), pool()
    probabilities, finite = shadows.predict_group(toy.TASK, *weights, everything)
    assert probabilities.shape == (2, 48, toy.CLASSES) and finite.tolist() == [True, True]
    for i in range(2):
        expected = toy.TASK.predict(*jax.tree.map(lambda x, i=i: x[i], weights), everything)
        np.testing.assert_allclose(probabilities[i], expected, rtol=1e-5, atol=1e-6)
    params, state = weights
    params = params | {"kernel": params["kernel"].at[1, 0, 0].set(jnp.nan)}
    assert shadows.predict_group(toy.TASK, params, state, everything)[1].tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((110, 4, 0.1, 0), "at least 6"),
        ((110, 7, 0.1, 0), "even"),
        ((5, 6, 0.01, 0), "at least 2"),
    ],
)
def test_plans_that_cannot_be_made_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        shadows.plan_shadows(*arguments)


def test_an_unknown_choice_of_a_setting_is_found_before_anything_is_compiled():
    chosen = methods.settings("eupmu", QUICK | {"estimator": "previous"})
    with pytest.raises(InputError, match="same_batch"):
        shadows.train(toy.TASK, "eupmu", chosen)


@pytest.mark.parametrize("objective", ["match_unseen", "track_unseen"])
def test_a_group_forgets_until_its_forget_data_look_unseen(objective):
    """Each model is told of its own examples: alone, with the same key, it does the same."""
    keys = jax.vmap(jax.random.key)(jnp.array([3, 4]))
    settings = {"objective": objective, "learning_rate": 0.3}
    group = train("scalarization", keys, FORGET, RETAIN, starts(2), **settings)
    last = jax.tree.map(lambda x: x[1:], starts(2))
    alone = train("scalarization", keys[1:], FORGET[1:], RETAIN, last, **settings)
    for got, wanted in zip(jax.tree.leaves(group), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got[1], wanted[0], rtol=1e-4, atol=1e-6)
    other = train("scalarization", keys, FORGET, RETAIN, starts(2), learning_rate=0.3)
    assert any(
        np.any(np.abs(x - y) > 1e-4)
        for x, y in zip(jax.tree.leaves(group), jax.tree.leaves(other), strict=True)
    )
