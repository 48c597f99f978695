"""A whole data set: training and test examples, classes and statistics."""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from jaxunlearn.data.examples import Examples, integers, kind_of
from jaxunlearn.data.pixels import pixel_scale
from jaxunlearn.types import InputError

AUGMENTATIONS = ("none", "crop", "flip_crop")

_BLOCK = 1024  # images at a time, so that statistics in float64 need little memory


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for unlearning: training and test examples, classes and statistics.

    Some data sets label each image with a fine and a coarse class. Models learn `label`; `coarse`
    holds the coarse class, and `fine` the fine class where `label` is the coarse one.

    Attributes:
        name: name of the data set.
        train: training examples, with `index` 0 to N - 1 in order.
        test: test examples, numbered likewise.
        num_classes: number of classes in `label`.
        class_names: one name for each class.
        mean: mean of each channel, from `channel_statistics`.
        std: standard deviation of each channel, from `channel_statistics`.
        augmentation: "none", "crop" (shifts) or "flip_crop" (shifts and mirror images).
        coarse: int32 `[N_train]`, the coarse class of each training example, or None.
        coarse_names: one name for each coarse class.
        fine: int32 `[N_train]`, the fine class of each training example; None if `label` holds it.
        fine_test: int32 `[N_test]`, the fine class of each test example, or None.
        fine_names: one name for each fine class.
        names: path of the file of each training example below the folder of the data, or nothing.
        test_names: path of the file of each test example, likewise.

    Raises:
        InputError: an empty split, labels out of range, shapes that disagree, statistics that do
            not match the channels, or an unknown augmentation.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> images = rng.integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)
        >>> train = Examples.from_arrays(images[:8], np.arange(8) % 2)
        >>> test = Examples.from_arrays(images[8:], np.arange(4) % 2)
        >>> mean, std = channel_statistics(train.image)
        >>> Dataset("mine", train, test, 2, ("cat", "dog"), mean, std, "none").num_classes
        2
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str
    coarse: np.ndarray | None = None
    coarse_names: tuple[str, ...] = ()
    fine: np.ndarray | None = None
    fine_test: np.ndarray | None = None
    fine_names: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    test_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split, examples in (("training", self.train), ("test", self.test)):
            self._check_split(split, examples)
        if self.train.image.shape[1:] != self.test.image.shape[1:]:
            raise InputError(
                f"training and test images of {self.name!r} have the shapes "
                f"{self.train.image.shape[1:]} and {self.test.image.shape[1:]}, but must have the "
                "same shape."
            )
        if self.train.image.dtype != self.test.image.dtype:
            raise InputError(
                f"training and test images of {self.name!r} are {self.train.image.dtype} and "
                f"{self.test.image.dtype}, but must have the same type, because pixels of uint8 "
                "are divided by 255."
            )
        if len(self.class_names) != self.num_classes:
            raise InputError(
                f"class_names of {self.name!r} holds {len(self.class_names)} names, but must hold "
                f"one for each of the {self.num_classes} classes."
            )
        channels = self.train.image.shape[-1]
        if not len(self.mean) == len(self.std) == channels or not min(self.std) > 0:
            raise InputError(
                f"mean and std of {self.name!r} are {self.mean} and {self.std}, but must be one "
                f"number for each of the {channels} channels, std above 0; compute them with "
                "channel_statistics."
            )
        if self.augmentation not in AUGMENTATIONS:
            raise InputError(
                f"augmentation is {self.augmentation!r}, but must be one of "
                f"{', '.join(AUGMENTATIONS)}."
            )
        if self.augmentation != "none" and self.train.image.ndim == 2:
            raise InputError(
                f"augmentation of {self.name!r} is {self.augmentation!r}, but must be 'none' for "
                "features."
            )
        for names, examples in ((self.names, self.train), (self.test_names, self.test)):
            if names and len(names) != len(examples):
                raise InputError(
                    f"{self.name!r} has {len(names)} names for {len(examples)} examples, but must "
                    "have one for each."
                )
        if (self.fine is None) != (self.fine_test is None):
            missing, given = ("fine", "fine_test") if self.fine is None else ("fine_test", "fine")
            raise InputError(f"{missing} is None, but must be given together with {given}.")
        for field, count, names in (
            ("coarse", len(self.train), self.coarse_names),
            ("fine", len(self.train), self.fine_names),
            ("fine_test", len(self.test), self.fine_names),
        ):
            values = getattr(self, field)
            if values is not None:
                values = integers(values, field, count)
                self._check_range(values, field, len(names))
                object.__setattr__(self, field, values)

    def _check_split(self, split: str, examples: Examples) -> None:
        if len(examples) == 0:
            raise InputError(
                f"the {split} split of {self.name!r} is empty, but must hold at least one example."
            )
        if not np.array_equal(examples.index, np.arange(len(examples))):
            raise InputError(
                f"the {split} examples of {self.name!r} are out of order, but must be numbered 0 "
                f"to {len(examples) - 1}; number them with Examples.from_arrays."
            )
        self._check_range(examples.label, f"{split} labels", self.num_classes)

    def _check_range(self, values: np.ndarray, what: str, count: int) -> None:
        outside = (values < 0) | (values >= count)
        if outside.any():
            position = int(np.argmax(outside))
            raise InputError(
                f"{what} of {self.name!r} include {values[position]} at position {position}, but "
                f"must be from 0 to {count - 1}; correct the labels or the number of classes."
            )

    @property
    def fine_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """The fine class of every training example `[N_train]` and test example `[N_test]`."""
        if self.fine is None or self.fine_test is None:
            return self.train.label, self.test.label
        return self.fine, self.fine_test

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of name, class names, shapes, types, every pixel and every label.

        With equal fingerprints, saved indices identify the same examples. Normalisation and
        augmentation are settings, not data, and are left out, as is the place of the user's own
        data: of `folder:images` only "folder" counts.
        """
        digest = hashlib.sha256()
        header = [
            self.name.partition(":")[0],
            self.num_classes,
            self.class_names,
            self.coarse_names,
            self.fine_names,
        ]
        digest.update(repr(header).encode())
        labels = [self.train.label, self.test.label, self.coarse, self.fine, self.fine_test]
        for array in [self.train.image, self.test.image, *labels]:
            if array is None:
                digest.update(b"none")
                continue
            digest.update(repr((array.shape, array.dtype.name)).encode())
            little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
            digest.update(np.ascontiguousarray(little_endian).data)
        return digest.hexdigest()

    def with_fingerprint(self, known: str) -> "Dataset":
        """This data set, whose fingerprint was computed when its images were decoded."""
        vars(self)["fingerprint"] = known  # where a cached property keeps its value
        return self

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {len(self.train)} training and {len(self.test)} test "
            f"{kind_of(self.train.image.shape[1:])}, {self.num_classes} classes)"
        )


def channel_statistics(image: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel; uint8 pixels are divided by 255 first.

    A constant channel gets standard deviation 1, so that normalising it gives zeros.

    Args:
        image: images `[N, H, W, C]` or features `[N, F]`, uint8 or floating point; each feature
            counts as a channel.

    Returns:
        Mean and standard deviation, one number for each channel.

    Raises:
        InputError: the images are neither uint8 nor floating point.

    Example:
        >>> channel_statistics(np.array([0, 255], np.uint8).reshape(1, 2, 1, 1))
        ((0.5,), (0.5,))
    """
    axes, scale = tuple(range(image.ndim - 1)), pixel_scale(image.dtype)
    pixels = image[..., 0].size
    blocks = [image[i : i + _BLOCK] for i in range(0, len(image), _BLOCK)]
    mean = np.sum([b.sum(axes, dtype=np.float64) for b in blocks], axis=0) / pixels
    with np.errstate(invalid="ignore"):  # infinite pixels, which `Dataset` refuses
        variance = np.sum([((b - mean) ** 2).sum(axes) for b in blocks], axis=0) / pixels
    constant = image.min(axes) == image.max(axes)
    std = np.where(constant, 1.0, np.sqrt(variance) / scale)
    return tuple((mean / scale).tolist()), tuple(std.tolist())
