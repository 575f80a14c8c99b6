"""Tensors of torch's files, TorchScript and safetensors, read as data.

torch's own reader of weights alone builds sparse, quantized and other tensors from what a file
says, and has no bounds on memory or time.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from i2pmae.untrusted.archives import fill, open_stored, read_into
from i2pmae.untrusted.limits import (
    FREE_BYTES,
    LARGEST_HEADER,
    MOST_AXES,
    TIMES_VIEWED,
    Budget,
    UntrustedError,
    check_key,
    check_tree,
)
from i2pmae.untrusted.unpickling import Call, Object, PlainUnpickler, StandIn

_STORAGES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
}
_AS_IT_IS = Call(lambda value=(), *_: value)
_MAGIC = 0x1950A86A20F9469CFC6C  # of files of torch before 1.6
_LEGACY_VERSION = 1001
_PAIR = 4  # bytes of a pickle, at least, that an entry of a dictionary takes


class Contents(NamedTuple):
    """What a file of tensors holds."""

    value: Any  # tensors by name, or whatever was saved: tensors, containers and plain values
    metadata: dict[str, str]  # of a safetensors file


def read_tensors(path: Path) -> Contents:
    """Read a file of torch or safetensors; nothing in it is ever executed.

    Parameters become tensors on the CPU, numbers of NumPy plain ones. Of a TorchScript archive,
    tensors by name as `state_dict` would give them.

    Args:
        path: of any ending; `.safetensors` are read as such.

    Raises:
        ForbiddenError: if it holds more than tensors and plain values.
        UntrustedError: if it asks for too much, or holds tensors that are not dense numbers.
        Exception: of any kind, if it is damaged.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    value = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    check_tree(value)
    return Contents(value, {})


