"""NumPy's array files, whose headers say how much memory they take."""

from __future__ import annotations

import io
import math
import tokenize
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from i2pmae.untrusted.archives import open_stored
from i2pmae.untrusted.limits import MOST_AXES, UntrustedError, check_key

_HEADER_BYTES = 1 << 16  # more than any header needs


class NpyHeader(NamedTuple):
    """What a `.npy` says about itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n_bytes: int  # where the numbers begin


def npy_header(stream: IO[bytes]) -> NpyHeader:
    """Read the header of a `.npy`.

    Args:
        stream: at the start of the array's bytes.

    Raises:
        ValueError: if it is no `.npy`, or packed and damaged.
    """
    try:
        head = io.BytesIO(stream.read(_HEADER_BYTES))
        version = np.lib.format.read_magic(head)
        reader = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            reader = np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(head)
    except (zlib.error, EOFError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise ValueError(f"damaged: {error}") from error
    return NpyHeader(shape, dtype, head.tell())


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an uncompressed `.npz`: numbers and text.

    Raises:
        UntrustedError: if there is anything else in it, or of another size than it says.
        Exception: of any kind, if it is damaged.
    """
    found = {}
    with open_stored(path) as archive:
        for entry in archive.infolist():
            name = check_key(entry.filename.removesuffix(".npy"))
            with archive.open(entry) as stream:
                shape, dtype, n_bytes = npy_header(stream)
            if dtype.kind not in "biufU" or dtype.itemsize == 0 or len(shape) > MOST_AXES:
                raise UntrustedError(f"{name[:60]} is of {str(dtype)[:60]}, not numbers or text")
            if n_bytes + math.prod(shape) * dtype.itemsize != entry.file_size:
                raise UntrustedError(f"{name[:60]} is of another size than it says")
            with archive.open(entry) as stream:
                found[name] = np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    return found
