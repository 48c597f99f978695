"""Recipes: methods with the literal settings of published experiments."""

import jax
import jax.numpy as jnp
import pytest

from jaxunlearn import methods
from jaxunlearn.data import ForgetRequest
from jaxunlearn.methods._recipes_of_generation import GENERATING
from jaxunlearn.studies import Study
from jaxunlearn.types import InputError, Method
from tests import toy, toy_diffusion


@pytest.mark.parametrize("name", methods.recipes())
def test_a_recipe_is_a_method_with_other_defaults(name: str) -> None:
    method, settings = methods.method_of(name), methods.settings(name)
    recipe = methods.RECIPES[name]
    assert method in methods.available() and name not in methods.available()
    assert methods.settings(method, settings) == settings
    assert recipe.settings.items() <= settings.items()
    assert methods.settings(name, generates=True).items() >= recipe.settings.items()
    assert methods.settings(name, {"num_steps": 7})["num_steps"] == 7
    assert methods.summary(name).endswith(".") and methods.about(name).endswith(f"{method}.")


def test_a_recipe_is_built_and_refused_like_its_method() -> None:
    settings = methods.settings("gdr_gma_released")
    assert isinstance(methods.build(toy.TASK, "gdr_gma_released", settings), Method)
    record = {"method": "gdr_gma_released", "settings": {"threshold": 0.5}}
    assert methods.completed(record)["settings"] == settings | {"threshold": 0.5}
    with pytest.raises(InputError, match="method gdr_gma_released has no setting 'tolerance'"):
        methods.settings("gdr_gma_released", {"tolerance": 1.0})
    with pytest.raises(InputError, match="'gdr_gma_release' .did you mean 'gdr_gma_released'"):
        methods.settings("gdr_gma_release")


def test_a_study_takes_a_recipe_by_its_name() -> None:
    request = ForgetRequest(fraction=0.1)
    runs = {"gdr_gma_released": {}, "half": {"method": "gdr_gma_released", "learning_rate": 0.05}}
    study = Study(methods=runs)
    method, settings = study.run_settings(request, "gdr_gma_released")
    assert (method, settings) == ("gdr_gma_released", methods.settings("gdr_gma_released"))
    assert study.run_settings(request, "half")[1] == settings | {"learning_rate": 0.05}


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n in GENERATING if n != "sa_released"])
def test_recipes_of_generation_are_traced_on_a_model_that_generates(name: str) -> None:
    task, key = toy_diffusion.toy(), toy_diffusion.KEY
    method = methods.build(task, name, methods.settings(name, generates=True))
    batch = toy_diffusion.batch_of(2)
    arrays = {leaf: values for leaf, values in batch.items() if leaf != "epoch"}
    retain = {leaf: jnp.stack([x] * method.retain_batches) for leaf, x in batch.items()}
    weights = jax.eval_shape(task.init, key)
    state = jax.eval_shape(method.init, key, *weights, arrays, arrays)
    after, metrics = jax.eval_shape(method.step, state, batch, retain)
    assert jax.tree.structure(after) == jax.tree.structure(state) and "forget_loss" in metrics
