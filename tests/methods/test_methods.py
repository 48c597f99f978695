"""Methods by name: their settings, what is refused, and how an own one is made known."""

import inspect
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError, Method, Task
from tests import toy, toy_diffusion
from tests.helpers import assert_trees_close
from tests.methods.cases import CONVOLUTIONAL, GENERATING
from tests.methods.test_kernels import convolutional


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
    parameters = inspect.signature(getattr(methods, name)).parameters
    optional = {key for key, each in parameters.items() if each.default is None}
    own = set(parameters) - {"task", "optimizer"} - optional
    assert set(settings) == own | set(methods.COMMON_SETTINGS)
    assert optional <= set(methods.optional_settings(name))
    task = toy_diffusion.toy() if name in GENERATING else toy.TASK
    task = convolutional() if name in CONVOLUTIONAL else task
    assert isinstance(methods.build(task, name, settings), Method)


@pytest.mark.parametrize("name", methods.available())
def test_models_that_generate_have_defaults_of_their_own(name: str) -> None:
    usual, settings = methods.settings(name), methods.settings(name, generates=True)
    assert list(settings) == list(usual)
    assert methods.settings(name, settings) == settings  # they are within their ranges
    assert (settings["optimizer"], settings["weight_decay"]) == ("clipped_adamw", 0.0)
    assert methods.settings(name, usual, generates=True) == usual  # what is given is taken
    changed = {key for key in usual if settings[key] != usual[key]}
    own = {
        "influence": {"damping"},
        "sfron": {"forget_learning_rate"},
        "eupmu_sfron": {"forget_learning_rate"},
    }
    assert changed == {"optimizer", "learning_rate", "weight_decay"} | own.get(name, set())


