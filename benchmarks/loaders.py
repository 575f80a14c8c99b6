"""Processes that read meshes: two against one, and what is left for the process that writes.

A folder of `.stl`, `.obj` and `.off` meshes, made on the spot or `--data`, in two ways:

- `read`: the points of every shape, as stage one loads them, and nothing else.
- `stage`: stage one as a whole, with a 2D model that costs nothing: it gives made-up features of
  ViT-B/16's size at once. Depth maps, rounding, compression and writing are real, and are work of
  the process that owns the image model.

One loader and two take turns, after one turn to warm up; `--limit` shapes a turn. Clocks start with
the first batch, so the start of the processes is not counted. Where other programs run, believe
the processor seconds: on two cores `*_possible` is what they allow, as `*_loader_ms` and
`*_main_ms` share the cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from extract import FreeImageModel, loaded
from output import show

from i2pmae.allocator import keep_freed_memory
from i2pmae.config import ExtractConfig
from i2pmae.datasets import open_source
from i2pmae.datasets.reading import read_pieces
from i2pmae.extraction import local
from i2pmae.extraction.loading import ShapeReader
from i2pmae.extraction.shards import cut
from i2pmae.image_model import ImageModelInfo
from i2pmae.progress import configure
from i2pmae.stages import extract_2d

INFO = ImageModelInfo(
    name="nothing",
    pretrained="random",
    weights_hash="",
    image_size=224,
    grid=(14, 14),
    channels=512,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    saliency_kind="activation",
    block=None,
    precision="float32",
    device="cpu",
)
N_CORES = 2


class Turn(NamedTuple):
    """What a turn took, per shape."""

    ms: float
    main_ms: float  # of the processor
    loader_ms: float  # of the processor, all loaders together


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: few shapes, one turn")
    parser.add_argument("--data", type=Path, help="folder of meshes; default: made on the spot")
    parser.add_argument("--limit", type=int, default=512, help="shapes per turn")
    parser.add_argument("--points", type=int, default=8192, help="per shape")
    parser.add_argument("--turns", type=int, default=7, help="measurements of each way")
    parser.add_argument("--folder", type=Path, help="where to put meshes and stores")
    options = parser.parse_args()
    configure(quiet=True)
    keep_freed_memory()
    torch.set_num_threads(1)
    if options.quick:
        options.limit, options.points, options.turns = 32, 256, 1
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        if options.data is None:
            options.data = Path(name) / "meshes"
            write_meshes(options.data, options.limit)
        result = measure(options, Path(name))
    show(result, as_json=options.json)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Each way's rates, and what they would be on two cores that do nothing else."""
    result = {}
    for name, way in (("read", read), ("stage", stage)):
        turns: dict[int, list[Turn]] = {1: [], 2: []}
        for turn in range(options.turns + 1):
            for n_loaders, found in turns.items():
                took = way(options, n_loaders, folder)
                found += [took] * (turn > 0)
        one, two = (Turn(*np.median(found, axis=0)) for found in turns.values())
        # one core each, or both shared by all: whichever is later
        alone = max(two.main_ms, two.loader_ms)
        shared = max(two.main_ms, (two.main_ms + two.loader_ms) / N_CORES)
        result |= {
            f"{name}_speedup": float(np.median(paired(turns))),
            f"{name}_possible": alone / shared,
            f"{name}_main_ms": two.main_ms,
            f"{name}_loader_ms": two.loader_ms,
            f"{name}_shapes_per_s_1": 1e3 / one.ms,
            f"{name}_shapes_per_s_2": 1e3 / two.ms,
        }
    return result


def paired(turns: dict[int, list[Turn]]) -> list[float]:
    """How many times as fast two loaders were, turn by turn."""
    return [one.ms / two.ms for one, two in zip(turns[1], turns[2], strict=True)]


