"""Data sets, forget requests, and the splits of a data set by a request.

    dataset = load("digits")
    request = ForgetRequest(fraction=0.1)
    splits = split(dataset, request, seed=0)

`splits.forget`, `.retain`, `.validation`, `.test` and `.test_forget` are `Examples`: images as
stored, labels, and the position that identifies each example. A custom data set is a folder of
images (`load("folder:DIR")`), a file of arrays, or a `Dataset` of two `Examples`; invalid data
raises `InputError` at once. `jaxunlearn list data` prints the data sets that `load` knows by name.
"""

from jaxunlearn.data.dataset import Dataset, channel_statistics
from jaxunlearn.data.examples import Examples
from jaxunlearn.data.forget import ForgetRequest
from jaxunlearn.data.own import Reading
from jaxunlearn.data.registry import available, load, register
from jaxunlearn.data.splits import Splits, hold_out, split

__all__ = [
    "Dataset",
    "Examples",
    "ForgetRequest",
    "Reading",
    "Splits",
    "available",
    "channel_statistics",
    "hold_out",
    "load",
    "register",
    "split",
]
