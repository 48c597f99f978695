"""Class probabilities and true labels: computed once, checked once, saved in one file.

All metrics, from accuracies to attacks, need only `probabilities [N, C]` and `labels [N]` of a
model. So a model runs once over each split of the data (`predict`), and the result
(`SplitPredictions`) can be saved and compared later.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxunlearn.data.batches import in_batches
from jaxunlearn.data.examples import Rows
from jaxunlearn.data.splits import Splits
from jaxunlearn.files import read_arrays, write_arrays
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.types import InputError, Task, Weights

_SUM_TOLERANCE = 1e-3
_BATCH = 500


class Predictions(NamedTuple):
    """The class probabilities of a model on some examples, and the true classes.

    Attributes:
        probabilities: class probabilities, every row sums to 1.  # shape=(N, C), dtype=float
        labels: true classes, 0 to C - 1.                         # shape=(N,), dtype=int
    """

    probabilities: Any
    labels: Any


def check_probabilities(probabilities: Any, name: str) -> np.ndarray:
    """Probabilities `[N, C]` in double precision, after a check; errors call them `name`.

    Raises:
        InputError: another shape, no rows, values that are negative or not finite, or a row that
            does not sum to 1.
    """
    array = np.asarray(probabilities)
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(
            f"{name} has probabilities of shape {array.shape}, but must have [examples, classes]; "
            "give one row of class probabilities for each example."
        )
    if array.shape[0] == 0:
        raise InputError(f"{name} is empty, but must hold at least one example; check the split.")
    array = array.astype(np.float64)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{name} has probabilities that are not finite in {int((~finite).sum())} of "
            f"{len(array)} rows, but must have numbers in [0, 1]; the model has probably diverged."
        )
    sums = array.sum(axis=1)
    worst = int(np.argmax(np.abs(sums - 1.0)))
    if abs(sums[worst] - 1.0) > _SUM_TOLERANCE or array.min() < 0.0:
        raise InputError(
            f"{name} has probabilities as small as {array.min():.6g}, and row {worst} sums to "
            f"{sums[worst]:.6g}, but rows must be non-negative and sum to 1; apply a softmax to "
            "logits first."
        )
    return array


def check_predictions(predictions: Predictions, name: str) -> Predictions:
    """Predictions as NumPy arrays (float64, int64), after a check.

    `name` is the name of the split in errors, such as "retain".

    Raises:
        InputError: probabilities that `check_probabilities` refuses, a number of labels other than
            the number of rows, or labels that are not integers from 0 to C - 1.
    """
    name = f"the {name} prediction set"
    probabilities = check_probabilities(predictions.probabilities, name)
    labels = np.asarray(predictions.labels)
    if labels.shape != probabilities.shape[:1]:
        raise InputError(
            f"{name} has labels of shape {labels.shape} for probabilities of shape "
            f"{probabilities.shape}, but must have one label for each row."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{name} has labels of type {labels.dtype}, but must have integers.")
    classes = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"{name} has labels from {labels.min()} to {labels.max()}, but must have labels from "
            f"0 to {classes - 1} for {classes} classes; check the model's number of classes."
        )
    return Predictions(probabilities, labels.astype(np.int64))


@jax.jit
@fast_in_loops
def _call(predict_fn: Partial, batch: dict[str, jax.Array]) -> jax.Array:
    return predict_fn(batch).astype(jnp.float32)


def predict(
    predict_fn: Callable[[dict[str, jax.Array]], jax.Array],
    arrays: Mapping[str, Any],
    batch_size: int,
) -> Predictions:
    """Runs a model over a whole split in batches of one shape, so that it compiles once.

    Models of one shape share the compiled program if `predict_fn` is
    `jax.tree_util.Partial(function, variables)` rather than a closure over the variables.

    Args:
        predict_fn: function from a batch, leaves `[B, ...]`, to class probabilities `[B, C]`.
        arrays: arrays of N rows each, with at least "label" `[N]`; N may be 0.
        batch_size: batch size B.

    Returns:
        `Predictions` on the host: `probabilities [N, C]` in float32, `labels [N]` in int32.

    Raises:
        InputError: a batch size below 1, no labels, arrays of different lengths, or results of
            another shape than `[B, C]`.

    Example:
        >>> split = {"image": jnp.eye(3), "label": jnp.array([0, 1, 2])}
        >>> predictions = predict(lambda batch: jax.nn.softmax(batch["image"]), split, 2)
        >>> predictions.probabilities.shape
        (3, 3)
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, but must be at least 1.")
    if "label" not in arrays:
        raise InputError(f'the arrays to predict are {sorted(arrays)}, but must include "label".')
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(
            f"the arrays to predict have the lengths {lengths}, but must all have the same length."
        )
    # Arrays of the host stay there: batches of them need no program of their own.
    split = {
        name: array if isinstance(array, Rows | jax.Array) else np.asarray(array)
        for name, array in arrays.items()
    }
    function = predict_fn if isinstance(predict_fn, Partial) else Partial(predict_fn)
    specification = {
        name: jax.ShapeDtypeStruct(
            (batch_size, *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype)
        )
        for name, array in split.items()
    }
    result = jax.eval_shape(_call, function, specification)
    if len(result.shape) != 2 or result.shape[0] != batch_size:
        raise InputError(
            f"the result of predict_fn for a batch of {batch_size} has shape {result.shape}, but "
            f"must have [{batch_size}, classes]."
        )
    probabilities = np.zeros((0, result.shape[1]), np.float32)
    if lengths["label"]:
        probabilities = in_batches(lambda batch: _call(function, batch), split, batch_size)
    return Predictions(probabilities, np.asarray(split["label"]).astype(np.int32))