def read(options: argparse.Namespace, n_loaders: int, _folder: Path) -> Turn:
    """Points of all shapes, read and forgotten."""
    source = open_source(options.data, limit=options.limit, points=options.points)
    reader = ShapeReader(source, options.points, "stop")
    pieces = cut(range(len(source)), 8)
    clock = Clock()
    with closing(read_pieces(reader, pieces, n_processes=n_loaders)) as reading:
        for piece, outcome in reading:
            outcome.result()
            clock.count(len(piece))
    return clock.turn()


def stage(options: argparse.Namespace, n_loaders: int, folder: Path) -> Turn:
    """Stage one into a new store."""
    config = ExtractConfig(
        data=options.data,
        cache=folder / "turn.zarr",
        limit=options.limit,
        points=options.points,
        loaders=n_loaders,
        precision="fp32",
    )
    clock = Clock()
    batches = local._batches

    def counted(*arguments: Any) -> Iterator[Any]:
        with closing(batches(*arguments)) as found:
            for batch in found:
                clock.count(len(batch.shapes))
                yield batch

    with loaded(FreeImageModel(INFO)), mock.patch.object(local, "_batches", counted):
        extract_2d.run(config)
    shutil.rmtree(config.cache)
    return clock.turn()


class Clock:
    """Seconds and processor seconds, per shape, from the first batch on."""

    def __init__(self) -> None:
        self._n_shapes = 0
        self._first = self._last = np.zeros(3)

    def count(self, n_shapes: int) -> None:
        """Shapes that have arrived; the first of them start the clock."""
        self._last = np.array([time.perf_counter(), time.process_time(), loader_seconds()])
        if self._first.any():
            self._n_shapes += n_shapes
        else:
            self._first = self._last

    def turn(self) -> Turn:
        """The figures so far."""
        return Turn(*(1e3 * (self._last - self._first) / self._n_shapes))


def loader_seconds() -> float:
    """Processor seconds of this process's children."""
    ticks = 0
    for process in multiprocessing.active_children():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def write_meshes(folder: Path, n_shapes: int) -> None:
    """Uneven spheres of 800 to 10,000 triangles, as most meshes that people have."""
    folder.mkdir()
    for i in range(n_shapes):
        rng = np.random.default_rng(i)
        vertices, faces = sphere(int(rng.integers(20, 71)))
        vertices *= rng.uniform(0.5, 1, vertices.shape).astype(np.float32)
        suffix = (".stl", ".obj", ".off")[i % 3]
        (folder / f"{i:05}{suffix}").write_bytes(WRITERS[suffix](vertices, faces))


def sphere(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n n, 3) and triangles of a grid of degrees of longitude and latitude."""
    turn, height = np.meshgrid(np.linspace(0, 2 * np.pi, n), np.linspace(0, np.pi, n))
    vertices = [np.cos(turn) * np.sin(height), np.cos(height), np.sin(turn) * np.sin(height)]
    first = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).reshape(-1, 1)
    faces = np.concatenate([first + np.array(corners) for corners in ((0, 1, n), (1, n + 1, n))])
    return np.stack(vertices, axis=-1).reshape(-1, 3).astype(np.float32), faces


def stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """Binary, normals left out."""
    facets = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("", "<u2")])
    facets["corners"] = vertices[faces]
    return bytes(80) + len(faces).to_bytes(4, "little") + facets.tobytes()


def obj(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """Vertices and triangles, counted from 1."""
    return rows("v ", vertices) + rows("f ", faces + 1)


def off(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """Numbers of both, vertices, triangles."""
    return (
        f"OFF\n{len(vertices)} {len(faces)} 0\n".encode() + rows("", vertices) + rows("3 ", faces)
    )


def rows(begin: str, table: np.ndarray) -> bytes:
    """A line for each row."""
    return "".join(f"{begin}{' '.join(map(str, row))}\n" for row in table.tolist()).encode()


WRITERS = {".stl": stl, ".obj": obj, ".off": off}

if __name__ == "__main__":
    main()
