"""A task so small that compiling it costs little, with everything that a method may trip over.

`logits = tanh(x W - mean) V + c` of 6, 8 and 3 units. In training, `x` is shifted by a random
amount that hangs on the key, the example and the visit, and `mean` is that of the batch, which also
moves the running mean in the model state, as BatchNorm does. In evaluation there is neither noise
nor writing.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import methods
from jaxunlearn.tasks.classification import kl_divergence
from jaxunlearn.training.programs import split
from jaxunlearn.types import Arrays, Batch, Task, TrainState, example_keys

INPUTS, HIDDEN, CLASSES = 6, 8, 3
NUM_FORGET, NUM_RETAIN = 12, 36
FORGET_BATCH, RETAIN_BATCH = 4, 6


def _outputs(
    params: Any, model_state: Any, batch: Batch, key: jax.Array, train: bool
) -> tuple[jax.Array, Any]:
    inputs = batch["image"]
    if train:
        bits = jax.random.key_data(example_keys(key, batch))  # random enough, and quick to compile
        inputs = inputs + 0.2 * jnp.mean(bits / 2.0**32, axis=1, keepdims=True) * jnp.ones(
            (1, INPUTS)
        )
    return _forward(params, model_state, inputs, train)


def _losses(
    params: Any, model_state: Any, batch: Batch, key: jax.Array, train: bool
) -> tuple[jax.Array, Any]:
    logits, model_state = _outputs(params, model_state, batch, key, train)
    log_probabilities = jax.nn.log_softmax(logits)
    losses = -jnp.take_along_axis(log_probabilities, batch["label"][:, None], axis=1)[:, 0]
    return losses, model_state


def _forward(params: Any, model_state: Any, inputs: jax.Array, train: bool) -> tuple[Any, Any]:
    hidden = inputs @ params["kernel"]
    mean = model_state["mean"]
    if train:
        mean = jnp.mean(hidden, axis=0)
        model_state = {"mean": 0.9 * model_state["mean"] + 0.1 * mean}
    hidden = jnp.tanh(hidden - mean[None])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"][None], model_state


def _predict(params: Any, model_state: Any, batch: Batch) -> jax.Array:
    return jax.nn.softmax(_forward(params, model_state, batch["image"], False)[0])


def _init(key: jax.Array) -> tuple[Any, Any]:
    first, second = jax.random.split(key)
    params = {
        "kernel": 0.5 * jax.random.normal(first, (INPUTS, HIDDEN)),
        "head": {
            "kernel": 0.5 * jax.random.normal(second, (HIDDEN, CLASSES)),
            "bias": jnp.zeros(CLASSES),
        },
    }
    return params, {"mean": jnp.zeros(HIDDEN)}


TASK = Task(_init, _losses, _predict, CLASSES, _outputs, kl_divergence)


def _without_statistics() -> Task:
    """The same network with a mean of 0 always: examples do not depend on one another."""

    def outputs(
        params: Any, model_state: Any, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, Any]:
        bits = jax.random.key_data(example_keys(key, batch))
        noise = 0.2 * jnp.mean(bits / 2.0**32, axis=1, keepdims=True) if train else 0.0
        still = {"mean": jnp.zeros(HIDDEN)}
        return _forward(params, still, batch["image"] + noise, False)[0], model_state

    def losses(*args: Any) -> tuple[jax.Array, Any]:
        logits, model_state = outputs(*args)
        log_probabilities = jax.nn.log_softmax(logits)
        labels = args[2]["label"][:, None]
        return -jnp.take_along_axis(log_probabilities, labels, axis=1)[:, 0], model_state

    def predict(params: Any, model_state: Any, batch: Batch) -> jax.Array:
        return jax.nn.softmax(outputs(params, model_state, batch, jax.random.key(0), False)[0])

    def init(key: jax.Array) -> tuple[Any, Any]:
        return _init(key)[0], {}

    return Task(init, losses, predict, CLASSES, outputs, kl_divergence)


WITHOUT_STATISTICS = _without_statistics()


class Problem(NamedTuple):
    """Weights and data. The labels follow the inputs, but for the noise."""

    params: Any
    model_state: Any
    forget: Arrays
    retain: Arrays


@functools.cache
def problem() -> Problem:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32)

    params = {
        "kernel": normal(INPUTS, HIDDEN),
        "head": {"kernel": normal(HIDDEN, CLASSES), "bias": normal(CLASSES)},
    }
    inputs = rng.normal(size=(NUM_FORGET + NUM_RETAIN, INPUTS))
    labels = np.argmax(inputs @ rng.normal(size=(INPUTS, CLASSES)), axis=1)
    everything = {
        "image": jnp.asarray(inputs, jnp.float32),
        "label": jnp.asarray(labels, jnp.int32),
        "index": jnp.arange(len(labels), dtype=jnp.int32),
    }
    forget = {name: values[:NUM_FORGET] for name, values in everything.items()}
    retain = {name: values[NUM_FORGET:] for name, values in everything.items()}
    return Problem(params, {"mean": normal(HIDDEN)}, forget, retain)


def nth_batch(arrays: Arrays, n: int, size: int) -> Batch:
    """The n-th batch of consecutive examples, round and round."""
    places = np.arange(n * size, (n + 1) * size)
    total = len(arrays["label"])
    batch = {name: jnp.asarray(np.asarray(v)[places % total]) for name, v in arrays.items()}
    return batch | {"epoch": jnp.asarray(places // total, jnp.int32)}


def nth_retain_batches(arrays: Arrays, n: int, count: int) -> Batch:
    """The retain batches of the n-th step, stacked `[count, B, ...]`."""
    batches = [nth_batch(arrays, n * count + i, RETAIN_BATCH) for i in range(count)]
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *batches)


class Run(NamedTuple):
    """What a few steps did, all of it on the host: the state before each and after the last."""

    states: list[TrainState]
    metrics: list[dict[str, float]]

    @property
    def start(self) -> TrainState:
        return self.states[0]

    @property
    def end(self) -> TrainState:
        return self.states[-1]


class Runner:
    """A method whose step is compiled once, with every number an argument.

    `training.Program` does the same for many steps; this goes one by one, on batches chosen here.
    """

    def __init__(self, name: str, static: dict[str, Any], task: Task = TASK) -> None:
        small = {
            "num_steps": 4,
            "learning_rate_schedule": "constant",
            "mask_batch_size": 4,
            "num_fast_steps": 2,
        }
        known = methods.settings(name)
        settings = methods.settings(name, {k: v for k, v in small.items() if k in known} | static)
        constants, self.numbers = split(settings)

        def build(numbers: dict[str, Any]) -> methods.Method:
            return methods.build(task, name, constants | numbers)

        self.build = build
        self.retain_batches = build(self.numbers).retain_batches
        self.init = jax.jit(lambda numbers, *args: build(numbers).init(*args))
        self.step = jax.jit(lambda numbers, *args: build(numbers).step(*args), donate_argnums=1)

    def start(self, seed: int = 0, **numbers: float) -> TrainState:
        params, model_state, forget, retain = problem()
        key = jax.random.key(seed)
        return self.init(self._all(numbers), key, params, model_state, forget, retain)

    def run(
        self, num_steps: int = 3, seed: int = 0, forget: Arrays | None = None, **numbers: float
    ) -> Run:
        """Some steps on consecutive batches; `forget` are other forget data than the usual."""
        state = self.start(seed, **numbers)
        states, history = [jax.device_get(state)], []
        for n in range(num_steps):
            forget_batch = nth_batch(forget or problem().forget, n, FORGET_BATCH)
            retain = nth_retain_batches(problem().retain, n, self.retain_batches)
            state, metrics = self.step(self._all(numbers), state, forget_batch, retain)
            states.append(jax.device_get(state))
            history.append({name: float(value) for name, value in metrics.items()})
        return Run(states, history)

    def _all(self, numbers: dict[str, float]) -> dict[str, jax.Array]:
        assert numbers.keys() <= self.numbers.keys()
        return {name: jnp.float32(value) for name, value in (self.numbers | numbers).items()}


@functools.cache
def runner(name: str, **static: Any) -> Runner:
    """The one runner of a method with these settings that are no floating-point numbers."""
    return Runner(name, static)
