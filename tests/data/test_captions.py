"""Captioned images: four styles, in equal shares, of the plain data set's images."""

import numpy as np

from jaxunlearn.data import Examples, ForgetRequest, load
from jaxunlearn.data.captions import STYLES, SUBJECTS, captioned, edges
from jaxunlearn.data.dataset import channel_statistics
from tests.data.toys import toy_arrays


def test_every_image_has_the_style_and_the_subject_of_its_caption():
    images, labels = toy_arrays(50)
    shown, classes = captioned(Examples.from_arrays(images, labels), 5)
    drawings = list(STYLES.values())
    for image, label, before, subject in zip(shown, classes, images, labels, strict=True):
        assert label % 5 == subject
        np.testing.assert_array_equal(image, drawings[label // 5](before[None])[0])
    # Ten images of each subject take the four styles in turn.
    assert np.bincount(classes).tolist() == [3] * 10 + [2] * 10


def test_styles_by_hand():
    image = np.array([[0, 100], [200, 255]], np.uint8)[None, ..., None]
    photo, inverted, rotated, drawn = (
        style(image)[0, ..., 0].tolist() for style in STYLES.values()
    )
    assert photo == [[0, 100], [200, 255]]
    assert inverted == [[255, 155], [55, 0]]
    assert rotated == [[100, 255], [0, 200]]
    assert drawn[0][0] == 255 - round(np.hypot(100, 200))
    assert edges(np.full_like(image, 7)).min() == 255  # nothing to see on a plain ground


def test_captioned_digits(digits):
    plain, data = digits, load("digits_captions")
    assert data.class_names[0] == "a photo of a zero"
    assert data.class_names[-2] == "an edge drawing of an eight"
    assert len(data.class_names) == 4 * len(SUBJECTS["digits"]) == data.num_classes
    for split in ("train", "test"):
        one, other = getattr(plain, split), getattr(data, split)
        np.testing.assert_array_equal(other.label % 10, one.label)
        photos = other.label < 10
        np.testing.assert_array_equal(other.image[photos], one.image[photos])
        counts = np.bincount(other.label, minlength=40)
        assert counts.max() - counts.min() <= 2
    mean, std = channel_statistics(data.train.image)
    np.testing.assert_allclose((data.mean, data.std), (mean, std), atol=1e-4)
    assert ForgetRequest(words=("inverted",)).labels(data) == tuple(range(10, 20))
    assert ForgetRequest(words=("three",)).labels(data) == (3, 13, 23, 33)
