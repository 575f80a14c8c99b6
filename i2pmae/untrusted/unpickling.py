"""Pickles, read without running any code that they name.

Pickles can call anything. Here only lists, tuples, dicts, numbers, text and what a reader allows
can be built, by stand-ins of our own that check sizes before they allocate; anything else is
refused.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from i2pmae.untrusted.limits import (
    FREE_BYTES,
    MOST_NUMBER_KEYS,
    MOST_OPERATIONS,
    Budget,
    ForbiddenError,
    Node,
    UntrustedError,
    check_key,
    check_tree,
)

_NUMBER = re.compile(r"[<>|=]?[biuf][1248]")
_LARGE = 4096  # bytes; nothing that a pickle of arrays refers to twice is longer

# Sets, whose members may take forever to hash; classes by number; memory elsewhere.
_REFUSED = ("EMPTY_SET", "ADDITEMS", "FROZENSET", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2",
            "EXT4", "NEXT_BUFFER", "READONLY_BUFFER")  # fmt: skip


def read_arrays(stream: IO[bytes], size: int, keep_columns: int) -> Any:
    """Lists, tuples, dicts and numbers of a pickle; its arrays come out by `as_array`.

    Args:
        stream: at the start of the pickle.
        size: how many bytes follow.
        keep_columns: columns of two-dimensional arrays that are kept, from the first.

    Returns:
        What was pickled, with stand-ins for arrays.

    Raises:
        UntrustedError: if it asks for too much, or names anything but NumPy arrays of numbers.
        Exception: of any kind, if it is damaged.
    """
    unpickler = PlainUnpickler(stream, size)
    unpickler.allowed |= _array_names(unpickler, keep_columns)
    unpickler.memo = _Memo()
    value = unpickler.load()
    check_tree(value)
    return value


def as_array(value: object) -> npt.NDArray[Any] | None:
    """The array or number that `value` stands for, or None if it is neither."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, np.number | float) or (isinstance(value, int) and abs(value) < 2**63):
        return np.asarray(value)
    return None


class StandIn:
    """Something that a pickle may name; only its subclasses can be called or changed."""

    def call(self, *_: object) -> Any:
        """What a call gives.

        Raises:
            UntrustedError: unless it can be called.
        """
        raise UntrustedError("it calls something that is no function")

    def set_state(self, _: object) -> None:
        """Change it.

        Raises:
            UntrustedError: unless the state is as it should be.
        """
        raise UntrustedError("unknown state of an array")


