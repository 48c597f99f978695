"""Data sets, forget requests, and the split of the one by the other.

    dataset = load("digits")
    request = ForgetRequest(fraction=0.1)
    splits = split(dataset, request, seed=0)

`splits.forget`, `.retain`, `.validation`, `.test` and `.test_forget` are `Examples`: images as they
were stored, labels, and the position that names each example. An own data set is a `Dataset` made
of two `Examples`; whatever is wrong with the data raises `InputError` there and then.

| name                   | classes | where it comes from                                         |
| ---------------------- | ------- | ----------------------------------------------------------- |
| digits                 | 10      | scikit-learn; works anywhere                                |
| fashion_mnist          | 10      | four IDX files: Debian's dataset-fashion-mnist, or a folder |
| digits_captions        | 40      | digits as captioned photos, inverted, rotated or drawn      |
| fashion_mnist_captions | 40      | the same with the images of fashion_mnist                   |
| cifar10                | 10      | tfds                                                        |
| cifar100               | 100     | tfds; also has 20 coarse classes                            |
| cifar20                | 20      | cifar100 by its coarse classes, for forgetting subclasses   |
| svhn_cropped           | 10      | tfds                                                        |
| tiny_imagenet          | 200     | the unpacked folder                                         |
| any other              |         | the image-classification sets of tfds, by their names       |
"""

from jaxunlearn.data.dataset import Dataset, channel_statistics
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.forget import ForgetRequest
from jaxunlearn.data.registry import available, load
from jaxunlearn.data.saved import load_request, save_request
from jaxunlearn.data.splits import Splits, hold_out, split

__all__ = [
    "Dataset",
    "Examples",
    "ForgetRequest",
    "Splits",
    "available",
    "channel_statistics",
    "hold_out",
    "load",
    "load_request",
    "save_request",
    "split",
]
