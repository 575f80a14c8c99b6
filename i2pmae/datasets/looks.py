"""What the shapes of a data set show when each is read once: sizes, oddities, duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from i2pmae.config import EncoderConfig
from i2pmae.datasets.meshes import Meshes
from i2pmae.datasets.oddities import oddities, stored_oddities
from i2pmae.datasets.source import ShapeSource
from i2pmae.datasets.upright import mirror_likeness
from i2pmae.geometry.coordinates import bounds

FEW_POINTS = "few points"  # a kind of finding
_SPLITS = ("train", "val", "test", "")


class Look(NamedTuple):
    """What one shape shows."""

    n_points: int  # in the file
    n_loaded: int
    low: NDArray[np.float64]  # (3,) in the unit of the file
    high: NDArray[np.float64]
    key: str  # equal for equal contents
    findings: list[tuple[str, str]]  # kind and reason
    likeness: NDArray[np.float64]  # (3,) to its mirror image along each axis


class Spread(TypedDict):
    """Least, median and most of some values."""

    min: float
    median: float
    max: float


class Duplicates(TypedDict):
    """Shapes of equal content."""

    within_splits: dict[str, int]  # shapes that repeat another one of their split
    between_splits: dict[str, int]  # 'train/test': shapes of test that train holds, too
    conflicting: int  # groups with different classes
    groups: list[list[str]]  # ids


def look_at(source: ShapeSource, index: int) -> Look:
    """Read one shape, and keep no points of it."""
    shape, original = source.load_with_original(index)
    xyz = np.asarray(original[:, :3], np.float64)
    key = hashlib.sha256()
    if isinstance(source, Meshes):
        key.update(source.entries[index].file.read_bytes())
    else:
        with np.errstate(over="ignore"):
            rounded = xyz.astype(np.float32) + np.float32(0)  # no -0
        key.update(rounded[np.lexsort(rounded.T)].tobytes())
    findings = oddities(xyz)
    n_needed = EncoderConfig().n_centers[0]
    if len(xyz) < n_needed:
        findings.append(
            (FEW_POINTS, f"{len(xyz)} points; the paper's network groups around {n_needed}")
        )
    if source.unit_sphere == "never":
        findings += stored_oddities(shape.points)
    low, high = bounds(xyz)
    n_points = len(xyz), len(shape.points)
    return Look(*n_points, low, high, key.hexdigest(), findings, mirror_likeness(xyz))


def duplicates(source: ShapeSource, looks: Mapping[int, Look]) -> Duplicates:
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
        "within_splits": dict(within),
        "between_splits": dict(between),
        "conflicting": sum(len({source.labels[i] for i in indices}) > 1 for indices in groups),
        "groups": [[source.ids[index] for index in indices] for indices in groups],
    }


def count_classes(source: ShapeSource) -> dict[str, dict[str, int]]:
    """Shapes of each class, by split."""
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


def ranges(looks: Mapping[int, Look]) -> dict[str, list[float]]:
    """Lowest and highest coordinate along each axis."""
    low = np.min([seen.low for seen in looks.values()], axis=0)
    high = np.max([seen.high for seen in looks.values()], axis=0)
    return {axis: [float(low[i]), float(high[i])] for i, axis in enumerate("xyz")}


def spread(values: list[int] | list[float]) -> Spread:
    """Of values, at least one."""
    return {
        "min": min(values),
        "median": float(np.median(values)),
        "max": max(values),
    }
