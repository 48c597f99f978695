"""The five sets of examples of a study, from one data set and one forget request.

Validation data is split off first, by the seed alone. So all requests of a study share it, and
share the model trained on the other data; and tuning on validation data never sees the data of the
final evaluation.

Validation data has two halves, so that no run optimises its own judge: forget objectives compare
forget data with `Splits.copied`; blind choices, guards and `validation_accuracy` use
`Splits.judged`.
"""

from typing import NamedTuple

import numpy as np

from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.file_names import named_positions
from jaxunlearn.data.forget import VALIDATION_STREAM, ForgetRequest, is_real, plain, random_keys
from jaxunlearn.names import first_of
from jaxunlearn.types import InputError


class Splits(NamedTuple):
    """The five disjoint sets of examples.

    Attributes:
        forget: training examples to forget.
        retain: training examples to keep, without those that earlier requests forgot. The retrained
            model learns from retain, the original model of a first request from forget and retain.
        validation: examples held out of the training split; in a class-wise request, without the
            forgotten classes.
        test: test examples; in a class-wise request, without the forgotten classes.
        test_forget: test examples of the forgotten classes; empty if the request names no class.
    """

    forget: Examples
    retain: Examples
    validation: Examples
    test: Examples
    test_forget: Examples

    @property
    def copied(self) -> Examples:
        """The validation examples that objectives may copy."""
        return halves(self.validation)[0]

    @property
    def judged(self) -> Examples:
        """The other validation examples, by which models are judged."""
        return halves(self.validation)[1]


def copied(labels: np.ndarray) -> np.ndarray:
    """Which validation examples objectives may copy: every second one of each class, in order.

    The first one of a class judges, so that a class with a single example still has a judge.

    Args:
        labels: the classes of the validation examples, integers `[V]`.

    Returns:
        A mask `[V]`.

    Example:
        >>> copied(np.array([7, 2, 7, 7, 2, 5])).tolist()
        [False, False, True, False, True, False]
    """
    order = np.argsort(labels, kind="stable")
    places = np.empty(len(labels), np.int64)
    places[order] = np.arange(len(labels))
    found: np.ndarray = (places - np.searchsorted(labels, labels, sorter=order)) % 2 == 1
    return found


def halves(validation: Examples) -> tuple[Examples, Examples]:
    """The validation examples that objectives may copy, and those that judge."""
    half = copied(validation.label)
    return validation.take(half), validation.take(~half)


def hold_out(
    dataset: Dataset,
    *,
    validation_fraction: float = 0.1,
    train_size: int | None = None,
    seed: int = 0,
    validation_names: tuple[str, ...] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the training split into examples to learn from and validation data.

    Args:
        dataset: data set.
        validation_fraction: share held out, at least one example unless it is 0.
        train_size: number of the other examples to learn from; all of them by default.
        seed: seed of the choice, which depends on nothing else.
        validation_names: file names of the examples held out, in place of a random share.

    Returns:
        Sorted positions in `dataset.train`, int64: the examples to learn from, and those held out.

    Raises:
        InputError: the fraction is outside [0, 1), nothing is left to learn from, or fewer
            examples than `train_size` are left.
    """
    validation_fraction, train_size = plain(validation_fraction), plain(train_size)
    if not is_real(validation_fraction) or not 0 <= validation_fraction < 1:
        raise InputError(
            f"validation_fraction is {validation_fraction!r}, but must be at least 0 and below 1."
        )
    total = len(dataset.train)
    order = np.argsort(random_keys(seed, VALIDATION_STREAM, total), kind="stable")
    if validation_names is not None:
        held_out = _named_validation(dataset, validation_names)
        order = np.concatenate([held_out, order[~np.isin(order, held_out)]])
        count = len(held_out)
    else:
        count = int(validation_fraction * total + 0.5)
        count = max(count, 1) if validation_fraction > 0 else 0
    if count >= total:
        raise InputError(
            f"validation_fraction is {validation_fraction}, which holds out all {total} training "
            f"examples of {dataset.name!r}; choose a smaller one."
            if validation_names is None
            else f"validation_names name all {total} training examples of {dataset.name!r}, but "
            "must leave some to learn from; remove some."
        )
    left = total - count
    if train_size is not None and not 1 <= train_size <= left:
        examples = f"{left} training example{'s' * (left > 1)} besides the validation data"
        raise InputError(
            f"train_size is {train_size}, but {dataset.name!r} has {examples}; choose "
            f"{'1' if left == 1 else f'from 1 to {left}'}."
        )
    learned = order[count:] if train_size is None else order[count : count + train_size]
    return np.sort(learned), np.sort(order[:count])


def _named_validation(dataset: Dataset, names: tuple[str, ...]) -> np.ndarray:
    """The positions of the named validation data in the training split."""
    positions = named_positions(names, dataset)
    outside = positions[positions >= len(dataset.train)]
    if len(outside):
        found = first_of(dataset.test_names[i - len(dataset.train)] for i in outside)
        raise InputError(
            f"{len(outside)} of the {len(names)} validation_names are test data (first: {found}), "
            "but must be training data of the folder; remove them."
        )
    return positions


def split(
    dataset: Dataset,
    request: ForgetRequest,
    *,
    validation_fraction: float = 0.1,
    train_size: int | None = None,
    seed: int = 0,
    earlier: tuple[ForgetRequest, ...] = (),
    validation_names: tuple[str, ...] | None = None,
) -> Splits:
    """Split a data set for one forget request.

    Args:
        dataset: data set.
        request: forget request.
        validation_fraction: share of the training split held out as validation data.
        train_size: number of the other training examples to learn from; all by default.
        seed: seed of the validation data, of the examples to learn from and of a random request;
            the result is the same on every platform.
        earlier: earlier requests, in order; their examples are in no set, and their classes count
            as forgotten in test and validation data.
        validation_names: file names of the validation data, in place of a random share.

    Returns:
        The five sets of examples.

    Raises:
        InputError: the fraction or the size is out of range, a request does not fit the data set
            or the examples that earlier requests left, or all test classes are forgotten.

    Example:
        >>> from jaxunlearn.data import channel_statistics
        >>> examples = Examples.from_arrays(np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 2)
        >>> mean, std = channel_statistics(examples.image)
        >>> toy = Dataset("toy", examples, examples, 2, ("cat", "dog"), mean, std, "none")
        >>> [len(part) for part in split(toy, ForgetRequest(fraction=0.5))]
        [9, 9, 2, 20, 0]
    """
    eligible, validation = hold_out(
        dataset,
        validation_fraction=validation_fraction,
        train_size=train_size,
        seed=seed,
        validation_names=validation_names,
    )
    gone = np.zeros(0, np.int64)
    for each in earlier:
        gone = np.union1d(gone, each.select(dataset, eligible, seed, gone))
    forget = request.select(dataset, eligible, seed, gone)
    test_asked = request.forgotten(dataset)[1]
    masks = [each.forgotten(dataset) for each in (*earlier, request)]
    train_forgotten, test_forgotten = (np.any(part, axis=0) for part in zip(*masks, strict=True))
    if test_forgotten.all():
        raise InputError(
            f"{request.name} leaves no test example of {dataset.name!r}, but must leave at least "
            "one; forget fewer classes."
        )
    return Splits(
        forget=dataset.train.take(forget),
        retain=dataset.train.take(np.setdiff1d(eligible, np.union1d(gone, forget))),
        validation=dataset.train.take(validation[~train_forgotten[validation]]),
        test=dataset.test.take(np.flatnonzero(~test_forgotten)),
        test_forget=dataset.test.take(np.flatnonzero(test_asked)),
    )
