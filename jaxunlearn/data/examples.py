"""Labelled images held in memory.

Every example keeps its `index`, its position in the data set's split, which identifies it in forget
requests, saved runs and batches. Images are kept as stored; the task normalises them inside the
compiled step, uint8 by `(image / 255 - mean) / std` and floating point by `(image - mean) / std`.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxunlearn.data.pixels import pixel_scale
from jaxunlearn.types import Arrays, InputError


@dataclass(frozen=True, eq=False)
class Examples:
    """Images with their labels and identities. The arrays are read-only.

    Attributes:
        image: uint8 or float32 `[N, H, W, C]`; other floating types become float32.
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

    image: np.ndarray
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
        shape = "x".join(str(size) for size in self.image.shape[1:])
        return f"Examples({len(self)} {self.image.dtype} images of {shape})"

    def take(self, positions: np.ndarray | list[int]) -> "Examples":
        """The examples at these positions (integers `[M]` or a mask `[N]`), in this order."""
        chosen = np.asarray(positions)
        if chosen.size == 0:
            chosen = chosen.astype(np.intp)
        return Examples(self.image[chosen], self.label[chosen], self.index[chosen])

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names in batches: "image", "label" and "index"."""
        return {"image": self.image, "label": self.label, "index": self.index}


def to_device(examples: Examples) -> Arrays:
    """The arrays of examples on the device, as methods take them."""
    return {name: jnp.asarray(values) for name, values in examples.arrays().items()}


def _images(image: np.ndarray) -> np.ndarray:
    """Read-only uint8 or float32 images; raises `InputError` for others."""
    image = np.asarray(image)
    if image.ndim != 4:
        raise InputError(
            f"images have the shape {image.shape}, but must have the four axes [N, H, W, C]; add "
            "the missing axis, such as image[..., None] for one channel."
        )
    pixel_scale(image.dtype)
    if image.dtype == np.uint8:
        return _frozen(image)
    with np.errstate(over="ignore"):
        image = image.astype(np.float32, copy=False)
    bad = ~np.isfinite(image)
    if bad.any():
        raise InputError(
            f"{int(bad.any(axis=(1, 2, 3)).sum())} of {len(image)} images hold NaN or infinity, "
            f"the first at position {int(np.argwhere(bad)[0, 0])}, but must be finite; remove or "
            "repair them."
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