class SplitPredictions(NamedTuple):
    """A model's predictions on every split of an unlearning problem.

    Attributes:
        forget: predictions on the training examples to forget.
        retain: predictions on the training examples to keep.
        validation: predictions on the held-out examples that judge; may have no rows.
        test: predictions on test examples, without forgotten classes.
        test_forget: predictions on test examples of forgotten classes; may have no rows.
    """

    forget: Predictions
    retain: Predictions
    validation: Predictions
    test: Predictions
    test_forget: Predictions

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all splits into one npz file, which appears only once it is complete.

        Entries are named "forget_probabilities" (float32), "forget_labels" (int32), and so on.

        Raises:
            InputError: the file cannot be written.
        """
        arrays: dict[str, Any] = {}
        for name, predictions in zip(self._fields, self, strict=True):
            arrays[f"{name}_probabilities"] = np.asarray(predictions.probabilities, np.float32)
            arrays[f"{name}_labels"] = np.asarray(predictions.labels, np.int32)
        write_arrays(Path(path), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SplitPredictions":
        """Reads the predictions that `save` wrote.

        Raises:
            InputError: the file is missing, truncated, or lacks a split.
        """
        names = [f"{split}_{part}" for split in cls._fields for part in ("probabilities", "labels")]
        found = iter(read_arrays(Path(path), *names).values())
        return cls(*(Predictions(*pair) for pair in zip(found, found, strict=True)))


def predict_with(
    task: Task, weights: Weights, arrays: Mapping[str, Any], at_once: int = 0
) -> Predictions:
    """The predictions of a model on any number of examples, `at_once` of them in a batch."""
    # A Partial over the weights: models of one task share the compiled program.
    return predict(Partial(task.predict, *weights), arrays, at_once or _BATCH)


def predict_splits(
    task: Task, weights: Weights, splits: Splits, at_once: int = 0
) -> SplitPredictions:
    """The predictions of a model on every split; of validation data, on the judging half."""
    parts = splits._replace(validation=splits.judged)
    found = (predict_with(task, weights, part.arrays(), at_once) for part in parts)
    return SplitPredictions(*found)
