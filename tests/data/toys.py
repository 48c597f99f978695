"""Small data sets, files and builders for the tests of `jaxunlearn.data`."""

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxunlearn.data import Dataset, Examples


def toy_arrays(
    count: int, classes: int = 5, seed: int = 0, shape: tuple[int, int, int] = (4, 4, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Random images, no two alike, and labels that go round the classes."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)
    return images, np.arange(count) % classes


def toy(
    train: int | Examples = 60, test: int | Examples = 20, classes: int = 5, **fields: Any
) -> Dataset:
    """A data set in which every class has its share of both splits."""
    if isinstance(train, int):
        train = Examples.from_arrays(*toy_arrays(train, classes))
    if isinstance(test, int):
        test = Examples.from_arrays(*toy_arrays(test, classes, seed=1))
    settings: dict[str, Any] = {
        "name": "toy",
        "train": train,
        "test": test,
        "num_classes": classes,
        "class_names": tuple(f"class {label}" for label in range(classes)),
        "mean": (0.5,),
        "std": (0.25,),
        "augmentation": "none",
    }
    return Dataset(**(settings | fields))


def toy_with_coarse_classes() -> Dataset:
    """Ten fine classes, learned; two of them to each of five coarse classes."""
    data = toy(train=100, test=30, classes=10)
    return toy(
        train=100,
        test=30,
        classes=10,
        coarse=data.train.label // 2,
        coarse_names=tuple("abcde"),
    )


def toy_of_coarse_classes() -> Dataset:
    """The same images, but it is the five coarse classes that are learned."""
    data = toy_with_coarse_classes()
    return toy(
        train=Examples.from_arrays(data.train.image, data.train.label // 2),
        test=Examples.from_arrays(data.test.image, data.test.label // 2),
        coarse=data.coarse,
        coarse_names=data.coarse_names,
        fine=data.train.label,
        fine_test=data.test.label,
        fine_names=data.class_names,
    )


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion_mnist(
    folder: Path, *, train: int = 20, test: int = 10, zipped: bool = True
) -> None:
    """The four files of Fashion-MNIST, with random pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count, seed in (("train", train, 2), ("t10k", test, 3)):
        images, labels = toy_arrays(count, 10, seed, (28, 28, 1))
        for name, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            data = idx_bytes(array)
            if zipped:
                (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(data))
            else:
                (folder / f"{prefix}-{name}-ubyte").write_bytes(data)


def write_tiny_imagenet(folder: Path, wnids: tuple[str, ...] = ("n03", "n01", "n02")) -> None:
    """The standard layout: three training images a class, one of them grey, and two for testing."""
    validation = folder / "val" / "images"
    validation.mkdir(parents=True)
    annotations = []
    for number, wnid in enumerate(wnids):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for position in range(3):
            picture = Image.new("RGB", (8, 8), (40 * number + 20, 10 * position, 200))
            if position == 2:
                picture = picture.convert("L")
            picture.save(images / f"{wnid}_{position}.JPEG", quality=95)
        for position in range(2):
            name = f"val_{2 * number + position}.JPEG"
            Image.new("RGB", (8, 8), (40 * number + 20, 0, 0)).save(validation / name, quality=95)
            annotations.append(f"{name}\t{wnid}\t0\t0\t7\t7\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(annotations))


def make_builder(
    builder_name: str, features: Mapping[str, Any], splits: Mapping[str, list[dict[str, Any]]]
) -> type:
    """A tfds builder class with these features and records, known to tfds by its name."""
    import tensorflow_datasets as tfds

    class Standin(tfds.core.GeneratorBasedBuilder):
        name = builder_name
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(records) for split, records in splits.items()}

        def _generate_examples(self, records: list[dict[str, Any]]) -> Any:
            yield from enumerate(records)

    return Standin
