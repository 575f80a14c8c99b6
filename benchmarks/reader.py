"""Random-order reading of a store for training, against zarr-python and a copy in memory.

Writes a store of shapes with 3 x 14 x 14 x 512 int8 features of which 4 in 5 patches are read,
then reads random batches of 32, decoded to what a pre-training step consumes: points, features
with their scales, saliency, the map from points to pixels. The three ways take turns, each figure
is the median of all turns after one epoch of warming up (files in the page cache, the reader's
small arrays in memory). `vs_zarr_oindex`: speed over that of zarr-python's fancy indexing of the
same arrays; `vs_memory_copy`: over that of numpy's, with all arrays in memory.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from output import show

from i2pmae.store.quantize import encode, round_points
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import DONE, StoreSpec
from i2pmae.store.writer import open_writer

BATCH = 32
BATCHES = 16  # per turn; zarr-python reads one
READ_PATCHES = 0.8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--shapes", type=int, default=2048, help="shapes in the store")
    parser.add_argument("--points", type=int, default=2048, help="points per shape")
    parser.add_argument("--turns", type=int, default=9, help="measurements of each way")
    parser.add_argument("--threads", type=int, help="reading threads; default: all cores")
    parser.add_argument("--folder", type=Path, help="where to put the store; default: temporary")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "random.zarr"
        write_store(path, options.shapes, options.points)
        result = measure(path, options.turns, options.threads)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        result["kb_per_shape"] = size / options.shapes / 1e3
    show(result, as_json=options.json)


def write_store(path: Path, n_shapes: int, n_points: int) -> None:
    """A seeded store: normal features, clouds on a sphere."""
    spec = StoreSpec(
        n_shapes=n_shapes, n_points=n_points, n_views=3, image_size=224, grid=(14, 14), channels=512
    )
    axes = np.stack([np.roll(np.eye(3, dtype=np.float32), shift, axis=0) for shift in range(3)])
    about = {"source": "random numbers"}
    with open_writer(
        path, spec, view_axes=axes, settings={}, provenance=about, class_names=("sphere",)
    ) as writer:
        for k in writer.pending:
            rows = spec.shard(k)
            writer.write_shard(k, random_shard(np.random.default_rng(k), rows, spec))
        writer.finish()


def random_shard(rng: np.random.Generator, rows: slice, spec: StoreSpec) -> dict[str, Any]:
    """All arrays of one shard."""
    n = rows.stop - rows.start
    patches = (n, spec.n_views, *spec.grid)
    features = rng.standard_normal((*patches, spec.channels), dtype=np.float32)
    features[rng.random(patches) >= READ_PATCHES] = 0
    points = rng.standard_normal((n, spec.n_points, 3), dtype=np.float32)
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    return {
        **encode(features, spec.dtype),
        "points": round_points(points),
        "depth": np.zeros((n, spec.n_views, spec.image_size, spec.image_size), np.uint8),
        "saliency": rng.random(patches, dtype=np.float32) / 196,
        "pixel_origin": np.full((n, spec.n_views, 2), -1, np.float32),
        "pixel_size": np.full((n, spec.n_views), 2 / 221, np.float32),
        "pixel_shift": np.zeros((n, spec.n_views, 2), np.int16),
        "label": np.zeros(n, np.int64),
        "id": np.array([f"sphere/{i}" for i in range(rows.start, rows.stop)]),
        "split": np.full(n, "train"),
        "status": np.full(n, DONE, np.uint8),
    }


def measure(path: Path, turns: int, threads: int | None) -> dict[str, float]:
    """Shapes per second of the reader, and what that is of the other two ways."""
    reader = StoreReader(path, threads=threads)
    group = zarr.open_group(path, mode="r")
    arrays: dict[str, Any] = {name: group[name] for name in reader.step_arrays}
    in_memory: dict[str, Any] = {name: array[...] for name, array in arrays.items()}
    draw = np.random.default_rng(0)
    for _ in reader.batches(BATCH, seed=0, epoch=0):
        pass

    def stored() -> int:
        chosen = draw.choice(len(reader), BATCHES * BATCH, replace=False)
        return sum(
            len(batch["index"]) for batch in reader.batches(BATCH, seed=0, epoch=0, indices=chosen)
        )

    def fancy() -> int:
        chosen = np.sort(draw.choice(len(reader), BATCH, replace=False))
        for array in arrays.values():
            array.oindex[chosen]
        return BATCH

    def memory() -> int:
        for _ in range(BATCHES):
            chosen = draw.choice(len(reader), BATCH, replace=False)
            for values in in_memory.values():
                values[chosen]
        return BATCHES * BATCH

    rates = alternate({"store": stored, "zarr": fancy, "memory": memory}, turns)
    per_core = alternate({"store": stored}, turns, time.process_time)
    return {
        "shapes_per_s": rates["store"],
        "shapes_per_core_s": per_core["store"],
        "vs_zarr_oindex": rates["store"] / rates["zarr"],
        "vs_memory_copy": rates["store"] / rates["memory"],
    }


def rates_by_threads(path: Path, threads: Sequence[int], turns: int) -> dict[int, float]:
    """Shapes per second of random batches by the number of reading threads."""

    def read_epoch(reader: StoreReader) -> int:
        return sum(len(batch["index"]) for batch in reader.batches(BATCH, seed=0, epoch=0))

    ways = {str(n): partial(read_epoch, StoreReader(path, threads=n)) for n in threads}
    return {int(n): rate for n, rate in alternate(ways, turns).items()}


def alternate(
    ways: dict[str, Callable[[], int]], turns: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median shapes per second of each way by a clock, one turn to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            begin = clock()
            n_shapes = way()
            if turn:
                rates[name].append(n_shapes / (clock() - begin))
    return {name: float(np.median(found)) for name, found in rates.items()}


def peak_megabytes() -> float:
    """Peak resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the process that started this one
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
