"""Which pictures does a frozen 2D network tell shapes apart by? Its pooled features, no 3D network.

    python experiments/views.py furniture_meshes --vit vit_small.safetensors

extracts a store for every way to look and to draw, and scores the features: mean over the patches
that points read, and mean over the points that a view sees, views side by side. Scores are those of
`guidance.py` on four quarters of the training shapes in turn, by the other three: choices are made
by them. `--test` scores the test shapes instead. Stores that exist are used again. Point clouds are
drawn as points only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guidance import probe, write
from guidance_arms import VIT
from numpy.typing import NDArray

from i2pmae.datasets import open_source
from i2pmae.evaluation.image_features import pooled_image_features
from i2pmae.evaluation.probes import folds
from i2pmae.store import StoreReader
from i2pmae.store.point_features import point_features
from i2pmae.training.stored import to_tensors

POSES = ("axis", "upright", "oblique")
DRAWS = ("sum", "nearest", "surface-depth", "surface-normals", "surface-shaded")
SHOWN, POOLINGS = ("svm", "labels_5", "map"), ("patches", "points_seen")
HEAD = (
    "| `views.draw` | `views.pose` | views | over patches | over points seen |",
    "| --- | --- | --- | --- | --- |",
)
QUARTERS, AT_ONCE = 4, 16

Array = NDArray[np.float32]


def main() -> None:
    """Extract what is missing, score everything, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="labeled meshes or clouds")
    parser.add_argument("--up", choices=("x", "y", "z"), default="y", help="axis that points up")
    parser.add_argument("--vit", help="weights of the ViT-S/14, or random; default: the hub's")
    parser.add_argument("--block", type=int, default=6, help="whose features are pooled")
    parser.add_argument("--poses", nargs="+", choices=POSES, default=POSES)
    parser.add_argument("--draws", nargs="+", choices=DRAWS, default=DRAWS)
    parser.add_argument("--views", nargs="+", type=int, default=[3])
    parser.add_argument("--test", action="store_true", help="score the test shapes")
    parser.add_argument("--work", type=Path, default=Path("runs/views"), help="stores")
    parser.add_argument("--results", type=Path, help="JSON file of all scores")
    options = parser.parse_args()
    source = open_source(options.data, split="all", up=options.up)
    draws = [draw for draw in options.draws if source.has_surfaces or "surface" not in draw]
    found: list[dict[str, Any]] = []
    print("\n".join(HEAD))
    for n_views in options.views:
        for draw in draws:
            for pose in options.poses:
                reader = StoreReader(extract(options, pose, draw, n_views))
                scores = {
                    pooling: score(features, reader, options.test)
                    for pooling, features in pooled(reader)
                }
                found.append({"draw": draw, "pose": pose, "views": n_views, **scores})
                print(row(found[-1]), flush=True)
                if options.results:
                    write(options.results, found)


def row(found: dict[str, Any]) -> str:
    """A line of the table, Markdown."""
    cells = [" / ".join(f"{found[pooling][key]:.1f}" for key in SHOWN) for pooling in POOLINGS]
    return f"| `{found['draw']}` | `{found['pose']}` | {found['views']} | {' | '.join(cells)} |"


def extract(options: argparse.Namespace, pose: str, draw: str, n_views: int) -> Path:
    """The store of one way to look and to draw; made now unless it is there."""
    path = Path(options.work) / f"{pose}-{draw}-{n_views}.zarr"
    command = [sys.executable, "-m", "i2pmae", "extract-2d", str(options.data), *VIT]
    command += ["--cache", str(path), "--split", "all", "--points", "2048", "--up", options.up]
    command += ["--pose", pose, "--draw", draw, "--views", str(n_views), "--quiet"]
    command += ["--set", "views.visible_only=true", "--set", f"image_model.block={options.block}"]
    command += ["--pretrained", options.vit] if options.vit else []
    subprocess.run(command, check=True)
    return path


def pooled(reader: StoreReader) -> Iterator[tuple[str, Array]]:
    """Features (S, V C) of all shapes, pooled in two ways."""
    indices = np.arange(len(reader))
    yield "patches", pooled_image_features(reader, indices).reshape(len(reader), -1)
    axes, means = torch.from_numpy(reader.view_axes), []
    for first in range(0, len(reader), AT_ONCE):
        batch = to_tensors(reader.read(indices[first : first + AT_ONCE]))
        seen = batch["visible"].float()[..., None]
        features = point_features(batch, axes, reader.image_size)
        means.append((seen * features).sum(dim=2) / seen.sum(dim=2).clamp(min=1))
    yield "points_seen", torch.cat(means).flatten(1).numpy()


def score(features: Array, reader: StoreReader, of_test: bool) -> dict[str, float]:
    """Scores in percent, means over the quarters."""
    labels, splits = reader.read_all("label"), reader.read_all("split")
    is_test = splits == "test"
    if of_test:
        return _probe(features, labels, np.flatnonzero(~is_test), np.flatnonzero(is_test))
    kept = np.flatnonzero(~is_test)
    quarter = folds(labels[kept], QUARTERS)
    scores = [
        _probe(features, labels, kept[quarter != k], kept[quarter == k]) for k in range(QUARTERS)
    ]
    return {key: float(np.mean([part[key] for part in scores])) for key in scores[0]}


def _probe(
    features: Array, labels: NDArray[np.int64], train: Sequence[int], test: Sequence[int]
) -> dict[str, float]:
    found = probe(features[train], labels[train], features[test], labels[test], ())
    return {key: round(value, 3) for key, value in found.items()}


if __name__ == "__main__":
    main()
