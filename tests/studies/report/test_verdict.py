"""Every sentence of the verdict appears exactly when its numbers say so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxunlearn.evaluation import Predictions, SplitPredictions
from jaxunlearn.studies.report.aggregate import make_table
from jaxunlearn.studies.report.diagnosis import (
    NO_EFFECT,
    NOT_MOVED,
    OVER_FORGOTTEN,
    diagnose,
)
from jaxunlearn.studies.report.study import Run, Study
from jaxunlearn.studies.report.verdict import ONE_SEED, headline, make_verdict

REQUEST = "random-0.1"


def make_study(**models):
    """A study from metrics: for each model, one list of values a metric, one value a seed."""
    runs = []
    for name, metrics in models.items():
        for seed in range(len(next(iter(metrics.values())))):
            of_seed = {key: float(values[seed]) for key, values in metrics.items()}
            run = Run(seed, REQUEST, name.replace("_again", "-again"), Path(), of_seed, {})
            runs.append(run)
    seeds = tuple(sorted({run.seed for run in runs}))
    names = tuple(name for name in models if name not in ("original", "retrain", "retrain_again"))
    return Study(Path(), "", "", "", {}, seeds, (REQUEST,), names, tuple(runs))


def verdict_of(ulira=None, **models):
    study = make_study(**models)
    return make_verdict(study, make_table(study, REQUEST), ulira)


def gap(*values):
    return {"five_part_gap": list(values)}


def about(sentences, words):
    """The one sentence that holds some words, or None."""
    found = [sentence for sentence in sentences if words in sentence]
    assert len(found) < 2
    return found[0] if found else None


def test_without_a_distance_to_a_retrained_model_there_is_none():
    assert verdict_of(a={"test_accuracy": [90.0]}, original={"test_accuracy": [91.0]}) == []
    assert verdict_of(original=gap(1.0), retrain_again=gap(1.0)) == []


def test_what_was_not_measured_is_not_spoken_of():
    assert verdict_of(a=gap(1.0)) == [
        ONE_SEED,
        "The five-part gap of a to the retrained model is 1.00 points.",
    ]


def test_one_seed_is_said_to_rank_nothing_and_several_are_not():
    assert ONE_SEED in verdict_of(a=gap(1.0), b=gap(2.0))
    assert ONE_SEED not in verdict_of(a=gap(1.0, 1.0), b=gap(2.0, 2.0))


def test_the_nearest_is_named_with_all_that_are_as_near_in_the_digits_shown():
    sentences = verdict_of(a=gap(1.004), b=gap(2.0), c=gap(0.996))
    said = about(sentences, "closest")
    assert said == "a and c are closest to the retrained model, 1.00 points away."


@pytest.mark.parametrize(
    ("b", "words"),
    [
        ([2.0, 2.1, 1.9, 2.0], "a can be told apart from every other method."),
        ([1.2, 0.9, 1.1, 1.0], "No method can be told apart from a: the order may be"),
    ],
)
def test_several_seeds_say_what_is_settled(b, words):
    said = about(verdict_of(a=gap(1.0, 1.1, 0.9, 1.0), b=gap(*b)), "closest")
    assert said.startswith("a is closest to the retrained model, 1.00 ± 0.13 points away. ")
    assert words in said


def test_methods_are_set_beside_the_original_seed_by_seed():
    original = gap(5.0, 7.0, 9.0)
    better, same, worse = gap(4.0, 6.1, 7.9), gap(5.5, 6.5, 9.1), gap(6.0, 8.1, 9.9)
    models = {"better": better, "same": same, "worse": worse}
    assert about(verdict_of(original=original, **models), "smaller five-part gap") == (
        "better has a smaller five-part gap than the original model (7.00); worse does not; for "
        "same it is not settled."
    )


def test_the_difference_of_one_seed_must_be_seen_in_the_digits_shown():
    js = {"js_to_retrained": [0.0649]}
    claim = "a smaller JS divergence from the retrained model than the original"
    for other, verb in ((0.0651, "does not have"), (0.0655, "has")):
        models = {"original": {"js_to_retrained": [other]}, "a": gap(1.0) | js}
        assert about(verdict_of(**models), "JS") == f"a {verb} {claim} ({other:.3f})."
    assert about(verdict_of(a=gap(1.0) | js), "JS") is None


def test_the_floor_shows_which_methods_are_farther_and_which_do_not_differ():
    sentences = verdict_of(
        retrain_again=gap(1.5), near=gap(1.2), alike=gap(2.6), far=gap(2.8), same=gap(1.2)
    )
    floor = "farther from the retrained model than a second retrained model is"
    assert about(sentences, floor) == (f"alike and far are {floor} (1.50); near and same are not.")
    assert about(sentences, "lead") == (
        "The lead over alike is smaller than that, so it means nothing."
    )
    assert about(verdict_of(near=gap(1.2), far=gap(9.0)), floor) is None
    several = verdict_of(retrain_again=gap(1.5, 1.6), near=gap(1.2, 1.9), far=gap(9.0, 9.2))
    assert about(several, "lead") is None  # there the ranking compares
    assert about(several, floor) == f"far is {floor} (1.55); for near it is not settled."
    every = verdict_of(retrain_again=gap(0.62), a=gap(1.2), b=gap(9.0))
    assert about(every, floor) == f"Every method is {floor} (0.62)."


def test_lost_accuracy_is_reported_beyond_half_a_point_and_one_point():
    goal = {"retain_accuracy": [100.0], "test_accuracy": [90.0]}
    kept = gap(1.0) | {"retain_accuracy": [99.5], "test_accuracy": [89.0]}
    lost = gap(1.0) | {"retain_accuracy": [99.49], "test_accuracy": [88.99]}
    sentences = verdict_of(retrain=goal, kept=kept, lost=lost)
    assert about(sentences, "retain accuracy") == (
        "lost has a retain accuracy more than 0.5 points below the retrained model's; kept does "
        "not."
    )
    assert about(sentences, "test accuracy") == (
        "lost has a test accuracy more than 1.0 points below the retrained model's; kept does not."
    )
    alike = verdict_of(retrain=goal, kept=kept, other=kept)
    assert about(alike, "retain accuracy").startswith("No method has a retain accuracy more than")
    goal = {"test_accuracy": [90.0, 91.0, 92.0]}
    mixed = gap(1, 1, 1) | {"test_accuracy": [90.0, 89.0, 88.0]}
    assert about(verdict_of(retrain=goal, mixed=mixed), "test accuracy") == (
        "Whether mixed has a test accuracy more than 1.0 points below the retrained model's is not "
        "settled."
    )


def test_a_method_with_one_of_several_seeds_settles_nothing():
    models = {"original": gap(5.0, 5.0), "once": gap(1.0), "twice": gap(1.0, 1.0)}
    said = about(verdict_of(**models), "smaller five-part gap")
    assert said == (
        "twice has a smaller five-part gap than the original model (5.00); for once it is not "
        "settled."
    )


def test_time_is_small_up_to_a_fifth():
    def timed(share):
        return gap(1.0) | {"share_of_retraining": [share]}

    words = "at most 20% of the time of retraining"
    said = about(verdict_of(a=timed(20.0), b=timed(20.1)), words)
    assert said == f"a takes {words}; b does not."
    assert about(verdict_of(a=timed(5.0), b=timed(6.0)), words) == f"Every method takes {words}."
    assert about(verdict_of(a=timed(25.0)), words) == f"a does not take {words}."
    assert about(verdict_of(a=gap(1.0)), words) is None


def test_each_attack_names_its_own_first():
    keys = ("average_gap_svc_non_member_rate", "average_gap_entropy_member_rate")
    a, b = (gap(1.0) | dict(zip(keys, values, strict=True)) for values in ([[2], [4]], [[3], [1]]))
    assert about(verdict_of(a=a, b=b), "average gap") == (
        "The average gap is smallest for a by svc_non_member_rate (2.00) and for b by "
        "entropy_member_rate (1.00)."
    )
    c = gap(1.0) | dict(zip(keys, [[5], [5]], strict=True))
    assert about(verdict_of(a=a, c=c), "average gap") == (
        "The average gap is smallest for a by svc_non_member_rate (2.00) and by "
        "entropy_member_rate (4.00)."
    )


def test_u_lira_is_reported_by_its_interval_and_only_for_methods_in_the_table():
    def found(low, high):
        return {"auc": {"value": (low + high) / 2, "low": low, "high": high}}

    models = {"retrain": found(51, 60), "a": found(50.1, 60), "b": found(49.9, 70)}
    ulira = {"shadows": 16, "models": models | {"gone": found(90, 99)}}
    assert about(verdict_of(ulira, a=gap(1.0), b=gap(2.0)), "U-LiRA") == (
        "a can be distinguished from a retrained model by U-LiRA (95% interval of the AUC above "
        "50; 16 shadow models); b cannot."
    )
    said = about(verdict_of(ulira | {"shadows": 14}, a=gap(1.0)), "U-LiRA")
    assert "14 shadow models, too few for reliable intervals" in said
    assert about(verdict_of(a=gap(1.0)), "U-LiRA") is None


def test_long_lists_of_the_rest_are_cut_short():
    models = {f"m{i}": gap(9.0) for i in range(7)} | {"near": gap(1.0)}
    said = about(verdict_of(original=gap(5.0), **models), "smaller five-part gap")
    assert said.startswith("near has") and said.endswith("; all others do not.")


def test_the_headline_names_the_closest_method_and_what_to_hold_it_against():
    assert headline(make_study(original=gap(1.0))) == ""
    near = gap(0.9, 0.7) | {"share_of_retraining": [30.0, 30.8]}
    models = {"original": gap(5.0, 6.0), "retrain_again": gap(0.8, 0.6), "far": gap(3.0, 3.0)}
    assert headline(make_study(near=near, **models)) == (
        "Forgetting a random 10% of the training data, near is within 0.8 points of retraining, in "
        "30% of its time; the original model is 5.5 away, a second retrained model is 0.7 away."
    )
    assert headline(make_study(a=gap(2.0))).endswith(
        "a is within 2.0 points of retraining (one seed)."
    )
    assert headline(make_study(original=gap(1.0, 1.0), a=gap(2.0, 1.0))) == (
        "Forgetting a random 10% of the training data, no method is closer to retraining than the "
        "original model, 1.0 points away."
    )


def predictions(folder, confidence, by=3):
    """Keeps predictions on forget data with some confidence in the true class, the first of two."""
    folder.mkdir(parents=True)
    part = Predictions(np.tile([confidence, 1.0 - confidence], (by, 1)), np.zeros(by, int))
    SplitPredictions(*[part] * 5).save(folder / "predictions.npz")
    return folder


def test_each_method_is_diagnosed(tmp_path):
    confidences = {"original": 0.99, "retrain": 0.9, "kept": 0.989, "over": 0.87, "good": 0.89}
    confidences["still"] = 0.99
    study = make_study(**{name: gap(1.0, 1.0) for name in confidences})
    runs = [
        replace(
            run,
            folder=predictions(tmp_path / run.name / str(run.seed), confidences[run.name]),
            metrics=run.metrics | {"weights_moved": 0.001 if run.name == "still" else 1.0},
        )
        for run in study.runs
    ]
    study = replace(study, runs=tuple(runs))
    assert diagnose(study, REQUEST) == {
        "kept": NO_EFFECT,
        "over": OVER_FORGOTTEN,
        "still": NOT_MOVED,
    }
    sentences = make_verdict(study, make_table(study, REQUEST))
    assert about(sentences, "Nothing moved").endswith("less than 0.01%): still.")
    assert about(sentences, "No effect at this rate").endswith(": kept.")
    assert about(sentences, "Over-forgotten").endswith(": over.")


def test_an_open_difference_in_confidence_is_no_diagnosis(tmp_path):
    study = make_study(retrain=gap(0.0, 0.0), unsure=gap(1.0, 1.0))
    below = {("retrain", 0): 0.9, ("retrain", 1): 0.9, ("unsure", 0): 0.87, ("unsure", 1): 0.5}
    runs = [
        replace(
            run, folder=predictions(tmp_path / run.name / str(run.seed), below[run.name, run.seed])
        )
        for run in study.runs
    ]
    assert diagnose(replace(study, runs=tuple(runs)), REQUEST) == {}
    first = tuple(run for run in runs if run.seed == 0)
    assert diagnose(replace(study, runs=first), REQUEST) == {"unsure": OVER_FORGOTTEN}
