"""Bad arguments raise at the door: one sentence with the argument, what it was and the fix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import (
    InputError,
    LossPair,
    adaptive_weights,
    cagrad,
    famo,
    fast_slow,
    fisher_diagonal,
    fisher_ratio_mask,
    gdr_gma,
    implicit_surgery,
    loss_weights,
    multiplier,
    saliency_mask,
    surgery_value_and_grad,
    top_fraction_mask,
    unilateral_surgery,
)

PARAMS = {"w": jnp.ones(3), "b": jnp.zeros(2)}
SGD = optax.sgd(0.1)
LOSS = jnp.float32(1.0)


def surgery(**settings: Any) -> optax.GradientTransformationExtraArgs:
    return implicit_surgery(SGD, **settings)


def update(tx: Any, updates: Any = PARAMS, params: Any = PARAMS, **extra: Any) -> Any:
    return tx.update(updates, tx.init(PARAMS), params, **extra)


def value_and_grad(losses_fn: Callable[..., Any], **settings: Any) -> Any:
    state = surgery().init(PARAMS)
    return surgery_value_and_grad(losses_fn, surgery(), **settings)(PARAMS, state=state)


def mean_square(params: Any) -> jax.Array:
    return jnp.mean(params["w"] ** 2)


TWO = optax.chain(surgery(), surgery())
PLAIN = optax.adam(0.1)
BATCHES = {"x": jnp.ones((2, 4)), "y": jnp.ones((2, 4))}

BAD: dict[str, tuple[Callable[[], Any], str]] = {
    # implicit_surgery
    "unknown estimator": (
        lambda: surgery(estimator="same-batch"),
        "estimator is 'same-batch'.*same_batch, next_batch",
    ),
    "no optimizer": (lambda: implicit_surgery(1.0), "multiplier_optimizer is 1.0.*optax.sgd"),
    "an optimizer's constructor": (
        lambda: implicit_surgery(optax.sgd),
        "multiplier_optimizer is .*optax.sgd",
    ),
    "step size of zero": (lambda: surgery(step_size=0.0), "step_size is 0.0.*positive"),
    "negative step size": (lambda: surgery(step_size=-0.1), "step_size is -0.1.*positive"),
    "step size that is no number": (
        lambda: surgery(step_size=float("nan")),
        "step_size is nan.*positive",
    ),
    "negative initial multiplier": (
        lambda: surgery(initial_multiplier=-1.0),
        "initial_multiplier is -1.0.*0 or more",
    ),
    "no retain_value": (lambda: update(surgery()), "no retain_value.*retain_value=losses.retain"),
    "no retain_value for next_batch": (
        lambda: update(surgery(estimator="next_batch")),
        "no retain_value",
    ),
    "no retain_value_fn": (
        lambda: update(surgery(), retain_value=LOSS),
        "no retain_value_fn.*next_batch",
    ),
    "no params": (
        lambda: update(surgery(), params=None, retain_value=LOSS, retain_value_fn=mean_square),
        "no params",
    ),
    "retain_value of a batch": (
        lambda: update(surgery(), retain_value=jnp.ones(4), retain_value_fn=mean_square),
        r"retain_value has shape \(4,\).*scalar.*mean",
    ),
    "retain_value of integers": (
        lambda: update(surgery(), retain_value=jnp.int32(1), retain_value_fn=mean_square),
        "retain_value has .*int32.*floating-point",
    ),
    "retain_value_fn of a batch": (
        lambda: update(surgery(), retain_value=LOSS, retain_value_fn=lambda p: p["w"]),
        r"retain_value_fn has shape \(3,\)",
    ),
    # reading the state
    "no surgery in the state": (lambda: multiplier(PLAIN.init(PARAMS)), "holds no .*surgery"),
    "two surgeries in the state": (lambda: multiplier(TWO.init(PARAMS)), "holds 2 .*exactly one"),
    "no weights in the state": (lambda: loss_weights(PLAIN.init(PARAMS)), "holds no .*surgery"),
    "two weights in the state": (lambda: loss_weights(TWO.init(PARAMS)), "holds 2 .*exactly one"),
    "weights of exact surgery": (
        lambda: loss_weights(unilateral_surgery().init(PARAMS)),
        "holds no implicit_surgery",
    ),
    "a state restored as dicts": (
        lambda: loss_weights(surgery().init(PARAMS)._asdict()),
        "holds no .*NamedTuples.*restore",
    ),
    # surgery_value_and_grad
    "no state": (
        lambda: surgery_value_and_grad(lambda p: LossPair(LOSS, LOSS), surgery())(PARAMS),
        "got no state.*state=opt_state",
    ),
    "one loss": (lambda: value_and_grad(mean_square), "losses_fn returned .*LossPair"),
    "a forgotten has_aux": (
        lambda: value_and_grad(lambda p: (LossPair(LOSS, LOSS), {"aux": 1})),
        "forget loss|losses_fn returned",
    ),
    "has_aux without an auxiliary value": (
        lambda: value_and_grad(lambda p: LossPair(LOSS, LOSS), has_aux=True),
        "losses_fn returned .*LossPair",
    ),
    "losses of a batch": (
        lambda: value_and_grad(lambda p: LossPair(p["w"], mean_square(p))),
        r"the forget loss has shape \(3,\)",
    ),
    # fast_slow
    "no fast optimizer": (
        lambda: fast_slow(0.1, num_fast_steps=1),
        "fast_optimizer is 0.1.*optax.sgd",
    ),
    "negative fast steps": (
        lambda: fast_slow(SGD, num_fast_steps=-1),
        "num_fast_steps is -1.*0 or more",
    ),
    "fractional fast steps": (
        lambda: fast_slow(SGD, num_fast_steps=1.5),
        "num_fast_steps is 1.5.*an integer",
    ),
    "slow step size of zero": (
        lambda: fast_slow(SGD, num_fast_steps=1, slow_step_size=0.0),
        "slow_step_size is 0.0.*positive",
    ),
    "no grad_fn": (lambda: update(fast_slow(SGD, num_fast_steps=1)), "no grad_fn.*grad_fn="),
    "fast_slow without params": (
        lambda: update(fast_slow(SGD, num_fast_steps=1), params=None, grad_fn=lambda p, i: p),
        "no params",
    ),
    # aggregators
    "one gradient": (
        lambda: update(unilateral_surgery()),
        "unilateral_surgery got no retain_grads.*retain_grads=",
    ),
    "gradients of different structure": (
        lambda: update(unilateral_surgery(), retain_grads={"w": jnp.ones(3)}),
        r"the retain gradient has nothing at \['b'\], where the forget gradient has shape \(2,\)",
    ),
    "gradients of different shapes": (
        lambda: update(unilateral_surgery(), retain_grads=PARAMS | {"w": jnp.ones(1)}),
        r"retain gradient has shape \(1,\) at \['w'\], where the forget gradient has shape \(3,\)",
    ),
    "negative c": (lambda: cagrad(c=-0.1), "c is -0.1.*0 or more"),
    "empty bank": (lambda: gdr_gma(bank_size=0), "bank_size is 0.*at least 1"),
    "a traced bank": (
        lambda: jax.jit(lambda n: gdr_gma(bank_size=n).init(PARAMS))(2),
        "bank_size is traced.*static_args='bank_size'",
    ),
    "gdr_gma without retain_value": (
        lambda: update(gdr_gma(), retain_grads=PARAMS),
        "gdr_gma got no retain_value",
    ),
    "famo without forget_value": (
        lambda: update(famo(), retain_grads=PARAMS, retain_value=LOSS),
        "famo got no forget_value",
    ),
    "famo without retain_value": (
        lambda: update(famo(), retain_grads=PARAMS, forget_value=LOSS),
        "famo got no retain_value",
    ),
    # saliency
    "a mask of another structure": (
        lambda: saliency_mask({"w": jnp.ones(3)}).init(PARAMS),
        r"the mask has nothing at \['b'\], where the parameter tree has shape \(2,\)",
    ),
    "a mask of another shape": (
        lambda: saliency_mask(PARAMS | {"w": jnp.ones(1)}).init(PARAMS),
        r"the mask has shape \(1,\) at \['w'\], where the parameter tree has shape \(3,\)",
    ),
    "fishers of different structure": (
        lambda: fisher_ratio_mask(PARAMS, {"w": jnp.ones(3)}),
        r"forget_fisher has shape \(2,\) at \['b'\], where retain_fisher has nothing",
    ),
    "a list instead of a tuple": (
        lambda: fisher_ratio_mask([jnp.ones(3)], (jnp.ones(3),)),
        "forget_fisher has other containers than retain_fisher",
    ),
    "fraction above one": (lambda: top_fraction_mask(PARAMS, 1.5), r"fraction is 1.5.*\[0, 1\]"),
    "negative fraction": (lambda: top_fraction_mask(PARAMS, -0.1), r"fraction is -0.1.*\[0, 1\]"),
    "no batches": (
        lambda: fisher_diagonal(lambda p, b: b["x"], PARAMS, {}),
        "batches.*stack the batches",
    ),
    "batches without the batch axis": (
        lambda: fisher_diagonal(lambda p, b: b["x"], PARAMS, {"x": jnp.ones(4)}),
        r"\[\(4,\)\].*stack the batches",
    ),
    "batches that disagree": (
        lambda: fisher_diagonal(lambda p, b: b["x"], PARAMS, BATCHES | {"y": jnp.ones((2, 3))}),
        "same N >= 1 and B >= 1",
    ),
    "empty batches": (
        lambda: fisher_diagonal(lambda p, b: b["x"], PARAMS, {"x": jnp.ones((0, 4))}),
        "same N >= 1 and B >= 1",
    ),
    "a mean for the Fisher information": (
        lambda: fisher_diagonal(lambda p, b: jnp.mean(b["x"]), PARAMS, BATCHES),
        r"loss_fn returned shape \(\).*one loss per example",
    ),
    "a mean for adaptive weights": (
        lambda: adaptive_weights(jnp.float32(1.0), 0.5),
        r"losses has shape \(\).*one loss per example",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_raise_one_clear_sentence(what: str) -> None:
    call, message = BAD[what]
    with pytest.raises(InputError, match=message) as raised:
        call()
    text = str(raised.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 400


def test_input_errors_are_value_errors_and_raise_under_jit() -> None:
    """At trace time: nothing is compiled or run first."""
    assert issubclass(InputError, ValueError)
    with pytest.raises(InputError, match="no retain_value"):
        jax.jit(lambda p: update(surgery(), params=p))(PARAMS)
    with pytest.raises(InputError, match="mask"):
        jax.eval_shape(saliency_mask({"w": np.ones(3)}).init, PARAMS)


def test_traced_hyperparameters_are_not_checked() -> None:
    """They have no value to look at; a sweep over them compiles."""

    def run(value: jax.Array) -> Any:
        surgery(step_size=value, initial_multiplier=value)
        fast_slow(SGD, num_fast_steps=2, slow_step_size=value)
        return cagrad(c=value).init(PARAMS), top_fraction_mask(PARAMS, value)

    assert jax.eval_shape(run, LOSS)[0].count.dtype == jnp.int32
