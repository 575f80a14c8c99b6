"""A row per shape, written as it comes: `.csv`, `.parquet` or `.json`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from i2pmae.atomic_write import written
from i2pmae.errors import DataError

TABLES = (".csv", ".parquet", ".json")
METADATA = b"i2pmae"  # key in the metadata of a Parquet file
_ROWS = 4096  # of a row group

Row = Mapping[str, Any]
Columns = Mapping[str, Literal["text", "number", "count"]]


def check_target(path: Path, endings: Sequence[str], what: str) -> None:
    """Say early what would go wrong late.

    Args:
        path: file to be written.
        endings: that are known.
        what: is written, such as `vectors`.

    Raises:
        DataError: if the ending is unknown, Parquet's package is missing, or a folder lies there.
    """
    if path.suffix not in endings:
        raise DataError(
            f"{path}: {what} are written as {', '.join(endings[:-1])} or {endings[-1]}, not "
            f"{path.suffix!r}. Give the file another ending."
        )
    if path.suffix == ".parquet":
        parquet_package()
    if path.is_dir():
        raise DataError(f"{path} is a folder. Give a file to write.")


def parquet_package() -> tuple[Any, Any]:
    """The package that reads and writes Parquet; it comes with the extra `parquet`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "Parquet files need pyarrow, which is not installed. Add it: pip install "
            "'i2pmae[parquet]'; or choose another ending."
        ) from error
    return pyarrow, pyarrow.parquet


def write_table(
    path: Path, columns: Columns, rows: Iterable[Row], about: Mapping[str, Any]
) -> None:
    """Write rows as they come, so that any number of them fits into memory.

    Args:
        path: `.csv`; `.parquet`; or `.json`, an object with `about` and `shapes`.
        columns: names, and what their values are; any may be None.
        rows: by column; one that is missing is None.
        about: plain values about all rows; a `.csv` has no place for them.

    Raises:
        DataError: if it cannot be written.
    """
    write = {".csv": _write_csv, ".json": _write_json, ".parquet": _write_parquet}[path.suffix]
    with written(path) as temporary:
        write(temporary, columns, rows, about)


def _write_csv(
    path: Path, columns: Columns, rows: Iterable[Row], _about: Mapping[str, Any]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def _write_json(
    path: Path, columns: Columns, rows: Iterable[Row], about: Mapping[str, Any]
) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(f'{{"about": {json.dumps(about)},\n"shapes": [')
        for number, row in enumerate(rows):
            values = json.dumps({name: row.get(name) for name in columns})
            stream.write(f"{',' if number else ''}\n{values}")
        stream.write("\n]}\n")


def _write_parquet(
    path: Path, columns: Columns, rows: Iterable[Row], about: Mapping[str, Any]
) -> None:
    arrow, parquet = parquet_package()
    kinds: dict[str, Callable[[], Any]] = {
        "text": arrow.string,
        "number": arrow.float64,
        "count": arrow.int64,
    }
    schema = arrow.schema([(name, kinds[kind]()) for name, kind in columns.items()])
    schema = schema.with_metadata({METADATA: json.dumps(about).encode()})
    rows = iter(rows)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while some := list(islice(rows, _ROWS)):
            values = [{name: row.get(name) for name in columns} for row in some]
            writer.write_table(arrow.Table.from_pylist(values, schema=schema))
