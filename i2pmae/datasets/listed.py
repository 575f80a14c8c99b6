"""Splits and classes from lists and tables in a folder of shapes: `train.txt`, `all.csv`.

A list names one shape per line, JSON value or row of a table: by its path below the list's folder
(or the one above, where that folder holds none of its shapes), by a folder it lies in, or by its
file's name, with or without its ending. A common start of all names, such as a path on another
machine, is ignored. Tables of predictions that `predict` has written are no lists.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from i2pmae.datasets.folders import MESH_SUFFIXES, escaped
from i2pmae.datasets.naming import Parts, settled, split_of
from i2pmae.errors import DataError
from i2pmae.formats.files import read_text, stem, suffix

ENDINGS = (".csv", ".json", ".lst", ".txt")
_LARGEST = 1 << 26  # bytes
_MOST_NAMED = 5
_DEEPEST_PREFIX = 8  # folders at the start of all names of a list that may be ignored
_DEEPEST_JSON = 4
_SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold", "phase")
_NAME_KEYS = ("model_id", "modelid", "shape_id", "id", "name", "file", "filename", "path")
_MARKED_LIST = re.compile(r"split(_new|\d)?")
_CLASSES_FILE = "model_info.json"  # of 3D-FUTURE
_CLASS_COLUMNS = ("class", "class_name", "category", "category_name", "label_name", "label")
_CLASS_KEYS = (*_CLASS_COLUMNS, "super-category")

_PREDICTED = (  # columns of the tables of `predict`
    {"id", "class", "probability", "error"},
    {"id", "category", "parts", "error"},
)

Named = dict[str, list[str]]  # names of shapes by split or class


class Listed(NamedTuple):
    """What lists say about shapes."""

    told: list[str]  # split or class of each shape, '' where no list names it
    used: list[Parts]  # lists that name shapes
    notes: list[str]


def listed_splits(root: Path, files: Iterable[Parts], shapes: Sequence[Parts]) -> Listed:
    """The split of each shape according to lists.

    Args:
        root: folder of shapes.
        files: files in it that may be lists.
        shapes: files of shapes.
    """
    found = Listed([""] * len(shapes), [], [])
    splits: dict[str, None] = {}  # in the order of the lists
    unknown: list[str] = []
    n_twice = 0
    for parts in files:
        choices = [named for named in _read_splits(root.joinpath(*parts)) if named]
        if not choices:
            continue
        matched, missing = _best_match(choices, parts, shapes)
        if not any(matched.values()):
            continue
        for split, indices in matched.items():
            for index in indices:
                n_twice += found.told[index] not in ("", split)
                found.told[index] = split
        splits |= dict.fromkeys(split for split, indices in matched.items() if indices)
        found.used.append(parts)
        unknown += [name for name in missing if name.lower() not in _NAME_KEYS]  # as a header has
    if found.used:
        names = dict(zip(splits, settled(splits), strict=True))
        found.told[:] = [names.get(split, split) for split in found.told]
        each = dict.fromkeys(names.values())
        told = ", ".join(f"{found.told.count(name)} {name}" for name in each)
        found.notes.append(f"splits from lists such as {'/'.join(found.used[0])}: {told}")
    if unknown:
        found.notes.append(f"{len(unknown)} names in lists match no shape: {some(unknown)}")
    if n_twice:
        found.notes.append(f"{n_twice} shapes are listed in several splits: the last one counts")
    return found


def listed_classes(root: Path, files: Iterable[Parts], shapes: Sequence[Parts]) -> Listed:
    """The class of each shape by tables with a column or key of classes, such as 3D-FUTURE's.

    A table counts if it names half of the shapes, and classes that hold two of them on average.
    Where tables disagree, the first counts.
    """
    found = Listed([""] * len(shapes), [], [])
    differing: set[int] = set()
    for parts in files:
        choices = [named for named in _read_classes(root.joinpath(*parts)) if named]
        matched, _ = _best_match(choices, parts, shapes)
        matched = {name: indices for name, indices in matched.items() if indices}
        n_named = len({index for indices in matched.values() for index in indices})
        is_sure = parts[-1] == _CLASSES_FILE
        if not matched or not (is_sure or 2 * len(matched) <= n_named >= len(shapes) / 2):
            continue
        told = {index: name for name, indices in matched.items() for index in indices}
        for index, name in told.items():
            found.told[index] = found.told[index] or name
        differing |= {index for index, name in told.items() if found.told[index] != name}
        found.used.append(parts)
        plural = "es" * (len(matched) > 1)
        found.notes.append(f"{len(matched)} class{plural} from {'/'.join(parts)}")
    if differing:
        found.notes.append(
            f"tables disagree about the class of {len(differing)} shapes: the first one counts. "
            "Remove the wrong one."
        )
    return found


def some(names: Iterable[str]) -> str:
    """The first few of some names."""
    listed = list(names)
    more = ", ..." if len(listed) > _MOST_NAMED else ""
    return ", ".join(map(escaped, listed[:_MOST_NAMED])) + more


def _best_match(
    choices: Sequence[Named], file: Parts, shapes: Sequence[Parts]
) -> tuple[dict[str, list[int]], list[str]]:
    """Shapes by split or class in the reading that finds the most, and names that match none.

    The folder above counts only if nothing of the list's own folder is named: numbers of shapes may
    be the same in all classes.
    """
    best: dict[str, list[int]] = {}
    missing: list[str] = []
    most = 0
    for base in dict.fromkeys((file[:-1], file[:-2])):
        by_name: dict[str, list[int]] = defaultdict(list)
        for index, shape in enumerate(shapes):
            if shape[: len(base)] == base:
                for name in _called(shape[len(base) :]):
                    by_name[name].append(index)
        for named in choices:
            for n_dropped in range(_common_folders(named) + 1):
                matched: dict[str, list[int]] = {}
                unknown = []
                for key, names in named.items():
                    matched[key] = []
                    for name in names:
                        known = _known(name.split("/", n_dropped)[-1], by_name)
                        matched[key] += by_name[known] if known is not None else []
                        if known is None:
                            unknown.append(name)
                named_in = Counter(i for indices in matched.values() for i in {*indices})
                n_found = sum(count == 1 for count in named_in.values())
                if n_found > most or (not best and named_in):
                    best, missing, most = matched, unknown, n_found
        if best:
            break
    return best, missing


def _common_folders(named: Named) -> int:
    """How many folders all names begin with."""
    names = [name.split("/")[:-1] for names in named.values() for name in names]
    low, high = min(names, default=[]), max(names, default=[])
    shared = [first == second for first, second in zip(low, high, strict=False)]
    return min([*shared, False].index(False), _DEEPEST_PREFIX)


def _known(name: str, by_name: dict[str, list[int]]) -> str | None:
    """The known name that a line of a list means; some lists have a label after a space."""
    for told in (name, name.partition(" ")[0]):
        ending = suffix(told)
        has_ending = ending[1:2].isalpha() or ending in MESH_SUFFIXES  # 0.67 is no file
        for known in (told, stem(told)) if has_ending else (told,):
            if known in by_name:
                return known
    return None


def _called(shape: Parts) -> set[str]:
    """What a list may call a shape, given by its path below the list's folder."""
    names = set()
    for first in range(len(shape)):
        within = shape[first:]
        names |= {"/".join(within), "/".join((*within[:-1], stem(within[-1])))}
        names |= {"/".join(within[:last]) for last in range(1, len(within))}
    return names - {""}


