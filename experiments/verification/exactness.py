"""How exact are the two approximations that the methods rest on? Two measurements on digits.

    python experiments/verification/exactness.py

Multiplier. EUPMU's implicit multiplier is meant to follow the closed form,

    lambda* = max(0, (-<g_r, g_f> - eps) / |g_r|^2),    eps the permitted rise per unit step.

Over a run of plain SGD on the MLP of the demo (random 10% forgotten, random labels), the multiplier
that weighs each step is compared with lambda* of the very same batches at the very same weights.
The next-batch estimator cannot see the present batch: it holds the loss of *other* retain data. So
beside it is the multiplier that keeps the loss of all retain data, with gradient G, in bounds:

    lambda_all = max(0, (-<G, g_f> - eps) / <G, g_r>).

Geometry. SFR-on's fast and slow weights are meant to multiply a forget step u by a damped inverse
of the Hessian H of the retain loss. K fast steps of rate eta leave (I - eta H)^K u; T slow steps of
size s add such steps up, each having gone through 1 + s (T - 1) / 2 of these products on average.
To first order in H the direction is (H + mu I)^-1 u with

    mu = 1 / (eta K (1 + s (T - 1) / 2)).

On a network of 226 weights, at the minimum of the retain loss, the angle between the two is
measured with the exact Hessian, in double precision, beside the plain step u.

Found (two x86-64 cores, JAX 0.10.2): over the second half of the steps the same-batch multiplier is
within 3.5% of lambda* and the next-batch one within 4.6% of lambda_all (medians). The first lets
the loss of all retain data rise by 0.11 per unit step where 0.05 is permitted, since a step helps
the batch that it saw more than others; the second keeps to it (0.03). The angle is at most 22
degrees for any K up to 50, and at most 14 over 40 slow steps of K = 5; the plain step's
grows to 57 and 54.

Writes `experiments/results/exactness.json`, `exactness_multiplier.png` and `exactness_angle.png`;
about two minutes on two cores.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxunlearn import fast_slow, implicit_surgery, multiplier, surgery_value_and_grad
from jaxunlearn.data import ForgetRequest
from jaxunlearn.data import order as data_order
from jaxunlearn.data.examples import to_device
from jaxunlearn.methods import objectives
from jaxunlearn.methods.objectives import cross_entropy
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_splits, load_task
from jaxunlearn.studies.report.plots import (
    BLUE,
    DASHES,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    panels,
    picture,
)
from jaxunlearn.studies.runs import train
from jaxunlearn.training.hosts import machine

RESULTS = Path(__file__).parents[1] / "results"
ESTIMATORS = ("same_batch", "next_batch")
STEPS, LEARNING_RATE, MULTIPLIER_RATE, TOLERANCE = 300, 0.02, 0.3, 0.05
FORGET_BATCH, RETAIN_BATCH, AVERAGE_OVER = 64, 128, 15
FAST_STEPS, RATES = (
    (1, 2, 3, 5, 8, 12, 20, 30, 50),
    (0.1, 0.3, 0.9),
)  # rates: of 1 / largest eigenvalue
SLOW_SIZES, SLOW_STEPS, SLOW_FAST_STEPS = (1.0, 0.5, 0.25), 40, 5


def run_surgery(estimator: str) -> dict[str, list[float]]:
    """One run of EUPMU with plain SGD: the multiplier in force and the exact one, step by step."""
    problem = Problem(training={"num_steps": 500})
    task = load_task(problem)
    original = train.pretrain(Path("runs/exactness"), problem, seed=0)
    splits = load_splits(problem, 0, ForgetRequest(fraction=0.1))
    forget, retain = to_device(splits.forget), to_device(splits.retain)
    surgery = implicit_surgery(
        optax.sgd(MULTIPLIER_RATE),
        tolerance=TOLERANCE,
        step_size=LEARNING_RATE,
        estimator=estimator,
    )
    transform = optax.chain(optax.sgd(LEARNING_RATE), surgery)
    losses_fn = objectives.loss_pair(task, objectives.random_labels())
    losses_and_grads = surgery_value_and_grad(losses_fn, surgery, has_aux=True)
    key = jax.random.key(0)
    everything = retain | {"epoch": jnp.zeros_like(retain["index"])}

    @jax.jit
    def run(params: Any, model_state: Any) -> dict[str, jax.Array]:
        orders = [
            data_order.visits(jax.random.fold_in(key, child), part, jnp.int32(0), size, STEPS)
            for child, part, size in ((2, forget, FORGET_BATCH), (3, retain, RETAIN_BATCH))
        ]

        def loss_of_all(p: Any) -> jax.Array:
            return objectives.retain_loss(task, p, model_state, everything, key)[0]

        def step(carry: Any, i: jax.Array) -> Any:
            params, opt_state = carry
            batches = [
                data_order.take(part, order, i)
                for part, order in zip((forget, retain), orders, strict=True)
            ]

            def loss(p: Any, which: int) -> jax.Array:
                return losses_fn(p, model_state, *batches, key)[0][which]

            g_f, g_r = (ravel_pytree(jax.grad(loss)(params, which))[0] for which in range(2))
            g_all, _ = ravel_pytree(jax.grad(loss_of_all)(params))
            exact, exact_all = (
                jnp.maximum(0.0, (-jnp.vdot(g, g_f) - TOLERANCE) / jnp.vdot(g, g_r))
                for g in (g_r, g_all)
            )
            before = multiplier(opt_state)
            (losses, _), grads = losses_and_grads(
                params, model_state, *batches, key, state=opt_state
            )
            updates, opt_state = transform.update(
                grads,
                opt_state,
                params,
                retain_value=losses.retain,
                retain_value_fn=lambda p: loss(p, 1),
            )
            after = optax.apply_updates(params, updates)
            in_force = before if estimator == "same_batch" else multiplier(opt_state)
            rise = (loss(after, 1) - losses.retain) / LEARNING_RATE
            rise_of_all = (loss_of_all(after) - loss_of_all(params)) / LEARNING_RATE
            figures = {"implicit": in_force, "exact": exact, "exact_all": exact_all}
            figures |= {"rise": rise, "rise_of_all": rise_of_all}
            return (after, opt_state), figures | losses._asdict()

        return jax.lax.scan(step, (params, transform.init(params)), jnp.arange(STEPS))[1]

    return {name: np.asarray(values).tolist() for name, values in run(*original).items()}


def averaged(values: list[float]) -> np.ndarray:
    """Running mean over `AVERAGE_OVER` steps."""
    return np.convolve(values, np.ones(AVERAGE_OVER) / AVERAGE_OVER, mode="valid")


def summarise(run: dict[str, list[float]]) -> dict[str, float]:
    """How closely a run's multiplier follows both exact ones in the second half of the steps."""
    implicit, found = averaged(run["implicit"]), {}
    half = len(implicit) // 2
    for name in ("exact", "exact_all"):
        error = np.abs(implicit - averaged(run[name])) / averaged(run[name])
        found[f"median_relative_error_to_{name}"] = float(np.median(error[half:]))
    for name in ("rise", "rise_of_all"):
        found[f"mean_{name}"] = float(np.mean(run[name][STEPS // 2 :]))
    return found | {"permitted_rise": TOLERANCE}


def tiny_problem() -> tuple[Any, Any, jax.Array]:
    """Retain and forget loss of a 16-8-10 network on digits of 4 by 4 pixels, and the minimum."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16) / 16.0
    images, labels = jnp.asarray(images - images.mean()), jnp.asarray(digits.target)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    forget, retain = order[:180], order[180:]
    shapes = {"hidden": (16, 8), "bias": (8,), "head": (8, 10), "shift": (10,)}
    start, unravel = ravel_pytree({n: jnp.asarray(rng.normal(size=s)) for n, s in shapes.items()})

    def loss(weights: jax.Array, chosen: np.ndarray) -> jax.Array:
        p = unravel(weights)
        hidden = jnp.tanh(images[chosen] @ p["hidden"] + p["bias"][None])
        logits = hidden @ p["head"] + p["shift"][None]
        return jnp.mean(cross_entropy(logits, labels[chosen]))

    def retain_loss(weights: jax.Array) -> jax.Array:
        return loss(weights, retain) + 5e-4 * jnp.sum(weights**2)

    gradient, hessian = jax.jit(jax.grad(retain_loss)), jax.jit(jax.hessian(retain_loss))
    optimizer = optax.adam(0.02)

    @jax.jit
    def descend(weights: jax.Array) -> jax.Array:
        def step(_: int, carry: Any) -> Any:
            weights, state = carry
            updates, state = optimizer.update(gradient(weights), state)
            return optax.apply_updates(weights, updates), state

        return jax.lax.fori_loop(0, 5000, step, (weights, optimizer.init(weights)))[0]

    weights = descend(start)
    for _ in range(50):  # Newton, damped by the most negative curvature, to the minimum
        values, vectors = jnp.linalg.eigh(hessian(weights))
        weights -= vectors @ ((vectors.T @ gradient(weights)) / jnp.maximum(jnp.abs(values), 1e-4))
    assert (
        jnp.linalg.norm(gradient(weights)) < 1e-9 and jnp.linalg.eigvalsh(hessian(weights))[0] > 0
    )
    return retain_loss, lambda w: loss(w, forget), weights


def angle(a: jax.Array, b: jax.Array) -> float:
    """Degrees between two vectors."""
    cosine = jnp.vdot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b)
    return float(jnp.degrees(jnp.arccos(jnp.clip(cosine, -1.0, 1.0))))


def measure_angles() -> dict[str, Any]:
    """Angles to the damped inverse Hessian, against K, and against slow steps."""
    retain_loss, forget_loss, weights = tiny_problem()
    values, vectors = jnp.linalg.eigh(jax.hessian(retain_loss)(weights))
    ascent = jax.grad(forget_loss)(weights)
    forget_step = 1e-4 * ascent / jnp.linalg.norm(ascent)  # small: the loss is quadratic there

    def inverse(damping: float) -> jax.Array:
        return vectors @ ((vectors.T @ forget_step) / (values + damping))

    def displacement(rate: float, fast_steps: int, slow_size: float, slow_steps: int) -> list[Any]:
        transform = fast_slow(optax.sgd(rate), num_fast_steps=fast_steps, slow_step_size=slow_size)

        @jax.jit
        def step(carry: Any) -> Any:
            params, state = carry
            updates, state = transform.update(
                forget_step, state, params, grad_fn=lambda p, i: jax.grad(retain_loss)(p)
            )
            return optax.apply_updates(params, updates), state

        carry, moved = (weights, transform.init(weights)), []
        for _ in range(slow_steps):
            carry = step(carry)
            moved.append(carry[0] - weights)
        return moved

    top = float(values[-1])
    against_fast, against_slow = [], []
    for share in RATES:
        for fast_steps in FAST_STEPS:
            rate = share / top
            target = inverse(1.0 / (rate * fast_steps))
            moved = displacement(rate, fast_steps, 1.0, 1)[0]
            against_fast.append(
                {
                    "rate_times_largest_eigenvalue": share,
                    "fast_steps": fast_steps,
                    "angle": round(angle(moved, target), 3),
                    "angle_of_plain_step": round(angle(forget_step, target), 3),
                }
            )
    rate = RATES[1] / top
    for size in SLOW_SIZES:
        for t, moved in enumerate(displacement(rate, SLOW_FAST_STEPS, size, SLOW_STEPS), start=1):
            passes = 1 + size * (t - 1) / 2
            target = inverse(1.0 / (rate * SLOW_FAST_STEPS * passes))
            against_slow.append(
                {
                    "slow_step_size": size,
                    "slow_steps": t,
                    "angle": round(angle(moved, target), 3),
                    "angle_of_plain_step": round(angle(forget_step, target), 3),
                }
            )
    return {
        "weights": len(weights),
        "largest_eigenvalue": top,
        "smallest_eigenvalue": float(values[0]),
        "against_fast_steps": against_fast,
        "against_slow_steps": against_slow,
    }


def draw_multipliers(runs: dict[str, dict[str, list[float]]]) -> None:
    """Both multipliers over the steps, one panel an estimator; thin lines are single batches."""
    with picture(RESULTS / "exactness_multiplier.png", 1, 2, (3.9, 2.7)) as figure:
        titles = [f"{name.replace('_', ' ')} estimator" for name in runs]
        steps = np.arange(STEPS)
        middle = steps[AVERAGE_OVER // 2 : STEPS - AVERAGE_OVER // 2]
        for run, axes in zip(runs.values(), panels(figure, titles, 2), strict=True):
            axes.plot(steps, run["exact"], color=BLUE, lw=0.5, alpha=0.35)
            axes.plot(steps, run["implicit"], color=ORANGE, lw=0.5, alpha=0.35)
            for name, colour, dash, label in (
                ("exact", BLUE, DASHES[0], "exact, same batch"),
                ("exact_all", GREEN, DASHES[2], "exact, all retain data"),
                ("implicit", ORANGE, DASHES[1], "implicit"),
            ):
                axes.plot(middle, averaged(run[name]), color=colour, ls=dash, label=label)
            top = 1.6 * np.quantile(np.concatenate([run["exact"], run["implicit"]]), 0.97)
            axes.set(xlabel="step", ylabel="multiplier", ylim=(0, top), xlim=(0, STEPS))
            axes.legend(loc="upper right", fontsize=7.5)


def draw_angles(found: dict[str, Any]) -> None:
    """Solid: the fast-slow step; dotted: the plain step, against the same target."""
    titles = ["one step, against fast steps K", f"many steps of K = {SLOW_FAST_STEPS}"]
    columns = (
        (
            "against_fast_steps",
            "rate_times_largest_eigenvalue",
            "fast_steps",
            "eta x largest eigenvalue = {:g}",
        ),
        ("against_slow_steps", "slow_step_size", "slow_steps", "slow step {:g}"),
    )
    with picture(RESULTS / "exactness_angle.png", 1, 2, (3.9, 2.9)) as figure:
        for (part, group, x, label), axes in zip(columns, panels(figure, titles, 2), strict=True):
            rows = found[part]
            for value, colour, dash in zip(
                dict.fromkeys(row[group] for row in rows),
                (BLUE, ORANGE, GREEN),
                DASHES,
                strict=False,
            ):
                chosen = [row for row in rows if row[group] == value]
                places = [row[x] for row in chosen]
                axes.plot(
                    places,
                    [row["angle"] for row in chosen],
                    color=colour,
                    ls=dash,
                    label=label.format(value),
                )
                plain = [row["angle_of_plain_step"] for row in chosen]
                axes.plot(places, plain, color=colour, ls=(0, (1, 1.5)), lw=1.0)
            axes.plot([], [], color=MUTED, ls=(0, (1, 1.5)), lw=1.0, label="plain step")
            axes.set(xscale="log", ylim=(0, 90), yticks=range(0, 91, 15), ylabel="angle, degrees")
            axes.set_xlabel(x.replace("_", " "))
            axes.axhline(0, color=INK, lw=0.7)
            axes.legend(fontsize=7.5)


def main() -> None:
    """Measures, writes and draws."""
    runs = {name: run_surgery(name) for name in ESTIMATORS}
    with jax.enable_x64(True):
        angles = measure_angles()
    digits = {
        name: {key: [float(f"{v:.5g}") for v in values] for key, values in run.items()}
        for name, run in runs.items()
    }
    content = {
        "machine": machine(),
        "multiplier": {
            "learning_rate": LEARNING_RATE,
            "multiplier_rate": MULTIPLIER_RATE,
            "tolerance": TOLERANCE,
            "averaged_over": AVERAGE_OVER,
            "summary": {name: summarise(run) for name, run in runs.items()},
            "runs": digits,
        },
        "geometry": angles,
    }
    (RESULTS / "exactness.json").write_text(json.dumps(content) + "\n")
    draw_multipliers(runs)
    draw_angles(angles)
    print(json.dumps(content["multiplier"]["summary"], indent=2))
    for part in ("against_fast_steps", "against_slow_steps"):
        print(f"{part}: at most {max(row['angle'] for row in angles[part]):.1f} degrees")


if __name__ == "__main__":
    main()
