"""Feature vectors of shapes in a file, and the nearest of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2pmae.archives import check_stored
from i2pmae.durable import whole_file
from i2pmae.errors import DataError

FORMATS = (".npz", ".parquet")
_ARRAYS = ("ids", "labels", "splits", "vectors", "class_names", "settings")
_SETTINGS = b"i2pmae"  # key in the metadata of a Parquet file
_UNPACKED = 64  # values per byte of a file; real ones have a quarter
_REMEDY = "Write it again with i2pmae embed."


class Vectors(NamedTuple):
    """Frozen features of a data set."""

    ids: list[str]
    labels: NDArray[np.int64]  # (S,) index into `class_names`; -1 unknown
    splits: list[str]  # '' where the data set has none
    vectors: NDArray[np.float32]  # (S, C)
    class_names: tuple[str, ...]
    settings: dict[str, Any]  # how they were made, plain values

    def class_of(self, index: int) -> str:
        """Name of a shape's class, '' if unknown."""
        label = int(self.labels[index])
        return self.class_names[label] if label >= 0 else ""


def check_target(path: Path) -> None:
    """Say early what `write_vectors` would say late.

    Raises:
        DataError: if the ending is unknown, or Parquet's package is missing.
    """
    if path.suffix not in FORMATS:
        raise DataError(
            f"{path}: vectors are written as {' or '.join(FORMATS)}, not {path.suffix!r}. Give the "
            "file another ending."
        )
    if path.suffix == ".parquet":
        _parquet()
    if path.is_dir():
        raise DataError(f"{path} is a folder. Give a file to write.")


