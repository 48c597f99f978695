"""Data sets, forget requests, and the split of the one by the other.

    dataset = load("digits")
    request = ForgetRequest(fraction=0.1)
    splits = split(dataset, request, seed=0)

`splits.forget`, `.retain`, `.validation`, `.test` and `.test_forget` are `Examples`: images as they
were stored, labels, and the position that names each example. An own data set is a `Dataset` made
of two `Examples`; whatever is wrong with the data raises `InputError` there and then.

`jaxunlearn list data` prints the sets that are known by name.
"""

from jaxunlearn.data.dataset import Dataset, channel_statistics
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.forget import ForgetRequest
from jaxunlearn.data.registry import available, load
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
    "split",
]
