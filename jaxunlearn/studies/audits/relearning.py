"""Relearning: how fast does a model get back what it was made to forget?

The model is trained on the forget data alone, for some epochs, and its accuracy on them is noted
after each. A model that never saw them takes its time; one that merely hides them is quick. So the
curve is to be held against that of the retrained model, with the same batches in the same order.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn import evaluation, methods
from jaxunlearn.data.order import take, visits
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.types import Arrays, Task, TrainState, Weights

EPOCHS = 5
SETTINGS: dict[str, Any] = {"learning_rate": 0.01, "learning_rate_schedule": "constant"}
_BATCH_SIZE = 64


def relearning_curve(
    task: Task, weights: Weights, forget: Arrays, num_epochs: int = EPOCHS, seed: int = 0
) -> list[float]:
    """Accuracy on the forget data after 0, 1, ... epochs of training on them.

    Args:
        task: what was learned.
        weights: of the model; not modified.
        forget: all forget examples.
        num_epochs: how many epochs.
        seed: of the order of the examples.

    Returns:
        Percent, `num_epochs + 1` numbers.
    """
    size = forget["label"].shape[0]
    batch_size = min(_BATCH_SIZE, size)
    begin, advance = _program(task, batch_size, -(-num_epochs * size // batch_size))
    state = begin(jax.random.key(seed), *weights, forget)
    curve = []
    for epoch in range(num_epochs + 1):
        state = advance(state, forget, jnp.int32(-(-epoch * size // batch_size)))
        relearned = Weights(state.params, state.model_state)
        curve.append(evaluation.accuracy(predict_with(task, relearned, forget)))
    return curve


@functools.lru_cache
def _program(
    task: Task, batch_size: int, num_steps: int
) -> tuple[Callable[..., TrainState], Callable[..., TrainState]]:
    """Fine-tuning on one set of examples: how it begins, and how it goes on until a step."""
    settings = methods.settings("finetune", SETTINGS | {"num_steps": num_steps})
    method = methods.build(task, "finetune", settings)

    @jax.jit
    def begin(key: jax.Array, params: Any, model_state: Any, examples: Arrays) -> TrainState:
        return method.init(key, params, model_state, examples, examples)

    @jax.jit
    @fast_in_loops
    def advance(state: TrainState, examples: Arrays, stop: jax.Array) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 3)
        order = visits(key, examples, jnp.int32(0), batch_size, num_steps)

        def step(i: jax.Array, state: TrainState) -> TrainState:
            batch = take(examples, order, i)
            return method.step(state, batch, jax.tree.map(lambda x: x[None], batch))[0]

        return jax.lax.fori_loop(state.step, stop, step, state)

    return begin, advance
