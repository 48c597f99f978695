"""Every sentence of the verdict appears exactly when its numbers say so."""

from pathlib import Path

import pytest

from jaxunlearn.studies.report.aggregate import make_table
from jaxunlearn.studies.report.study import Run, Study
from jaxunlearn.studies.report.verdict import ONE_SEED, make_verdict

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
    """The one sentence that begins with some words, or None."""
    found = [sentence for sentence in sentences if sentence.startswith(words)]
    assert len(found) < 2
    return found[0] if found else None


def test_without_a_distance_to_a_retrained_model_there_is_none():
    assert verdict_of(a={"test_accuracy": [90.0]}, original={"test_accuracy": [91.0]}) == []
    assert verdict_of(original=gap(1.0), retrain_again=gap(1.0)) == []


def test_what_was_not_measured_is_not_spoken_of():
    assert verdict_of(a=gap(1.0)) == [
        ONE_SEED,
        "Five-part gap of a to the retrained model: 1.00 points.",
    ]


def test_one_seed_is_said_to_rank_nothing_and_several_are_not():
    assert ONE_SEED in verdict_of(a=gap(1.0), b=gap(2.0))
    assert ONE_SEED not in verdict_of(a=gap(1.0, 1.0), b=gap(2.0, 2.0))


def test_the_nearest_is_named_with_all_that_are_as_near_in_the_digits_shown():
    sentences = verdict_of(a=gap(1.004), b=gap(2.0), c=gap(0.996))
    said = about(sentences, "Smallest five-part gap")
    assert said == "Smallest five-part gap to the retrained model: a and c, 1.00 points."


@pytest.mark.parametrize(
    ("b", "words"),
    [
        ([2.0, 2.1, 1.9, 2.0], "The first, a, can be told apart from every other method."),
        ([1.2, 0.9, 1.1, 1.0], "No method can be told apart from the first, a: the order may be"),
    ],
)
def test_several_seeds_say_what_is_settled(b, words):
    said = about(verdict_of(a=gap(1.0, 1.1, 0.9, 1.0), b=gap(*b)), "Smallest five-part gap")
    assert said.startswith("Smallest five-part gap to the retrained model: a, 1.00 ± 0.13 points. ")
    assert words in said


def test_methods_are_set_beside_the_original_seed_by_seed():
    original = gap(5.0, 7.0, 9.0)
    better, same, worse = gap(4.0, 6.1, 7.9), gap(5.5, 6.5, 9.1), gap(6.0, 8.1, 9.9)
    models = {"better": better, "same": same, "worse": worse}
    assert about(verdict_of(original=original, **models), "Five-part gap against") == (
        "Five-part gap against the original model's (7.00): smaller for better; not settled for "
        "same; not smaller for worse."
    )


def test_the_difference_of_one_seed_must_be_seen_in_the_digits_shown():
    js = {"js_to_retrained": [0.0649]}
    words = "JS to the retrained model against the original model's"
    for other, verb in ((0.0651, "not smaller"), (0.0655, "smaller")):
        models = {"original": {"js_to_retrained": [other]}, "a": gap(1.0) | js}
        assert about(verdict_of(**models), words) == (f"{words} ({other:.3f}): {verb} for a.")
    assert about(verdict_of(a=gap(1.0) | js), words) is None


def test_the_floor_says_who_is_farther_and_which_differences_are_none():
    sentences = verdict_of(
        retrain_again=gap(1.5), near=gap(1.2), alike=gap(2.6), far=gap(2.8), same=gap(1.2)
    )
    floor = "Five-part gap against a second retrained model's"
    assert about(sentences, floor) == (
        f"{floor} (1.50, the floor): larger for alike, far; not larger for near, same."
    )
    assert about(sentences, "Behind the first") == (
        "Behind the first by less than the floor, so no different from it: alike."
    )
    assert about(verdict_of(near=gap(1.2), far=gap(9.0)), floor) is None
    several = verdict_of(retrain_again=gap(1.5, 1.6), near=gap(1.2, 1.9), far=gap(9.0, 9.2))
    assert about(several, "Behind the first") is None  # there the ranking speaks
    assert about(several, floor).endswith("larger for far; not settled for near.")