def test_whole_numbers_become_floating_point() -> None:
    tolerance = methods.settings("eupmu", {"tolerance": -1})["tolerance"]
    assert tolerance == -1.0 and type(tolerance) is float


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("eupmuu", {}, r"method is 'eupmuu' .did you mean 'eupmu'.., but must be one of retrain,"),
        (
            "eupmu",
            {"tolerence": 1.0},
            r"setting 'tolerence' .did you mean 'tolerance'..; its settings are num",
        ),
        (
            "finetune",
            {"tolerance": 1.0},
            "method finetune has no setting 'tolerance'; its settings are num_st",
        ),
        ("eupmu", {"tolerance": "big"}, "tolerance of method eupmu is 'big', .* of type float"),
        ("eupmu", {"log_loss": 1}, "log_loss of method eupmu is 1, .* of type bool"),
        ("finetune", {"num_steps": 1.5}, "num_steps of method finetune is 1.5, .* of type int"),
        ("finetune", {"num_steps": True}, "num_steps of method finetune is True"),
        ("finetune", {"num_steps": 0}, "num_steps of method finetune is 0, but must be positive"),
        ("finetune", {"num_steps": -5}, "num_steps of method finetune is -5, but must be positive"),
        ("finetune", {"retain_batch_size": 0}, "retain_batch_size .* is 0, but must be positive"),
        ("finetune", {"learning_rate": -0.1}, "learning_rate .* is -0.1, but must be 0 or more"),
        (
            "finetune",
            {"learning_rate": float("nan")},
            "learning_rate .* is NaN, but must be a number",
        ),
        ("finetune", {"learning_rate": float("inf")}, "learning_rate .* is inf, but must be 0 or"),
        ("finetune", {"momentum": 1.5}, r"momentum .* is 1.5, but must be in \[0, 1\]"),
        ("salun", {"fraction": -0.5}, r"fraction .* is -0.5, but must be in \[0, 1\]"),
        ("neggrad_plus", {"retain_share": 2}, r"retain_share .* is 2.0, but must be in \[0, 1\]"),
        ("eupmu", {"tolerance": float("-inf")}, "tolerance .* is -inf, but must be finite"),
        ("sfron", {"num_fast_steps": 0}, "num_fast_steps .* is 0, but must be positive"),
        ("sfron", {"clip_norm": 0.0}, "clip_norm .* is 0.0, but must be positive"),
        ("sfron", {"num_mask_batches": -1}, "num_mask_batches .* is -1, but must be 0 or more"),
        ("eupmu_budget", {"budget": 0}, "budget .* is 0.0, but must be above 0 and at most 100;"),
        ("eupmu_budget", {"budget": 101}, "budget .* is 101.0, but must be above 0 and at most"),
        (
            "finetune",
            {"optimizer": "lion"},
            "optimizer .* is 'lion', but must be one of sgd, adamw",
        ),
        (
            "eupmu",
            {"learning_rate_schedule": "wavy"},
            "is 'wavy', but must be one of constant, cos",
        ),
        (
            "salun",
            {"redraw": "onec"},
            r"redraw .* is 'onec' \(did you mean 'once'\?\), but must be",
        ),
        ("sfron", {"num_fast_steps": 2**31}, "but must be positive and at most 2147483647 in size"),
    ],
)
def test_bad_settings_are_refused(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        methods.settings(name, given)


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


def test_the_limits_of_a_setting_are_those_of_the_method_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name means nothing: `alpha` of another method may be negative, and `shade` need not be."""
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))

    @methods.register
    def shaded(
        task: Task,
        optimizer: Any,
        *,
        alpha: float = -1.0,
        budget: float = 0.0,
        num_fast_steps: int = -3,
        shade: methods.Share = 0.5,
        rounds: "methods.Count" = 2,
        depth: Annotated[int, methods.Limits(2, 4)] = 3,
        momentum: methods.Positive = 2.0,
    ) -> Method:
        """A method whose settings have limits of its own."""
        return methods.finetune(task, optimizer)

    given = {"alpha": -7.0, "budget": -1.0, "num_fast_steps": 0, "shade": 1.0, "depth": 2}
    assert given.items() <= methods.settings("shaded", given | {"momentum": 5.0}).items()
    for bad, allowed in (
        ({"shade": 1.5}, r"in \[0, 1\]"),
        ({"rounds": 0}, "positive"),
        ({"depth": 5}, r"in \[2, 4\]"),
        ({"momentum": 0.0}, "positive"),
        ({"alpha": float("inf")}, "finite"),
        ({"learning_rate": -1.0}, "0 or more"),
    ):
        with pytest.raises(InputError, match=f"must be {allowed}"):
            methods.settings("shaded", bad)
    assert methods.limits("shaded")["depth"] == methods.Limits(2, 4)
    assert "alpha" not in methods.limits("shaded")


def test_limits_that_cannot_be_read_or_exclude_the_default_are_refused() -> None:
    def outside(task: Task, optimizer: Any, *, shade: methods.Share = 2.0) -> Method:
        return methods.finetune(task, optimizer)

    def unread(task: "Missing", optimizer: Any, *, shade: "Missing" = 2.0) -> Method:  # noqa: F821
        return methods.finetune(task, optimizer)

    with pytest.raises(InputError, match=r"shade .* is 2.0, but must be in \[0, 1\]"):
        methods.register(outside)
    with pytest.raises(InputError, match="shade is annotated as 'Missing', but name 'Missing' is "):
        methods.register(unread)


@pytest.mark.parametrize("calls", [1, 3])
def test_the_schedule_is_as_long_as_the_method_asks(
    calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its settings are called: the rate of its last step is that of the last call."""
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))

    @methods.register
    def counted(task: Task, optimizer: Any, *, num_fast_steps: int = 4) -> Method:
        """Returns the optimizer's last update as a metric."""

        def init(key: Any, params: Any, model_state: Any, forget: Any, retain: Any) -> Any:
            return methods.begin(optimizer, key, params, model_state)

        def step(state: Any, forget: Any, retain: Any) -> Any:
            opt_state, updates = state.opt_state, None
            for _ in range(calls):
                updates, opt_state = optimizer.update(state.params, opt_state, state.params)
            rate = -updates["kernel"][0, 0] / state.params["kernel"][0, 0]
            return methods.advance(state, updates, opt_state, state.model_state), {"rate": rate}

        return Method(init, step, optimizer_steps=calls)

    given = {"num_steps": 5, "learning_rate_schedule": "linear", "learning_rate": 0.5}
    plain = {"momentum": 0.0, "weight_decay": 0.0}
    method = methods.build(toy.TASK, "counted", methods.settings("counted", given | plain))
    state, step = method.init(jax.random.key(0), *toy.problem()), jax.jit(method.step)
    for _ in range(5):
        state, metrics = step(state, None, None)
    np.testing.assert_allclose(metrics["rate"], 0.5 / (5 * calls), rtol=1e-5)


def test_an_own_method_must_not_shadow_another_and_needs_defaults() -> None:
    before = methods.available()

    def finetune(task: Task, optimizer: Any) -> Method:
        return methods.retrain(task, optimizer)

    def bare(task: Task, optimizer: Any, *, factor: float) -> Method:
        return methods.retrain(task, optimizer)

    with pytest.raises(InputError, match="method finetune already exists"):
        methods.register(finetune)
    with pytest.raises(InputError, match="setting factor of method bare has no default"):
        methods.register(bare)
    assert methods.available() == before


def test_a_key_of_another_implementation_is_refused() -> None:
    """The state keeps the bits of a key alone, and steps read them as the default ones."""
    init = methods.begin
    weights = {"w": jnp.ones(2)}
    for key in (jax.random.key(1), jax.random.PRNGKey(1)):
        state = init(optax.sgd(0.1), key, weights, {})
        assert state.key.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"key is of the PRNG implementation .*rbg.* jax_default"):
        init(optax.sgd(0.1), jax.random.key(1, impl="rbg"), weights, {})
