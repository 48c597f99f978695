"""Teachers: what they see, how long they learn, and what their order is worth."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.studies.runs import teachers
from jaxunlearn.types import InputError, Weights
from tests import toy

RECIPE = methods.settings("retrain", {"num_steps": 40, "retain_batch_size": 8})


def parts():
    """Forget, unseen and retain data, apart from each other."""
    _, _, forget, rest = toy.problem()
    return forget, *({k: v[half] for k, v in rest.items()} for half in (np.s_[:20], np.s_[20:]))


def ranked(forget, unseen, retain, **settings):
    params, state, _, _ = toy.problem()
    return teachers.with_taught(
        toy.TASK, settings, RECIPE, 3, Weights(params, state), forget, unseen, retain
    )


def test_teachers_must_see_no_example_that_they_rank():
    forget, unseen, retain = parts()
    for name, part in (("forget", forget), ("unseen", unseen)):
        both = {key: jnp.concatenate([retain[key], part[key][:2]]) for key in retain}
        with pytest.raises(InputError, match=f"contain 2 of the {name} examples .first: index"):
            ranked(forget, unseen, both)


def test_partners_depend_on_the_example_alone_and_not_on_its_place():
    forget, unseen, retain = parts()
    found = ranked(forget, unseen, retain)
    assert np.array_equal(found["unseen_label"], forget["label"])
    assert np.all(np.isin(found["unseen_index"], unseen["index"]))
    backwards = {k: v[::-1] for k, v in forget.items()}
    again = ranked(backwards, unseen, retain)
    for name in ("unseen_index", "unseen_score"):
        np.testing.assert_allclose(again[name][::-1], found[name], rtol=1e-5)


def test_confidences_are_those_of_new_models_on_the_scale_of_the_original():
    """Neither the class nor the original model's view of a forget example matters."""
    forget, unseen, retain = parts()
    settings = {"objective": "match_teachers", "num_teachers": 2}
    found = ranked(forget, unseen, retain, **settings)["teacher_confidence"]
    params, state, _, _ = toy.problem()
    new = teachers._trained(toy.TASK, settings, RECIPE, 3, None, retain, None)
    seen, theirs = (
        sum(teachers._confidences(toy.TASK, weights, part) for weights in new) / 2
        for part in (forget, unseen)
    )
    before = teachers._confidences(toy.TASK, Weights(params, state), unseen)
    scale = np.linalg.lstsq(theirs[:, None], before)[0]
    np.testing.assert_allclose(found, scale * seen, rtol=1e-4)


def test_without_weight_the_teachers_have_no_say():
    """The original model's order remains, however many they are."""
    given = parts()
    one, two = (ranked(*given, teacher_weight=0.0, num_teachers=n) for n in (1, 2))
    np.testing.assert_array_equal(one["unseen_index"], two["unseen_index"])
    full = ranked(*given, teacher_weight=1.0, teacher_share=1.0)
    assert np.any(full["unseen_index"] != one["unseen_index"])


def test_ranks_are_mean_confidences_of_the_teacher_and_the_original_model():
    forget, unseen, retain = parts()
    start = Weights(*toy.problem()[:2])
    settings = {"objective": "match_ranked"}
    (teacher,) = teachers._trained(toy.TASK, settings, RECIPE, 3, start, retain, None)
    both = [teachers._confidences(toy.TASK, weights, forget) for weights in (start, teacher)]
    found = np.asarray(ranked(forget, unseen, retain, teacher_weight=0.25)["unseen_score"])
    for label in np.unique(forget["label"]):
        own = np.asarray(forget["label"]) == label
        order = np.argsort(0.75 * both[0][own] + 0.25 * both[1][own])
        assert np.all(np.diff(found[own][order]) >= 0.0)


@pytest.mark.parametrize(("share", "steps"), [(0.1, 4), (0.5, 20), (0.0, 1), (1.0, 40)])
def test_a_teacher_learns_a_share_of_the_steps_of_pretraining(share, steps, monkeypatch):
    taken = []

    def note(program, numbers, *args, num_steps, **rest):
        taken.append((num_steps, numbers["learning_rate"] / RECIPE["learning_rate"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(teachers.training, "run", note)
    for given in ({}, {"objective": "match_teachers"}, {"teacher_rate": 3.0}):
        with pytest.raises(KeyboardInterrupt):
            ranked(*parts(), teacher_share=share, **given)
    assert taken == [(steps, 2.0), (steps, 1.0), (steps, pytest.approx(3.0))]


def test_a_rehearsal_counts_every_teacher(monkeypatch):
    monkeypatch.setattr(teachers, "rehearse", lambda *args: teachers.Rehearsal(2.0, 1.0, 5))
    found = teachers.rehearsed(toy.TASK, {"num_teachers": 3}, RECIPE, parts()[2])
    assert found == (6.0, 1.0, 5)
