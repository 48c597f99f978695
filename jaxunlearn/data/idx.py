"""IDX files, the format of MNIST and Fashion-MNIST: plain or gzipped arrays of bytes.

Big-endian header: two zero bytes, type 0x08 (unsigned byte), the number of axes, then the length of
each axis as a 32-bit number; the bytes of the array follow. Source: Y. LeCun, C. Cortes and C.
Burges, The MNIST database of handwritten digits, 1998.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from jaxunlearn.types import InputError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Read one IDX file.

    Args:
        path: the file; a name that ends in `.gz` is unpacked.
        rank: how many axes the array must have.

    Returns:
        uint8 array of that rank.

    Raises:
        InputError: the file cannot be read, is no such file, or is not as long as it says.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is damaged or cannot be read ({error}); fetch the file again"
        ) from error
    header = 4 + 4 * rank
    magic = bytes([0, 0, UNSIGNED_BYTE, rank])
    if data[:4] != magic:
        raise InputError(
            f"{path} must begin with the IDX bytes {magic.hex(' ')} (unsigned bytes, {rank} axes), "
            f"got {data[:4].hex(' ') or 'nothing'}; fetch the file again"
        )
    if len(data) < header:
        raise InputError(f"{path} ends inside its header of {header} bytes; fetch the file again")
    shape = struct.unpack(f">{rank}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise InputError(
            f"{path} must hold {math.prod(shape)} bytes after its header, shape {shape}, got "
            f"{len(data) - header}; fetch the file again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
