"""Reading the arrays of strings, `id` and `split`, without trusting what they say."""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

_MOST_BYTES = 4096  # per string, on average; no file system has longer paths


def decode_strings(content: bytes, n_strings: int) -> NDArray[Any]:
    """The strings of one file: vlen-utf8, then zstd, then crc32c, as the schema writes them.

    Differs: zarr-python unpacks whatever a file says it holds, 10 GB from 262 kB; this takes at
    most 4 kB per string.

    Args:
        content: of the file.
        n_strings: how many it must hold.

    Returns:
        (n_strings,) of numpy's variable-width strings.

    Raises:
        ValueError: if the checksum differs, or the content is not what was checked.
    """
    payload, checksum = content[:-4], content[-4:]
    if struct.pack("<I", google_crc32c.value(payload)) != checksum:
        raise ValueError("its checksum does not match")
    room = np.empty(4 + n_strings * (4 + _MOST_BYTES), np.uint8)  # touched as far as it is filled
    try:
        unpacked = memoryview(Zstd().decode(payload, out=room)).cast("B")
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    (found,) = struct.unpack_from("<I", unpacked)
    if found != n_strings:
        raise ValueError(f"it holds {found} strings, expected {n_strings}")
    strings = []
    start = 4
    for _ in range(n_strings):
        (length,) = struct.unpack_from("<I", unpacked, start)
        start += 4 + length
        if start > len(unpacked):
            raise ValueError("it ends within a string")
        strings.append(str(unpacked[start - length : start], "utf-8"))
    return np.array(strings, np.dtypes.StringDType())
