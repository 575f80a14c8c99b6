"""What a store holds, as tables or as plain values."""

import math
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from i2pmae.progress import (
    Progress,
    format_bytes,
    print_class_table,
    print_picture,
    print_table,
    print_text,
)
from i2pmae.settings import flat_rows
from i2pmae.store.histogram import Counted, counted_arrays, histograms
from i2pmae.store.inspect import Cache, Description, describe, open_cache
from i2pmae.store.schema import DONE

_VIEWS = 3  # in the terminal
_SIDE = 24  # characters across a view
_BARS = " ▁▂▃▄▅▆▇█"
_SMALL = 10_000  # bytes of an array below which its share of overhead says nothing


ShownShape = TypedDict("ShownShape", {"id": str, "class": str | None})


class _Histograms(TypedDict, total=False):
    histograms: dict[str, Counted]  # by array


class Result(Description, _Histograms):
    """A store's description, one of its shapes and how to open it."""

    shape: ShownShape | None  # None in a store without any
    snippets: dict[str, str]  # `dask`, `xarray`


def run(cache: Path, *, histograms: bool = False, seed: int | None = None) -> Result:
    """Describe a store: arrays, sizes, provenance, completeness, classes, one of its shapes.

    Args:
        cache: a store, or a folder that holds exactly one.
        histograms: read every array of numbers and count its values.
        seed: of the choice of the shape; None: another one every time.

    Returns:
        See `Result`.

    Raises:
        StoreError: if there is no readable store.
    """
    described = describe(cache)
    shapes = described["shapes"]
    state = "complete" if described["complete"] else "not complete, run extract-2d again"
    print_table(
        f"{described['path']}: {shapes['done']} shapes done, {shapes['skipped']} skipped, "
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
                format_bytes(array["stored_bytes"]),
                f"{array['stored_bytes'] / array['dense_bytes']:.0%}"
                if array["dense_bytes"] > _SMALL
                else "-",
            ]
            for name, array in described["arrays"].items()
        ],
    )
    n_done = max(shapes["done"], 1)
    print_table(
        "",
        ["size", "value"],
        [
            ["all arrays", format_bytes(described["stored_bytes"])],
            ["per shape", format_bytes(described["stored_bytes"] / n_done)],
        ],
    )
    print_table("Provenance", ["what", "value"], flat_rows(described["attrs"]))
    for split, counts in described["classes"].items():
        rows = sorted(counts.items())
        print_class_table(f"Classes, split {split}", ["class", "shapes"], rows)
    opened = open_cache(described["path"])
    more: _Histograms = {"histograms": _histograms(opened)} if histograms else {}
    result: Result = {
        **described,
        **more,
        "shape": _one_shape(opened, seed),
        "snippets": snippets(opened),
    }
    for library, text in result["snippets"].items():
        print_text(f"\nThe same in Python, with {library}:\n\n{text}")
    return result


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


def _histograms(cache: Cache) -> dict[str, Counted]:
    """Count the values of every array and draw them as bars."""
    n_steps = len(counted_arrays(cache)) * cache.info.spec.n_shapes
    with Progress("histograms", total=n_steps) as progress:
        found = histograms(cache, progress.advance)
    rows = []
    for name, counted in found.items():
        if not counted["count"]:
            continue
        of_all = (counted["min"], counted["mean"], counted["std"], counted["max"])
        numbers = [f"{number:.4g}" for number in of_all]
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


def _one_shape(cache: Cache, seed: int | None) -> ShownShape | None:
    """Print depth maps of a shape, chosen by chance."""
    from i2pmae.pictures.depth import upright

    done = np.flatnonzero(np.asarray(cache.raw("status").compute()) == DONE)
    if not len(done):
        return None
    index = int(np.random.default_rng(seed).choice(done))
    pictures = cache.info.spec.pictures
    shown = np.asarray(cache.raw(pictures)[index, :_VIEWS].compute())
    label = int(cache.raw("label")[index].compute())
    shape_id = str(cache.raw("id")[index].compute())
    class_name = cache.class_names[label] if label >= 0 else None
    what = "normals" if pictures == "normals" else "depth maps"
    print_text(f"\n{shape_id} ({class_name or 'no class'}), {what} of its first views:")
    axes = np.asarray(cache.raw("view_axes").compute())[: len(shown)]
    print_picture(_picture(upright(shown[None], axes)[0]))
    return {"id": shape_id, "class": class_name}


def _picture(depth: NDArray[np.uint8]) -> list[list[float]]:
    """Views (V, H, W) side by side, small, how far they are from the background.

    Of normals (V, H, W, 3), how far they turn towards the viewer.
    """
    depth = depth if depth.ndim == 3 else depth[..., 2]
    side = min(_SIDE, depth.shape[-1])
    size = depth.shape[-1] // side * side
    distance = np.abs(depth[:, :size, :size].astype(np.float64) - int(depth[0, 0, 0]))
    blocks = distance.reshape(len(depth), side, size // side, side, size // side)
    small = blocks.mean(axis=(2, 4))
    small /= np.maximum(small.max(axis=(1, 2), keepdims=True), 1e-9)
    gap = np.zeros((side, 2))
    rows: list[list[float]] = np.hstack([part for view in small for part in (view, gap)]).tolist()
    return rows


def _sizes(shape: list[int]) -> str:
    return " x ".join(map(str, shape))
