"""Points with the names of their parts in a file that other programs read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2pmae.atomic_write import written

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3), ("part", "<i4")])


def write_labeled_points(
    path: Path,
    points: NDArray[np.float32],
    parts: NDArray[np.int64],
    names: Sequence[str],
    palette: Sequence[str],
    *,
    made_by: str,
) -> None:
    """Write points and their parts.

    Args:
        path: `.npz` with `made_by`, `points`, `parts` and `part_names`; or `.ply`, binary, with a
            color per part, the property `part` per vertex, and a comment per part that gives its
            name.
        points: (N, 3).
        parts: (N,) index into `names`.
        names: of all parts.
        palette: colors of parts in turn, as `#0072B2`.
        made_by: the command that writes it, which the first bytes of the file name.

    Raises:
        DataError: if the file cannot be written.
    """
    with written(path) as temporary, temporary.open("wb") as stream:
        if path.suffix == ".npz":
            np.savez(
                stream,
                made_by=np.bytes_(made_by),
                points=points,
                parts=parts,
                part_names=np.asarray(names, np.str_),
            )
            return
        present = np.unique(parts).tolist()
        comments = [f"comment part {k} {' '.join(names[k].split())}" for k in present]
        axes = [f"property float {axis}" for axis in "xyz"]
        colors = [f"property uchar {color}" for color in ("red", "green", "blue")]
        header = [
            *("ply", "format binary_little_endian 1.0", f"comment made by {made_by}", *comments),
            *(f"element vertex {len(points)}", *axes, *colors, "property int part", "end_header"),
        ]
        vertices = np.empty(len(points), _VERTEX)
        vertices["xyz"], vertices["part"] = points, parts
        rgb = np.array([[*bytes.fromhex(color[1:])] for color in palette], np.uint8)
        vertices["rgb"] = rgb[parts % len(rgb)]
        stream.write("".join(f"{line}\n" for line in header).encode() + vertices.tobytes())
