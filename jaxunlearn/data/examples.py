"""Labelled images, or vectors of features, in memory or memory-mapped.

Every example keeps its `index`, its position in the data set's split, which identifies it in forget
requests, saved runs and batches. Images are kept as stored; the task normalises them inside the
compiled step, uint8 by `(image / 255 - mean) / std` and floating point by `(image - mean) / std`.
Images that are memory-mapped are read when they are used.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxunlearn.data.pixels import pixel_scale
from jaxunlearn.types import Arrays, InputError


class Rows:
    """Some rows of an array on the disk, in a given order, which are read when they are used.

    Example:
        >>> rows = Rows(np.arange(10), np.array([7, 2, 5]))
        >>> rows[1:].tolist(), np.asarray(rows).tolist(), rows.shape
        ([2, 5], [7, 2, 5], (3,))
    """

    def __init__(self, array: np.ndarray, positions: np.ndarray) -> None:
        self._array, self._positions = array, positions
        self.dtype, self.ndim = array.dtype, array.ndim
        self.shape = (len(positions), *array.shape[1:])

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        return self._array[self._positions[chosen]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def take(self, chosen: np.ndarray) -> "Rows":
        """Some of these rows."""
        return Rows(self._array, self._positions[chosen])


@dataclass(frozen=True, eq=False)
class Examples:
    """Images with their labels and identities. The arrays are read-only.

    Attributes:
        image: uint8 or float32 images `[N, H, W, C]` or features `[N, F]`; other floating types
            become float32. Choices from memory-mapped images are `Rows`.
        label: int32 `[N]`, the class of each image.
        index: int32 `[N]`, the position of each example in the data set's split.

    Raises:
        InputError: images of another rank or type, or not finite; labels or indices that are not
            one integer for each image.

    Example:
        >>> examples = Examples.from_arrays(np.zeros((3, 8, 8, 1), np.uint8), np.array([2, 0, 1]))
        >>> examples.take([2, 0]).index.tolist()
        [2, 0]
    """

    image: Any
    label: np.ndarray
    index: np.ndarray

    def __post_init__(self) -> None:
        image = _images(self.image)
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "label", integers(self.label, "labels", len(image)))
        object.__setattr__(self, "index", integers(self.index, "indices", len(image)))

    @classmethod
    def from_arrays(cls, image: np.ndarray, label: np.ndarray) -> "Examples":
        """A whole split: the examples are numbered 0, 1, 2, ... in the given order."""
        return cls(image, label, np.arange(len(image), dtype=np.int32))

    def __len__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        return f"Examples({len(self)} {self.image.dtype} {kind_of(self.image.shape[1:])})"

    def take(self, positions: np.ndarray | list[int]) -> "Examples":
        """The examples at these positions (integers `[M]` or a mask `[N]`), in this order."""
        chosen = np.asarray(positions)
        if chosen.size == 0:
            chosen = chosen.astype(np.intp)
        image = self.image
        if isinstance(image, np.memmap):
            image = Rows(image, np.arange(len(image))[chosen])
        elif isinstance(image, Rows):
            image = image.take(chosen)
        else:
            image = image[chosen]
        return Examples(image, self.label[chosen], self.index[chosen])

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names in batches: "image", "label" and "index"."""
        return {"image": self.image, "label": self.label, "index": self.index}


def to_device(examples: Examples) -> Arrays:
    """The arrays of examples on the device, as methods take them."""
    return {name: jnp.asarray(np.asarray(values)) for name, values in examples.arrays().items()}


def kind_of(shape: tuple[int, ...]) -> str:
    """The kind of examples of a shape, in words.

    Example:
        >>> kind_of((8, 8, 1)), kind_of((64,))
        ('images of 8x8x1', 'examples with 64 features')
    """
    if len(shape) == 1:
        return f"examples with {shape[0]} features"
    return f"images of {'x'.join(map(str, shape))}"


def _images(image: Any) -> Any:
    """Read-only uint8 or float32 images or features; raises `InputError` for others."""
    if isinstance(image, Rows):
        return image
    image = np.asanyarray(image)
    if image.ndim not in (2, 4):
        raise InputError(
            f"images have the shape {image.shape}, but must have the four axes [N, H, W, C], or "
            "[N, F] for features; add the missing axis, such as image[..., None] for one channel."
        )
    pixel_scale(image.dtype)
    if image.dtype == np.uint8:
        return _frozen(image)
    with np.errstate(over="ignore"):
        image = image.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(image).all(axis=tuple(range(1, image.ndim))))
    if len(bad):
        kind = "examples" if image.ndim == 2 else "images"
        raise InputError(
            f"{len(bad)} of {len(image)} {kind} hold NaN or infinity, the first at position "
            f"{bad[0]}, but must be finite; remove or repair them."
        )
    return _frozen(image)


def integers(values: np.ndarray, name: str, count: int) -> np.ndarray:
    """Read-only int32 `[count]`; raises `InputError` for other values."""
    values = np.asarray(values)
    if values.shape != (count,):
        raise InputError(
            f"{name} have the shape {values.shape}, but must have ({count},), one number for each "
            "image."
        )
    if not np.issubdtype(values.dtype, np.integer):
        advice = (
            "use .astype(np.int32)"
            if np.issubdtype(values.dtype, np.number) or values.dtype == bool
            else "number the names, as in np.unique(names, return_inverse=True)[1]"
        )
        raise InputError(f"{name} are {values.dtype}, but must be integers; {advice}.")
    limits = np.iinfo(np.int32)
    if values.size and (values.min() < limits.min or values.max() > limits.max):
        raise InputError(
            f"{name} are from {values.min()} to {values.max()}, but must fit in 32 bits."
        )
    return _frozen(values.astype(np.int32, copy=False))


def _frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view
