"""The golden numbers, recomputed with this library, and how far each is from the released code.

Every function takes the number of a case and returns pairs `name: (ours, reference)`; `overrides`
change settings of the transformation, for tests that the golden numbers reject other settings.
`python -m tests.transforms.golden` prints the largest relative error of every file.

Where the released code behaves differently from our defaults, these settings reproduce it:

- the multiplier: `log_loss=True`, `project=False`, `tolerance=-error`, and Adam preceded by
  `optax.add_decayed_weights` (its decay is added to the gradient);
- EUPMU's fast form: `estimator="next_batch"`, `convex=True`, `initial_multiplier=1`;
- SFR-on: `shared_fast_slow` and `num_fast_steps=forget_every` (one momentum for both phases,
  slow step 1), Fisher information with `per_example=False`, and a mask before the clipping rather
  than last.
"""

import ast
import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn import (
    LossPair,
    adaptive_weights,
    fast_slow,
    fisher_diagonal,
    fisher_ratio_mask,
    implicit_surgery,
    saliency_mask,
    shared_fast_slow,
    surgery_value_and_grad,
    top_fraction_mask,
    unilateral_surgery,
)
from tests.helpers import example_losses, relative_error

FOLDER = pathlib.Path(__file__).parent.parent / "golden"
WEIGHTS = ("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")

Golden = Mapping[str, np.ndarray]
Pairs = dict[str, tuple[Any, Any]]


