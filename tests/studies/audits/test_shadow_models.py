"""Shadow models: who sees what, and that they are trained as by ordinary runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods, training
from jaxunlearn.methods import objectives
from jaxunlearn.studies.audits import shadow_models as shadows
from jaxunlearn.training import programs
from jaxunlearn.types import InputError, Weights
from tests import toy
from tests.helpers import assert_trees_close

pytestmark = pytest.mark.long

QUICK = {
    "num_steps": 7,
    "forget_batch_size": 4,
    "retain_batch_size": 6,
    "learning_rate_schedule": "constant",
}

RECIPE = methods.settings("retrain", QUICK | {"num_steps": 40})
FORGET, RETAIN = np.array([[0, 1, 2], [3, 4, 5]]), np.arange(10, 30)


def pool():
    _, _, forget, retain = toy.problem()
    return {name: jnp.concatenate([forget[name], retain[name]]) for name in forget}


def starts(count):
    return [shadows.new_weights(toy.TASK, jax.random.key(5 + i)) for i in range(count)]


def train(method, keys, forget, retain, weights, unseen=None, most=1, **settings):
    chosen = methods.settings(method, QUICK | settings)
    unseen = unseen or {name: values[40:] for name, values in pool().items()}
    retain = [retain] * len(forget) if retain.ndim == 1 else retain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shadows, "at_once", lambda count: most)
        return shadows.train(
            toy.TASK,
            method,
            chosen,
            keys,
            weights,
            pool(),
            forget,
            retain,
            unseen,
            unseen,
            recipe=RECIPE,
        )


def keys_of(*seeds):
    return jax.vmap(jax.random.key)(jnp.array(seeds))


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
        chosen = shadows.sides(plan.forgotten, owner, forgotten)
        for pair, row in enumerate(chosen):
            assert set(row) == {2 * pair, 2 * pair + 1}
            assert [plan.forgotten[k, t] for t, k in enumerate(row)] == [forgotten] * len(row)


@pytest.mark.parametrize("most", [1, 3])
def test_shadow_models_are_ordinary_runs(most):
    method = "salun"  # which looks at its data before the first step
    forget = np.array([[0, 5, 9, 30], [1, 2, 3, 4], [40, 41, 42, 47]])
    retain = np.array([6, 7, 8, 10, 11, 12, 13, 14, 15, 20])
    weights = starts(3)
    group = train(method, keys_of(3, 4, 5), forget, retain, weights, most=most)
    settings = methods.settings(method, QUICK)
    program = programs.of_method(toy.TASK, method, settings)
    for i in range(3):
        examples = [{name: v[p] for name, v in pool().items()} for p in (forget[i], retain)]
        alone = training.run(
            program, programs.arguments(settings), weights[i], *examples, num_steps=7, seed=3 + i
        ).state
        expected = Weights(alone.params, alone.model_state)
        assert_trees_close(group[i], expected, rtol=2e-4, atol=2e-6)


def test_a_guard_looks_at_the_same_validation_data_as_in_a_run(monkeypatch):
    """Of many validation examples, the few that `programs.arguments` takes decide all of it."""
    monkeypatch.setattr(programs, "_MOST_AUDITED", 4)
    method, given = "gradient_ascent", {"guard_budget": 0.01, "guard_every": 2}
    unseen = {name: values[30:] for name, values in pool().items()}
    arguments = method, keys_of(1, 2), FORGET, RETAIN, starts(2)
    found = train(*arguments, unseen, **given)
    settings = methods.settings(method, QUICK | given)
    seen = np.asarray(programs.arguments(settings, unseen)["held_out"]["index"]) - 30
    assert seen.tolist() == [0, 5, 11, 17]
    for positions, same in ((np.delete(np.arange(18), seen), True), (seen, False)):
        spoilt = {"image": unseen["image"].at[positions].add(3.0)}
        spoilt["label"] = (unseen["label"].at[positions].add(1)) % toy.CLASSES
        again = train(*arguments, unseen | spoilt, **given)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True)
        assert all((a == b).all() for a, b in pairs) == same


def test_equal_retain_sets_are_one_shared_set():
    keys, weights = keys_of(1, 2), starts(2)
    shared = train("finetune", keys, FORGET, RETAIN, weights)
    own = train("finetune", keys, FORGET, np.stack([RETAIN] * 2), weights)
    together = train("finetune", keys, FORGET, np.stack([RETAIN] * 2), weights, most=2)
    for other in (own, together):
        assert_trees_close(shared, other, rtol=1e-5, atol=1e-6)


def test_other_numbers_reach_the_program():
    keys, weights = keys_of(1, 2), starts(2)
    still = train("finetune", keys, FORGET, RETAIN, weights, learning_rate=0.0)
    moved = train("finetune", keys, FORGET, RETAIN, weights, learning_rate=0.1)
    for i in range(2):
        np.testing.assert_array_equal(still[i].params["kernel"], weights[i].params["kernel"])
        assert jnp.abs(moved[i].params["kernel"] - weights[i].params["kernel"]).min() > 0


def test_a_model_that_diverges_has_no_weights_and_its_neighbours_have():
    weights = starts(2)
    weights[0] = jax.tree.map(lambda x: x * jnp.nan, weights[0])
    found = train("finetune", keys_of(1, 2), FORGET, RETAIN, weights)
    assert found[0] is None and np.isfinite(found[1].params["kernel"]).all()


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


COMPARING = [name for name in objectives.NAMES if objectives.needs_unseen({"objective": name})]


@pytest.mark.parametrize("objective", COMPARING)
def test_each_model_gets_its_own_unseen_examples(objective):
    """In a group as alone; `keep_weight` and teachers too."""
    keys = keys_of(3, 4)
    given = {"objective": objective, "learning_rate": 0.3, "keep_weight": 0.1}
    together = train("scalarization", keys, FORGET, RETAIN, starts(2), most=2, **given)
    alone = train("scalarization", keys[1:], FORGET[1:], RETAIN, starts(2)[1:], **given)
    assert_trees_close(together[1], alone[0], rtol=1e-4, atol=1e-6)
    other = train("scalarization", keys, FORGET, RETAIN, starts(2), learning_rate=0.3)
    assert any(
        np.any(np.abs(x - y) > 1e-4)
        for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(other), strict=True)
    )
