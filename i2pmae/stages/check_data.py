"""What a data set holds, and what looks wrong with it, before hours are spent on it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2pmae.config import EncoderConfig
from i2pmae.datasets import Shape, ShapeSource, open_source, survey
from i2pmae.datasets.meshes import Meshes
from i2pmae.errors import DataError
from i2pmae.progress import Progress, note, print_table, warn

_LISTED = 20  # rows of a table; the JSON object holds all
_FAR = {0.99: 2.0, 0.95: 5.0}  # share of the points, how far the others may lie; real objects stay
# below 1.3 and 3
_FLAT = 1e-3  # spread across a plane or line, relative to the spread along it
_OFF_ORIGIN = 1e3  # distance from the origin in sizes of the shape; float32 keeps four digits
_RADII = (0.5, 2.0)  # distance of the farthest point where coordinates are used as stored
_SPLITS = ("train", "val", "test", "")


class _Look(NamedTuple):
    """What one shape shows."""

    n_points: int  # in the file
    low: NDArray[np.float64]  # (3,) in the unit of the file
    high: NDArray[np.float64]
    key: str  # equal for equal contents
    findings: list[tuple[str, str]]  # kind and reason


def run(data: Path, *, layout: str = "auto") -> dict[str, Any]:
    """Read every shape of a data set once and say what it holds and what looks wrong.

    Shapes are duplicates if they hold the same points, in whatever order; meshes, whose points
    are drawn, if their files are equal. Outliers, flat shapes and the like may be as they should:
    they are worth a look, not errors.

    Args:
        data: a data set, see `open_source`.
        layout: of the data set, or `auto`.

    Returns:
        `path`, `layout`, `recipe`, `shapes`, `usable`, `splits` (shapes of each), `classes` (per
        split the shapes of each class), `points` (least, median and most per shape; None for
        meshes), `range` (per axis, unit of the files), `size` (longest side of the shapes' boxes),
        `duplicates` (`within_splits`, `between_splits`, `conflicting`, `groups`), `bad` (id and
        reason of shapes that cannot be used), `suspicious` (id, kind, reason), `missing` (splits
        that are not there), `notes`.

    Raises:
        DataError: if the layout is not recognized or incomplete, or no shape can be used.
    """
    source = open_source(data, layout=layout, split="all")
    looks: dict[int, _Look] = {}

    def look(index: int, shape: Shape, original: NDArray[Any]) -> None:
        looks[index] = _look(source, index, shape, original)

    with Progress("check", total=len(source)) as progress:
        bad = survey(source, progress=progress.advance, look=look).bad
    if not looks:
        raise DataError(
            f"{data}: none of its {len(source)} shapes can be used; the first: {bad[0]}"
        )
    looks = dict(sorted(looks.items()))  # threads end in any order
    result = {
        "path": str(data),
        "layout": source.layout,
        "recipe": source.recipe,
        "shapes": len(source),
        "usable": len(looks),
        "splits": dict(Counter(name or "none" for name in source.splits)),
        "classes": _count_classes(source),
        "points": None
        if isinstance(source, Meshes)
        else _spread([v.n_points for v in looks.values()]),
        "range": _ranges(looks),
        "size": _spread([float((v.high - v.low).max()) for v in looks.values()]),
        "duplicates": _duplicates(source, looks),
        "bad": [{"id": source.ids[index], "reason": reason} for index, reason in bad.items()],
        "suspicious": [
            {"id": source.ids[index], "kind": kind, "reason": reason}
            for index, seen in looks.items()
            for kind, reason in seen.findings
        ],
        "missing": _missing_splits(data, source),
        "notes": [*source.notes, *_notes(source)],
    }
    _show(result)
    return result


def _look(source: ShapeSource, index: int, shape: Shape, original: NDArray[Any]) -> _Look:
    xyz = np.asarray(original[:, :3], np.float64)
    key = hashlib.sha256()
    if isinstance(source, Meshes):
        key.update(source.entries[index].file.read_bytes())
    else:
        with np.errstate(over="ignore"):
            rounded = xyz.astype(np.float32) + np.float32(0)  # no -0
        key.update(rounded[np.lexsort(rounded.T)].tobytes())
    findings = _findings(xyz)
    n_needed = EncoderConfig().n_centers[0]
    if len(xyz) < n_needed:
        findings.append(
            ("few points", f"{len(xyz)} points; the paper's network groups around {n_needed}")
        )
    if not source.unit_sphere:
        findings += _stored_findings(shape.points)
    return _Look(len(xyz), xyz.min(axis=0), xyz.max(axis=0), key.hexdigest(), findings)


def _findings(xyz: NDArray[np.float64]) -> list[tuple[str, str]]:
    """What is odd about coordinates of any unit."""
    unit = np.abs(xyz).max()
    xyz = xyz / unit  # so that squares neither overflow nor vanish
    middle = np.median(xyz, axis=0)
    radii = np.sort(np.linalg.norm(xyz - middle, axis=1))
    findings = []
    for share, allowed in _FAR.items():
        inner = radii[int(share * (len(radii) - 1))]
        if radii[-1] > allowed * inner:
            n_far = int((radii > allowed * inner).sum())
            reach = f"{radii[-1] / inner:.3g} times as far out as" if inner > 0 else "away from"
            reason = f"{n_far} of {len(xyz)} points lie far off, up to {reach} {share:.0%} of them"
            findings.append(("outlier", reason))
            break
    scaled = (xyz - xyz.mean(axis=0)) / np.ptp(xyz, axis=0).max()
    spreads = np.sqrt(np.linalg.eigvalsh(scaled.T @ scaled).clip(0))
    if not findings and spreads[1] < _FLAT * spreads[2]:
        findings.append(("flat", "all points lie on a line"))
    elif not findings and spreads[0] < _FLAT * spreads[2]:
        findings.append(("flat", "all points lie in a plane"))
    distance = float(np.linalg.norm(middle))
    if distance > _OFF_ORIGIN * radii[-1]:
        times = f"{distance / radii[-1]:.3g} times its size"
        reason = f"{distance * unit:.3g} from the origin, {times}: float32 loses digits"
        findings.append(("off origin", reason))
    return findings


def _stored_findings(points: NDArray[np.float32]) -> list[tuple[str, str]]:
    """What is odd about coordinates that are used as stored."""
    radius = float(np.linalg.norm(points.astype(np.float64), axis=1).max())
    if _RADII[0] <= radius <= _RADII[1]:
        return []
    return [("not normalized", f"the farthest point lies at {radius:.3g}; expected about 1")]


def _count_classes(source: ShapeSource) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for split, label in zip(source.splits, source.labels, strict=True):
        counts[split][label] += 1
    return {
        split or "none": {
            source.class_names[label] if label >= 0 else "unknown": n
            for label, n in sorted(counts[split].items())
        }
        for split in sorted(counts, key=_SPLITS.index)
    }


def _ranges(looks: Mapping[int, _Look]) -> dict[str, list[float]]:
    low = np.min([seen.low for seen in looks.values()], axis=0)
    high = np.max([seen.high for seen in looks.values()], axis=0)
    return {axis: [float(low[i]), float(high[i])] for i, axis in enumerate("xyz")}


def _spread(values: list[int] | list[float]) -> dict[str, float]:
    return {
        "min": min(values),
        "median": float(np.median(values)),
        "max": max(values),
    }


def _duplicates(source: ShapeSource, looks: Mapping[int, _Look]) -> dict[str, Any]:
    """Shapes of equal content, counted within and between splits."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for index, seen in looks.items():
        by_key[seen.key].append(index)
    groups = [indices for indices in by_key.values() if len(indices) > 1]
    within: Counter[str] = Counter()
    between: Counter[str] = Counter()
    for indices in groups:
        counts = Counter(source.splits[index] for index in indices)
        present = sorted(counts, key=_SPLITS.index)
        for place, split in enumerate(present):
            if counts[split] > 1:
                within[split or "none"] += counts[split] - 1
            for earlier in present[:place]:
                between[f"{earlier}/{split or 'none'}"] += counts[split]
    return {
        "within_splits": dict(within),  # shapes that repeat another one of their split
        "between_splits": dict(between),  # 'train/test': shapes of test that train holds, too
        "conflicting": sum(len({source.labels[i] for i in indices}) > 1 for indices in groups),
        "groups": [[source.ids[index] for index in indices] for indices in groups],
    }


def _missing_splits(data: Path, source: ShapeSource) -> list[str]:
    """Why splits that one would expect are not there."""
    missing = []
    for split in ("train", "test"):
        if split not in source.splits and any(source.splits):
            try:
                open_source(data, layout=source.layout, split=split)
            except DataError as error:
                missing.append(str(error))
    return missing


def _notes(source: ShapeSource) -> list[str]:
    notes = []
    if not any(label >= 0 for label in source.labels):
        notes.append("no classes were found: shapes can be extracted, but not classified")
    pairs = set(zip(source.splits, source.labels, strict=True))
    untrained = [
        source.class_names[label]
        for split, label in sorted(pairs)
        if split == "test" and label >= 0 and not {("train", label), ("val", label)} & pairs
    ]
    if untrained and "train" in source.splits:
        notes.append(
            f"{len(untrained)} classes have test shapes but none to train on: "
            + ", ".join(untrained[:5])
            + (", ..." if len(untrained) > 5 else "")
        )
    return notes


def _show(result: Mapping[str, Any]) -> None:
    """Print the tables, and on stderr the notes."""
    points, size = result["points"], result["size"]
    duplicates = result["duplicates"]
    copies = [
        *(f"{n} within {split}" for split, n in duplicates["within_splits"].items()),
        *(
            f"{n} in {pair.replace('/', ' and ')}"
            for pair, n in duplicates["between_splits"].items()
        ),
    ]
    if duplicates["conflicting"]:
        copies.append(f"{duplicates['conflicting']} with different classes")
    kinds = Counter(found["kind"] for found in result["suspicious"])
    print_table(
        f"{result['path']}: {result['layout']}",
        ["what", "value"],
        [
            ["shapes", f"{result['shapes']}"],
            ["cannot be used", f"{len(result['bad'])}"],
            ["points per shape", "drawn from surfaces" if points is None else _text(points)],
            *[
                [f"{axis}", f"{low:.4g} to {high:.4g}"]
                for axis, (low, high) in result["range"].items()
            ],
            ["size", _text(size)],
            ["duplicates", ", ".join(copies) or "none"],
            ["suspicious", ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none"],
            ["fine-tuning recipe", result["recipe"]],
        ],
    )
    splits = list(result["classes"])
    names = dict.fromkeys(name for counts in result["classes"].values() for name in counts)
    rows = [[name, *(result["classes"][split].get(name, 0) for split in splits)] for name in names]
    totals = ["all", *(sum(result["classes"][split].values()) for split in splits)]
    print_table("Shapes per class", ["class", *splits], [*rows, totals])
    _show_rows("Cannot be used", ["shape", "why"], [[f["id"], f["reason"]] for f in result["bad"]])
    _show_rows(
        "Worth a look",
        ["shape", "kind", "why"],
        [[found["id"], found["kind"], found["reason"]] for found in result["suspicious"]],
    )
    _show_rows("Duplicates", ["shapes"], [[", ".join(ids)] for ids in duplicates["groups"]])
    for message in result["missing"]:
        warn(message)
    for message in result["notes"]:
        note(message)


def _show_rows(title: str, columns: list[str], rows: list[list[str]]) -> None:
    if rows:
        more = f", first {_LISTED} of {len(rows)} (--json lists all)" if len(rows) > _LISTED else ""
        print_table(title + more, columns, rows[:_LISTED])


def _text(spread: Mapping[str, float]) -> str:
    if spread["min"] == spread["max"]:
        return f"{spread['min']:.5g}"
    return f"{spread['min']:.5g} to {spread['max']:.5g}, median {spread['median']:.5g}"