@functools.cache
def load(name: str) -> Golden:
    """All arrays of one file."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def cases(name: str, key: str) -> range:
    """The numbers of the cases of a file, each of which has `case<N>_<key>`."""
    count = sum(entry.endswith(f"_{key}") and entry.startswith("case") for entry in load(name))
    assert count > 0
    return range(count)


def weights(golden: Golden, prefix: str) -> dict[str, np.ndarray]:
    return {name: golden[f"{prefix}_{name}"] for name in WEIGHTS}


def batches(golden: Golden, part: str) -> tuple[jax.Array, jax.Array]:
    """The consecutive batches of one part, stacked: `[N, B, 6]` and `[N, B]`."""
    size = int(golden[f"{part}_batch"])
    inputs, labels = golden[f"{part}_inputs"], golden[f"{part}_labels"].astype(np.int32)
    return jnp.asarray(inputs.reshape(-1, size, 6)), jnp.asarray(labels.reshape(-1, size))


def nth(stacked: Any, n: Any) -> Any:
    """The n-th batch, starting again from the first when they run out."""
    return jax.tree.map(lambda x: x[n % x.shape[0]], stacked)


def multiplier_optimizer(rate: float, decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(decay), optax.adam(rate))


def multiplier(case: int, **overrides: Any) -> Pairs:
    golden = load("multiplier")
    rate, decay, error, initial = map(float, golden[f"case{case}_config"])
    settings = {"tolerance": -error, "log_loss": True, "project": False} | overrides
    tx = implicit_surgery(multiplier_optimizer(rate, decay), initial_multiplier=initial, **settings)

    def step(state: Any, losses: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        before, after = losses
        _, state = tx.update(0.0, state, 0.0, retain_value=before, retain_value_fn=lambda _: after)
        return state, state.multiplier

    recorded = jnp.asarray(golden["retain_before"]), jnp.asarray(golden["retain_after"])
    _, ours = jax.jit(lambda: jax.lax.scan(step, tx.init(0.0), recorded))()
    return {"multiplier": (ours, golden[f"case{case}_multiplier"])}


def unilateral(case: int) -> Pairs:
    golden = load("unilateral_surgery")
    tx = unilateral_surgery(tolerance=float(golden["tolerance"][case]), epsilon=1e-8)
    forget, retain = (jnp.asarray(golden[f"{part}_gradient"][case]) for part in LossPair._fields)
    combined, state = tx.update(forget, tx.init(forget), retain_grads=retain)
    return {
        "multiplier": (state.multiplier, golden["multiplier"][case]),
        "combined": (combined, golden["combined"][case]),
    }


def adaptive_loss(case: int) -> Pairs:
    """The gradient by the losses, `c_i / B`, is pulled back to the logits as `c_i / B (p - y)`.

    Where p is near 1 that difference cancels. Left to `jax.grad`, the two products are rounded
    before they are subtracted, which costs 1e-5, as much as separates the reference from float64.
    """
    golden = load("adaptive_loss")
    labels = jnp.asarray(golden["labels"].astype(np.int32))
    exponent = float(golden[f"case{case}_lambda"])

    def loss_fn(losses: jax.Array) -> jax.Array:
        return jnp.mean(adaptive_weights(losses, exponent, epsilon=1e-15) * losses)

    log_probabilities = jax.nn.log_softmax(jnp.asarray(golden["logits"]))
    one_hot = jax.nn.one_hot(labels, log_probabilities.shape[1])
    losses = -jnp.sum(one_hot * log_probabilities, axis=1)
    loss, by_losses = jax.value_and_grad(loss_fn)(losses)
    gradient = by_losses[:, None] * (jnp.exp(log_probabilities) - one_hot)
    return {
        "loss": (loss, golden[f"case{case}_loss"]),
        "gradient": (gradient, golden[f"case{case}_grad_logits"]),
    }


def salun_mask(case: int) -> Pairs:
    golden = load("salun_mask")

    def summed(params: Any) -> jax.Array:
        return jnp.sum(jax.vmap(lambda b: jnp.mean(example_losses(params, b)))(forget))

    forget = batches(golden, "forget")
    gradient = jax.grad(summed)(jax.tree.map(jnp.asarray, weights(golden, "init")))
    mask = top_fraction_mask(gradient, float(golden[f"case{case}_fraction"]))
    return {"mask": (mask, weights(golden, f"case{case}_mask"))}


@functools.cache
def fisher(per_example: bool = False) -> Pairs:
    golden = load("sfron_trajectory")
    params = jax.tree.map(jnp.asarray, weights(golden, "init"))
    return {
        part: (
            fisher_diagonal(example_losses, params, batches(golden, part), per_example),
            weights(golden, f"{part}_fisher"),
        )
        for part in LossPair._fields
    }


def sfron_mask(case: int) -> Pairs:
    golden = load("sfron_trajectory")
    threshold = ast.literal_eval(str(golden[f"case{case}_config"]))["mask_threshold"]
    diagonals = [ours for ours, _ in fisher().values()]
    mask = fisher_ratio_mask(*diagonals, threshold=threshold)
    return {"mask": (mask, weights(golden, f"case{case}_mask"))}


def sfron_trajectory(case: int, **overrides: Any) -> Pairs:
    """`forget_every` reference steps are one update: a forget step, then that many retain steps."""
    golden = load("sfron_trajectory")
    config = ast.literal_eval(str(golden[f"case{case}_config"]))
    every, total = config["forget_every"], config["num_steps"]

    def cosine_decay(s: jax.Array) -> jax.Array:
        return 0.5 * (1.0 + jnp.cos(math.pi * s / total))

    def learning_rate(count: jax.Array) -> jax.Array:
        """By the optimizer's own count, every + 1 a cycle: the forget step and the first retain
        step both belong to reference step `cycle * every`."""
        cycle, within = jnp.divmod(count, every + 1)
        return config["learning_rate"] * cosine_decay(cycle * every + jnp.maximum(within - 1, 0))

    if config["optimizer"] == "sgd":
        optimizer = optax.chain(
            optax.add_decayed_weights(config["weight_decay"]),
            optax.sgd(learning_rate, momentum=config["momentum"]),
        )
    else:
        optimizer = optax.adamw(learning_rate, weight_decay=config["weight_decay"])
    settings = {"slow_step_size": config["slow_step_size"]} | overrides
    fast_and_slow = shared_fast_slow if settings.pop("share", True) else fast_slow
    tx = optax.chain(
        optax.scale_by_schedule(lambda cycle: config["alpha"] * cosine_decay(cycle * every)),
        saliency_mask(weights(golden, f"case{case}_mask")),
        optax.clip_by_global_norm(config["clip_norm"]),
        fast_and_slow(optimizer, num_fast_steps=every, **settings),
    )
    forget, retain = batches(golden, "forget"), batches(golden, "retain")

    def ascent(params: Any, batch: Any) -> jax.Array:
        losses = example_losses(params, batch)
        weights = adaptive_weights(losses, config["exponent"], epsilon=1e-15)
        return -jnp.mean(weights * losses)

    def step(carry: Any, cycle: jax.Array) -> tuple[Any, None]:
        params, state = carry

        def retain_grad(p: Any, i: jax.Array) -> Any:
            batch = nth(retain, cycle * every + i)
            return jax.grad(lambda q: jnp.mean(example_losses(q, batch)))(p)

        gradient = jax.grad(ascent)(params, nth(forget, cycle))
        updates, state = tx.update(gradient, state, params, grad_fn=retain_grad)
        return (optax.apply_updates(params, updates), state), None

    params = jax.tree.map(jnp.asarray, weights(golden, "init"))
    (params, _), _ = jax.jit(
        lambda p: jax.lax.scan(step, (p, tx.init(p)), jnp.arange(total // every))
    )(params)
    return {"weights": (params, weights(golden, f"case{case}_final"))}


def eupmu_trajectory(case: int, **overrides: Any) -> Pairs:
    golden = load("eupmu_trajectory")
    config = ast.literal_eval(str(golden[f"case{case}_config"]))
    clip_norm = config["clip_norm"] or math.inf
    settings = {
        "tolerance": -config["error"],
        "log_loss": True,
        "convex": config["convex_weights"],
        "estimator": config["estimator"],
        "initial_multiplier": config["initial_multiplier"],
        "project": False,
    } | overrides
    surgery = implicit_surgery(
        multiplier_optimizer(config["multiplier_learning_rate"], config["multiplier_decay"]),
        **settings,
    )
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.sgd(config["learning_rate"], momentum=config["momentum"]),
        surgery,
    )
    forget, retain = batches(golden, "forget"), batches(golden, "retain")

    def losses_fn(params: Any, t: jax.Array) -> LossPair:
        inputs, labels = nth(forget, t)
        forget_loss = jnp.mean(example_losses(params, (inputs, (labels + 1) % 4)))
        return LossPair(forget_loss, jnp.mean(example_losses(params, nth(retain, t))))

    def step(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        losses, grads = surgery_value_and_grad(losses_fn, surgery)(params, t, state=state)
        updates, state = tx.update(
            grads,
            state,
            params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: losses_fn(p, t).retain,
        )
        return (optax.apply_updates(params, updates), state), state[-1].multiplier

    params = jax.tree.map(jnp.asarray, weights(golden, "init"))
    (params, _), multipliers = jax.jit(
        lambda p: jax.lax.scan(step, (p, tx.init(p)), jnp.arange(config["steps"]))
    )(params)
    return {
        "weights": (params, weights(golden, f"case{case}_final")),
        "multiplier": (multipliers, golden[f"case{case}_multiplier"]),
    }


def deviations() -> dict[str, float]:
    """The largest relative error of every file and quantity, over all cases (masks are exact)."""
    functions: dict[str, tuple[Callable[..., Pairs], range]] = {
        "multiplier": (multiplier, cases("multiplier", "config")),
        "unilateral_surgery": (unilateral, range(16)),
        "adaptive_loss": (adaptive_loss, cases("adaptive_loss", "lambda")),
        "sfron_trajectory": (sfron_trajectory, cases("sfron_trajectory", "config")),
        "sfron_trajectory fisher": (lambda _: fisher(), range(1)),
        "eupmu_trajectory": (eupmu_trajectory, cases("eupmu_trajectory", "config")),
    }
    largest: dict[str, float] = {}
    for name, (function, numbers) in functions.items():
        for case in numbers:
            for quantity, (ours, reference) in function(case).items():
                key = f"{name} {quantity}"
                error = relative_error(ours, reference) if np.any(reference) else 0.0
                largest[key] = max(largest.get(key, 0.0), error)
    return largest


if __name__ == "__main__":
    for entry, error in deviations().items():
        print(f"{entry:32} {error:.1e}")
