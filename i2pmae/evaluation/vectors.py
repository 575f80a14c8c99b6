"""Feature vectors of shapes in a file, and the nearest of them."""

from __future__ import annotations

import base64
import filecmp
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2pmae.atomic_write import written
from i2pmae.errors import DataError, reason
from i2pmae.evaluation.tables import METADATA, check_target, parquet_package
from i2pmae.evaluation.whitening import Whitening
from i2pmae.untrusted.arrays import read_npz
from i2pmae.untrusted.limits import FREE_BYTES, Budget, UntrustedError, parse_json
from i2pmae.untrusted.parquet import unpacked_sizes

FORMATS = (".npz", ".parquet")
_ARRAYS = ("ids", "labels", "splits", "vectors", "class_names", "settings")
_UNPACKED = 64  # values per byte of a file; real ones have a quarter
_SAME = 1e-3  # distance of copies, relative to the spread of all vectors
_REMEDY = "Write it again with i2pmae embed."


class Vectors(NamedTuple):
    """Frozen features of a data set."""

    ids: list[str]
    labels: NDArray[np.int64]  # (S,) index into `class_names`; -1 unknown
    splits: list[str]  # '' where the data set has none
    vectors: NDArray[np.float32]  # (S, C)
    class_names: tuple[str, ...]
    settings: dict[str, Any]  # how they were made, plain values
    paths: Sequence[str] = ()  # files of the shapes; none where nothing says them
    whitening: Whitening | None = None  # None: not computed yet

    def whitened(self) -> NDArray[np.float32]:
        """Centered and whitened vectors of unit length, (S, K): their products are cosines."""
        return (self.whitening or Whitening.of(self.vectors)).apply(self.vectors)

    def class_of(self, index: int) -> str:
        """Name of a shape's class, '' if unknown."""
        label = int(self.labels[index])
        return self.class_names[label] if label >= 0 else ""

    def copies_of(self, vector: NDArray[np.float32], file: str) -> set[int]:
        """Shapes that are the same as another: their vectors are equal, or their files.

        Args:
            vector: (C,) of the other shape.
            file: its file if that holds nothing else, else ''.
        """
        typical = np.linalg.norm(self.vectors.std(axis=0))
        distances = np.linalg.norm(self.vectors - vector, axis=1)
        found = {*np.flatnonzero(distances <= _SAME * typical).tolist()}
        if file:
            found |= {k for k, path in enumerate(self.paths) if _same_file(file, path)}
        return found


