"""Linear probes: what can still be read from the features of a model, whatever it says?

Features are the inputs of the model's last dense layer. A logistic regression learns the classes
from the features of retain examples and of one half of the forget examples, and is asked for the
classes of the other half. A model that only its last layer has made forget gives them away; the
retrained model's value is what features give that never saw the forgotten examples.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.studies.problem import Weights
from jaxunlearn.types import Arrays, InputError, Task

_RETAIN_EXAMPLES, _BATCH = 2000, 250


def last_features(task: Task, weights: Weights, arrays: Arrays) -> np.ndarray:
    """What goes into the last dense layer of a Flax linen model.

    Args:
        task: what was learned.
        weights: of the model.
        arrays: N examples.

    Returns:
        float32 `[N, F]`.

    Raises:
        InputError: the model has no `flax.linen.Dense`.
    """
    return np.asarray(_features(task, weights, arrays))


@functools.partial(jax.jit, static_argnums=0)
def _features(task: Task, weights: Weights, arrays: Arrays) -> jax.Array:
    size = arrays["label"].shape[0]
    batch = min(_BATCH, size)
    places = jnp.minimum(jnp.arange(-(-size // batch) * batch).reshape(-1, batch), size - 1)

    @fast_in_loops
    def of_batch(positions: jax.Array) -> jax.Array:
        inputs: list[jax.Array] = []

        def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
                inputs.append(args[0])
            return call(*args, **kwargs)

        assert task.predict is not None
        with nn.intercept_methods(record):
            task.predict(*weights, {name: values[positions] for name, values in arrays.items()})
        if not inputs:
            raise InputError(
                "the model calls no flax.linen.Dense, whose inputs linear probes read; probe "
                "models that end in a dense layer."
            )
        return inputs[-1].reshape(batch, -1).astype(jnp.float32)

    rows = jax.lax.map(of_batch, places)
    return rows.reshape(-1, rows.shape[-1])[:size]


def probe_accuracy(task: Task, weights: Weights, forget: Arrays, retain: Arrays) -> float | None:
    """Accuracy of a linear probe on the half of the forget examples that it did not learn from.

    Args:
        task: what was learned.
        weights: of the model.
        forget: all forget examples.
        retain: all retain examples; at most 2,000 of them are used, always the same ones.

    Returns:
        Percent, or None for a single forget example, which has no halves.

    Raises:
        InputError: the model has no `flax.linen.Dense`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    kept = np.sort(rng.permutation(len(retain["label"]))[:_RETAIN_EXAMPLES])
    order = rng.permutation(len(forget["label"]))
    learned, asked = np.array_split(order, 2)
    if len(asked) == 0:
        return None
    of_forget = last_features(task, weights, forget)
    of_retain = last_features(task, weights, {name: v[kept] for name, v in retain.items()})
    labels = np.asarray(forget["label"])
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(
        np.concatenate([of_retain, of_forget[learned]]),
        np.concatenate([np.asarray(retain["label"])[kept], labels[learned]]),
    )
    return 100.0 * float(np.mean(probe.predict(of_forget[asked]) == labels[asked]))
