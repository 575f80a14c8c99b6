"""Pickles of arrays, read without running any code that they name.

Published few-shot episodes and resampled ModelNet40 come as pickles, which can call anything.
Here only lists, tuples, dicts, numbers, text and NumPy arrays of plain numbers can be built, by
stand-ins of our own that check sizes before they allocate; anything else is refused.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from i2pmae.datasets.files import parsing, refuse_gzip
from i2pmae.errors import DataError

_NUMBER = re.compile(r"[<>|=]?[biuf][1248]")
_LARGE = 4096  # bytes; nothing that a pickle refers to twice is longer


def read_pickle(file: Path, keep_columns: int) -> Any:
    """Lists, tuples, dicts and numbers of a pickle; its arrays come out by `as_array`.

    Args:
        file: path of the pickle.
        keep_columns: columns of two-dimensional arrays that are kept, from the first.

    Returns:
        What was pickled, with stand-ins for arrays.

    Raises:
        DataError: if it is damaged, or names anything but NumPy arrays of numbers.
    """
    with parsing(file, "Download it again."), file.open("rb") as stream:
        refuse_gzip(stream.read(2), file)
        stream.seek(0)
        bounded = _Bounded(stream, file.stat().st_size)
        return _ArrayUnpickler(bounded, file, keep_columns).load()


def as_array(value: object) -> npt.NDArray[Any] | None:
    """The array or number that `value` stands for, or None if it is neither."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, np.number | float) or (isinstance(value, int) and abs(value) < 2**63):
        return np.asarray(value)
    return None


class _Bounded:
    """A stream that is never asked for more than is left of it."""

    def __init__(self, stream: IO[bytes], size: int):
        self._stream = stream
        self.left = size

    def read(self, n: int) -> bytes:
        data = self._stream.read(min(n, self.left))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._stream.readline(self.left)
        self.left -= len(data)
        return data


class _StandIn:
    """Something that a pickle may call but not change."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("unknown state of an array")


class _Call(_StandIn):
    """A function that a pickle may call."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: object) -> Any:
        return self._function(*args)


class _DType(_StandIn):
    """Stands in for `numpy.dtype`: plain numbers only."""

    def __init__(self, code: object, *_: object):
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise pickle.UnpicklingError(f"arrays of {code!r} are not allowed, only of numbers")
        self._code = code

    def __setstate__(self, state: object) -> None:
        # (version, byte order, ...); '|' means that there is none.
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("unknown state of a dtype")
        self._code = f"{state[1]}{self._code.lstrip('<>|=')}"

    def build(self) -> np.dtype[Any]:
        return np.dtype(self._code)


class _Array(_StandIn):
    """Stands in for `numpy.ndarray`; `value` is set once its state has been checked."""

    def __init__(self, keep_columns: int):
        self._keep_columns = keep_columns
        self.value: npt.NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("unknown state of an array")
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: object, dtype: object, shape: object, order: object) -> None:
        """Check and copy, so that the bytes of the pickle can go."""
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not (
            isinstance(raw, bytes | bytearray)
            and isinstance(dtype, _DType)
            and isinstance(shape, tuple)
            and all(isinstance(n, int) and n >= 0 for n in shape)
        ):
            raise pickle.UnpicklingError("unknown state of an array")
        kind = dtype.build()
        if len(raw) != math.prod(shape) * kind.itemsize:
            raise pickle.UnpicklingError(f"{len(raw)} bytes for an array of {shape} {kind}")
        array = np.frombuffer(raw, kind).reshape(shape, order="F" if order == "F" else "C")
        kept = array[:, : self._keep_columns] if array.ndim == 2 else array
        self.value = np.array(kept, dtype=kind.newbyteorder("="), order="C")


class _Memo(dict[int, Any]):
    """What the pickle may refer to again: everything but the bytes of arrays, to save memory."""

    def __setitem__(self, index: int, value: Any) -> None:
        is_large = isinstance(value, bytes | bytearray | str) and len(value) > _LARGE
        super().__setitem__(index, None if is_large else value)


class _ArrayUnpickler(pickle._Unpickler):
    """Builds arrays and built-in containers only.

    The Python implementation: in the C one, a memo index in a tiny file allocates gigabytes.
    """

    read: Callable[[int], bytes]  # set by the inherited load(), as are the next two
    readinto: Callable[[bytearray], int]
    append: Callable[[object], None]

    def __init__(self, stream: _Bounded, file: Path, keep_columns: int):
        super().__init__(stream, encoding="latin1")  # arrays pickled by Python 2 are text
        self.memo = _Memo()
        self._stream = stream
        self._file = file
        array = _Call(lambda *_: _Array(keep_columns))
        self._allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): array,
            ("numpy.core.multiarray", "scalar"): _Call(self._scalar),
            ("numpy.core.numeric", "_frombuffer"): _Call(self._frombuffer),
            ("numpy", "ndarray"): array,
            ("numpy", "dtype"): _Call(_DType),
            ("_codecs", "encode"): _Call(_latin1),
        }

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what a pickled array names; nothing else."""
        found = self._allowed.get((module.replace("numpy._core.", "numpy.core."), name))
        if found is None:
            raise DataError(
                f"{self._file} is a pickle that names {ascii(module)[1:-1]}.{ascii(name)[1:-1]}; "
                "only arrays of numbers are read, because a pickle can run any code. Do not open "
                "it with anything else; download it again."
            )
        return found

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError(f"persistent object {pid!r} is not allowed")

    def load_bytearray8(self) -> None:
        """As inherited, but memory is not reserved for bytes that are not there."""
        length = int.from_bytes(self.read(8), "little")
        if length > max(self._stream.left, _LARGE << 4):  # a frame holds up to 64 KiB
            raise pickle.UnpicklingError("pickle data was truncated")
        data = bytearray(length)
        self.readinto(data)
        self.append(data)

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }

    def _scalar(self, dtype: object, data: object) -> Any:
        array = _Array(0)
        array.fill(data, dtype, (), "C")
        return None if array.value is None else array.value[()]

    def _frombuffer(self, data: object, dtype: object, shape: object, order: object) -> _Array:
        array: _Array = self._allowed["numpy", "ndarray"]()
        array.fill(data, dtype, shape, order)
        return array


def _latin1(text: object, encoding: object) -> bytes:
    """Pickles of protocol 2 hold bytes as text and this call."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("unknown text")
    return text.encode("latin1")
