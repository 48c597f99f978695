"""Captioned images: each image is shown in one of four styles, and each caption is a class.

    "a photo of a sneaker"              the image itself
    "an inverted photo of a sneaker"    light and dark exchanged
    "a rotated photo of a sneaker"      a quarter turn to the left
    "an edge drawing of a sneaker"      its edges, dark on white

Within each subject the styles take turns, so all captions have equal shares. The class of style s
and subject k of K is `s K + k`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jaxunlearn.data.examples import Examples

_FULL = 255

_PHRASES = {
    "digits": "a zero, a one, a two, a three, a four, a five, a six, a seven, an eight, a nine",
    "fashion_mnist": "a t-shirt, a trouser, a pullover, a dress, a coat, a sandal, a shirt, "
    "a sneaker, a bag, a boot",
}
# Phrases that follow "of", in the order of the classes.
SUBJECTS = {name: tuple(phrases.split(", ")) for name, phrases in _PHRASES.items()}


def edges(image: np.ndarray) -> np.ndarray:
    """The edges of uint8 images `[N, H, W, C]`, dark on white: the gradient's size at each pixel.

    Example:
        >>> edges(np.array([[0, 0, 0, 200, 200]], np.uint8)[None, ..., None]).ravel().tolist()
        [255, 255, 55, 55, 255]
    """
    height, width = image.shape[1:3]
    beyond = np.pad(image.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    across = beyond[:, 1:-1, 2:] - beyond[:, 1:-1, :width]
    down = beyond[:, 2:, 1:-1] - beyond[:, :height, 1:-1]
    return (_FULL - np.minimum(np.round(np.hypot(across, down)), _FULL)).astype(np.uint8)


STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a photo of": lambda image: image,
    "an inverted photo of": lambda image: _FULL - image,
    "a rotated photo of": lambda image: np.rot90(image, axes=(1, 2)),
    "an edge drawing of": edges,
}


def captions(subjects: tuple[str, ...]) -> tuple[str, ...]:
    """All captions, in the order of their classes: four for each subject.

    Example:
        >>> captions(("a coat", "a bag"))[:3]
        ('a photo of a coat', 'a photo of a bag', 'an inverted photo of a coat')
    """
    return tuple(f"{style} {subject}" for style in STYLES for subject in subjects)


def grid_of(names: Sequence[str]) -> np.ndarray | None:
    """The style and the subject of each caption "STYLE of SUBJECT", int64 `[C, 2]`.

    None unless the captions are all pairs of two or more styles and two or more subjects.

    Example:
        >>> names = captions(("a coat", "a bag"))
        >>> grid_of(names)[:3].tolist(), grid_of(names[:3])
        ([[0, 0], [0, 1], [1, 0]], None)
    """
    pairs = [name.rpartition(" of ")[::2] for name in names]
    styles, subjects = (
        {each: i for i, each in enumerate(dict.fromkeys(part))} for part in zip(*pairs, strict=True)
    )
    whole = len({*pairs}) == len(pairs) == len(styles) * len(subjects)
    if not whole or min(len(styles), len(subjects)) < 2:
        return None
    return np.array([[styles[style], subjects[subject]] for style, subject in pairs])


def captioned(examples: Examples, num_subjects: int) -> tuple[np.ndarray, np.ndarray]:
    """Square uint8 images in their styles, and the class of each caption, int64 `[N]`.

    Example:
        >>> white = np.full((4, 2, 2, 1), 255, np.uint8)
        >>> images, labels = captioned(Examples.from_arrays(white, np.zeros(4, int)), 10)
        >>> labels.tolist(), images[:, 0, 0, 0].tolist()
        ([0, 10, 20, 30], [255, 0, 255, 255])
    """
    style = np.zeros(len(examples), np.int64)
    for subject in range(num_subjects):
        members = examples.label == subject
        style[members] = np.arange(members.sum()) % len(STYLES)
    images = np.empty_like(examples.image)
    for number, drawn in enumerate(STYLES.values()):
        images[style == number] = drawn(examples.image[style == number])
    return images, style * num_subjects + examples.label
