"""What a store holds, as tables or as plain values."""

import textwrap
from pathlib import Path
from typing import Any

from i2pmae.progress import print_table
from i2pmae.store.inspect import describe

_WIDEST = 90  # characters of a value in the table
_SMALL = 10_000  # bytes of an array below which its share of overhead says nothing


def run(cache: Path) -> dict[str, Any]:
    """Describe a store: arrays, sizes, provenance, completeness and class counts.

    Args:
        cache: a store, or a folder that holds exactly one.

    Returns:
        What `store.inspect.describe` returns.

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
    return found


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
