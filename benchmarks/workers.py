"""Stage one on one worker against two, from a source that makes them wait.

Every shape takes `--latency` seconds to load, asleep, as from a slow file system or a bucket: what
is measured is whether workers wait at the same time, which any number of cores can show. Each way
has a dask cluster of its own on this machine, of one and of two processes with one thread each,
started before; the two take turns, after one turn to warm up. A turn is the whole of stage one
through `i2pmae.stages.extract_2d`: loading every shape once, encoding and
writing it. The stores of all turns must be the same byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import dask
import numpy as np
from extract import alternate
from output import show

from i2pmae.config import ExtractConfig, ImageModelConfig, StoreConfig, WorkersConfig
from i2pmae.extraction import clusters, workers
from i2pmae.progress import configure
from i2pmae.stages import extract_2d

PRELOAD = """
import os, time
from i2pmae.datasets.source import ShapeSource

def load_late(self, index):
    time.sleep({latency})
    return load(self, index)

# dask runs this in the process that starts workers, too, and may run it twice
if os.getpid() != {pid} and ShapeSource.load_with_original.__name__ != "load_late":
    load = ShapeSource.load_with_original
    ShapeSource.load_with_original = load_late
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: few shapes, one turn")
    parser.add_argument("--shapes", type=int, default=64, help="per turn")
    parser.add_argument("--shard-size", type=int, default=4, help="shapes per shard")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds to load a shape")
    parser.add_argument("--turns", type=int, default=7, help="measurements of each way")
    parser.add_argument("--folder", type=Path, help="where to put stores")
    options = parser.parse_args()
    configure(quiet=True)
    if options.quick:
        options.shapes, options.shard_size, options.turns = 8, 2, 1
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        result = scaling(options, Path(name))
    show(result, as_json=options.json)


def scaling(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds with one and with two workers, and how many times as fast two are."""
    found: set[str] = set()
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(late_loading(folder, options.latency)))
        ways = {
            f"{n}": turn(options, stack.enter_context(cluster(n)), n, folder, found) for n in (1, 2)
        }
        seconds, _ = alternate(ways, options.turns)
    if len(found) != 1:
        raise SystemExit("one worker and two have written different stores")
    return {
        "speedup_2_workers": float(np.median(seconds["1"] / seconds["2"])),
        **{f"seconds_{n}": float(np.median(taken)) for n, taken in seconds.items()},
        "asleep_seconds": options.latency * options.shapes,  # of one worker
    }


def late_loading(folder: Path, latency: float) -> dict[str, Any]:
    """dask's settings under which workers load shapes late."""
    file = folder / "late.py"
    file.write_text(PRELOAD.format(latency=latency, pid=os.getpid()))
    return {"distributed.worker.preload": [str(file)], **workers._DASK_SETTINGS}


@contextmanager
def cluster(n_workers: int) -> Iterator[Any]:
    """The workers that `--workers` would start, one thread each."""
    with (
        mock.patch.object(clusters, "_DASHBOARD", "127.0.0.1:0"),
        clusters.local_cluster(n_workers, 1) as found,
    ):
        found.wait_for_workers(n_workers)
        yield found


def turn(
    options: argparse.Namespace, started: Any, n_workers: int, folder: Path, found: set[str]
) -> Callable[[], None]:
    """Stage one on a cluster; each call writes a store, and adds its checksum to `found`."""
    path = folder / f"{n_workers}.zarr"
    config = ExtractConfig(
        data=Path("procedural"),
        cache=path,
        limit=options.shapes,
        points=512,
        batch_size=options.shard_size,
        precision="fp32",
        image_model=ImageModelConfig(name="timm:test_vit", pretrained="random", image_size=64),
        store=StoreConfig(shard_size=options.shard_size),
        workers=WorkersConfig(count=n_workers, threads=1),
    )

    def call() -> None:
        with mock.patch.object(workers, "local_cluster") as start:
            start.return_value = nullcontext(started)
            extract_2d.run(config)
        found.add(checksum(path))
        shutil.rmtree(path)

    return call


def checksum(folder: Path) -> str:
    """Of all files below a folder, with their names."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(str(file.relative_to(folder)).encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


if __name__ == "__main__":
    main()
