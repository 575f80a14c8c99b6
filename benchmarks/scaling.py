"""How cost grows with the size of the work: steps, stores, reading threads.

- `step`: time of a full pre-training step (paper's network, a store's batch in memory) and the
  memory it takes, over the batch size at 2048 points and over the number of points at batch 8.
  Memory is how far the peak of a process of its own rises above what it held before the step.
- `store`: opening a store and reading its first random batch of 32, over the number of shapes.
  The stores are sparse: only the shards that the first batches touch are there, as links to one.
- `reader`: shapes per second of random batches over the number of reading threads.

Sizes take turns; each figure is the median of all turns after one to warm up. `exponents`: slope
of the logarithms, so 1 is linear and 0 constant; that of the threads only over as many as there
are cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from reader import peak_megabytes, random_shard, rates_by_threads, write_store
from step import TrainingStep

from i2pmae.config import PretrainConfig
from i2pmae.device import pick_dtype
from i2pmae.store.reader import StoreReader, epoch_order
from i2pmae.store.schema import StoreSpec, arrays
from i2pmae.store.writer import open_writer

BATCHES = (2, 4, 8, 16, 32)
POINTS = (1024, 2048, 4096, 8192)
USUAL = (8, 2048)  # batch and points where the other one varies
LENGTHS = (100, 1_000, 10_000, 100_000, 1_000_000)
THREADS = (1, 2, 4, 8)
READ = 32  # shapes per batch of the reader
PREFETCH = 2

Key = TypeVar("Key", bound=Hashable)
Table = dict[int, float]


def main() -> None:
    """Measure and print."""
    parts = {"step": measure_steps, "store": measure_stores, "reader": measure_reader}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: two sizes each")
    parser.add_argument("--only", nargs="+", choices=parts, default=[*parts])
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--turns", type=int, default=7, help="measurements of each size")
    parser.add_argument("--folder", type=Path, help="where to put stores; default: temporary")
    parser.add_argument("--memory-of", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(memory_of_step(options.store, options.precision, *options.memory_of))
        return
    if options.quick:
        options.turns = 1
    result: dict[str, Any] = {"exponents": {}}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for part in options.only:
            found = parts[part](Path(folder), options)
            result["exponents"] |= {name: exponent(values) for name, values in found.items()}
            result |= found
    cores = os.cpu_count() or 1
    if "reader_shapes_per_s_by_threads" in result:
        rates = result["reader_shapes_per_s_by_threads"]
        result["exponents"]["reader_shapes_per_s_by_threads"] = exponent(
            {threads: rate for threads, rate in rates.items() if threads <= cores}
        )
    if options.json:
        print(json.dumps(result))
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {cores} cores")
    for name, slope in result.pop("exponents").items():
        print(f"\n{name}: exponent {slope:.2f}")
        for size, value in result[name].items():
            print(f"  {size:>9,} {value:12.4f}")


def exponent(values: Mapping[int, float]) -> float:
    """Slope of the best line through the logarithms; 0 for a single size."""
    if len(values) < 2:
        return 0.0
    sizes, costs = np.log([*values]), np.log([*values.values()])
    return float(np.polyfit(sizes, costs, 1)[0])


def medians(ways: Mapping[Key, Callable[[], float]], turns: int) -> dict[Key, float]:
    """Median of what each way returns, one turn to warm up."""
    found: dict[Key, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            value = way()
            if turn:
                found[name].append(value)
    return {name: float(np.median(values)) for name, values in found.items()}


def measure_steps(folder: Path, options: argparse.Namespace) -> dict[str, Table]:
    """Time and memory of a step by its size."""
    batches, points = (BATCHES[:2], POINTS[:2]) if options.quick else (BATCHES, POINTS)
    by_batch = {batch: (batch, USUAL[1]) for batch in batches}
    by_points = {n_points: (USUAL[0], n_points) for n_points in points}
    sizes = {*by_batch.values(), *by_points.values()}
    store = folder / "steps.zarr"
    write_store(store, max(BATCHES), max(POINTS))
    step = make_step(store, options.precision)
    seconds = medians({size: partial(step, *size) for size in sorted(sizes)}, options.turns)
    megabytes = {size: memory_in_child(store, options.precision, size) for size in sorted(sizes)}
    return {
        "step_seconds_by_batch": {batch: seconds[size] for batch, size in by_batch.items()},
        "step_mb_by_batch": {batch: megabytes[size] for batch, size in by_batch.items()},
        "step_seconds_by_points": {n: seconds[size] for n, size in by_points.items()},
        "step_mb_by_points": {n: megabytes[size] for n, size in by_points.items()},
    }


def make_step(store: Path, precision: str) -> Callable[[int, int], float]:
    """A full training step of a batch size and a number of points; it returns its seconds."""
    reader = StoreReader(store)
    config = PretrainConfig.model_validate({"cache": store, "out": "unused"})
    train = TrainingStep(reader, config, pick_dtype(precision, torch.device("cpu")))
    stored = reader.read(np.arange(len(reader)))
    whole = {name: torch.from_numpy(array) for name, array in stored.items()}

    def step(batch: int, n_points: int) -> float:
        begin = time.perf_counter()
        train(
            {name: tensor[:batch] for name, tensor in whole.items()},
            torch.Generator().manual_seed(0),
            config.model_copy(update={"points": n_points}),
        )
        return time.perf_counter() - begin

    return step


def memory_in_child(store: Path, precision: str, size: tuple[int, int]) -> float:
    """Memory of a step in a new process."""
    words = ["--store", store, "--precision", precision, "--memory-of", *size]
    command = [sys.executable, __file__, *map(str, words)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def memory_of_step(store: Path, precision: str, batch: int, n_points: int) -> float:
    """MB by which the second step's peak lies above what the process held before the first."""
    step = make_step(store, precision)
    before = peak_megabytes()
    for _ in range(2):  # the optimizer's moments come with the first
        step(batch, n_points)
    return peak_megabytes() - before