class Call(StandIn):
    """A function that a pickle may call; it must check what it gets."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def call(self, *arguments: object) -> Any:
        """What the function gives."""
        return self._function(*arguments)


class PlainUnpickler(pickle._Unpickler):
    """Builds built-in containers, and what `allowed` names.

    The Python implementation: in the C one, a memo index in a tiny file allocates gigabytes.

    Attributes:
        allowed: what the pickle may name, as `module.name`.
        budget: of bytes that stand-ins copy.
    """

    memo: dict[int, Any]
    stack: list[Any]  # set by the inherited load(), as are the next two
    append: Callable[[object], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, stream: IO[bytes], size: int, *, is_program: bool = False):
        """Read from `stream`, which has `size` bytes; TorchScript's classes become `Object`s."""
        self._stream = _Bounded(stream, size)
        super().__init__(self._stream, encoding="latin1")  # arrays of Python 2 are text
        self.budget = Budget(2 * size + FREE_BYTES, "it copies the same numbers again and again")
        self.allowed: dict[str, Any] = _scalar_names(self.budget)
        self._is_program = is_program
        self.dispatch = _Operations(type(self))  # type: ignore[misc]
        self._n_number_keys = 0

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what is allowed; nothing else."""
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full in self.allowed:
            return self.allowed[full]
        if full.startswith("torch."):
            raise UntrustedError(f"it holds values of torch that are not read: {full[:80]}")
        if self._is_program and full.startswith("__torch__."):
            return _OBJECT
        raise ForbiddenError(full)

    def persistent_load(self, pid: object) -> Any:  # noqa: ARG002
        """Memory outside the pickle, as tensors have it."""
        raise UntrustedError("it refers to memory outside of it")

    def load_reduce(self) -> None:
        """Call a stand-in."""
        function, arguments = self._function_and_arguments()
        self.append(function.call(*arguments))

    load_newobj = load_reduce

    def load_build(self) -> None:
        """Set the state of a stand-in; other values have none worth keeping."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target.set_state(state)
        elif not isinstance(target, dict):  # OrderedDict's `_metadata`
            raise UntrustedError("unknown state of a value")

    def load_dict(self) -> None:
        """A dictionary of what follows the mark."""
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_setitem(self) -> None:
        """One entry of a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        """Entries of a dictionary."""
        self._set_items(self.pop_mark())

    def load_append(self) -> None:
        """One item of a list."""
        item = self.stack.pop()
        self._extend([item])

    def load_appends(self) -> None:
        """Items of a list."""
        self._extend(self.pop_mark())

    def load_bytearray8(self) -> None:
        """As inherited, but memory is not reserved for bytes that are not there."""
        length = int.from_bytes(self.read(8), "little")
        data = self.read(length)
        if len(data) < length:
            raise UntrustedError("it is cut short")
        self.append(bytearray(data))

    def entries(self, items: list[Any]) -> dict[Any, Any]:
        """A dictionary of keys and values in turn, with keys that are soon hashed."""
        keys, values = items[::2], items[1::2]
        for key in keys:
            if isinstance(key, str):
                check_key(key)
            elif key is None or (type(key) in (int, float, bool) and abs(key) < 2**63):
                self._n_number_keys += 1
                if self._n_number_keys > MOST_NUMBER_KEYS:
                    raise UntrustedError(f"more than {MOST_NUMBER_KEYS:,} numbers as keys")
            else:
                raise UntrustedError(f"a {type(key).__name__} as key of a dictionary")
        return dict(zip(keys, values, strict=True))

    def _set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise UntrustedError("entries of something that is no dictionary")
        self.stack[-1].update(self.entries(items))

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise UntrustedError("items of something that is no list")
        self.stack[-1].extend(items)

    def _function_and_arguments(self) -> tuple[StandIn, tuple[Any, ...]]:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, StandIn) or type(arguments) is not tuple:
            raise UntrustedError("it calls something that is no function")
        return function, arguments


class Object(StandIn, Node):
    """Stands for an object of an unknown class; keeps its attributes."""

    def set_state(self, state: object) -> None:
        """Keep attributes, as a dictionary by name."""
        self.attributes = state if isinstance(state, dict) else {}


_OBJECT = Call(lambda *_: Object())


class _Operations(dict[int, Any]):
    """The allowed operations of a pickle, which are counted as they are looked up."""

    def __init__(self, kind: type[PlainUnpickler]):
        inherited = pickle._Unpickler.dispatch
        super().__init__({code: getattr(kind, inherited[code].__name__) for code in inherited})
        for name in _REFUSED:
            del self[getattr(pickle, name)[0]]
        self._left = MOST_OPERATIONS

    def __getitem__(self, code: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise UntrustedError(f"it is a pickle of more than {MOST_OPERATIONS:,} operations")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> NoReturn:
        raise UntrustedError(f"operation {bytes([code])!r} is not allowed in a pickle")


class _Bounded:
    """A stream that is never asked for more than is left of it."""

    def __init__(self, stream: IO[bytes], size: int):
        self._stream = stream
        self._left = size

    def read(self, n: int) -> bytes:
        data = self._stream.read(min(n, self._left))
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._stream.readline(self._left)
        self._left -= len(data)
        return data


class _Memo(dict[int, Any]):
    """What a pickle may refer to again: everything but the bytes of arrays, to save memory."""

    def __setitem__(self, index: int, value: Any) -> None:
        is_large = isinstance(value, bytes | bytearray | str) and len(value) > _LARGE
        super().__setitem__(index, StandIn() if is_large else value)


class _DType(StandIn):
    """Stands in for `numpy.dtype`: plain numbers only."""

    def __init__(self, code: object, *_: object):
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise UntrustedError(f"arrays of {str(code)[:20]!r} are not allowed, only of numbers")
        self._code = code

    def set_state(self, state: object) -> None:
        """Take the byte order of (version, byte order, ...); '|' means that there is none."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise UntrustedError("unknown state of a dtype")
        self._code = f"{state[1]}{self._code.lstrip('<>|=')}"

    def build(self) -> np.dtype[Any]:
        return np.dtype(self._code)


class _Array(StandIn):
    """Stands in for `numpy.ndarray`; `value` is set once its state has been checked."""

    def __init__(self, keep_columns: int, budget: Budget):
        self._keep_columns = keep_columns
        self._budget = budget
        self.value: npt.NDArray[Any] | None = None

    def set_state(self, state: object) -> None:
        """Take (version, shape, dtype, whether in Fortran's order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise UntrustedError("unknown state of an array")
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
            raise UntrustedError("unknown state of an array")
        self._budget.take(len(raw))
        kind = dtype.build()
        if len(raw) != math.prod(shape) * kind.itemsize:
            raise UntrustedError(f"{len(raw)} bytes for an array of {str(shape)[:60]} {kind}")
        array = np.frombuffer(raw, kind).reshape(shape, order="F" if order == "F" else "C")
        kept = array[:, : self._keep_columns] if array.ndim == 2 else array
        self.value = np.array(kept, dtype=kind.newbyteorder("="), order="C")


def _scalar_names(budget: Budget) -> dict[str, Any]:
    """What pickled numbers of NumPy name; they become plain ones."""

    def scalar(dtype: object, data: object) -> Any:
        array = _Array(0, budget)
        array.fill(data, dtype, (), "C")
        return None if array.value is None else array.value.item()

    def latin1(text: object, encoding: object) -> bytes:
        """Pickles of protocol 2 hold bytes as text and this call."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise UntrustedError("unknown text")
        budget.take(len(text))
        return text.encode("latin1")

    return {
        "numpy.core.multiarray.scalar": Call(scalar),
        "numpy.dtype": Call(_DType),
        "_codecs.encode": Call(latin1),
    }


def _array_names(unpickler: PlainUnpickler, keep_columns: int) -> dict[str, Any]:
    """What pickled arrays of NumPy name, beside numbers."""

    def array(*_: object) -> _Array:
        return _Array(keep_columns, unpickler.budget)

    def from_buffer(data: object, dtype: object, shape: object, order: object) -> _Array:
        made = array()
        made.fill(data, dtype, shape, order)
        return made

    return {
        "numpy.core.multiarray._reconstruct": Call(array),
        "numpy.ndarray": Call(array),
        "numpy.core.numeric._frombuffer": Call(from_buffer),
    }
