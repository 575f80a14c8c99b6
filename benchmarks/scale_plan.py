"""What the pipeline costs from 10^6 to 10^9 shapes: a plan, and the curves that it rests on.

- `plan`: sizes come from the store's own schema; rates and prices are options. Nothing of it is
  measured here; docs/scale.md says where the defaults come from.
- `curve`: the real writer and reader on stores of real shard structure whose shapes are tiny, so
  that only bookkeeping is left: seconds to write a shard of made-up features, with as many under
  way as in stage one, to find what is pending on resume, to open, to list an epoch's shapes and to
  shuffle them; `cpu s` are processor
  seconds of all threads, which other programs disturb less. `exponents`: slope of the logarithms
  over the number of shapes, so 1 is linear and 0 constant.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from i2pmae.extraction.local import WRITTEN_AT_ONCE
from i2pmae.store.reader import StoreReader, epoch_order
from i2pmae.store.schema import DONE, StoreSpec, arrays
from i2pmae.store.writer import StoreWriter, open_writer

PLANNED = (10**6, 10**7, 10**8, 10**9)
FULL = {"n_points": 8192, "n_views": 3, "image_size": 224, "grid": (14, 14), "channels": 512}
TINY = {"n_points": 2, "n_views": 1, "image_size": 2, "grid": (1, 1), "channels": 1}
EPOCH_SHAPES = 41_952 * 300  # shapes that the paper's pre-training sees


def main() -> None:
    """Plan, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--shapes", type=int, default=100_000, help="largest measured store")
    parser.add_argument("--folder", type=Path, help="where stores go; default: a temporary one")
    parser.add_argument("--shard-size", type=int, default=64, help="shapes per shard")
    parser.add_argument("--bytes-per-shape", type=float, default=300e3, help="of all arrays")
    parser.add_argument("--gpus", type=int, default=64, help="that work at the same time")
    parser.add_argument("--cores", type=int, default=16, help="per GPU, that read shapes")
    parser.add_argument("--load", type=float, default=5, help="shapes/s read by a core")
    parser.add_argument("--encode", type=float, default=320, help="shapes/s encoded by a GPU")
    parser.add_argument("--train", type=float, default=910, help="shapes/s trained on by a GPU")
    parser.add_argument("--scheduler", type=float, default=1000, help="tasks/s of the scheduler")
    parser.add_argument("--gpu-price", type=float, default=2.5, help="per GPU and hour")
    parser.add_argument("--byte-price", type=float, default=0.023, help="per GB and month")
    options = parser.parse_args()
    lengths = (64, 256) if options.quick else lengths_to(options.shapes)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        curve = {n: measure(Path(folder) / f"{n}.zarr", n, options.shard_size) for n in lengths}
    found = {
        "plan": {n: plan(n, options) for n in PLANNED},
        "curve": curve,
        "exponents": exponents(curve),
    }
    if options.json:
        print(json.dumps(found))
        return
    print("PLAN: from the schema and assumed rates, nothing measured")
    show(found["plan"])
    print("\nCURVE: bookkeeping of stores of tiny shapes, measured")
    show(curve)
    print(
        "\nexponents:", ", ".join(f"{key} {value:.2f}" for key, value in found["exponents"].items())
    )


def plan(n_shapes: int, options: argparse.Namespace) -> dict[str, float]:
    """Cost of both stages for a store of so many shapes."""
    spec = StoreSpec(n_shapes=n_shapes, shard_size=options.shard_size, **FULL)
    schemas = arrays(spec).values()
    n_files = sum(spec.n_shards if array.layout != "store" else 1 for array in schemas)
    resident = 8 + 1 + 8  # order of an epoch and status, and the indices it is drawn from
    encode = min(options.encode, options.cores * options.load)  # whichever is slower
    passes = max(1.0, EPOCH_SHAPES / n_shapes)
    hours_one = n_shapes / encode / 3600
    hours_two = n_shapes * passes / options.train / 3600
    return {
        "shards": spec.n_shards,
        "files": n_files,
        "MB per shard": options.bytes_per_shape * options.shard_size / 1e6,
        "TB": options.bytes_per_shape * n_shapes / 1e12,
        "TB without compression": dense_bytes(spec) / 1e12,
        "storage per month": options.bytes_per_shape * n_shapes / 1e9 * options.byte_price,
        "GB in memory per reader": resident * n_shapes / 1e9,
        "tasks/s of stage one": options.gpus * encode / options.shard_size,
        "scheduler load": options.gpus * encode / options.shard_size / options.scheduler,
        "GPU-hours of stage one": hours_one,
        "days of stage one": hours_one / options.gpus / 24,
        "price of stage one": hours_one * options.gpu_price,
        "passes of stage two": passes,
        "GPU-hours of stage two": hours_two,
        "days of stage two": hours_two / options.gpus / 24,
        "price of stage two": hours_two * options.gpu_price,
        "GB/s read in stage two": options.gpus * options.train * options.bytes_per_shape / 1e9,
    }


