"""The key of the dropout of a batch."""

import jax

from jaxunlearn.types import Batch, example_keys

_DROPOUT_CHILD = 3  # of the key of an example


def dropout_key(key: jax.Array, batch: Batch, train: bool) -> jax.Array | None:
    """A key from the first example and its visit; None in evaluation mode."""
    if not train or "index" not in batch:
        return None
    one = {name: batch[name][:1] for name in ("index", "epoch")}
    return jax.random.fold_in(example_keys(key, one)[0], _DROPOUT_CHILD)
