"""What a data set holds, and what looks wrong with it, before hours are spent on it."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TypedDict

from i2pmae.config import CheckDataConfig
from i2pmae.datasets import Located, ShapeSource, locate, open_source
from i2pmae.datasets.check import Survey, shared_points
from i2pmae.datasets.listed import some
from i2pmae.datasets.looks import (
    FEW_POINTS,
    Duplicates,
    Look,
    Spread,
    count_classes,
    duplicates,
    look_at,
    ranges,
    spread,
)
from i2pmae.datasets.meshes import Meshes
from i2pmae.datasets.reading import read_each
from i2pmae.datasets.upright import UpGuess, guess_up
from i2pmae.errors import DataError
from i2pmae.progress import Progress, note, print_class_table, print_table, warn

_LISTED = 20  # rows of a table; the JSON object holds all


class Unusable(TypedDict):
    """A shape that cannot be used."""

    id: str
    reason: str


class Suspicious(Unusable):
    """A shape that is worth a look."""

    kind: str


class Result(TypedDict):
    """What a data set holds."""

    path: str
    layout: str
    recipe: str  # for fine-tuning
    shapes: int
    usable: int
    splits: dict[str, int]  # shapes of each
    classes: dict[str, dict[str, int]]  # per split the shapes of each class
    points: Spread | None  # per shape; None for meshes
    stored_points: int  # that extract-2d would store of each
    range: dict[str, list[float]]  # per axis, unit of the files
    size: Spread  # longest side of the shapes' boxes
    up: dict[str, object] | None  # a guess: `axis`, `share` of the shapes, `reason`
    duplicates: Duplicates
    bad: list[Unusable]
    suspicious: list[Suspicious]
    missing: list[str]  # splits that are not there
    notes: list[str]  # what the data set is taken for and what is left out
    next: str  # a command


def run(config: CheckDataConfig) -> Result:
    """Read every shape of a data set once; say what it is taken for and what looks wrong.

    Shapes are duplicates if they hold the same points, in whatever order; meshes, whose points
    are drawn, if their files are equal. Outliers, flat shapes and the like may be as they should:
    they are worth a look, not errors.

    Args:
        config: settings.

    Returns:
        See `Result`.

    Raises:
        DataError: if the layout is not recognized or incomplete, or no shape can be used.
    """
    data = locate(config.data, config.layout)
    source = open_source(data, split="all", **config.reading)
    looks: dict[int, Look] = {}
    bad: dict[int, str] = {}
    with Progress("check", total=len(source)) as progress:
        for index, read in read_each(source, look_at):
            try:
                looks[index] = read.result()
            except DataError as error:
                bad[index] = str(error)
            progress.advance(1)
    counts = [seen.n_points for seen in looks.values()]
    not_finite = {index: n for index, n in source.not_finite.items() if index in looks}
    found = Survey(bad, {i: seen.n_loaded for i, seen in looks.items()}, not_finite)
    if not looks:
        first = next(iter(found.bad.values()))
        raise DataError(
            f"{config.data}: none of its {len(source)} shapes can be used; the first: {first}"
        )
    shared, small = shared_points(found.n_points)
    guess = guess_up([seen.likeness for seen in looks.values()])
    suspicious = [
        (index, kind, reason)
        for index, seen in looks.items()
        for kind, reason in seen.findings
        if kind != FEW_POINTS or index not in small
    ]
    suspicious += [(index, FEW_POINTS, reason) for index, reason in small.items()]
    result: Result = {
        "path": str(config.data),
        "layout": source.layout,
        "recipe": source.recipe,
        "shapes": len(source),
        "usable": len(looks),
        "splits": dict(Counter(name or "none" for name in source.splits)),
        "classes": count_classes(source),
        "points": None if isinstance(source, Meshes) else spread(counts),
        "stored_points": shared,
        "range": ranges(looks),
        "size": spread([float((v.high - v.low).max()) for v in looks.values()]),
        "up": None if guess is None else guess._asdict(),
        "duplicates": duplicates(source, looks),
        "bad": [{"id": source.ids[index], "reason": why} for index, why in found.bad.items()],
        "suspicious": [
            {"id": source.ids[index], "kind": kind, "reason": reason}
            for index, kind, reason in suspicious
        ],
        "missing": _missing_splits(config, data, source),
        "notes": [*source.notes, *found.notes(), *_notes(source)],
        "next": _next_command(config, source, guess, skips=bool(found.bad or small)),
    }
    _show(result)
    return result


def _next_command(
    config: CheckDataConfig, source: ShapeSource, guess: UpGuess | None, *, skips: bool
) -> str:
    """What to type next."""
    words = ["i2pmae", "extract-2d", str(config.data)]
    if config.layout != "auto":
        words += ["--layout", config.layout]
    if config.prefer is not None:
        words += ["--prefer", config.prefer]
    if config.classes != "auto":
        words += ["--classes", config.classes]
    up: str = config.up
    if up == "y":
        up = source.stated_up or ("y" if guess is None else guess.axis)
    if up != "y":
        words += ["--up", up]
    if {*source.splits} - {"train", ""}:
        words += ["--split", "all"]
    if skips:
        words += ["--on-error", "skip"]
    return shlex.join(words)


def _missing_splits(config: CheckDataConfig, data: Located, source: ShapeSource) -> list[str]:
    """Why splits that one would expect are not there."""
    missing = []
    for split in ("train", "test"):
        if split not in source.splits and any(source.splits):
            try:
                open_source(data, split=split, **config.reading)
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
            f"{len(untrained)} classes have test shapes but none to train on: {some(untrained)}"
        )
    return notes


def _show(result: Result) -> None:
    """Print the tables, and on stderr the notes."""
    points, size, up = result["points"], result["size"], result["up"]
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
            ["stored by extract-2d", f"{result['stored_points']} of every shape"],
            *([axis, f"{low:.4g} to {high:.4g}"] for axis, (low, high) in result["range"].items()),
            ["size", _text(size)],
            ["up", "unclear" if up is None else f"{up['axis']}, as it seems: {up['reason']}"],
            ["duplicates", ", ".join(copies) or "none"],
            ["suspicious", ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none"],
            ["fine-tuning recipe", result["recipe"]],
        ],
    )
    splits = list(result["classes"])
    names = dict.fromkeys(name for counts in result["classes"].values() for name in counts)
    rows = [[name, *(result["classes"][split].get(name, 0) for split in splits)] for name in names]
    totals = ["all", *(sum(result["classes"][split].values()) for split in splits)]
    print_class_table("Shapes per class", ["class", *splits], rows, [totals])
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
    note(f"next: {result['next']}")


def _show_rows(title: str, columns: list[str], rows: list[list[str]]) -> None:
    if rows:
        more = f", first {_LISTED} of {len(rows)} (--json lists all)" if len(rows) > _LISTED else ""
        print_table(title + more, columns, rows[:_LISTED])


def _text(spread: Spread) -> str:
    if spread["min"] == spread["max"]:
        return f"{spread['min']:.5g}"
    return f"{spread['min']:.5g} to {spread['max']:.5g}, median {spread['median']:.5g}"
