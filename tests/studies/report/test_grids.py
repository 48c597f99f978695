"""Grids of samples: every pixel where it belongs, every name readable, bad images refused."""

import numpy as np
import pytest
from PIL import Image

from jaxunlearn.studies.report.grids import sample_grid
from jaxunlearn.studies.report.plots import INK, ORANGE
from jaxunlearn.types import InputError

RNG = np.random.default_rng(0)


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def places(picture, block):
    """Upper left corners at which a block of pixels stands in a picture."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, block.shape[:2], (0, 1))
    corners = np.ones(windows.shape[:2], bool)
    for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        corners &= (windows[:, :, :, y, x] == block[y, x]).all(axis=-1)
    whole = block.transpose(2, 0, 1)
    return [(int(y), int(x)) for y, x in np.argwhere(corners) if (windows[y, x] == whole).all()]


@pytest.mark.parametrize(("size", "channels", "scale"), [(8, 1, 10), (32, 3, 3), (64, 3, 1)])
def test_every_pixel_is_there_enlarged_by_a_whole_number(size, channels, scale, tmp_path):
    rows = {
        name: RNG.integers(0, 256, (3, size, size, channels), np.uint8)
        for name in ("original", "eupmu", "salun")
    }
    sample_grid(tmp_path / "grid.png", rows, ["cat", "cat", "dog"], "Samples", ["cat"])
    picture = read(tmp_path / "grid.png")
    corners = []
    for images in rows.values():
        for image in images:
            large = np.broadcast_to(image, (size, size, 3)).repeat(scale, 0).repeat(scale, 1)
            found = places(picture, large)
            assert len(found) == 1
            corners.append(found[0])
    tops, lefts = np.array(corners).reshape(3, 3, 2).transpose(2, 0, 1)
    assert (np.ptp(tops, axis=1) == 0).all()
    assert (np.ptp(lefts, axis=0) == 0).all()
    across, down = np.diff(lefts[0]), np.diff(tops[:, 0])
    assert across[0] < across[1]  # a wider gap between classes
    assert down[1] < down[0]  # and between the references and the methods
    ends = np.array([tops.max(), lefts.max()]) + size * scale
    assert np.abs(picture.shape[:2] - ends - 26).max() <= 1  # the same margin below and beside
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_numbers_and_bytes_make_the_same_picture(tmp_path):
    images = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
    sample_grid(tmp_path / "bytes.png", {"sfron": images}, ["a", "b"], "T")
    sample_grid(tmp_path / "floats.png", {"sfron": images / 255}, ["a", "b"], "T")
    np.testing.assert_array_equal(read(tmp_path / "bytes.png"), read(tmp_path / "floats.png"))
    grey = images[..., :1]
    sample_grid(tmp_path / "grey.png", {"sfron": grey}, ["a", "b"], "T")
    sample_grid(tmp_path / "rgb.png", {"sfron": grey.repeat(3, axis=-1)}, ["a", "b"], "T")
    assert (tmp_path / "grey.png").read_bytes() == (tmp_path / "rgb.png").read_bytes()


def test_only_forgotten_classes_are_marked(tmp_path):
    orange, ink = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (ORANGE, INK))
    images = np.zeros((3, 8, 8, 1))

    def rules(forgotten):
        """Left and right ends of the rules below the headings in each colour."""
        sample_grid(tmp_path / "grid.png", {"sfron": images}, ["0", "0", "1"], "T", forgotten)
        picture, found = read(tmp_path / "grid.png"), []
        for colour in (orange, ink):
            alike = (picture == colour).all(axis=-1)
            row = alike[alike.sum(axis=1).argmax()]
            found.append(int(row.sum()) if row.sum() > 40 else 0)
        return found

    assert rules([]) == [0, 164 + 80]
    assert rules(["1"]) == [80, 164]
    assert rules(["0"]) == [164, 80]


@pytest.mark.parametrize(
    "columns",
    [["a", "b"], ["a class with quite a long name", "$ another $ word_without_any_space"]],
)
def test_nothing_is_written_beyond_the_paper_or_into_another_text(columns, tmp_path):
    from matplotlib.figure import Figure

    boxes = []

    def savefig(figure, path, **options):
        figure.canvas.draw()
        (axes,) = figure.axes
        texts = [axes._left_title, *axes.get_xticklabels(), *axes.get_yticklabels()]
        boxes.extend(text.get_window_extent() for text in texts)
        boxes.append(figure.bbox)
        path.touch()

    images = np.zeros((2, 8, 8, 1))
    rows = {"retrain-again": images, "a_method_with_a_long_name": images, "x": images}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        sample_grid(tmp_path / "g.png", rows, columns, "A title longer than the images are wide")
    *texts, paper = boxes
    assert len(texts) == 1 + 2 + 3
    for i, box in enumerate(texts):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= paper.x1 and box.y1 <= paper.y1
        for other in texts[:i]:
            assert not (other.x0 < box.x1 and box.x0 < other.x1 and other.overlaps(box))


def test_large_images_are_shrunk_and_narrow_ones_keep_their_shape(tmp_path):
    sample_grid(tmp_path / "large.png", {"x": np.zeros((1, 512, 256, 3))}, ["a"], "T")
    black = (read(tmp_path / "large.png") == 0).all(axis=-1)
    assert (int(black.any(axis=1).sum()), int(black.any(axis=0).sum())) == (192, 96)


GOOD = np.zeros((2, 8, 8, 1))


@pytest.mark.parametrize(
    ("rows", "columns", "forgotten", "message"),
    [
        ({}, ["a", "b"], [], "no rows to draw"),
        ({"x": GOOD[0]}, ["a", "b"], [], r"images of x is \(8, 8, 1\).*channels last"),
        ({"x": np.zeros((2, 3, 8, 8))}, ["a", "b"], [], "1 or 3 channels"),
        ({"x": np.zeros((0, 8, 8, 1))}, [], [], r"must be \[n, H, W, C\]"),
        ({"x": GOOD.astype(int)}, ["a", "b"], [], "must be uint8 or floating-point"),
        ({"x": GOOD - 1}, ["a", "b"], [], r"are from -1 to -1.*\(x \+ 1\) / 2"),
        ({"x": GOOD + 1.01}, ["a", "b"], [], "must be in"),
        ({"x": GOOD + np.nan}, ["a", "b"], [], "are from nan"),
        ({"x": GOOD, "y": GOOD[:1]}, ["a", "b"], [], "images of y is.*the images of x"),
        ({"x": GOOD}, ["a"], [], "1 column names for 2 images"),
        ({"x": GOOD}, ["a", "b"], ["c"], "class is 'c', but must be one of the columns: a, b"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_a_reason(rows, columns, forgotten, message, tmp_path):
    with pytest.raises(InputError, match=message):
        sample_grid(tmp_path / "grid.png", rows, columns, "T", forgotten)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match="grid.svg, but must be a file ending in .png"):
        sample_grid(tmp_path / "grid.svg", {"x": GOOD}, ["a", "b"], "T")
    (tmp_path / "gone").write_text("a file")
    with pytest.raises(InputError, match=r"gone.*cannot be written"):
        sample_grid(tmp_path / "gone" / "grid.png", {"x": GOOD}, ["a", "b"], "T")
