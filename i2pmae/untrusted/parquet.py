"""Sizes that the pages of a Parquet file claim to unpack to, read before anything is unpacked.

The file's footer says how large its columns are, but readers allocate what each page's own header
claims. Page headers are Thrift structures (compact protocol), and pyarrow does not expose them.

Source: https://parquet.apache.org/docs/file-format/data-pages and Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from i2pmae.untrusted.limits import UntrustedError

_HEADER_BYTES = 1 << 16  # of a page, more than any writer needs
_DEEPEST = 8
_UNCOMPRESSED, _COMPRESSED = 2, 3  # fields of a page's header
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_INTEGERS = (_I16, _I32, _I64)
_PROBLEM = "a page's header is damaged"


def unpacked_sizes(stream: IO[bytes], about: Any) -> Iterator[int]:
    """Bytes that each page of a file says it unpacks to.

    Args:
        stream: the file.
        about: pyarrow's metadata of it.

    Raises:
        UntrustedError: if a page's header is damaged.
    """
    for group in range(about.num_row_groups):
        for index in range(about.num_columns):
            column = about.row_group(group).column(index)
            starts = (column.dictionary_page_offset or 0, column.data_page_offset)
            place = min(start for start in starts if start > 0)
            end = place + column.total_compressed_size
            while place < end:
                stream.seek(place)
                header = _Header(stream.read(_HEADER_BYTES))
                fields = header.struct()
                compressed = fields.get(_COMPRESSED, -1)
                if compressed < 0 or fields.get(_UNCOMPRESSED, -1) < 0:
                    raise UntrustedError(_PROBLEM)
                yield fields[_UNCOMPRESSED]
                place += header.place + compressed


class _Header:
    """A reader of one structure."""

    def __init__(self, data: bytes):
        self._data = data
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, int]:
        """The integers of a structure by the number of their field."""
        found: dict[int, int] = {}
        number = 0
        while start := self._byte():
            delta, kind = start >> 4, start & 15
            number = number + delta if delta else self._integer()
            value = self._value(kind, depth)
            if kind in _INTEGERS:
                found[number] = value
        return found

    def _value(self, kind: int, depth: int) -> int:
        """An integer; anything else is skipped and counts as 0."""
        if depth > _DEEPEST:
            raise UntrustedError(_PROBLEM)
        if kind in _INTEGERS:
            return self._integer()
        if kind in (_BYTE, _DOUBLE, _BINARY):
            self._skip({_BYTE: 1, _DOUBLE: 8}.get(kind) or self._varint())
        elif kind in (_LIST, _SET):
            start = self._byte()
            count, inner = start >> 4, start & 15
            for _ in range(self._varint() if count == 15 else count):
                self._value(_BYTE if inner in (_TRUE, _FALSE) else inner, depth + 1)
        elif kind == _STRUCT:
            self.struct(depth + 1)
        elif kind not in (_TRUE, _FALSE):  # no page has maps
            raise UntrustedError(_PROBLEM)
        return 0

    def _byte(self) -> int:
        self._skip(1)
        return self._data[self.place - 1]

    def _skip(self, n_bytes: int) -> None:
        self.place += n_bytes
        if self.place > len(self._data):
            raise UntrustedError(_PROBLEM)

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128 and shift < 70:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)  # signs are in the last bit
