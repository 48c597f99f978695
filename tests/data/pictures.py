"""Folders of small pictures for the tests of the user's own images."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, mode: str = "RGB", sides: tuple[int, int] = (6, 4)) -> Image.Image:
    """A random picture, `sides` wide and high."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*sides[::-1], 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def write_pictures(
    folder: Path,
    *,
    splits: tuple[str, ...] = ("train", "test"),
    classes: tuple[str, ...] = ("cat", "dog"),
    count: int = 4,
    mode: str = "RGB",
) -> Path:
    """`count` pictures of each class in each split; "" is the folder itself."""
    seed = 0
    for split in splits:
        for name in classes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                picture(seed, mode).save(folder / split / name / f"{name} {number}.png")
                seed += 1
    return folder
