"""Examples that are read from storage as a run visits them, for data larger than memory.

The step number decides which examples are visited (`data.order.visits`), so the examples of the
next steps are known in advance. Grain's threads read exactly those, and each host reads only the
examples of its own devices. A streamed run equals a run with all data in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxunlearn.training.devices import own_rows, place_rows
from jaxunlearn.types import Arrays, InputError

_THREADS, _AHEAD = 16, 256  # grain's threads, and the number of records that they prefetch


class Records(Protocol):
    """A random-access data source of grain, such as those of tfds and array_record."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: Any) -> Any: ...


class Columns:
    """Records from images `[N, H, W, C]` and labels `[N]`, such as memory-mapped arrays."""

    def __init__(self, image: np.ndarray, label: np.ndarray) -> None:
        self._image, self._label = image, label

    def __len__(self) -> int:
        return len(self._image)

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        return {"image": self._image[position], "label": self._label[position]}


@dataclass(frozen=True, eq=False)
class Stream:
    """Examples for `training.run` that are read when they are visited.

    Attributes:
        records: source whose `records[i]` is a dictionary with "image" and "label", as in tfds.
        index: int32 `[N]`, the record of each example; also its identity.

    Raises:
        InputError: no examples, or an index without a record.

    Example:
        >>> images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
        >>> retain = Stream(Columns(images, np.array([5, 6, 7, 8])), np.array([1, 2, 3]))
        >>> retain.read(np.array([[2], [0]]))["label"].tolist()
        [[8], [6]]
    """

    records: Records
    index: np.ndarray

    def __post_init__(self) -> None:
        index = np.asarray(self.index, np.int32)
        object.__setattr__(self, "index", index)
        if not index.size or index.min() < 0 or index.max() >= len(self.records):
            found = f"{index.min()} to {index.max()}" if index.size else "none"
            raise InputError(
                f"index is {found}, but must name at least one record, by numbers below "
                f"{len(self.records)}."
            )

    def read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at positions `[...]`: "image" `[..., H, W, C]`, "label" and "index" `[...]`.

        Raises:
            InputError: a record cannot be read or lacks an entry, or its image has another shape.
        """
        import grain  # it takes seconds to import

        index = self.index[positions]
        rows = grain.MapDataset.source(index.ravel()).map(self._record)
        options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
        image = np.zeros(0)
        label = np.zeros(index.size, np.int32)
        for i, row in enumerate(rows.to_iter_dataset(options)):
            if i == 0:
                image = np.zeros((index.size, *row[0].shape), row[0].dtype)
            if row[0].shape != image.shape[1:]:
                raise InputError(
                    f"record {index.ravel()[i]} has an image of shape {row[0].shape}, but must "
                    f"have the shape of the others, {image.shape[1:]}; resize them to one shape."
                )
            image[i], label[i] = row
        lead = index.shape
        return {
            "image": image.reshape(*lead, *image.shape[1:]),
            "label": label.reshape(lead),
            "index": index,
        }

    def _record(self, index: int) -> tuple[np.ndarray, int]:
        try:
            record = self.records[int(index)]
            return np.asarray(record["image"]), int(record["label"])
        except Exception as error:
            raise InputError(
                f"record {index} cannot be read ({type(error).__name__}: {error}); it must be a "
                'dictionary with "image" and "label".'
            ) from error


@contextmanager
def supplied(
    sets: Sequence[Arrays | Stream],
    visited: Callable[[int], Sequence[Any]],
    chunk_steps: int,
    num_steps: int,
    mesh: Mesh,
) -> Iterator[Callable[[int], Sequence[Any]]]:
    """Yields `step -> batches` of each data set for the chunk that begins at a step.

    Streams are read while the previous chunk is computed. `visited(step)` gives the batches of the
    chunk for data in memory, and "position" and "epoch" `[chunk_steps, ..., B]` for a stream.
    """
    if not any(isinstance(examples, Stream) for examples in sets):
        yield visited
        return

    def read(step: int, order: Sequence[Any]) -> list[Any]:
        return [
            _batches(x, jax.device_get(each), num_steps - step, mesh)
            if isinstance(x, Stream)
            else each
            for x, each in zip(sets, order, strict=True)
        ]

    with ThreadPoolExecutor(1) as reader:
        coming: dict[int, Future[list[Any]]] = {}

        def data_at(step: int) -> list[Any]:
            for first in (step, step + chunk_steps):
                if first < num_steps and first not in coming:
                    coming[first] = reader.submit(read, first, visited(first))
            found = coming.pop(step).result()
            for passed in [first for first in coming if first < step]:
                del coming[passed]
            return found

        yield data_at


def _batches(stream: Stream, visited: Any, steps: int, mesh: Mesh) -> Arrays:
    """The batches of a chunk, split over the devices; zeros for steps beyond the end of the run."""
    size, axis = visited["position"].shape[-1], visited["position"].ndim - 1
    rows = own_rows(size, mesh)
    mine = {name: values[..., rows] for name, values in visited.items()}
    found = stream.read(mine["position"][:steps])
    for name, values in found.items():
        beyond = len(mine["epoch"]) - len(values)
        if beyond:
            found[name] = np.pad(values, [(0, beyond)] + [(0, 0)] * (values.ndim - 1))
    return place_rows(found | {"epoch": mine["epoch"]}, size, mesh, axis)


class Unread(dict[str, Any]):
    """A stand-in for streamed examples, which `Method.init` must not use."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise InputError(
            "the method needs all examples before its first step, but these are streamed; keep "
            "them in memory, choose another method, or settings without such a pass: variant = "
            "'FR-on' for sfron, saliency = false for eupmu_sfron."
        )

    __getitem__ = items = keys = values = _refuse
