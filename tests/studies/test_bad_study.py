"""Studies that cannot be run: one clear sentence, status 2, before anything is written."""

import pytest

from tests.shell.commands import (
    assert_refused,
    call,
    snapshot,
)

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]


STUDIES = {
    "absent": (None, "cannot be read (No such file or directory)", "give a TOML file"),
    "no TOML": ("seeds = [0", "is not TOML", "correct the file"),
    "empty": ("", "names no methods", "needs at least one of", "eupmu"),
    "field": ("seed = [0]", "no field 'seed' (did you mean 'seeds'?), only title, problem"),
    "type": ("seeds = 3", "seeds is 3, but must be a list"),
    "entry": ('seeds = [0, "1"]', "seeds[1] is '1', but must be a whole number"),
    "seed": (
        "seeds = [-1]\n[methods.salun]",
        "the seed is -1, but must be from 0 to 2147483647",
    ),
    "seeds twice": ("seeds = [1, 1]\n[methods.salun]", "seeds are 1, 1, but must be distinct"),
    "oracle": ("oracle = false\n[methods.salun]", "oracle is false, but must be true, since mlp"),
    "no seeds": ("seeds = []\n[methods.salun]", "has no seeds"),
    "problem": ("[problem]\nmodle = 'mlp'", "problem has no field 'modle'", "mean 'model'?"),
    "problem type": ("[problem]\nmodel = 3", "model is 3, but must be text"),
    "data": ("[problem]\ndata = 'digit'\n[methods.salun]", "unknown data set 'digit'"),
    "model": ("[problem]\nmodel = 'mpl'\n[methods.salun]", "unknown model 'mpl'"),
    "training": ("[problem.training]\nsteps = 3\n[methods.salun]", "no setting 'steps'"),
    "request": ("[[requests]]\nfraction = 2.0\n[methods.salun]", "is 2.0"),
    "requests": ("[[requests]]\nclass = 3\n[methods.salun]", "no field 'class'", "mean 'classes'?"),
    "requests twice": (
        *["[[requests]]\nclasses = [1]\n[[requests]]\nclasses = [1]\n[methods.salun]"],
        *["class-1, class-1 are not all different"],
    ),
    "class": ("[[requests]]\nclasses = [11]\n[methods.salun]", "class 11 does not exist"),
    "method": ("[methods.salum]", "method is 'salum'", "did you mean 'salun'?"),
    "methods": ("[methods]\nsalun = 3", "methods.salun is 3, but must be a table"),
    "retrain": ("[methods.mine]\nmethod = 'retrain'", "method of run mine is 'retrain'"),
    "method type": ("[methods.mine]\nmethod = ['salun']", "run mine is ['salun']"),
    "name": ("[methods.original]\nmethod = 'salun'", "the name of a run is 'original', but must"),
    "path": ("[methods.'../x']\nmethod = 'salun'", "the name of a run is '../x', but must"),
    "setting": ("[methods.salun]\nnum_steps = -1", "num_steps of method salun is -1"),
    "choice": ("[methods.salun]\noptimizer = 'adam'", "optimizer of method salun is 'adam'"),
    "override": ("[methods.salun]\n[overrides.x.salun]", "name the request 'x'", "must be quoted"),
    "override run": (
        *['[methods.salun]\n[overrides."random-0.1".sfron]', "name the run 'sfron'"],
        *["the study has salun"],
    ),
    "override setting": (
        *['[methods.salun]\n[overrides."random-0.1".salun]\nfraction = 3.0'],
        *["fraction of method salun is 3.0"],
    ),
}


@pytest.mark.parametrize("case", STUDIES)
def test_compare(here, data_dir, tmp_path_factory, monkeypatch, case):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    text, *fragments = STUDIES[case]
    config = tmp_path_factory.mktemp("config") / "study.toml"
    if text is not None:
        config.write_text(text)
    assert_refused(call("compare", "study", "--config", config), *fragments)


def test_folders_and_devices_of_compare(here, finished, pretrained, unwritable):
    words = ["--config", finished.config]
    assert_refused(call("compare", "full", *words), "full is not empty and holds no study")
    assert_refused(call("compare", "a-file", *words), "a-file is a file")
    assert_refused(call("compare", pretrained, *words), "holds no study")
    assert_refused(call("compare", unwritable / "study", *words), "study cannot be written")
    assert_refused(call("compare", "study", *words, "--devices", 9), "devices is 9")
    assert_refused(call("compare", "study", *words, "--devices", 5), "multiple of the 5 devices")
    assert_refused(call("compare", "study", *words, "--seeds", -1), "from 0 to 2147483647")


def test_a_study_folder_of_another_configuration(finished, study_text, tmp_path):
    before = snapshot(finished.folder)
    config = tmp_path / "study.toml"
    for old, new, reason in (
        ("num_steps = 200", "num_steps = 201", "problem.training.num_steps is 200 there"),
        ("tolerance = -0.1", "tolerance = -0.2", "settings.tolerance is -0.1 there, but -0.2 now"),
        ("learning_rate = 0.02", "learning_rate = 0.03", "learning_rate is 0.02 there"),
        ('method = "eupmu"', 'method = "sfron"', "no setting 'estimator'"),
    ):
        assert old in study_text
        config.write_text(study_text.replace(old, new))
        assert_refused(call("compare", finished.folder, "--config", config), reason)
    assert snapshot(finished.folder) == before
