"""The defaults of every method, on the smallest models: nothing diverges.

Each method runs on a classifier, and on the one of the three kinds of models that generate that is
compiled fastest: the defaults of these are the same. On one of the other two it is traced, in turn.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods, models, tasks
from jaxunlearn.methods._passes import mean_over, plain_losses
from jaxunlearn.models import denoisers, latent
from jaxunlearn.models.process import Process
from jaxunlearn.models.tokenizer import WordTokenizer
from jaxunlearn.types import Arrays, InputError, Method, ModelState, Params, Task

pytestmark = pytest.mark.long

KEY, SHAPE, CLASSES = jax.random.key(0), (8, 8, 1), 4
NAMES = methods.available()
LOOPS = ("scrub", "sfron", "sfron_released", "eupmu_sfron")  # their steps are compiled as a whole
SMALL = {  # sizes of batches and of passes over the data, no rates and no weights
    "forget_batch_size": 16,
    "retain_batch_size": 16,
    "mask_batch_size": 8,
    "fisher_batch_size": 8,
    "num_mask_batches": 2,
    "num_fisher_batches": 4,
    "num_noise": 8,
    "num_noise_steps": 5,
    "num_attack_steps": 5,
}


class Problem(NamedTuple):
    """A trained model of a task, and the class that it should forget."""

    task: Task
    params: Params
    model_state: ModelState
    forget: Arrays
    retain: Arrays


def shared(task: Task) -> Task:
    """The same task, whose model is compiled once for all methods, whose own steps are not."""

    def once(function: Any) -> Any:
        return function and jax.jit(function, static_argnums=4)

    return task._replace(
        losses=once(task.losses),
        forget_losses=once(task.forget_losses),
        outputs=once(task.outputs),
    )


def made(kind: str) -> Task:
    if kind == "classification":
        model = models.create("mlp-tiny", CLASSES)
        return tasks.classification(model, image_shape=SHAPE, num_classes=CLASSES)
    if kind == "latent":
        words = WordTokenizer(("a", "0", "1", "2", "3"), length=8)
        encoder = latent.create_text_encoder("tiny", vocabulary=words.size)
        ids = words.encode([f"a {c}" for c in range(CLASSES)] + [""])
        unet = latent.create_text_unet("tiny", widths=(8,), attention_levels=())
        return tasks.latent_diffusion(encoder, unet, Process(), ids=ids, latent_shape=(4, 4, 4))
    if kind == "ddpm":
        model = denoisers.create("ddpm-tiny", SHAPE, CLASSES, widths=(8,), attention_levels=())
    else:
        model = denoisers.create("dit-tiny-test", SHAPE, CLASSES, depth=1)
    return tasks.diffusion(model, Process(), image_shape=SHAPE, num_classes=CLASSES)


def images(kind: str) -> Arrays:
    """Noisy images of one pattern for each class."""
    rng, size, shape = np.random.default_rng(0), 96, (4, 4, 4) if kind == "latent" else SHAPE
    label = np.arange(size) % CLASSES
    image = rng.uniform(-0.7, 0.7, (CLASSES, *shape))[label] + rng.normal(0, 0.1, (size, *shape))
    return {
        "image": jnp.asarray(image.clip(-1, 1), jnp.float32),
        "label": jnp.asarray(label, jnp.int32),
        "index": jnp.arange(size, dtype=jnp.int32),
    }


def halves(arrays: Arrays) -> list[Arrays]:
    """The examples of class 0, and the others."""
    forgotten = np.asarray(arrays["label"]) == 0
    return [
        {name: leaf[np.flatnonzero(which)] for name, leaf in arrays.items()}
        for which in (forgotten, ~forgotten)
    ]


@functools.cache
def untrained(kind: str) -> Problem:
    """The shapes of a model, and its data."""
    task = shared(made(kind))
    return Problem(task, *jax.eval_shape(task.init, KEY), *halves(images(kind)))


@functools.cache
def problem(kind: str) -> Problem:
    """Trained for a while."""
    task, arrays = untrained(kind).task, images(kind)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params: Any, model_state: Any, opt_state: Any, n: jax.Array) -> Any:
        def loss(p: Any) -> Any:
            batch = arrays | {"epoch": jnp.full(len(arrays["label"]), n)}
            losses, new_state = task.losses(p, model_state, batch, KEY, True)
            return jnp.mean(losses), new_state

        grads, new_state = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), new_state, opt_state

    params, model_state = jax.jit(task.init)(KEY)
    opt_state = optimizer.init(params)
    for n in range(60):
        params, model_state, opt_state = step(params, model_state, opt_state, n)
    return Problem(task, params, model_state, *halves(arrays))


@functools.cache
def retain_loss_of(kind: str) -> Any:
    """`params, model_state -> the mean loss of the retain data`, compiled once."""
    given = problem(kind)

    @jax.jit
    def mean(params: Params, model_state: ModelState) -> jax.Array:
        losses = plain_losses(given.task, model_state, given.retain, KEY)
        return mean_over(given.retain, 72, lambda some: losses(params, some))

    return mean


def built(name: str, kind: str) -> tuple[Method, dict[str, Any]] | None:
    """The method by default and its settings; None if it refuses models of this kind."""
    settings = methods.settings(name, generates=kind != "classification")
    settings |= {key: value for key, value in SMALL.items() if key in settings}
    try:
        return methods.build(untrained(kind).task, name, settings), settings
    except InputError as refusal:
        needed = "generates images" if kind == "classification" else "predicts classes"
        needed = "has square convolutions" if name == "ct" else needed
        assert f"method {name} needs a model that {needed}" in str(refusal)
        return None


def batches(kind: str, method: Method, n: int) -> tuple[Arrays, Arrays]:
    """The forget batch and the stacked retain batches of step n."""
    forget, retain = (
        {key: leaf[(16 * n + np.arange(count)) % len(leaf)] for key, leaf in arrays.items()}
        | {"epoch": jnp.full(count, n)}
        for arrays, count in (
            (untrained(kind).forget, 16),
            (untrained(kind).retain, 16 * method.retain_batches),
        )
    )
    return forget, jax.tree.map(
        lambda x: x.reshape(method.retain_batches, -1, *x.shape[1:]), retain
    )


@pytest.mark.parametrize("kind", ["classification", "dit"])
@pytest.mark.parametrize("name", NAMES)
def test_five_steps_by_default_at_most_double_the_retain_loss(name: str, kind: str) -> None:
    found = built(name, kind)
    if found is None:
        return
    (method, settings), given, retain_loss = found, problem(kind), retain_loss_of(kind)
    state = jax.jit(method.init)(KEY, *given[1:])
    before = retain_loss(given.params, given.model_state)
    if name in ("retrain", "eu_k", "msg", "ct"):  # these begin with other weights
        before = retain_loss(state.params, state.model_state)
    # UNSIR does harm in the first half of a run, and repairs it in the second.
    steps = settings["num_steps"] if name == "unsir" else 5
    whole = kind == "classification" or name in LOOPS
    step = jax.jit(method.step) if whole else method.step
    for n in range(steps):
        state, metrics = step(state, *batches(kind, method, n))
        assert all(np.isfinite(value) for value in metrics.values())
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))
    assert retain_loss(state.params, state.model_state) <= 2.0 * before


@pytest.mark.parametrize(("kind", "names"), [("ddpm", NAMES[::2]), ("latent", NAMES[1::2])])
def test_a_step_keeps_the_types_of_its_state(kind: str, names: Sequence[str]) -> None:
    for name in names:
        found = built(name, kind)
        if found is None:
            continue
        method, _ = found
        state = jax.eval_shape(method.init, KEY, *untrained(kind)[1:])
        after, _ = jax.eval_shape(method.step, state, *batches(kind, method, 0))
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state), name
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