def _same_file(one: str, other: str) -> bool:
    """Whether two files hold the same."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:  # they have moved, or are none
        return False


def write_vectors(path: Path, values: Vectors) -> None:
    """Write vectors atomically.

    `.npz` holds `ids`, `labels`, `splits`, `paths`, `vectors`, `class_names`, `settings` (JSON),
    and the statistics `mean` and `whitening`, none of which needs pickle. `.parquet` has a row per
    shape with `id`, `label`, `class`, `split`, `path`, `vector` (a list of fixed length), and class
    names, settings and statistics in its metadata.

    Raises:
        DataError: if the file cannot be written, or see `check_target`.
    """
    check_target(path, FORMATS, "vectors")
    mean, matrix = values.whitening or Whitening.of(values.vectors)
    with written(path) as temporary:
        if path.suffix == ".parquet":
            statistics = {"mean": _base64(mean), "whitening": _base64(matrix)}
            _write_parquet(temporary, values, statistics)
            return
        with temporary.open("wb") as stream:
            np.savez(
                stream,
                ids=_text(values.ids),
                labels=values.labels,
                splits=_text(values.splits),
                paths=_text(values.paths),
                vectors=values.vectors,
                mean=mean,
                whitening=matrix,
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
        raise DataError(f"{path} cannot be read as vectors: {reason(error)}. {_REMEDY}") from error
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


def _text(values: Sequence[str]) -> NDArray[np.str_]:
    """Text of fixed width, which needs no pickle."""
    return np.asarray(values, dtype=np.str_)


def _read_npz(path: Path) -> Vectors:
    arrays = read_npz(path)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}. {_REMEDY}")
    whitening = None  # older files have none
    if "mean" in arrays and "whitening" in arrays:
        whitening = Whitening(arrays["mean"], arrays["whitening"])
    return Vectors(
        paths=[str(value) for value in arrays.get("paths", np.array([])).tolist()],
        whitening=whitening,
        ids=[str(value) for value in arrays["ids"].tolist()],
        labels=arrays["labels"],
        splits=[str(value) for value in arrays["splits"].tolist()],
        vectors=arrays["vectors"],
        class_names=tuple(str(value) for value in arrays["class_names"].tolist()),
        settings=dict(parse_json(str(arrays["settings"]))),
    )


def _base64(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _write_parquet(path: Path, values: Vectors, statistics: dict[str, str]) -> None:
    arrow, parquet = parquet_package()
    flat = arrow.array(values.vectors.reshape(-1), arrow.float32())
    classes = [values.class_of(index) or None for index in range(len(values.ids))]
    table = arrow.table(
        {
            "id": arrow.array(values.ids, arrow.string()),
            "label": arrow.array(values.labels, arrow.int64()),
            "class": arrow.array(classes, arrow.string()),
            "split": arrow.array(values.splits, arrow.string()),
            "path": arrow.array(list(values.paths) or arrow.nulls(len(values.ids)), arrow.string()),
            "vector": arrow.FixedSizeListArray.from_arrays(flat, values.vectors.shape[1]),
        }
    )
    metadata = {"class_names": list(values.class_names), "settings": values.settings}
    metadata |= {"statistics": statistics}
    table = table.replace_schema_metadata({METADATA: json.dumps(metadata).encode()})
    parquet.write_table(table, path, compression="zstd")


def _read_parquet(path: Path) -> Vectors:
    _, parquet = parquet_package()
    schema = _check_parquet(path, parquet)
    metadata = (schema.metadata or {}).get(METADATA)
    names = ["id", "label", "split", "vector"]
    missing = [name for name in names if name not in schema.names]
    if "path" in schema.names:  # older files have none
        names.append("path")
    if missing or metadata is None:
        raise DataError(f"{path} lacks {', '.join(missing) or 'its metadata'}. {_REMEDY}")
    about = parse_json(metadata)
    # As dictionaries, so that a text takes memory once, however often it stands there.
    table = parquet.read_table(path, columns=names, read_dictionary=["id", "split", "path"])
    vectors = table["vector"].combine_chunks()
    has_paths = "path" in names and table["path"].null_count == 0
    statistics, whitening = about.get("statistics"), None
    if statistics is not None:
        mean, matrix = (
            np.frombuffer(base64.b64decode(statistics[name]), "<f4").astype(np.float32)
            for name in ("mean", "whitening")
        )
        whitening = Whitening(mean, matrix.reshape(len(mean), -1))
    return Vectors(
        paths=_texts(table["path"], path) if has_paths else [],
        whitening=whitening,
        ids=_texts(table["id"], path),
        labels=table["label"].to_numpy(),
        splits=_texts(table["split"], path),
        vectors=vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1),
        class_names=tuple(about["class_names"]),
        settings=dict(about["settings"]),
    )


def _texts(column: Any, path: Path) -> list[str]:
    """A column of text, refused where a long one stands in it again and again."""
    found: list[str] = []
    budget = Budget(FREE_BYTES + _UNPACKED * path.stat().st_size, "it repeats a long text")
    for chunk in column.chunks:
        texts = chunk.dictionary.to_pylist()
        for index in chunk.indices.to_pylist():
            budget.take(len(texts[index]))
            found.append(texts[index])
    return found


def _check_parquet(path: Path, parquet: Any) -> Any:
    """The schema of a file that does not unpack to much more than vectors and names ever do."""
    size = path.stat().st_size
    with parquet.ParquetFile(path) as file:
        about = file.metadata
        groups = [about.row_group(index) for index in range(about.num_row_groups)]
        schema = file.schema_arrow
        columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    largest = max([about.num_rows, *(column.num_values for column in columns)])
    if largest > _UNPACKED * size:
        raise UntrustedError(f"{largest} values in a file of {size} bytes")
    n_bytes = sum(column.total_uncompressed_size for column in columns)
    if n_bytes > FREE_BYTES + _UNPACKED * size:
        raise UntrustedError(f"its {size} bytes unpack to {n_bytes}")
    budget = Budget(FREE_BYTES + _UNPACKED * size, "a page unpacks to more than the file says")
    with path.open("rb") as stream:
        for n_bytes in unpacked_sizes(stream, about):
            budget.take(n_bytes)
    return schema


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
    if len(values.paths) not in (0, n):
        raise DataError(f"{path} holds {n} ids and {len(values.paths)} paths. {_REMEDY}")
    mean, matrix = values.whitening or (vectors[0], vectors[:1].T)  # nothing to look at
    if not (
        mean.shape == (vectors.shape[1],)
        and matrix.ndim == 2
        and len(matrix) == len(mean)
        and matrix.shape[1] > 0
        and mean.dtype == matrix.dtype == np.float32
        and np.isfinite(mean).all()
        and np.isfinite(matrix).all()
    ):
        raise DataError(f"{path}: its statistics do not fit its vectors. {_REMEDY}")
    if not np.isfinite(vectors).all():
        raise DataError(f"{path} holds values that are not finite. {_REMEDY}")