def dense_bytes(spec: StoreSpec) -> float:
    """Bytes of all arrays as numpy would hold them; ids and splits count 16 each."""
    return sum(
        math.prod(array.shape(spec))
        * (16 if array.dtype == "string" else np.dtype(array.dtype_in(spec)).itemsize)
        for array in arrays(spec).values()
    )


def measure(path: Path, n_shapes: int, shard_size: int) -> dict[str, float]:
    """Seconds that bookkeeping takes on a store of so many tiny shapes."""
    spec = StoreSpec(n_shapes=n_shapes, shard_size=shard_size, **TINY)
    writer = writer_of(path, spec)
    row: dict[str, float] = {}

    def timed(what: str, call: Callable[[], Any], times: int = 1) -> Any:
        """Note the seconds of a call that does something so many times; what it returns."""
        started, cpu_started = time.perf_counter(), time.process_time()
        found = call()
        row[f"{what} s"] = (time.perf_counter() - started) / times
        row[f"{what} cpu s"] = (time.process_time() - cpu_started) / times
        return found

    def write(shards: list[int]) -> None:
        with ThreadPoolExecutor(WRITTEN_AT_ONCE) as pool:
            list(pool.map(lambda k: writer.write_shard(k, encoded(spec, k)), shards))

    with writer:
        timed("shard", lambda: write(writer.pending[:-1]), max(spec.n_shards - 1, 1))
    writer = timed("resume", lambda: writer_of(path, spec))
    with writer:
        write(writer.pending)
        timed("finish", writer.finish)
    reader = timed("open", lambda: StoreReader(path))
    indices = timed("list", reader.indices)
    timed("shuffle", lambda: epoch_order(indices, 0, 0))
    timed("first batch", lambda: next(reader.batches(32, seed=0, epoch=0, indices=indices)))
    return {
        "shards": spec.n_shards,
        "files": sum(len(files) for _, _, files in os.walk(path)),
        "metadata kB": sum(file.stat().st_size for file in path.rglob("zarr.json")) / 1e3,
        **row,
    }


def writer_of(path: Path, spec: StoreSpec) -> StoreWriter:
    """The real writer."""
    return open_writer(
        path,
        spec,
        view_axes=np.eye(3, dtype=np.float32)[None].repeat(spec.n_views, axis=0),
        settings={"made by": "benchmarks/scale_plan.py"},
        provenance={},
        class_names=("any",),
    )


def encoded(spec: StoreSpec, k: int) -> dict[str, np.ndarray[Any, Any]]:
    """What a 2D network that costs nothing would give for a shard."""
    rows = spec.shard(k)
    n_rows = rows.stop - rows.start
    values: dict[str, np.ndarray[Any, Any]] = {}
    for name, array in arrays(spec).items():
        if array.layout != "store" and array.dtype != "string":
            values[name] = np.ones((n_rows, *array.shape(spec)[1:]), array.dtype_in(spec))
    values["id"] = np.array([f"any/{row:09}" for row in range(rows.start, rows.stop)])
    values["split"] = np.full(n_rows, "train")
    values["label"] = np.zeros(n_rows, np.int64)
    values["status"] = np.full(n_rows, DONE, np.uint8)
    return values


def lengths_to(largest: int) -> tuple[int, ...]:
    """Powers of ten from 1000 on, and the largest."""
    return (*(10**k for k in range(3, 12) if 10**k < largest), largest)


def exponents(curve: dict[int, dict[str, float]]) -> dict[str, float]:
    """Slope of the logarithms over the number of shapes, of all that is in seconds."""
    lengths = np.log(list(curve))
    keys = [key for key in next(iter(curve.values())) if " s" in key]
    return {
        key: float(
            np.polyfit(lengths, np.log([max(row[key], 1e-9) for row in curve.values()]), 1)[0]
        )
        for key in keys
    }


def show(table: dict[int, dict[str, float]]) -> None:
    """Print a row per figure, a column per number of shapes."""
    print(f"{'shapes':28}", *(f"{n:>14,}" for n in table))
    for key in next(iter(table.values())):
        print(f"{key:28}", *(f"{row[key]:>14,.4g}" for row in table.values()))


if __name__ == "__main__":
    main()