def tensors_of(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a part of a network, by their names within the part: those after `part.`."""
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _read_safetensors(path: Path) -> Contents:
    import safetensors

    with path.open("rb") as stream:
        n_bytes = int.from_bytes(stream.read(8), "little")
    if n_bytes > LARGEST_HEADER:
        raise UntrustedError(f"its list of tensors has {n_bytes:,} bytes")
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {check_key(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    for tensor in tensors.values():
        if tensor.dtype not in _STORAGES.values() or tensor.ndim > MOST_AXES:
            raise UntrustedError(f"tensors of {tensor.dtype}, {tensor.ndim} axes are not read")
    return Contents(tensors, metadata)


def _read_zip(path: Path) -> Any:
    with open_stored(path) as archive:
        names = archive.namelist()
        root = next((name for name in names if name.endswith("/data.pkl")), "/")[:-8]
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise UntrustedError("its numbers are of a big-endian machine")

        def read(key: str, memory: memoryview) -> None:
            read_into(archive, f"{root}data/{key}", memory)

        pickled = archive.read(f"{root}data.pkl")
        is_program = f"{root}constants.pkl" in names
        unpickler = _TensorUnpickler(
            io.BytesIO(pickled), len(pickled), path.stat().st_size, read, is_program
        )
        value = unpickler.load()
    if not is_program:
        return value
    check_tree(value)
    return dict(_named(value, ""))


def _named(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a TorchScript module and the modules within it."""
    if isinstance(value, Tensor):
        yield check_key(name), value
    elif isinstance(value, Object) and isinstance(value.attributes, dict):
        for key, inner in value.attributes.items():
            yield from _named(inner, f"{name}.{key}" if name else str(key))


def _read_legacy(path: Path) -> Any:
    """A file of torch before 1.6: pickles one after the other, then the numbers."""
    size = path.stat().st_size
    with path.open("rb") as stream:

        def unpickle() -> Any:
            left = size - stream.tell()
            return PlainUnpickler(stream, left).load()

        if unpickle() != _MAGIC or unpickle() != _LEGACY_VERSION:
            raise UntrustedError("it is no file of torch or TorchScript")
        system = unpickle()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise UntrustedError("its numbers are of a big-endian machine")
        waiting: dict[str, memoryview] = {}
        left = size - stream.tell()
        value = _TensorUnpickler(stream, left, size, waiting.__setitem__).load()
        keys = unpickle()
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(waiting):
            raise UntrustedError("its list of tensors is not of those it holds")
        for key in keys:
            _fill_legacy(stream, waiting[str(key)])
    return value


def _fill_legacy(stream: IO[bytes], memory: memoryview) -> None:
    stream.read(8)  # how many numbers there are, which the pickle says, too
    fill(stream, memory)


class _Storage(StandIn):
    """Numbers that tensors are views of."""

    def __init__(self, numbers: Tensor):
        self.numbers = numbers  # (n,)


class _Kind(StandIn):
    """A class of storages."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


class _TensorUnpickler(PlainUnpickler):
    """Builds dense tensors as well."""

    def __init__(
        self,
        stream: IO[bytes],
        size: int,
        file_size: int,
        read: Callable[[str, memoryview], None],
        is_program: bool = False,
    ):
        super().__init__(stream, size, is_program=is_program)
        self._read = read
        self._storages: dict[str, _Storage] = {}
        self._stored = Budget(file_size, "it says that it holds more numbers than fit into it")
        self._viewed = Budget(
            TIMES_VIEWED * file_size + FREE_BYTES, "it repeats its numbers in many tensors"
        )
        self.allowed |= {
            **{f"torch.{name}": _Kind(dtype) for name, dtype in _STORAGES.items()},
            "torch._utils._rebuild_tensor": Call(self._tensor),
            "torch._utils._rebuild_tensor_v2": Call(self._tensor),
            "torch._utils._rebuild_parameter": _AS_IT_IS,
            **{str(dtype): str(dtype) for dtype in _STORAGES.values()},
            **dict.fromkeys(("torch.Size", "__builtin__.set", "collections.Counter"), _AS_IT_IS),
            "torch.device": Call(lambda *parts: ":".join(str(part)[:20] for part in parts[:2])),
            "collections.OrderedDict": Call(self._ordered),
        }
        if is_program:
            for name in ("build_intlist", "build_doublelist", "build_boollist",
                         "build_tensorlist", "restore_type_tag"):  # fmt: skip
                self.allowed[f"torch.jit._pickle.{name}"] = _AS_IT_IS

    def persistent_load(self, pid: object) -> _Storage:
        """Numbers of the file."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[5:] not in ((), (None,)):
            raise UntrustedError("it refers to memory in an unknown way")
        _, kind, key, _, n = pid[:5]
        if not isinstance(kind, _Kind) or not isinstance(n, int) or n < 0:
            raise UntrustedError("it refers to memory in an unknown way")
        key = str(key)
        if key not in self._storages:
            self._stored.take(n * kind.dtype.itemsize)
            numbers = torch.empty(n, dtype=kind.dtype)
            self._read(key, numbers.view(torch.uint8).numpy().data)
            self._storages[key] = _Storage(numbers)
        return self._storages[key]

    def _tensor(self, storage: object, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
        """A view of stored numbers, each of which it holds once at most."""
        if not (
            isinstance(storage, _Storage)
            and isinstance(size, tuple)
            and isinstance(stride, tuple)
            and len(size) == len(stride) <= MOST_AXES
            and all(isinstance(n, int) and 0 <= n < 2**63 for n in (offset, *size, *stride))
        ):
            raise UntrustedError("unknown state of a tensor")
        n, numbers = math.prod(size), storage.numbers
        if n > numbers.numel():
            raise UntrustedError(f"a tensor of shape {size} repeats its numbers")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if n and last >= numbers.numel():
            raise UntrustedError(f"a tensor of shape {size} lies outside of its memory")
        self._viewed.take(n * numbers.itemsize)
        return numbers.as_strided(size, stride, offset)

    def _ordered(self, pairs: object = ()) -> dict[Any, Any]:
        if not isinstance(pairs, list | tuple) or any(len(pair) != 2 for pair in pairs):
            raise UntrustedError("unknown entries of a dictionary")
        self.budget.take(_PAIR * len(pairs))
        return self.entries([value for pair in pairs for value in pair])
