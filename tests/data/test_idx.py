"""IDX files: read back what was written; say what is wrong with a damaged one."""

import gzip

import numpy as np
import pytest

from jaxunlearn.data.idx import read_idx
from jaxunlearn.types import InputError
from tests.data.toys import idx_bytes


@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)])
@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip(tmp_path, shape, zipped):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    result = read_idx(path, len(shape))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, array)


WHOLE = idx_bytes(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must begin with the IDX bytes 00 00 08 03 .* got nothing"),
        (b"\x00\x00\x0d\x03" + WHOLE[4:], "got 00 00 0d 03"),
        (b"\x00\x00\x08\x01" + WHOLE[4:], "3 axes.* got 00 00 08 01"),
        (WHOLE[:10], "ends inside its header of 16 bytes"),
        (WHOLE[:-1], r"must hold 24 bytes after its header, shape \(2, 3, 4\), got 23"),
        (WHOLE + b"\x00", "got 25"),
    ],
)
def test_damaged(tmp_path, data, message):
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_idx(path, 3)


def test_truncated_garbled_and_false_gzip(tmp_path):
    path = tmp_path / "a.gz"
    packed = gzip.compress(WHOLE)
    garbled = packed[:14] + bytes(255 - byte for byte in packed[14:])
    for data in (packed[:-9], garbled, WHOLE, packed[:5]):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a.gz is damaged or cannot be read|must begin with"):
            read_idx(path, 3)


def test_missing(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path / "none", 3)
