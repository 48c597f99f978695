"""The table of data sets: classes, normalisation, augmentation and splits.

Statistics cover all training pixels; for data sets outside the table they are computed.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """The settings of a data set.

    Attributes:
        num_classes: number of classes that models learn.
        mean: mean of each channel of the training images, divided by 255.
        std: standard deviation of each channel, divided by 255.
        augmentation: "none", "crop" or "flip_crop"; digits and house numbers are not mirrored.
        train: name of the training split.
        test: name of the test split.
        source: name of the data set in tfds, if it differs.
        label: name of the feature that models learn.
        coarse: name of the feature with coarse classes, or None.
        about: one line on origin and use.
    """

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str
    train: str = "train"
    test: str = "test"
    source: str | None = None
    label: str = "label"
    coarse: str | None = None
    about: str = "tfds"


_CIFAR100_MEAN, _CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

TABLE: dict[str, Entry] = {
    "digits": Entry(10, (0.3052,), (0.3760,), "none", about="scikit-learn; works anywhere"),
    "fashion_mnist": Entry(
        10,
        (0.2860,),
        (0.3530,),
        "flip_crop",
        about="four IDX files: Debian's dataset-fashion-mnist, or a folder",
    ),
    "digits_captions": Entry(
        40,
        (0.4478,),
        (0.4100,),
        "none",
        about="digits as captioned photos, inverted, rotated or drawn",
    ),
    "fashion_mnist_captions": Entry(
        40, (0.5235,), (0.4134,), "none", about="the same with the images of fashion_mnist"
    ),
    "cifar10": Entry(10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "flip_crop"),
    "cifar100": Entry(
        100,
        _CIFAR100_MEAN,
        _CIFAR100_STD,
        "flip_crop",
        coarse="coarse_label",
        about="tfds; also has 20 coarse classes",
    ),
    "cifar20": Entry(
        20,
        _CIFAR100_MEAN,
        _CIFAR100_STD,
        "flip_crop",
        source="cifar100",
        label="coarse_label",
        coarse="coarse_label",
        about="cifar100 by its coarse classes, for forgetting subclasses",
    ),
    "svhn_cropped": Entry(10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), "crop"),
    "tiny_imagenet": Entry(
        200,
        (0.4802, 0.4481, 0.3975),
        (0.2770, 0.2691, 0.2821),
        "flip_crop",
        test="val",
        about="the unpacked folder",
    ),
}
