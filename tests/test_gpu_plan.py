"""The plan of the runs on a GPU: all its files hold, and all cells of the table of speeds exist."""

import argparse
import sys

import jax
import jax.numpy as jnp
import pytest
import tomli_w

from experiments.benchmarks import published_sizes
from experiments.gpu import run
from jaxunlearn import methods
from jaxunlearn.data import ForgetRequest
from jaxunlearn.studies.search.tuning import load_search
from jaxunlearn.studies.study import load_study


@pytest.fixture
def given(tmp_path):
    """Arguments of the script, in a folder where the searches have chosen their first draw."""
    given = argparse.Namespace(data="cifar10", note="JPEG copies", runs=tmp_path, tiny=False)
    for name, stage in run.STAGES.items():
        if stage.command == "tune":
            path = tmp_path / f"{name}.toml"
            path.write_text(tomli_w.dumps(run.planned(stage, given)))
            search = load_search(path)
            (request,) = search.requests
            drawn = {each: search.proposals(request, each)[1][0] for each in search.search}
            (tmp_path / name).mkdir()
            chosen = tomli_w.dumps({"overrides": {request.name: drawn}})
            (tmp_path / name / "tuned.toml").write_text(chosen)
    return given


@pytest.mark.parametrize("tiny", [False, True])
def test_every_stage_is_a_study_with_methods_that_exist(given, tiny):
    given.tiny = tiny
    for name, stage in run.STAGES.items():
        if stage.command == "compare":
            path = given.runs / f"{name}.toml"
            path.write_text(tomli_w.dumps(run.planned(stage, given)))
            study = load_study(path)
            assert study.methods and "JPEG copies" in study.title
            wanted = [request.name for request in study.requests]
            assert not stage.requests or wanted == list(stage.requests)[: 1 if tiny else None]
            for request in study.requests:
                for each in study.methods:
                    method, settings = study.run_settings(request, each)
                    steps = methods.settings(method, settings)["num_steps"]
                    assert steps == 2 if tiny else steps >= 50


def test_a_study_takes_the_settings_of_its_search(given):
    study = run.planned(run.STAGES["classes"], given)
    names = {ForgetRequest(classes=(c,)).name for c in (1, 5, 8)}
    assert study["overrides"].keys() == names
    assert study["methods"]["eupmu_sfron"] == {"method": "eupmu_sfron"}
    assert study["overrides"]["class-5"]["eupmu_sfron"]["objective"] == "adaptive_ascent"


def test_stages_follow_one_another_until_the_time_is_over(tmp_path, monkeypatch, capsys):
    def go(code, *words):
        both = [[sys.executable, "-c", code]] * 2
        monkeypatch.setattr(run, "commands", lambda name, given: both)
        monkeypatch.setattr(sys, "argv", ["run.py", "--runs", str(tmp_path), *words])
        run.main()
        return capsys.readouterr().out

    out = go("pass", "literal", "study", "ddpm")
    assert "literal done" in out and "ddpm done" in out
    assert "study is left out, since search has chosen no settings" in out
    assert "ddpm not done" in go("raise SystemExit(3)", "ddpm")
    out = go("import signal; signal.pause()", "--minutes", "0")
    assert "literal not done" in out and "the same command continues" in out
    assert "search" not in out


def test_the_table_of_speeds_has_every_model_in_every_form():
    assert len(published_sizes.cells(tiny=False)) == 15
    batches = [size.batch for size in published_sizes.sizes(tiny=False).values()]
    assert batches == [32, 256, 128, 64, 8]
    row = {"ms": 20.0, "operations": 8e12, "memory": 2e9, "compilation_seconds": 3.0}
    rows = {"vit-b ours": {"eupmu": row}, "vit-b eager": {"eupmu": row | {"ms": 40.0}}}
    (line,) = [x for x in published_sizes.table(rows, 1000.0).splitlines() if "vit-b" in x]
    shown = [cell.strip() for cell in line.strip("|").split("|")]
    assert shown[1:8] == ["20", "40", "–", "0.5", "–", "400", "40"]


def test_operations_are_those_of_products_in_every_turn_of_a_loop():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def program(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = jax.lax.cond(y.sum() > 0, lambda y: y @ jnp.ones((5, 5)), lambda y: y, y)
        return jax.lax.scan(lambda y, _: (jax.nn.relu(y @ jnp.ones((5, 5))), None), y, length=7)

    product = 2.0 * 2 * 8 * 8 * 5 * 5
    convolution = 2.0 * 2 * 8 * 8 * 5 * 27
    found = published_sizes.operations(jax.make_jaxpr(program)(x, kernel).jaxpr)
    assert found == convolution + 8 * product
    backward = jax.make_jaxpr(jax.grad(lambda *args: program(*args)[0].sum(), (0, 1)))(x, kernel)
    assert published_sizes.operations(backward.jaxpr) > 2 * found


@pytest.mark.long
def test_a_large_diffusion_transformer_takes_the_published_number_of_operations():
    size = published_sizes.sizes(tiny=False)["dit-xl/2"]
    images, one = jnp.zeros((1, *size.shape)), jnp.zeros(1, jnp.int32)
    params = jax.eval_shape(size.model.init, jax.random.key(0), images, one, one)
    forward = jax.make_jaxpr(size.model.apply)(params, images, one, one)
    products = published_sizes.operations(forward.jaxpr) / 2e9  # the paper counts multiplications
    assert products == pytest.approx(118.64, rel=1e-3)
