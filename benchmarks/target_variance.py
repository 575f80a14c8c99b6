"""What the 2D features of a store depend on: view, place of the patch, class, shape, or the patch.

    python benchmarks/target_variance.py runs/guidance/stores/{vit,vit-random}.zarr

Features are standardized channel by channel, as `targets.standardize` does: their variance over all
patches that a point reads is 1. Each figure is the share of it that one mean explains, in percent:
the mean of the `view`; of the view and `place` of the patch; of the view and `class`; of the view
and `shape`. Means come from one half of what they are taken over and are judged on the other: of
the shapes, or for `shape` of its patches, every second one as on a chessboard. What remains differs
from patch to patch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2pmae.store import StoreReader

Array = NDArray[np.float32]
NAMES = ("view", "place", "class", "shape")


def main() -> None:
    """Measure every store and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--shapes", type=int, default=400, help="of each store")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    found = {store.name: measure(store, options.shapes) for store in options.stores}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'':24}" + "".join(f"{name:>8}" for name in NAMES))
    for store, shares in found.items():
        print(f"{store:24}" + "".join(f"{shares[name]:8.1f}" for name in NAMES))


def measure(store: Path, n_shapes: int) -> dict[str, float]:
    """Shares in percent, by name."""
    reader = StoreReader(store)
    chosen = np.random.default_rng(0).permutation(len(reader))[:n_shapes]
    batch = reader.read(chosen, ["features", "feature_scale", "label"])
    features = batch["features"].astype(np.float32)
    if "feature_scale" in batch:
        features *= batch["feature_scale"][:, None, None, None]
    return shares(features, batch["label"])


def shares(features: Array, labels: NDArray[Any]) -> dict[str, float]:
    """Of features (S, V, h, w, C), zero where no point reads, and labels (S,)."""
    read = features.any(axis=-1)
    mean, deviation = features[read].mean(axis=0), features[read].std(axis=0)
    values = (features - mean) / np.maximum(deviation, 1e-12) * read[..., None]
    height, width = read.shape[2:]
    odd_shapes = np.arange(len(values)) % 2 == 1
    chessboard = np.add.outer(np.arange(height), np.arange(width)) % 2 == 1
    first = np.broadcast_to(odd_shapes[:, None, None, None], read.shape)
    of_class = labels[:, None] == np.unique(labels)  # (S, classes)
    everywhere = np.ones((len(values), 1), bool)
    return {
        "view": explained(values, read, first, everywhere),
        "place": explained(values, read, first, everywhere, by_place=True),
        "class": explained(values, read, first, of_class),
        "shape": explained(
            values, read, np.broadcast_to(chessboard, read.shape), np.eye(len(values), dtype=bool)
        ),
    }


def explained(
    values: Array,
    read: NDArray[np.bool_],
    first: NDArray[np.bool_],
    groups: NDArray[np.bool_],
    by_place: bool = False,
) -> float:
    """Percent of the variance that means over groups explain.

    Args:
        values: (S, V, h, w, C), zero where nothing was read.
        read: (S, V, h, w).
        first: (S, V, h, w), the half that means are taken from; the other is what they explain.
        groups: (S, groups), one true value per row: whose shapes share a mean, view by view.
        by_place: whether every place has a mean of its own.
    """
    over = "sg,svhwc->gvhwc" if by_place else "sg,svhwc->gvc"
    taken, judged = read & first, read & ~first
    sums = np.einsum(over, groups.astype(np.float32), values * taken[..., None])
    counts = np.einsum(over, groups.astype(np.float32), taken[..., None].astype(np.float32))
    means = sums / np.maximum(counts, 1)
    own = means[groups.argmax(axis=1)]
    if not by_place:
        own = own[:, :, None, None]
    errors = np.square(values - own).mean(axis=-1)[judged]
    return float(100 * (1 - errors.mean() / np.square(values).mean(axis=-1)[judged].mean()))


if __name__ == "__main__":
    main()
