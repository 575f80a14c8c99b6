"""How much of the 2D features of a store is the same for a view, a place, a class, a shape.

    python experiments/target_variance.py runs/guidance/stores/{vit,vit-random}.zarr

Features are standardized channel by channel, as `targets.standardize` does: their variance over all
patches that a point reads is 1. Each figure is the variance, in percent, of one mean: of the
features of a `view`; of a view and the `place` of a patch; of a view and a `class`; of a view and a
`shape`. It is the product of the means of two halves, which has no noise of its own in it: of odd
and even shapes, or for `shape` of the left and the right half of its patches. All of them count
what a view's features share, so they do not add up.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2pmae.errors import StoreError
from i2pmae.store import StoreReader
from i2pmae.store.quantize import dequantize

Array = NDArray[np.float32]


def main() -> None:
    """Measure every store and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--shapes", type=int, default=400, help="of each store")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    try:
        found = {store.name: measure(store, options.shapes) for store in options.stores}
    except StoreError as error:
        raise SystemExit(str(error)) from None
    if options.json:
        print(json.dumps(found))
        return
    for store, shares in found.items():
        cells = [f"{name} {share:5.1f}" for name, share in shares.items()]
        print(f"{store:24}", *cells, sep="  ")


def measure(store: Path, n_shapes: int) -> dict[str, float]:
    """Shares in percent, by name; without `class` where shapes have no labels."""
    reader = StoreReader(store)
    chosen = np.random.default_rng(0).permutation(len(reader))[:n_shapes]
    has_codes = reader.info.spec.dtype == "int8"
    names = ["features", "label", *(["feature_scale"] if has_codes else [])]
    batch = reader.read(chosen, names)
    features = batch["features"]
    if has_codes:
        features = dequantize(features, batch["feature_scale"])
    return shares(features.astype(np.float32, copy=False), batch["label"])


def shares(features: Array, labels: NDArray[Any]) -> dict[str, float]:
    """Of features (S, V, h, w, C), zero where no point reads, and labels (S,), -1 for none."""
    read = features.any(axis=-1)
    mean, std = features[read].mean(axis=0), features[read].std(axis=0)
    values = (features - mean) / np.maximum(std, 1e-12) * read[..., None]
    sums, counts = values.sum(axis=(2, 3)), read.sum(axis=(2, 3))  # (S, V, C), (S, V)
    odd = np.arange(len(values)) % 2 == 1
    left = np.arange(read.shape[3]) < read.shape[3] // 2
    classes = np.unique(labels)
    found = {
        "view": shared(*((sums[half].sum(0), counts[half].sum(0)) for half in (odd, ~odd))),
        "place": shared(*((values[half].sum(0), read[half].sum(0)) for half in (odd, ~odd))),
    }
    if len(classes) > 1:
        of_class = labels == classes[:, None]  # (classes, S)
        found["class"] = shared(
            *(
                [np.stack([x[own & half].sum(0) for own in of_class]) for x in (sums, counts)]
                for half in (odd, ~odd)
            )
        )
    found["shape"] = shared(
        *(
            (values[:, :, :, half].sum(axis=(2, 3)), read[..., half].sum(axis=(2, 3)))
            for half in (left, ~left)
        )
    )
    return found


def shared(*halves: Sequence[NDArray[Any]]) -> float:
    """Percent of the variance that two halves of every group share.

    Args:
        halves: of each, sums (..., C) of standardized features over a group, and counts (...).

    Returns:
        nan where no group has both halves.
    """
    means = [sums / np.maximum(counts, 1)[..., None] for sums, counts in halves]
    products = np.mean(means[0] * means[1], axis=-1)
    both = np.prod([counts > 0 for _, counts in halves], axis=0)
    weights = both * sum(counts for _, counts in halves)
    total = np.sum(weights)
    return float(100 * np.sum(products * weights) / total) if total else float("nan")


if __name__ == "__main__":
    main()
