"""DMM: the logits without the forget data, the Newton step that gives them, and the descent."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxunlearn import methods
from jaxunlearn.methods._build import Start
from jaxunlearn.methods.dmm import removed
from jaxunlearn.types import InputError, Task
from tests import toy
from tests.helpers import relative_error

KEY = jax.random.key(0)
RIDGE, FORGOTTEN = 0.05, 20
rng = np.random.default_rng(0)
X = rng.normal(size=(200, 4))
Y = (X @ rng.normal(size=(4, 3)) + rng.gumbel(size=(200, 3))).argmax(axis=1)


def regression(name: str = "kernel") -> Task:
    """A softmax regression without biases, whose weights have the layout of a library."""

    def outputs(params: Any, state: Any, batch: Any, key: Any, train: bool) -> Any:
        weights = params["head"][name]
        return batch["image"] @ (weights if name == "kernel" else weights.T), state

    def losses(*args: Any) -> Any:
        found = jax.nn.log_softmax(outputs(*args)[0])
        return -jnp.take_along_axis(found, args[2]["label"][:, None], axis=1)[:, 0], args[1]

    def predict(params: Any, state: Any, batch: Any) -> jax.Array:
        return jax.nn.softmax(outputs(params, state, batch, KEY, False)[0])

    shape = (4, 3) if name == "kernel" else (3, 4)
    divergence = toy.TASK.divergence
    return Task(
        lambda key: ({"head": {name: jnp.zeros(shape)}}, {}),
        losses,
        predict,
        3,
        outputs,
        divergence,
    )


def trained(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The weights of least summed loss, with a ridge that is the same for any data."""

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ flat.reshape(4, 3)
        z -= np.logaddexp.reduce(z, axis=1, keepdims=True)
        ridge = RIDGE * (len(X) - FORGOTTEN)
        gradient = x.T @ (np.exp(z) - np.eye(3)[y]) + ridge * flat.reshape(4, 3)
        value = -z[np.arange(len(y)), y].sum() + ridge / 2 * (flat @ flat)
        return value, gradient.ravel()

    found = minimize(loss, np.zeros(12), jac=True, tol=1e-12)
    return found.x.reshape(4, 3)


def arrays(part: slice) -> dict[str, jax.Array]:
    index = jnp.arange(len(X), dtype=jnp.int32)[part]
    return {"image": jnp.float32(X[part]), "label": jnp.int32(Y[part]), "index": index}


FORGET, RETAIN = slice(0, FORGOTTEN), slice(FORGOTTEN, None)
ORIGINAL, RETRAINED = trained(X, Y), trained(X[RETAIN], Y[RETAIN])


@pytest.mark.parametrize("name", ["kernel", "weight"])
def test_for_a_regression_the_targets_are_the_logits_of_the_retrained_model(name: str) -> None:
    def laid(weights: np.ndarray) -> np.ndarray:
        return weights if name == "kernel" else weights.T

    params = {"head": {name: jnp.float32(laid(ORIGINAL))}}
    start = Start(KEY, params, {}, arrays(FORGET), arrays(RETAIN))

    step = jax.jit(functools.partial(removed, regression(name), "head"))

    def error(alpha: float, damping: float) -> float:
        after = step(start, alpha, damping)["head"][name]
        return relative_error(X @ (laid(np.asarray(after)) - ORIGINAL), X @ (RETRAINED - ORIGINAL))

    assert error(1.0, RIDGE) < 0.03
    for alpha, damping in ((-1.0, RIDGE), (0.8, RIDGE), (1.0, 2 * RIDGE)):
        assert error(alpha, damping) > 0.1


def test_the_targets_are_a_newton_step_of_the_last_layer_alone() -> None:
    """Against the whole Hessian; all parameters of the last layer, and none of the others."""
    params, model_state, forget, retain = toy.problem()
    after = toy.runner("dmm").start(alpha=0.5, damping=0.02).opt_state[1].params
    np.testing.assert_array_equal(after["kernel"], params["kernel"])

    def parts(data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hidden = np.tanh(data["image"] @ params["kernel"] - model_state["mean"][None])
        h = np.concatenate([np.ones((len(hidden), 1)), hidden], axis=1)
        p = np.asarray(toy.TASK.predict(params, model_state, data))
        return h, p, np.eye(toy.CLASSES)[data["label"]]

    h, p, y = parts(forget)
    gradient = h.T @ (p - y)
    h, p, _ = parts(retain)
    curvature = np.einsum("nc,cd->ncd", p, np.eye(toy.CLASSES)) - p[:, :, None] * p[:, None]
    hessian = np.einsum("ni,nj,ncd->icjd", h, h, curvature).reshape(gradient.size, -1) / len(h)
    step = np.linalg.solve(hessian + 0.02 * np.eye(gradient.size), gradient.ravel() / len(h))
    ours = np.concatenate(
        [(after["head"][k] - params["head"][k]).ravel() for k in ("bias", "kernel")]
    )
    assert relative_error(ours, 0.5 * step) < 1e-4


def test_the_original_reaches_the_targets_on_all_data() -> None:
    task = regression()
    method = methods.dmm(task, optax.sgd(0.2), damping=RIDGE, retain_weight=3.0)
    params = {"head": {"kernel": jnp.float32(ORIGINAL)}}
    forget, retain = arrays(FORGET), arrays(RETAIN)
    state = method.init(KEY, params, {}, forget, retain)
    change = X @ (np.asarray(state.opt_state[1].params["head"]["kernel"]) - ORIGINAL)
    means = [np.sum(change[part] ** 2, axis=1).mean() for part in (FORGET, RETAIN)]
    step, stacked = jax.jit(method.step), {name: leaf[None] for name, leaf in retain.items()}
    state, metrics = step(state, forget, stacked)
    np.testing.assert_allclose([metrics["forget_loss"], metrics["retain_loss"]], means, rtol=1e-3)
    for _ in range(30):
        state, metrics = step(state, forget, stacked)
    assert metrics["forget_loss"] < 1e-3 * means[0]
    assert relative_error(X @ state.params["head"]["kernel"], X @ RETRAINED) < 0.01


def test_a_model_that_ends_in_no_dense_layer_is_refused() -> None:
    ending = regression()._replace(num_classes=4)
    with pytest.raises(InputError, match=r"the last layer of the model, head, .* 4 outputs"):
        methods.dmm(ending, optax.sgd(0.1))
    generating = toy.TASK._replace(predict=None)
    with pytest.raises(InputError, match="method dmm needs a model that predicts classes"):
        methods.dmm(generating, optax.sgd(0.1))