def write_vectors(path: Path, values: Vectors) -> None:
    """Write vectors so that the file is either whole or not there.

    `.npz` holds `ids`, `labels`, `splits`, `vectors`, `class_names` and `settings` (JSON), none of
    which needs pickle. `.parquet` has a row per shape with `id`, `label`, `class`, `split`,
    `vector` (a list of fixed length), and class names and settings in its metadata.

    Raises:
        DataError: if the file cannot be written, or see `check_target`.
    """
    check_target(path)
    with _said_in_one_line(path), whole_file(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(temporary, values)
            return
        with temporary.open("wb") as stream:
            np.savez(
                stream,
                ids=_text(values.ids),
                labels=values.labels,
                splits=_text(values.splits),
                vectors=values.vectors,
                class_names=_text(values.class_names),
                settings=np.array(json.dumps(values.settings)),
            )


def read_vectors(path: Path) -> Vectors:
    """Read a file of `write_vectors`.

    Raises:
        DataError: if it is missing, damaged, or no such file.
    """
    if path.suffix not in FORMATS:
        raise DataError(
            f"{path} is no file of vectors; expected {' or '.join(FORMATS)}. Write one with i2pmae "
            "embed."
        )
    if not path.is_file():
        raise DataError(f"{path} does not exist. Write it with i2pmae embed.")
    try:
        values = _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
    except DataError:
        raise
    except Exception as error:  # both readers raise a dozen kinds on damaged files
        reason = " ".join(f"{error}".split())[:200] or type(error).__name__
        raise DataError(f"{path} cannot be read as vectors: {reason}. {_REMEDY}") from error
    _check(path, values)
    return values


def nearest(
    vectors: NDArray[np.float32], query: NDArray[np.float32], n: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The vectors of the largest cosine with a query.

    Args:
        vectors: (S, C).
        query: (C,).
        n: how many, at most S.

    Returns:
        (n,) int64 indices, the nearest first, ties to the lowest; and (n,) float64 cosines, 0 for
        vectors of length zero.
    """
    # Features of one network share most of their direction: cosines differ where float32 ends.
    vectors, query = vectors.astype(np.float64), query.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    cosines = (vectors @ query) / np.where(lengths > 0, lengths, 1)
    order = np.argsort(-cosines, kind="stable")[:n]
    return order.astype(np.int64), cosines[order]


def cosine_texts(cosines: NDArray[np.float64]) -> list[str]:
    """Cosines with as many decimals as tell them apart, three to eight."""
    for decimals in range(3, 9):
        texts = [f"{cosine:.{decimals}f}" for cosine in cosines]
        if len(set(texts)) == len(texts):
            break
    return texts


@contextlib.contextmanager
def _said_in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write {path}: {reason}. Choose another folder.") from error


def _text(values: Sequence[str]) -> NDArray[np.str_]:
    """Text of fixed width, which needs no pickle."""
    return np.asarray(values, dtype=np.str_)


def _read_npz(path: Path) -> Vectors:
    check_stored(path)
    with path.open("rb") as stream:  # numpy leaves damaged files open
        found = np.load(stream, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is a single array, no file of vectors. {_REMEDY}")
        missing = [name for name in _ARRAYS if name not in found]
        if missing:
            raise DataError(f"{path} lacks {', '.join(missing)}. {_REMEDY}")
        arrays = {name: found[name] for name in _ARRAYS}
    return Vectors(
        ids=[str(value) for value in arrays["ids"].tolist()],
        labels=arrays["labels"],
        splits=[str(value) for value in arrays["splits"].tolist()],
        vectors=arrays["vectors"],
        class_names=tuple(str(value) for value in arrays["class_names"].tolist()),
        settings=dict(json.loads(str(arrays["settings"]))),
    )


def _write_parquet(path: Path, values: Vectors) -> None:
    arrow, parquet = _parquet()
    flat = arrow.array(values.vectors.reshape(-1), arrow.float32())
    classes = [values.class_of(index) or None for index in range(len(values.ids))]
    table = arrow.table(
        {
            "id": arrow.array(values.ids, arrow.string()),
            "label": arrow.array(values.labels, arrow.int64()),
            "class": arrow.array(classes, arrow.string()),
            "split": arrow.array(values.splits, arrow.string()),
            "vector": arrow.FixedSizeListArray.from_arrays(flat, values.vectors.shape[1]),
        }
    )
    metadata = {"class_names": list(values.class_names), "settings": values.settings}
    table = table.replace_schema_metadata({_SETTINGS: json.dumps(metadata).encode()})
    parquet.write_table(table, path, compression="zstd")


def _read_parquet(path: Path) -> Vectors:
    _, parquet = _parquet()
    _check_parquet(path, parquet)
    table = parquet.read_table(path)
    metadata = (table.schema.metadata or {}).get(_SETTINGS)
    missing = [
        name for name in ("id", "label", "split", "vector") if name not in table.column_names
    ]
    if missing or metadata is None:
        raise DataError(f"{path} lacks {', '.join(missing) or 'its metadata'}. {_REMEDY}")
    about = json.loads(metadata)
    vectors = table["vector"].combine_chunks()
    return Vectors(
        ids=table["id"].to_pylist(),
        labels=table["label"].to_numpy(),
        splits=table["split"].to_pylist(),
        vectors=vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1),
        class_names=tuple(about["class_names"]),
        settings=dict(about["settings"]),
    )


def _check_parquet(path: Path, parquet: Any) -> None:
    """Refuse a file that unpacks to much more than vectors and names ever do."""
    with parquet.ParquetFile(path) as file:
        about = file.metadata
        groups = [about.row_group(index) for index in range(about.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(group.num_columns)]
        largest = max((column.num_values for column in columns), default=0)
    if max(about.num_rows, largest) > _UNPACKED * path.stat().st_size:
        raise ValueError(f"{largest} values in a file of {path.stat().st_size} bytes")


def _parquet() -> tuple[Any, Any]:
    """The package that reads and writes Parquet; it comes with the extra `parquet`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "Parquet files need pyarrow, which is not installed. Add it: pip install "
            "'i2pmae[parquet]'; or write .npz."
        ) from error
    return pyarrow, pyarrow.parquet


def _check(path: Path, values: Vectors) -> None:
    """Refuse arrays that do not fit together."""
    n, vectors, labels = len(values.ids), values.vectors, values.labels
    if vectors.ndim != 2 or vectors.dtype != np.float32 or 0 in vectors.shape:
        raise DataError(
            f"{path}: 'vectors' is {vectors.dtype} {vectors.shape}; expected float32 (shapes, "
            f"channels). {_REMEDY}"
        )
    if not (len(vectors) == n == len(labels) == len(values.splits)) or labels.ndim != 1:
        raise DataError(
            f"{path} holds {len(vectors)} vectors, {n} ids, {len(labels)} labels and "
            f"{len(values.splits)} splits; expected as many of each. {_REMEDY}"
        )
    if labels.dtype != np.int64 or not -1 <= labels.min() <= labels.max() < len(values.class_names):
        raise DataError(
            f"{path}: labels are {labels.dtype} from {labels.min()} to {labels.max()}; expected "
            f"int64 from -1 to {len(values.class_names) - 1}. {_REMEDY}"
        )
    if not np.isfinite(vectors).all():
        raise DataError(f"{path} holds values that are not finite. {_REMEDY}")
