"""Configurations: what may stand in them, and what is said of what may not."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from jaxunlearn import methods
from jaxunlearn.data import ForgetRequest
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.runs import run_config
from jaxunlearn.studies.search.tuning import load_search
from jaxunlearn.studies.study import Study, load_study
from jaxunlearn.types import InputError
from tests.shell.commands import done

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
SEARCHES = sorted(CONFIGS.glob("*_search.toml"))
STUDIES = [path for path in sorted(CONFIGS.glob("*.toml")) if not path.stem.endswith("_search")]
SEARCHED = [path for path in STUDIES if path.with_name(f"{path.stem}_search.toml") in SEARCHES]


def test_a_problem_has_all_training_settings():
    settings = Problem(training={"num_steps": 7, "momentum": 0}).training_settings()
    assert settings["num_steps"] == 7
    assert settings["momentum"] == 0.0 and type(settings["momentum"]) is float
    assert settings["learning_rate_schedule"] == "one_cycle"
    assert settings["learning_rate"] == 0.1


def test_overrides_apply_to_their_request_only():
    random, three = ForgetRequest(fraction=0.1), ForgetRequest(classes=(3,))
    study = Study(
        requests=(random, three),
        methods={"eupmu": {"tolerance": 1}, "mine": {"method": "eupmu", "convex": True}},
        overrides={"class-3": {"eupmu": {"tolerance": 2.0}}},
    )
    assert study.run_settings(random, "eupmu")[1]["tolerance"] == 1.0
    assert study.run_settings(three, "eupmu")[1]["tolerance"] == 2.0
    method, settings = study.run_settings(three, "mine")
    assert (method, settings["convex"], settings["tolerance"]) == ("eupmu", True, 0.0)
    assert "method" not in settings
    assert study.methods["mine"]["method"] == "eupmu"  # and asking has changed nothing
    with pytest.raises(InputError, match="method salun has no setting 'convex'"):
        replace(study, overrides={"class-3": {"mine": {"method": "salun"}}})


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "retrain", "retrain-again"])
def test_names_that_cannot_be_folders_or_are_taken(name):
    with pytest.raises(
        InputError, match="the name of a run is .*, but must consist of letters, digits"
    ):
        Study(methods={name: {"method": "salun"}})


@pytest.mark.parametrize(("one", "other"), [("Salun", "salun"), ("gr\u00f6n", "gro\u0308n")])
def test_names_that_some_file_systems_do_not_tell_apart(one, other):
    with pytest.raises(InputError, match="have the same name on file systems that ignore case"):
        Study(methods={one: {"method": "salun"}, other: {"method": "salun"}})


@pytest.mark.parametrize("name", ["num_classes", "name", "axis_name"])
def test_fields_of_the_model_that_are_not_to_choose(name):
    with pytest.raises(InputError, match=f"model_settings contain {name}, which"):
        Problem(model_settings={name: 3})


def test_a_study_file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(
        """
        title = "Größe"
        seeds = [3, 1]
        [problem]
        data = "cifar10"
        model_settings = {norm = "group"}
        [[requests]]
        classes = [1, 2]
        [[requests]]
        indices = [5]
        [methods.salun]
        fraction = 1
        """,
        encoding="utf-8",
    )
    study = load_study(path)
    assert study.title == "Größe"
    assert study.seeds == (3, 1)
    assert study.problem == Problem(data="cifar10", model_settings={"norm": "group"})
    assert [request.name for request in study.requests] == ["classes-1-2", "indices-1-ef2d127d"]
    assert study.methods == {"salun": {"fraction": 1}}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_shipped_configurations_are_sound(path):
    study = load_study(path)
    assert study.methods
    for request in study.requests:
        for name in study.methods:
            method, settings = study.run_settings(request, name)
            assert method and settings["num_steps"] > 0


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.name)
def test_the_shipped_searches_are_sound(path):
    search = load_search(path)
    for request in search.requests:
        for name in search.search:
            method, proposals = search.proposals(request, name)
            assert method and len(proposals) == search.trials


@pytest.mark.parametrize("path", SEARCHED, ids=lambda path: path.name)
def test_a_study_shares_its_problem_but_no_seed_with_the_search_of_its_settings(path):
    study, search = load_study(path), load_search(path.with_name(f"{path.stem}_search.toml"))
    assert study.problem == search.problem
    assert not set(study.seeds) & set(search.seeds)


def test_relative_paths_of_a_file_are_relative_to_its_folder(tmp_path, monkeypatch):
    (tmp_path / "config" / "lists").mkdir(parents=True)
    (tmp_path / "config" / "lists" / "few.json").write_text("[5, 3]")
    (tmp_path / "far").write_text("4\n")
    study = tmp_path / "config" / "study.toml"
    study.write_text(
        'inception = "nets/inception.safetensors"\n'
        '[problem]\nmodel = "ddpm-tiny"\ndata_dir = "../data"\n[classifier]\nmodel = "mlp"\n'
        f'[[requests]]\nfile = "lists/few.json"\n[[requests]]\nfile = "{tmp_path / "far"}"\n'
        "[[requests]]\nclasses = [3]\n[methods.finetune]\n"
    )
    search = tmp_path / "config" / "search.toml"
    search.write_text(
        'trials = 1\nseeds = [0]\n[problem]\ndata_dir = "../data"\nfolder = "~/raw"\n'
        '[[requests]]\nfile = "lists/few.json"\n[search.finetune]\n'
    )
    for place in (tmp_path, tmp_path / "config", tmp_path / "config" / "lists"):
        monkeypatch.chdir(place)
        plan = load_study(Path(os.path.relpath(study)))
        assert plan.inception == str(tmp_path / "config" / "nets" / "inception.safetensors")
        assert plan.problem.data_dir == str(tmp_path / "data")
        assert plan.requests[0].resolved() == ForgetRequest(indices=(3, 5))
        assert plan.requests[1].resolved() == ForgetRequest(indices=(4,))
        found = load_search(Path(os.path.relpath(search)))
        assert found.problem.data_dir == str(tmp_path / "data")
        assert found.problem.folder == "~/raw"
        assert found.requests[0].name == plan.requests[0].name


@pytest.mark.parametrize("seed", [-1, 2**31, 2**32, 2**63])
def test_a_seed_that_jax_would_cut_short_is_refused(seed):
    reason = "but must be from 0 to 2147483647"
    with pytest.raises(InputError, match=reason):
        Study(seeds=(0, seed), methods={"finetune": {}})
    with pytest.raises(InputError, match=reason):
        run_config.pretraining(Problem(), seed)


def test_where_the_data_is_and_defaults_written_down_are_no_part_of_a_problem():
    plain = Problem(training={"num_steps": 3})
    same = Problem(data_dir="a", folder="b", training={"momentum": 0.9, "num_steps": 3})
    assert same.identity() == plain.identity()
    assert Problem(data_dir="a") == Problem(data_dir="b")
    assert Problem(training={"num_steps": 4}).identity() != plain.identity()


@pytest.mark.parametrize(("model", "judge"), [("ddpm-tiny", {"model": "mlp"}), ("mlp", None)])
def test_runs_have_the_defaults_of_what_the_model_does(model, judge):
    problem, request = Problem(model=model), ForgetRequest(classes=(3,))
    given = {"num_steps": 7}
    study = Study(problem=problem, requests=(request,), methods={"sfron": given}, classifier=judge)
    settings = methods.settings("sfron", given, generates=judge is not None)
    assert study.run_settings(request, "sfron") == ("sfron", settings)
    assert run_config.unlearning(problem, 0, request, "sfron", given).settings == settings


@pytest.mark.parametrize("kind", ["study", "search"])
def test_editors_have_the_schema_of_every_configuration(kind):
    assert (CONFIGS / f"{kind}.schema.json").read_text() == done("schema", kind)
    for path in SEARCHES if kind == "search" else STUDIES:
        assert path.read_text("utf-8").startswith(f"#:schema ./{kind}.schema.json\n"), path


def test_the_schema_knows_fields_types_choices_and_meanings():
    schema = json.loads(done("schema"))
    problem, settings = (schema["$defs"][name]["properties"] for name in ("Problem", "Settings"))
    assert problem["model"]["description"].startswith("name of the model")
    assert problem["augmentation"]["anyOf"][0]["enum"] == ["none", "crop", "flip_crop"]
    assert settings["tolerance"] == {"type": "number"} and "eupmu" in settings["method"]["enum"]
    assert not schema["additionalProperties"] and "problem" in schema["properties"]


TUNED = """
[overrides."random-0.1".eupmu]
tolerance = 0.3
learning_rate = 0.4
num_steps = 9
[overrides."class-3".eupmu]
tolerance = 0.6
"""


def test_a_study_takes_tuned_settings_and_its_own_win(tmp_path):
    (tmp_path / "tuned.toml").write_text(TUNED)
    (tmp_path / "study.toml").write_text(
        'tuned = "tuned.toml"\n[methods.eupmu]\nlearning_rate = 0.1\n[methods.finetune]\n'
        '[overrides."random-0.1".eupmu]\nnum_steps = 7\n'
    )
    study = load_study(tmp_path / "study.toml")
    settings = study.run_settings(study.requests[0], "eupmu")[1]
    assert {"tolerance": 0.3, "learning_rate": 0.1, "num_steps": 7}.items() <= settings.items()
    assert study.tuned is None  # the study holds the settings, not the file
    assert replace(study, seeds=(1,)).overrides == study.overrides
    usual = Study(methods={"finetune": {}})
    run = study.requests[0], "finetune"
    assert study.run_settings(*run) == usual.run_settings(*run)
    with pytest.raises(InputError, match="has settings of random-0.1 eupmu, class-3 eupmu, but th"):
        Study(methods={"finetune": {}}, tuned=str(tmp_path / "tuned.toml"))
    with pytest.raises(InputError, match="cannot be read .No such file"):
        Study(methods={"eupmu": {}}, tuned=str(tmp_path / "none.toml"))
    (tmp_path / "tuned.toml").write_text('title = "a study"\n[methods.eupmu]\n')
    with pytest.raises(InputError, match=r"tuned.toml has no field 'title', only overrides\."):
        load_study(tmp_path / "study.toml")
