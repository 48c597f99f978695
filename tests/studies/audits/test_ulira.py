"""The command `ulira`: what it writes, how it continues, and what it refuses."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from scipy.stats import norm

from jaxunlearn import plugins
from jaxunlearn.data import ForgetRequest
from jaxunlearn.files import read_arrays, read_json, write_arrays
from jaxunlearn.studies.audits import shadow_models, ulira
from jaxunlearn.studies.audits.shadow_folders import ShadowGroup, ShadowSetup
from jaxunlearn.studies.audits.shadow_models import plan_shadows
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.study import Study
from jaxunlearn.training import Diverged
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError
from tests.shell.commands import assert_refused, call, copy

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

QUICK = {"num_steps": 3, "forget_batch_size": 32, "retain_batch_size": 32}
NUMBERS = {"num_shadows": 6, "group_size": 3, "false_positive_rates": (0.05,)}


@pytest.fixture(scope="module")
def study(data_dir):
    training = {"num_steps": 60, "retain_batch_size": 64}
    return Study(
        title="Tiny",
        problem=Problem(data_dir=str(data_dir), model="mlp-tiny", training=training),
        requests=(ForgetRequest(classes=(3,)), ForgetRequest(fraction=0.1)),
        methods={"nothing": {"method": "finetune", "learning_rate": 0.0, "weight_decay": 0.0}}
        | {"finetune": QUICK},
        overrides={"random-0.1": {"nothing": QUICK}},
    )


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, study):
    folder = tmp_path_factory.mktemp("ulira") / "shadows"
    return folder, ulira.ulira(folder, study, **NUMBERS)


def test_a_budget_that_shadow_models_break_is_refused(attacked, tmp_path, study):
    tight = {"tight": {"method": "eupmu_budget", "budget": 1e-6} | QUICK}
    folder = copy(attacked[0], tmp_path / "shadows")
    with pytest.raises(InputError, match="budget is 1e-06 .* must be above .* the original model"):
        ulira.ulira(folder, dataclasses.replace(study, methods=tight, overrides={}), **NUMBERS)


def test_results_name_the_protocol_and_every_model(attacked):
    folder, report = attacked
    assert read_json(folder / "ulira.json") == json.loads(json.dumps(report))
    assert list(report["models"]) == ["retrain", "original", "nothing", "finetune"]
    assert (report["shadows"], report["fraction"], report["variance"]) == (6, 0.1, "shared")
    for found in report["models"].values():
        assert found["auc"]["low"] <= found["auc"]["value"] <= found["auc"]["high"]
        assert 0 <= found["tpr"]["0.05"]["value"] <= 100
        assert 50 < found["test_accuracy"] < 100
        fpr, tpr = found["roc_curve"]["fpr"], found["roc_curve"]["tpr"]
        assert fpr == sorted(fpr) and tpr == sorted(tpr)
        assert fpr[-1] == tpr[-1] == pytest.approx(100.0)
        reached = max(t for f, t in zip(fpr, tpr, strict=True) if f <= 5.0)
        assert reached <= found["tpr"]["0.05"]["value"] + 1e-9
        area = np.trapezoid([tpr[0], *tpr], [0.0, *fpr]) / 100
        assert area == pytest.approx(found["auc"]["value"], abs=3.0)
    text = (folder / "ulira.md").read_text()
    assert "intervals are too narrow" in text
    assert "| *Retrained* |" in text and "| finetune |" in text and "5% FPR" in text
    assert f"{report['models']['original']['auc']['value']:.1f}" in text


def test_a_method_that_does_nothing_is_the_original_and_retraining_is_a_coin(attacked):
    _, report = attacked
    models = report["models"]
    assert models["nothing"] == models["original"]
    assert models["retrain"]["auc"]["low"] < 50 < models["retrain"]["auc"]["high"]
    assert models["original"]["auc"]["value"] > models["retrain"]["auc"]["value"]
    assert models["original"]["forget_accuracy"] > models["retrain"]["forget_accuracy"]


def test_the_audits_show_the_floor_three_times(attacked):
    folder, report = attacked
    models, again = report["models"], report["retrained_again"]
    floors = [models["retrain"], *again]
    assert len({json.dumps(floor) for floor in floors}) == 3  # other halves
    for key in ("klom", "gaussian_klom"):
        assert all(set(found[key]) == {"targets", "retain", "test"} for found in floors)
        assert all(value > 0 for found in floors for value in found[key].values())
    lines = (folder / "ulira.md").read_text().splitlines()
    table = lines[next(i for i, line in enumerate(lines) if "| KLOM forget |" in line) :]
    names = [line.split("|")[1].strip() for line in table[2:]]
    assert names == ["*Retrained*", *["*Retrained again*"] * 2, "*Original*", "nothing", "finetune"]


def test_each_audit_sees_the_difference_that_is_there():
    """Unlearned models that are surer of half of the targets and of all retain examples by 1."""
    plan, rng = plan_shadows(2200, 64, 0.1, seed=0), np.random.default_rng(0)
    sizes = {"confidence": 400, "retain_confidence": 300, "test_confidence": 300}
    retrained, unlearned = (
        {key: rng.normal(size=(64, count)) for key, count in sizes.items()} for _ in range(2)
    )
    unlearned["confidence"][:, :200] += 1.0
    unlearned["retain_confidence"] += 1.0
    planned, *others = ulira._draw_halves(plan, {"retrain": retrained}, seed=0)
    np.testing.assert_array_equal(planned["targets"], plan.forgotten)
    assert len(others) == 2 and all((h[0::2] ^ h[1::2]).all() for h in planned.values())
    ends = np.arange(200), np.arange(200, 400)
    found, *floors = (
        ulira._audits(ulira._pairs(halves, answers, retrained), ends, "example")
        for halves, answers in ((planned, unlearned), *((each, retrained) for each in others))
    )
    seen = 100 * norm.cdf(1 / np.sqrt(2))  # two Gaussians at a distance of 1
    assert found["memorised_auc"] == pytest.approx({"most": seen, "least": 50}, abs=2)
    assert found["retain_auc"] == pytest.approx(seen, abs=2)
    for floor in floors:
        assert floor["memorised_auc"] == pytest.approx({"most": 50, "least": 50}, abs=2)
        assert floor["retain_auc"] == pytest.approx(50, abs=2)
        for key in ("klom", "gaussian_klom"):
            assert found[key]["targets"] > floor[key]["targets"]
            assert found[key]["retain"] > floor[key]["retain"]
            assert found[key]["test"] == pytest.approx(floor[key]["test"], rel=0.25)


def test_pictures_are_pictures(attacked):
    for name in ("ulira_roc.png", "ulira_confidence.png", "ulira_klom.png"):
        assert (attacked[0] / name).read_bytes()[:4] == b"\x89PNG"


def age(folder, name):
    """Turns answers into a file of an older version, whose methods lacked a setting of today."""
    path = folder / "group-000" / f"{name}.npz"
    kept = read_arrays(path)
    settings = json.loads(str(kept.pop("settings")))
    del kept["retain_confidence"], kept["test_confidence"], settings["weight_decay"]
    write_arrays(path, kept | {"settings": np.array(json.dumps(settings))})


def test_what_was_lost_is_computed_again_to_the_same_numbers(
    attacked, study, tmp_path, capsys, monkeypatch
):
    """No model is trained from scratch."""
    folder = copy(attacked[0], tmp_path / "shadows")
    (folder / "ulira.json").unlink()
    (folder / "group-003" / "finetune.npz").unlink()
    for name in ("retrain", "original", "finetune"):
        age(folder, name)
    monkeypatch.setattr(shadow_models, "new_weights", None)
    layout = Layout(chunk_steps=3)
    assert ulira.ulira(folder, study, **NUMBERS, layout=layout) == attacked[1]
    printed = [line.split(" in ")[0] for line in capsys.readouterr().out.splitlines()]
    first = [f"shadow models 0 to 2: {name}" for name in ("retrain", "original", "finetune")]
    assert printed == [*first, "shadow models 3 to 5: finetune"]


def test_answers_by_another_version_of_a_plug_in_are_refused(
    attacked, study, tmp_path, monkeypatch
):
    folder = copy(attacked[0], tmp_path / "shadows")
    monkeypatch.setitem(plugins._OWNERS, ("method", "finetune"), "mine")
    monkeypatch.setattr(plugins, "digest", lambda name: "first")
    assert ulira.ulira(folder, study, **NUMBERS) == attacked[1]  # an older record has no version
    for group in ("group-000", "group-003"):
        (folder / group / "finetune.npz").unlink()
    for _ in range(2):
        assert ulira.ulira(folder, study, **NUMBERS) == attacked[1]
    monkeypatch.setattr(plugins, "digest", lambda name: "second")
    with pytest.raises(InputError, match=r"finetune\.npz .* another version of the plug-in mine"):
        ulira.ulira(folder, study, **NUMBERS)


def test_old_answers_of_models_whose_weights_are_gone_are_refused(attacked, study, tmp_path):
    folder = copy(attacked[0], tmp_path / "shadows")
    age(folder, "retrain")
    shutil.rmtree(folder / "group-000" / "retrained")
    with pytest.raises(InputError, match=r"retrain\.npz has no confidences .* were not kept"):
        ulira.ulira(folder, study, **NUMBERS)


def test_a_rewound_method_starts_from_earlier_weights(attacked, study, tmp_path):
    """From the last step these are the original models, and the weights of both steps are kept."""
    folder, nothing = copy(attacked[0], tmp_path / "shadows"), study.methods["nothing"] | QUICK
    runs = {name: nothing | {"rewind": share} for name, share in (("late", 1.0), ("early", 0.5))}
    ulira.ulira(folder, dataclasses.replace(study, methods=runs, overrides={}), **NUMBERS)
    answers = {
        name: read_arrays(folder / "group-000" / f"{name}.npz")["confidence"]
        for name in ("original", "late", "early")
    }
    np.testing.assert_array_equal(answers["late"], answers["original"])
    assert not np.allclose(answers["early"], answers["original"], atol=0.1)
    assert {place.name for place in (folder / "group-000" / "kept").iterdir()} == {"30", "60"}


def test_groups_of_another_size_are_refused(attacked, study):
    with pytest.raises(InputError, match="group_size is 3 there, but 6 now"):
        ulira.ulira(attacked[0], study, **NUMBERS | {"group_size": 6})


def test_a_shadow_model_has_the_same_keys_in_groups_of_any_size(attacked, study):
    def keys(members):
        setup = ShadowSetup(attacked[0], study.problem, None, *({},) * 4, None, seed=5)
        return [jax.random.key_data(ShadowGroup(setup, members).keys(child)) for child in range(3)]

    for whole, part in zip(keys(slice(0, 6)), keys(slice(4, 6)), strict=True):
        np.testing.assert_array_equal(whole[4:], part)
    everything = np.concatenate(keys(slice(0, 6)))
    assert len(np.unique(everything, axis=0)) == len(everything)


def test_a_method_that_diverges_stops_no_other(attacked, study, tmp_path):
    folder = copy(attacked[0], tmp_path / "shadows")
    explode = QUICK | {"method": "finetune", "learning_rate": 1e30}
    more = Study(
        problem=study.problem,
        requests=study.requests,
        methods={"explode": explode, "finetune": QUICK},
    )
    with pytest.raises(Diverged, match="explode"):
        ulira.ulira(folder, more, **NUMBERS)
    models = json.loads((folder / "ulira.json").read_text())["models"]
    assert list(models) == ["retrain", "original", "finetune"]


def test_files_of_other_settings_and_damaged_ones_are_refused(attacked, study, tmp_path):
    folder = copy(attacked[0], tmp_path / "shadows")
    other = Study(
        problem=study.problem,
        requests=study.requests,
        methods={"finetune": QUICK | {"learning_rate": 0.5}},
    )
    with pytest.raises(InputError, match=r"finetune\.npz was computed with other settings"):
        ulira.ulira(folder, other, **NUMBERS)
    path = folder / "group-000" / "retrain.npz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"retrain\.npz is damaged"):
        ulira.ulira(folder, study, **NUMBERS)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"num_shadows": 4}, "at least 6"),
        ({"num_shadows": 7}, "even"),
        ({"group_size": 0}, "at least 1"),
        ({"false_positive_rates": (0.0001,)}, "6 shadow models give 708 scores"),
        ({"false_positive_rates": (1.5,)}, "between 0 and 1"),
    ],
)
def test_numbers_that_cannot_work_are_refused_before_anything_is_written(
    study, tmp_path, numbers, words
):
    with pytest.raises(InputError) as error:
        ulira.ulira(tmp_path / "shadows", study, **NUMBERS | numbers)
    assert words in str(error.value)
    assert not (tmp_path / "shadows").exists()


def test_a_run_that_changes_a_part_of_the_parameters_is_refused(study, tmp_path):
    head = {"head": {"method": "finetune", "trainable": "head"}}
    with pytest.raises(InputError, match="the run head has trainable, but shadow models"):
        ulira.ulira(tmp_path / "new", dataclasses.replace(study, methods=head, overrides={}))


def test_the_command_refuses_folders_and_studies_that_are_not_for_it(attacked, tmp_path, data_dir):
    config = tmp_path / "study.toml"
    text = f'[problem]\ndata_dir = "{data_dir}"\nmodel = "mlp-tiny"\n[methods.finetune]\n'
    config.write_text(text + "[[requests]]\nclasses = [3]\n")
    words = ["ulira", tmp_path / "new", "--config", config, "--shadows", 6]
    assert_refused(call(*words), "no random request")
    config.write_text(text)
    assert_refused(call(*words, "--fpr", 0.0001), "scores of retrained models")
    assert_refused(call("ulira", tmp_path, *words[2:], "--fpr", 0.1), "not empty")
    assert_refused(call("ulira", config, *words[2:], "--fpr", 0.1), "is a file")
    words[1] = attacked[0]
    assert_refused(
        call(*words, "--fpr", 0.1, "--group-size", 3),
        "holds another set of shadow models",
        "problem.training",
    )