def _read_splits(file: Path) -> list[Named]:
    """Names by split that a list or table holds, one or more ways to read it."""
    split, kind = split_of(stem(file.name)), suffix(file.name)
    if kind == ".json":
        content = _json_in(file)
        if isinstance(content, dict):
            named: Named = defaultdict(list)
            _gather(content, "", named, _DEEPEST_JSON)
            return [named]
        if split and isinstance(content, list):
            return [{split: _cleaned(map(_name_of, content))}]
        return []
    is_marked = kind == ".txt" and _MARKED_LIST.fullmatch(stem(file.name)) is not None
    if not split and not is_marked and kind != ".csv":
        return []
    lines = _lines_in(file)
    if is_marked:
        return [_marked(lines)]
    if split:
        return [{split: _cleaned(line.partition(",")[0] for line in lines)}]
    return _columns(lines, _SPLIT_COLUMNS, split_of)


def _marked(lines: list[str]) -> Named:
    """Names of ScanObjectNN's list: file and label on each line, and `t` if it is of the test."""
    named: Named = {"train": [], "test": []}
    for name, _, *mark in (words for line in lines if len(words := line.split()) in (2, 3)):
        named["test" if mark == ["t"] else "train"].append(name)
    return {split: _cleaned(names) for split, names in named.items()} if named["test"] else {}


