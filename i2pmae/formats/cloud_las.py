"""What the packed points of a `.laz` claim, compared with the file before they are unpacked.

The library that unpacks them makes room for whatever a file says: a file of 1 kB took 15 GB.
"""

from __future__ import annotations

import struct
from pathlib import Path

from i2pmae.formats.files import open_parsing

_HEADER = struct.Struct("<94xHII")  # size, where the points begin, number of records
_RECORD = struct.Struct("<2x16sHH32x")  # user, kind, bytes
_LASZIP = struct.Struct("<H10xI16xH")  # compressor, points of a part, number of items
_ITEM = struct.Struct("<HHH")  # kind, bytes, version
_LASZIP_KIND = 22204
_LAYERED = 3  # compressor whose parts are layers, which begin with their sizes
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}  # of items by kind
_BYTES = 14  # kind of items that have a layer for each byte


def check_packed(file: Path, n_points: int, remedy: str) -> None:
    """Refuse packed points that claim more parts or larger layers than the file can hold.

    Raises:
        DataError: if so, or if the file is damaged otherwise.
    """
    with open_parsing(file, remedy) as stream:
        data = stream.read()
        place, begin, n_records = _HEADER.unpack_from(data)
        for _ in range(n_records):
            user, kind, length = _RECORD.unpack_from(data, place)
            place += _RECORD.size
            if user.rstrip(b"\0") == b"laszip encoded" and kind == _LASZIP_KIND:
                break
            place += length
        else:
            raise ValueError("it does not say how its points are packed")
        compressor, _, n_items = _LASZIP.unpack_from(data, place)
        items = [_ITEM.unpack_from(data, place + _LASZIP.size + 6 * i)[:2] for i in range(n_items)]
        (table,) = struct.unpack_from("<q", data, begin)
        if table <= begin:  # of programs that cannot go back it stands at the end
            (table,) = struct.unpack_from("<q", data, len(data) - 8)
        if not begin + 8 <= table <= len(data) - 8:
            raise ValueError("the table of its parts lies outside")
        (n_parts,) = struct.unpack_from("<I", data, table + 4)
        if n_parts > n_points:
            raise ValueError(f"{n_parts} parts hold {n_points} points")
        if compressor != _LAYERED:
            return
        n_layers = sum(size if kind == _BYTES else _LAYERS.get(kind, 0) for kind, size in items)
        layers = struct.Struct(f"<{n_layers}I")
        place = begin + 8
        while place < table:  # a point as it is, the number of all, the sizes of the layers
            place += sum(size for _, size in items) + 4
            place += layers.size + sum(layers.unpack_from(data, place))
            if place > table:
                raise ValueError("a layer of its points ends beyond them")