def test_lost_accuracy_is_told_beyond_half_a_point_and_one_point():
    goal = {"retain_accuracy": [100.0], "test_accuracy": [90.0]}
    kept = gap(1.0) | {"retain_accuracy": [99.5], "test_accuracy": [89.0]}
    lost = gap(1.0) | {"retain_accuracy": [99.49], "test_accuracy": [88.99]}
    sentences = verdict_of(retrain=goal, kept=kept, lost=lost)
    assert about(sentences, "Retain") == (
        "Retain accuracy against the retrained model's: more than 0.5 points lower for lost; not "
        "more than 0.5 points lower for kept."
    )
    assert about(sentences, "Test") == (
        "Test accuracy against the retrained model's: more than 1.0 points lower for lost; not "
        "more than 1.0 points lower for kept."
    )
    goal = {"test_accuracy": [90.0, 91.0, 92.0]}
    mixed = gap(1, 1, 1) | {"test_accuracy": [90.0, 89.0, 88.0]}
    said = about(verdict_of(retrain=goal, mixed=mixed), "Test")
    assert said.endswith("not settled for mixed.")


def test_a_method_with_one_of_several_seeds_settles_nothing():
    models = {"original": gap(5.0, 5.0), "once": gap(1.0), "twice": gap(1.0, 1.0)}
    said = about(verdict_of(**models), "Five-part gap against the original")
    assert said.endswith("smaller for twice; not settled for once.")


def test_time_is_small_up_to_a_fifth():
    def timed(share):
        return gap(1.0) | {"share_of_retraining": [share]}

    said = about(verdict_of(a=timed(20.0), b=timed(20.1)), "Mean time")
    assert said == "Mean time in percent of retraining: at most 20% for a; more than 20% for b."
    assert about(verdict_of(a=timed(5.0), b=timed(6.0)), "Mean time").endswith("for all methods.")
    assert about(verdict_of(a=gap(1.0)), "Mean time") is None


def test_each_attack_names_its_own_first():
    keys = ("average_gap_svc_non_member_rate", "average_gap_entropy_member_rate")
    a, b = (gap(1.0) | dict(zip(keys, values, strict=True)) for values in ([[2], [4]], [[3], [1]]))
    assert about(verdict_of(a=a, b=b), "Smallest average gap") == (
        "Smallest average gap: a (2.00) by svc_non_member_rate, b (1.00) by entropy_member_rate."
    )


def test_u_lira_is_told_by_its_interval_and_only_of_methods_in_the_table():
    def found(low, high):
        return {"auc": {"value": (low + high) / 2, "low": low, "high": high}}

    models = {"retrain": found(51, 60), "a": found(50.1, 60), "b": found(49.9, 70)}
    ulira = {"shadows": 16, "models": models | {"gone": found(90, 99)}}
    assert about(verdict_of(ulira, a=gap(1.0), b=gap(2.0)), "U-LiRA") == (
        "U-LiRA with 16 shadow models: the 95% interval of the AUC is above 50 for a; not above 50 "
        "for b."
    )
    said = about(verdict_of(ulira | {"shadows": 14}, a=gap(1.0)), "U-LiRA")
    assert "too few for intervals that are wide enough" in said
    assert about(verdict_of(a=gap(1.0)), "U-LiRA") is None


def test_long_lists_of_the_rest_are_cut_short():
    models = {f"m{i}": gap(9.0) for i in range(7)} | {"near": gap(1.0)}
    said = about(verdict_of(original=gap(5.0), **models), "Five-part gap against")
    assert said.endswith("smaller for near; not smaller for all others.")