def _read_classes(file: Path) -> list[Named]:
    """Names by class that a table holds, one or more ways to read it."""
    if suffix(file.name) == ".csv":
        return _columns(_lines_in(file), _CLASS_COLUMNS, str)
    content = _json_in(file) if suffix(file.name) == ".json" else None
    named: Named = defaultdict(list)
    if isinstance(content, list):
        content = {_name_of(row): row for row in content if isinstance(row, dict)}
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, list) and not split_of(key):
            named[key] += _cleaned(map(_name_of, value))
            continue
        kinds = [value.get(name) for name in _CLASS_KEYS] if isinstance(value, dict) else [value]
        kind = next((kind for kind in kinds if isinstance(kind, str) and kind), "")
        if key and kind and not split_of(kind):
            named[kind] += _cleaned([key])
    return [named]


def _columns(lines: list[str], wanted: Sequence[str], meaning: Callable[[str], str]) -> list[Named]:
    """Names by what a column of a table says: one reading for each other column."""
    try:
        first, *rows = csv.reader(lines) if lines else [[]]
    except csv.Error:
        return []
    head = [name.strip().lower() for name in first]
    if any(columns.issubset(head) for columns in _PREDICTED):
        return []
    place = next((head.index(name) for name in wanted if name in head), None)
    if place is None:
        return []
    rows = [row for row in rows if len(row) == len(head)]
    columns = [[column] for column in range(len(head)) if column != place]
    if "synsetid" in head and "modelid" in head:  # ShapeNetCore's all.csv
        columns.insert(0, [head.index("synsetid"), head.index("modelid")])
    readings = []
    for chosen in columns:
        named: Named = defaultdict(list)
        for row in rows:
            if said := meaning(row[place].strip()):
                named[said].append("/".join(row[column] for column in chosen))
        readings.append({said: _cleaned(names) for said, names in named.items()})
    return readings


def _gather(content: dict[str, Any], above: str, named: Named, depth: int) -> None:
    """Names of an object such as {"chair": {"train": [...]}} or {"train": {"chair": [...]}}."""
    for key, value in content.items():
        split = split_of(key) or above
        if isinstance(value, dict) and depth:
            _gather(value, split, named, depth - 1)
        elif isinstance(value, list) and split:
            named[split] += _cleaned(map(_name_of, value))
        elif isinstance(value, str) and (split := split_of(value)):
            named[split] += _cleaned([key])


def _name_of(item: Any) -> str:
    """The name in an entry of a JSON list: itself, or a value of an object."""
    if isinstance(item, dict):
        keys = {str(key).lower(): value for key, value in item.items()}
        item = next((keys[key] for key in _NAME_KEYS if isinstance(keys.get(key), str)), "")
    return item if isinstance(item, str) else ""


def _json_in(file: Path) -> Any:
    """What a JSON file holds, None if it is damaged or of `predict`."""
    try:
        content = json.loads("\n".join(_lines_in(file)))
    except (ValueError, RecursionError):
        return None
    about = content.get("about") if isinstance(content, dict) else None
    return None if isinstance(about, dict) and "i2pmae" in about else content


def _lines_in(file: Path) -> list[str]:
    """Lines of a text file, none if it cannot be read or is too large for a list."""
    try:
        if file.stat().st_size <= _LARGEST:
            return read_text(file, strict=False).splitlines()
    except (DataError, OSError):
        pass
    return []


def _cleaned(names: Iterable[str]) -> list[str]:
    """Names without quotes and the like, each once."""
    plain = (name.strip().strip('"').replace("\\", "/").removeprefix("./") for name in names)
    return list(dict.fromkeys(name for name in plain if name))
