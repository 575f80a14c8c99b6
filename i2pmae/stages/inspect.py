"""What a store holds, as tables or as plain values."""

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2pmae.progress import Progress, print_picture, print_table, print_text
from i2pmae.store.histogram import counted_arrays, histograms
from i2pmae.store.inspect import Cache, describe, open_cache
from i2pmae.store.schema import DONE

_WIDEST = 90  # characters of a value in the table
_VIEWS = 3  # in the terminal
_SIDE = 24  # characters across a view
_BARS = " ▁▂▃▄▅▆▇█"
_SMALL = 10_000  # bytes of an array below which its share of overhead says nothing


def run(cache: Path, *, with_histograms: bool = False, seed: int | None = None) -> dict[str, Any]:
    """Describe a store: arrays, sizes, provenance, completeness, classes, one of its shapes.

    Args:
        cache: a store, or a folder that holds exactly one.
        with_histograms: read every array of numbers and count its values.
        seed: of the choice of the shape; None: another one every time.

    Returns:
        What `store.inspect.describe` returns; `shape` (`id`, `class`), null in a store without
        any; `snippets` (`dask`, `xarray`); with histograms `histograms` by array.

    Raises:
        StoreError: if there is no readable store.
    """
    found = describe(cache)
    shapes = found["shapes"]
    state = "complete" if found["complete"] else "not complete, run extract-2d again"
    print_table(
        f"{found['path']}: {shapes['done']} shapes done, {shapes['skipped']} skipped, "
        f"{shapes['pending']} pending; {state}",
        ["array", "dimensions", "shape", "dtype", "chunk", "shard", "stored", "of dense"],
        [
            [
                name,
                ", ".join(array["dimensions"]),
                _sizes(array["shape"]),
                array["dtype"],
                _sizes(array["chunks"]),
                "-" if array["shards"] is None else _sizes(array["shards"]),
                readable_bytes(array["stored_bytes"]),
                f"{array['stored_bytes'] / array['dense_bytes']:.0%}"
                if array["dense_bytes"] > _SMALL
                else "-",
            ]
            for name, array in found["arrays"].items()
        ],
    )
    n_done = max(shapes["done"], 1)
    print_table(
        "",
        ["size", "value"],
        [
            ["all arrays", readable_bytes(found["stored_bytes"])],
            ["per shape", readable_bytes(found["stored_bytes"] / n_done)],
        ],
    )
    print_table("Provenance", ["what", "value"], list(flat_rows(found["attrs"])))
    for split, counts in found["classes"].items():
        rows = sorted(counts.items())
        print_table(f"Classes, split {split}", ["class", "shapes"], [[*row] for row in rows])
    opened = open_cache(found["path"])
    if with_histograms:
        found["histograms"] = _histograms(opened)
    found["shape"] = _one_shape(opened, seed)
    found["snippets"] = snippets(opened)
    for library, text in found["snippets"].items():
        print_text(f"\nThe same in Python, with {library}:\n\n{text}")
    return found


def snippets(cache: Cache) -> dict[str, str]:
    """Three lines each that bring a store's features into Python, to be copied."""
    path, features = str(cache.path), "store.features[:64]"
    if "feature_scale" in cache:
        features = "(store.features[:64] * store.feature_scale[:64])"
    return {
        "dask": "import i2pmae\n"
        f"cache = i2pmae.open_cache({path!r})\n"
        'means = cache["features"][:64].mean(axis=(1, 2, 3)).compute()  # one vector per shape',
        "xarray": "import xarray\n"
        f"store = xarray.open_zarr({path!r})\n"
        f'means = {features}.mean(["view", "patch_row", "patch_column"]).values  # the same',
    }


def _histograms(cache: Cache) -> dict[str, Any]:
    """Count the values of every array and draw them as bars."""
    n_steps = len(counted_arrays(cache)) * cache.info.spec.n_shapes
    with Progress("histograms", total=n_steps) as progress:
        found = histograms(cache, progress.advance)
    rows = []
    for name, counted in found.items():
        if not counted["count"]:
            continue
        numbers = [f"{counted[key]:.4g}" for key in ("min", "mean", "std", "max")]
        zeros = f"{counted['zeros'] / counted['count']:.1%}"
        rows.append([name, *numbers, zeros, f"{counted['not_finite']:,}", _bars(counted["counts"])])
    columns = ["array", "min", "mean", "std", "max", "zeros", "not finite", "from min to max"]
    print_table("Histograms, heights by square root", columns, rows)
    return found


def _bars(counts: list[int]) -> str:
    """Counts as bars of eight heights; what is there at all has one."""
    top = math.sqrt(max(counts))
    return "".join(
        _BARS[math.ceil(math.sqrt(count) / top * (len(_BARS) - 1))] if count else " "
        for count in counts
    )


def _one_shape(cache: Cache, seed: int | None) -> dict[str, Any] | None:
    """Print depth maps of a shape, chosen by chance."""
    done = np.flatnonzero(np.asarray(cache.raw("status").compute()) == DONE)
    if not len(done):
        return None
    index = int(np.random.default_rng(seed).choice(done))
    depth = np.asarray(cache.raw("depth")[index, :_VIEWS].compute())
    label = int(cache.raw("label")[index].compute())
    shape_id = str(cache.raw("id")[index].compute())
    class_name = cache.class_names[label] if label >= 0 else None
    print_text(f"\n{shape_id} ({class_name or 'no class'}), depth maps of its first views:")
    print_picture(_picture(depth))
    return {"id": shape_id, "class": class_name}


def _picture(depth: NDArray[np.uint8]) -> list[list[float]]:
    """Views (V, H, W) side by side, small, how far they are from the background."""
    side = min(_SIDE, depth.shape[-1])
    size = depth.shape[-1] // side * side
    distance = np.abs(depth[:, :size, :size].astype(np.float64) - int(depth[0, 0, 0]))
    blocks = distance.reshape(len(depth), side, size // side, side, size // side)
    small = blocks.mean(axis=(2, 4))
    small /= np.maximum(small.max(axis=(1, 2), keepdims=True), 1e-9)
    gap = np.zeros((side, 2))
    rows: list[list[float]] = np.hstack([part for view in small for part in (view, gap)]).tolist()
    return rows


def flat_rows(values: dict[str, Any], prefix: str = "") -> list[list[str]]:
    """Settings or provenance as rows of name and value, nested keys dotted."""
    rows: list[list[str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += flat_rows(value, f"{prefix}{name}.")
        else:
            rows.append([f"{prefix}{name}", textwrap.shorten(str(value), _WIDEST)])
    return rows


def _sizes(shape: list[int]) -> str:
    return " x ".join(map(str, shape))


def readable_bytes(count: float) -> str:
    """A number of bytes in the unit that fits, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
