"""The user's own data: `folder:DIR`, `npz:FILE`, `csv:FILE`, or a function `my_package:load`."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from jaxunlearn.data.arrays import read_csv, read_npz
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.folders import read_folder
from jaxunlearn.home import expanded
from jaxunlearn.names import reason
from jaxunlearn.types import InputError

KINDS = ("folder", "npz", "csv")


def own_kind(name: str) -> tuple[str, str] | None:
    """The kind and the path of data on the disk, such as `folder:images`; None for other names.

    Example:
        >>> own_kind("folder:my images"), own_kind("csv"), own_kind("cifar10:3.0.2")
        (('folder', 'my images'), ('csv', ''), None)
    """
    kind, _, path = name.partition(":")
    return (kind, path) if kind in KINDS else None


@dataclass(frozen=True)
class Reading:
    """Options of reading the user's own data.

    Attributes:
        image_size: side of the square that images are resized to; None keeps their size.
        test_fraction: share of the examples that becomes test data, if there is none.
        label: name of the column with the labels.
        broken: whether broken image files are refused or skipped.
        captions: file with the caption of each image, which is its class.
    """

    image_size: int | None = None
    test_fraction: float | None = None
    label: str | None = None
    broken: Literal["refuse", "skip"] = "refuse"
    captions: str | None = None

    def check(self, kind: str | None) -> None:
        """Raises if an option is given that a kind of data does not have."""
        taken = {"image_size": ("folder",), "broken": ("folder",), "test_fraction": KINDS}
        taken |= {"label": ("csv",), "captions": ("folder",)}
        for field in fields(self):
            value, kinds = getattr(self, field.name), taken[field.name]
            if value != field.default and kind not in kinds:
                flag = field.name.replace("_", "-")
                raise InputError(
                    f"{field.name} is {value!r}, but is for data of the form "
                    f"{' or '.join(f'{each}:PATH' for each in kinds)} only; leave --{flag} out."
                )
        if self.image_size is not None and self.image_size < 1:
            raise InputError(f"image_size is {self.image_size}, but must be 1 or more.")
        if self.broken not in ("refuse", "skip"):
            raise InputError(f"broken is {self.broken!r}, but must be refuse or skip.")


def read_own(kind: str, path: Path, cache: Callable[[], Path], reading: Reading) -> Dataset:
    """The data set at a path; decoded images are kept in the folder that `cache()` returns."""
    if kind == "folder":
        return read_folder(
            path,
            cache(),
            image_size=reading.image_size,
            test_fraction=reading.test_fraction,
            skip_broken=reading.broken == "skip",
            captions=expanded(reading.captions) if reading.captions else None,
        )
    if kind == "npz":
        return read_npz(path, test_fraction=reading.test_fraction)
    return read_csv(path, label=reading.label, test_fraction=reading.test_fraction)


def called(loader: Callable[[], Dataset], name: str) -> Dataset:
    """The data set that a function of the user returns; `name` names the function in errors."""
    try:
        found = loader()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"the data set cannot be loaded, because {name} raises {type(error).__name__}: "
            f"{reason(error)}."
        ) from error
    if not isinstance(found, Dataset):
        raise InputError(
            f"{name} returns {type(found).__name__}, but must return a jaxunlearn.data.Dataset."
        )
    return found