def measure_stores(folder: Path, options: argparse.Namespace) -> dict[str, Table]:
    """Seconds until a store is open, and until its first batch is there."""
    lengths = LENGTHS[:2] if options.quick else LENGTHS
    stores = {length: folder / f"{length}.zarr" for length in lengths}
    for length, path in stores.items():
        write_sparse_store(path, length)

    def seconds_to_open(path: Path) -> float:
        begin = time.perf_counter()
        StoreReader(path)
        return time.perf_counter() - begin

    def seconds_to_read(path: Path) -> float:
        reader = StoreReader(path)
        begin = time.perf_counter()
        next(reader.batches(READ, seed=0, epoch=0, prefetch=PREFETCH))
        return time.perf_counter() - begin

    ways: dict[tuple[str, int], Callable[[], float]] = {}
    for length, path in stores.items():
        ways["open", length] = partial(seconds_to_open, path)
        ways["read", length] = partial(seconds_to_read, path)
    seconds = medians(ways, options.turns)
    return {
        "open_seconds_by_shapes": {length: seconds["open", length] for length in lengths},
        "first_batch_seconds_by_shapes": {length: seconds["read", length] for length in lengths},
    }


def write_sparse_store(path: Path, n_shapes: int) -> None:
    """A store that counts as complete and holds the shards of the first batches only."""
    spec = StoreSpec(
        n_shapes=n_shapes, n_points=2048, n_views=3, image_size=224, grid=(14, 14), channels=512
    )
    order = epoch_order(np.arange(n_shapes), seed=0, epoch=0)[: READ * (PREFETCH + 1)]
    needed = {int(k) for k in order // spec.shard_size}
    axes = np.stack([np.eye(3, dtype=np.float32)] * spec.n_views)
    with open_writer(
        path, spec, view_axes=axes, settings={}, provenance={}, class_names=("sphere",)
    ) as writer:
        writer.write_shard(0, random_shard(np.random.default_rng(0), spec.shard(0), spec))
        for schema in arrays(spec).values():
            for k in needed - {0} if schema.layout != "store" else ():
                (path / schema.key(k)).parent.mkdir(parents=True, exist_ok=True)
                os.link(path / schema.key(0), path / schema.key(k))
        counts = {"train": {"done": n_shapes, "skipped": 0}}
        writer._record(replace(writer.info, complete=True, counts=counts))


def measure_reader(folder: Path, options: argparse.Namespace) -> dict[str, Table]:
    """Shapes per second by the number of threads."""
    path = folder / "reader.zarr"
    write_store(path, 64 if options.quick else 512, USUAL[1])
    threads = THREADS[:2] if options.quick else THREADS
    return {"reader_shapes_per_s_by_threads": rates_by_threads(path, threads, options.turns)}


if __name__ == "__main__":
    main()
