"""The user's own arrays: an `.npz` file, or a table of numbers in a `.csv` file.

    FILE.npz   x_train, y_train and, unless test data is drawn from them, x_test, y_test
    FILE.csv   a header, and one example a line; one column is the label, all others are features

`x` holds images `[N, H, W, C]` or `[N, H, W]`, or features `[N, F]`; `y` holds one integer or name
for each. Nothing is unpickled.
"""

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np

from jaxunlearn.data.dataset import Dataset, channel_statistics
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.folders import check_classes, drawn_for_test
from jaxunlearn.files import DAMAGE
from jaxunlearn.names import closest, first_of, reason
from jaxunlearn.types import InputError

_ENTRIES = ("x_train", "y_train", "x_test", "y_test")
_IMAGE_RANKS = (3, 4)


def read_npz(path: Path, *, test_fraction: float | None = None) -> Dataset:
    """The data set of an `.npz` file; see `jaxunlearn.data.load`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in _ENTRIES if name in file.files}
            present = file.files
    except (*DAMAGE, AttributeError) as error:
        why = "a single array" if "context manager" in str(error) else reason(error)
        if "pickle" in why:
            why = "Python objects, which would be unpickled"
        raise InputError(
            f"{path} cannot be read ({why}); give an .npz file of plain arrays, as np.savez "
            "writes it."
        ) from error
    drawn = not {"x_test", "y_test"} & found.keys()
    for name in _ENTRIES[: 2 if drawn else 4]:
        if name not in found:
            hint = closest(name, set(present) - {*_ENTRIES})
            raise InputError(
                f"{path} has no {name}{hint}, only {', '.join(present) or 'no arrays'}, but must "
                "have x_train, y_train, x_test and y_test, the last two together or not at all."
            )
    if not drawn and test_fraction is not None:
        raise InputError(
            f"test_fraction is {test_fraction}, but {path} has test examples; leave it out."
        )
    x = [_inputs(found[name], name, path) for name in found if name[0] == "x"]
    y = [_labels(found[f"y{name[1:]}"], name, path) for name in found if name[0] == "x"]
    return _dataset(f"npz:{path.name}", x, y, test_fraction, str(path))


def read_csv(path: Path, *, label: str | None, test_fraction: float | None = None) -> Dataset:
    """The data set of a `.csv` file; see `jaxunlearn.data.load`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read ({reason(error)}); give a table in UTF-8."
        ) from error
    if label not in header:
        given = "not given" if label is None else f"{label!r}{closest(label, header)}"
        raise InputError(
            f"the label of {path} is {given}, but must be one of its columns, "
            f"{', '.join(header) or 'none'}; name it with --label (label=)."
        )
    ragged = [i for i, row in enumerate(rows) if len(row) != len(header)]
    if ragged or not rows:
        problem = (
            f"{len(ragged)} lines with another number of values (first: example {ragged[0] + 1})"
            if ragged
            else "no example"
        )
        raise InputError(f"{path} has {problem}, but must have {len(header)} values a line.")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise InputError(
            f"{path} has several columns called {first_of(map(repr, twice))}, but must have "
            "columns of different names; rename or remove them."
        )
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    labels = np.array([each.strip() for each in columns.pop(label)])
    features = {name: _numbers(values) for name, values in columns.items()}
    texts = [name for name, values in features.items() if values is None]
    if texts:
        raise InputError(
            f"{len(texts)} of the {len(features)} feature columns of {path} hold other values than "
            f"finite numbers ({first_of(map(repr, texts))}), but must hold such numbers; encode or "
            "remove them."
        )
    if not features:
        raise InputError(f"{path} has no column besides {label}, but must have a feature.")
    x = np.stack([values for values in features.values() if values is not None], axis=1)
    return _dataset(f"csv:{path.name}", [x], [labels], test_fraction, str(path))


def _numbers(values: tuple[str, ...]) -> np.ndarray | None:
    try:
        numbers = np.array(values, np.float64)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _inputs(x: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Images `[N, H, W, C]` or float32 features `[N, F]`."""
    if x.ndim not in (2, *_IMAGE_RANKS) or 0 in x.shape:
        raise InputError(
            f"{name} of {path} has the shape {x.shape}, but must be images [N, H, W, C] or "
            "features [N, F]."
        )
    if x.ndim in _IMAGE_RANKS:
        return x if x.ndim == 4 else x[..., None]
    if x.dtype.kind not in "biuf":
        raise InputError(f"{name} of {path} holds {x.dtype}, but must hold numbers.")
    with np.errstate(over="ignore"):  # infinite numbers, which `Examples` refuses
        return x.astype(np.float32)


def _labels(y: np.ndarray, name: str, path: Path) -> np.ndarray:
    """One integer or name for each example, `[N]`."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.dtype.kind not in "biuSU":
        raise InputError(
            f"y{name[1:]} of {path} has the shape {y.shape} and the type {y.dtype}, but must hold "
            "one integer or one name for each example."
        )
    try:
        return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
    except UnicodeDecodeError as error:
        raise InputError(
            f"y{name[1:]} of {path} holds names that are not in UTF-8, but must be; store them as "
            "str."
        ) from error


def _dataset(
    name: str, x: list[np.ndarray], y: list[np.ndarray], fraction: float | None, where: str
) -> Dataset:
    """The data set of training and test arrays, or of one pair to draw test data from."""
    for inputs, labels in zip(x, y, strict=True):
        if len(inputs) != len(labels):
            raise InputError(
                f"{where} has {len(inputs)} examples with {len(labels)} labels, but must have one "
                "label for each."
            )
    known, numbers = np.unique(np.concatenate(y), return_inverse=True)
    order = np.arange(len(known))
    if known.dtype.kind == "U" and all(re.fullmatch(r"[+-]?\d+", each) for each in known):
        order = np.argsort([int(each) for each in known], kind="stable")
    labels = np.argsort(order)[numbers].astype(np.int32)
    classes = tuple(str(known[i]) for i in order)
    if len(x) == 1:
        positions = [str(i) for i in range(len(labels))]
        is_test = drawn_for_test(positions, fraction, f"{where} has no test examples")
        x, split_labels = [x[0][~is_test], x[0][is_test]], [labels[~is_test], labels[is_test]]
    else:
        split_labels = [labels[: len(y[0])], labels[len(y[0]) :]]
    check_classes(split_labels[0], classes, where)
    train, test = (Examples.from_arrays(*pair) for pair in zip(x, split_labels, strict=True))
    mean, std = channel_statistics(train.image)
    return Dataset(name, train, test, len(classes), classes, mean, std, "none")
