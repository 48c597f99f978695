"""Methods by name: their settings, what is refused, and how an own one is made known."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError, Method, Task
from tests import toy, toy_diffusion
from tests.helpers import assert_trees_close
from tests.methods.cases import GENERATING


def test_every_method_is_listed_summarised_and_exported() -> None:
    assert methods.available()[:2] == ("retrain", "finetune")
    for name in methods.available():
        assert callable(getattr(methods, name)) and name in methods.__all__
        assert methods.summary(name).endswith((".", "`"))


@pytest.mark.parametrize("name", methods.available())
def test_all_settings_reach_the_constructor(name: str) -> None:
    """Defaults are within their own ranges, and `build` takes every one of them."""
    settings = methods.settings(name)
    assert methods.settings(name, settings) == settings
    own = set(inspect.signature(getattr(methods, name)).parameters) - {"task", "optimizer"}
    assert set(settings) == own | set(methods.COMMON_SETTINGS)
    task = toy_diffusion.toy() if name in GENERATING else toy.TASK
    assert isinstance(methods.build(task, name, settings), Method)


def test_whole_numbers_become_floating_point() -> None:
    tolerance = methods.settings("eupmu", {"tolerance": -1})["tolerance"]
    assert tolerance == -1.0 and type(tolerance) is float


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("eupmuu", {}, "method is 'eupmuu', but must be one of .*; did you mean eupmu?"),
        ("eupmu", {"tolerence": 1.0}, "has no setting 'tolerence', .*; did you mean tolerance?"),
        ("finetune", {"tolerance": 1.0}, "method finetune has no setting 'tolerance', only num_st"),
        ("eupmu", {"tolerance": "big"}, "tolerance of method eupmu is 'big', .* of type float"),
        ("eupmu", {"log_loss": 1}, "log_loss of method eupmu is 1, .* of type bool"),
        ("finetune", {"num_steps": 1.5}, "num_steps of method finetune is 1.5, .* of type int"),
        ("finetune", {"num_steps": True}, "num_steps of method finetune is True"),
        ("finetune", {"num_steps": 0}, "num_steps of method finetune is 0, but must be positive"),
        ("finetune", {"num_steps": -5}, "num_steps of method finetune is -5, but must be positive"),
        ("finetune", {"retain_batch_size": 0}, "retain_batch_size .* is 0, but must be positive"),
        ("finetune", {"learning_rate": -0.1}, "learning_rate .* is -0.1, but must be 0 or more"),
        ("finetune", {"learning_rate": float("nan")}, "learning_rate .* is not a number"),
        ("finetune", {"learning_rate": float("inf")}, "learning_rate .* is inf, but must be 0 or"),
        ("finetune", {"momentum": 1.5}, r"momentum .* is 1.5, but must be in \[0, 1\]"),
        ("salun", {"fraction": -0.5}, r"fraction .* is -0.5, but must be in \[0, 1\]"),
        ("neggrad_plus", {"retain_share": 2}, r"retain_share .* is 2.0, but must be in \[0, 1\]"),
        ("eupmu", {"tolerance": float("-inf")}, "tolerance .* is -inf, but must be finite"),
        ("sfron", {"num_fast_steps": 0}, "num_fast_steps .* is 0, but must be positive"),
        ("sfron", {"clip_norm": 0.0}, "clip_norm .* is 0.0, but must be positive"),
    ],
)
def test_bad_settings_are_refused(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        methods.settings(name, given)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("optimizer", "lion"), ("learning_rate_schedule", "wavy"), ("redraw", "sometimes")],
)
def test_unknown_choices_are_refused(setting: str, value: str) -> None:
    settings = methods.settings("random_labels", {setting: value})
    with pytest.raises(InputError, match=f"'{value}', but must be "):
        methods.build(toy.TASK, "random_labels", settings)


def test_an_own_method_is_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))

    @methods.register
    def gentle(task: Task, optimizer: Any, *, num_steps: int, factor: float = 0.5) -> Method:
        """Fine-tunes at a fraction of the rate."""
        assert num_steps == 7
        return methods.finetune(task, optax.chain(optimizer, optax.scale(factor)))

    assert "gentle" in methods.available()
    assert methods.summary("gentle") == "Fine-tunes at a fraction of the rate."
    common = {"num_steps": 7, "learning_rate": 1.0}
    settings = methods.settings("gentle", common | {"factor": 0.25})
    assert settings["factor"] == 0.25 and settings["momentum"] == 0.9
    problem, retain = toy.problem(), toy.nth_retain_batches(toy.problem().retain, 0, 1)

    def moved(name: str) -> Any:
        chosen = settings if name == "gentle" else methods.settings(name, common)
        method = methods.build(toy.TASK, name, chosen)
        state = method.init(jax.random.key(0), *problem)
        state, _ = jax.jit(method.step)(state, toy.nth_batch(problem.forget, 0, 4), retain)
        return jax.tree.map(jnp.subtract, state.params, problem.params)

    quarter = jax.tree.map(lambda x: 0.25 * x, moved("finetune"))
    assert np.any(quarter["kernel"])
    assert_trees_close(moved("gentle"), quarter)


def test_an_own_method_must_not_shadow_another_and_needs_defaults() -> None:
    before = methods.available()

    def finetune(task: Task, optimizer: Any) -> Method:
        return methods.retrain(task, optimizer)

    def bare(task: Task, optimizer: Any, *, factor: float) -> Method:
        return methods.retrain(task, optimizer)

    with pytest.raises(InputError, match="a method named finetune exists already"):
        methods.register(finetune)
    with pytest.raises(InputError, match="setting factor of method bare has no default"):
        methods.register(bare)
    assert methods.available() == before
