"""What the names of folders and files say: split, class, object, batch.

Works on paths alone, given as parts: the folders, then the file's name.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from i2pmae.errors import ConfigError
from i2pmae.formats.files import stem, suffix

Parts = tuple[str, ...]

Classes = Literal["auto", "folders", "none", "1", "2", "3", "4"]

_SPLITS = {"trn": "train", "train": "train", "tst": "test", "test": "test"}
_SPLIT = (
    r"(?:\d{1,2}[-_ .])?(?P<split>train[-_+ ]?val|train|trn|test|tst|val|dev|eval|h[eo]ld[-_ ]?out)"
    r"(?:ing|id|idation|uation)?"
    r"(?:[-_ .]?(?:sets?|splits?|data|shapes|models|meshes|objects|clouds|samples|files?|lists?|ids"
    r"|names))?(?:[-_ .]?(?:\d{1,4}|\(\d\)))?"
)
_SPLIT_WORD = re.compile(r"train(ing)?|test(ing)?|val(id|idation)?", re.IGNORECASE)
_SPLIT_NAME = re.compile(_SPLIT, re.IGNORECASE)
_PREFIXED_SPLIT = re.compile(rf"(?P<prefix>.+[-_ .]){_SPLIT}", re.IGNORECASE)
_CLASS_AND_SPLIT = (  # chair_train, train_chair
    re.compile(rf"(?P<name>.+)[-_ .]{_SPLIT}", re.IGNORECASE),
    re.compile(rf"{_SPLIT}[-_ .](?P<name>.+)", re.IGNORECASE),
)
_BATCH = re.compile(
    r"\d+-\d+|(?:.*[-_ ])?(?:batch|chunk|shard|vol|volume|archive|abc|part|group|folder|dir|block"
    r"|piece|pack|subset|fold)[-_ ]?\d+(?:[-_ ].*)?",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(r"\d{3}|[0-9a-f]{8}", re.IGNORECASE)  # as names of single objects have
_HASH = re.compile(r"[0-9a-f]{1,3}")
_LONG_HASH = re.compile(r"[0-9a-f]{8}")
_LATER = "eval"  # evaluation sets and hold-outs: see `settled`
_COUNTED = re.compile(r"\d{3,}")
_SYNSET_DIGITS = 8  # of ShapeNet's classes
# Names of the only folder around all shapes that say what it holds, not of which class.
_HEAP = re.compile(
    r"(?:(?:all|raw|my|new|clean(?:ed)?|original|processed|normali[sz]ed|watertight|3d|cad|input)"
    r"[-_ ]?)*(?:data(?:sets?)?|mesh(?:es)?|models?|obj(?:ect)?s?|shapes?|(?:point[-_ ]?)?clouds?"
    r"|points?|pts|pcs?|pcds?|files?|assets?|scans?|samples?|geometr(?:y|ies)|downloads?|stls?|plys?|glbs?|offs?"
    r"|raw|parts?)(?:[-_ ]?v?\d{0,4})",
    re.IGNORECASE,
)
_MANY_OBJECTS = 8  # folders of one shape each that are objects, whatever their names
# Names of the files that an object's folder holds, the one to be read first.
_VARIANTS = (
    *("model_normalized", "normalized_model", "pointcloud", "point_cloud", "textured", "model"),
    *("mesh", "object", "scan", "pc", "cloud", "surface", "nontextured", "textured_simple"),
    *("model_watertight", "simplified", "model_simplified", "raw_model", "visual", "points"),
    *("collision", "pointcloud_noisy", "points_iou", "points_uniform", "points_surface"),
    *("normals", "normal", "colors", "color", "rgb", "labels", "label", "features"),
)
# Names of files and folders of values of points.
_VALUES = re.compile(
    r"(?:(?P<of>.*)[-_ .])?"
    r"(?:normals?|colou?rs?|rgb|labels?|seg(?:mentation|ments?|s)?|features?|feats?)",
    re.IGNORECASE,
)
_LAST_WORD = re.compile(r"[-_ .][^-_ .\d]*$")
_MOST_NAMED = 5


class Place(NamedTuple):
    """What a path says of its shape."""

    class_name: str  # '' where there are no classes
    split: str  # 'train', 'val', 'test' or ''


class Places(NamedTuple):
    """What the paths of a data set say, and how they were understood."""

    places: list[Place]
    classes: str  # a clause for the user
    class_folders: set[Parts]


def one_ending(
    shapes: Iterable[Parts], order: Sequence[str]
) -> tuple[list[Parts], list[Parts], set[str]]:
    """Of files that differ only in their ending, keep the one whose ending comes first.

    Folders may be named after the endings: `obj/a.obj` and `stl/a.stl` are one name.

    Args:
        shapes: paths.
        order: endings; others follow by the alphabet.

    Returns:
        The paths to read, those to leave out, and the endings among which there was a choice.
    """
    by_name: dict[Parts, list[Parts]] = defaultdict(list)
    given = list(shapes)
    for parts, inner in zip(given, _inner_paths(given), strict=True):
        by_name[(*inner[:-1], stem(inner[-1]))].append(parts)
    kept, left_out, endings = [], [], set()
    rank = {ending: place for place, ending in enumerate(order)}
    for same in by_name.values():
        same.sort(key=lambda parts: (rank.get(suffix(parts[-1]), len(rank)), parts[-1]))
        kept.append(same[0])
        if len(same) > 1:
            left_out += same[1:]
            endings |= {suffix(parts[-1]) for parts in same}
    return sorted(kept), left_out, endings


def without_values(shapes: Sequence[Parts]) -> tuple[list[Parts], list[Parts]]:
    """Leave out values of points beside these: `normals/a.npy` beside `points/a.npy`.

    Names count only where another file is called the same but for that: `a_normals.npy` beside
    `a.npy` or `a_points.npy`.

    Returns:
        The paths to read, and those to leave out.
    """
    values = {parts for parts in shapes if any(map(_VALUES.fullmatch, (*parts[:-1], _stem(parts))))}
    known: set[Parts] = set()
    for parts in shapes if values else ():
        if parts in values:
            continue
        name = _stem(parts)
        known |= {(*parts[:-1], name), (*parts[:-1], _LAST_WORD.sub("", name))}
        known |= {_open_at(parts, place) for place in range(len(parts) - 1)}

    def is_beside(parts: Parts) -> bool:
        found = _VALUES.fullmatch(_stem(parts))
        return (found is not None and (*parts[:-1], found["of"]) in known) or any(
            _VALUES.fullmatch(name) and _open_at(parts, place) in known
            for place, name in enumerate(parts[:-1])
        )

    beside = {parts for parts in values if is_beside(parts)}
    return [parts for parts in shapes if parts not in beside], sorted(beside)


def _stem(parts: Parts) -> str:
    return stem(parts[-1])


def _open_at(parts: Parts, place: int) -> Parts:
    """A path without its ending, and with any folder at a place."""
    return (*parts[:place], "*", *parts[place + 1 : -1], _stem(parts))


def one_variant(shapes: Sequence[Parts]) -> tuple[list[Parts], list[Parts], str]:
    """Of several files in the folder of one object, the one to read.

    Folders are objects if most of them hold files of the same few names, not numbered, which are
    usual ones or repeat many times.

    Returns:
        The paths to read, those to leave out, and what to say of the choice; the same paths, none
        and '' if folders are no objects.
    """
    for depth in range(max(map(len, shapes), default=0) - 1):
        objects: dict[Parts, dict[str, Parts]] = defaultdict(dict)
        for parts in shapes:
            if len(parts) > depth + 1:
                tail = "/".join((*parts[depth + 1 : -1], stem(parts[-1])))
                objects[parts[: depth + 1]][tail] = parts
        names = Counter(tail for tails in objects.values() for tail in tails)
        usual = [name for name, count in names.items() if 2 * count > len(objects)]
        n_inside = sum(names[name] for name in usual)
        if len(objects) < 2 or len(usual) < 2 or n_inside < 0.8 * len(shapes):
            continue
        known = [name for name in usual if _variant_rank(name) < len(_VARIANTS)]
        numbered = any(re.search(r"\d(/|$)", name) for name in usual)
        many = len(objects) >= 20 and len(objects) >= 10 * len(usual)
        alike = len({name.rpartition("/")[2] for name in usual}) == 1  # objects of classes
        if numbered or (not many and (alike or len(known) < 2 or 2 * len(known) < len(usual))):
            continue
        usual.sort(key=lambda name: (_variant_rank(name), -names[name], name))
        kept = [
            tails[next((name for name in usual if name in tails), min(tails))]
            for tails in objects.values()
        ]
        chosen = {*kept}
        told = ", ".join(usual[:_MOST_NAMED]) + (", ..." if len(usual) > _MOST_NAMED else "")
        left_out = [parts for parts in shapes if parts not in chosen]
        said = f"folders hold several files of one object ({told}): {usual[0]} is read"
        return sorted(kept), left_out, said
    return list(shapes), [], ""


def _variant_rank(name: str) -> int:
    last = name.rpartition("/")[2].lower()
    return _VARIANTS.index(last) if last in _VARIANTS else len(_VARIANTS)


def places_of(shapes: Sequence[Parts], classes: Classes = "auto") -> Places:
    """Class and split of each shape, from the names of the folders around it.

    A folder named train, test or val (or longer forms of these) is the split, the last one; if
    only few shapes have one and none is held out, it is a class of trains. The first remaining
    folder that differs between shapes is the class, unless folders are numbered batches or hold
    one object each.

    Args:
        shapes: paths.
        classes: `auto` as described; `folders`: the first folder that differs, whatever it is
            called; `none`; or its level, counted from 1 without folders of splits.

    Raises:
        ConfigError: if no shape lies in that many folders.
    """
    read = _told_apart(shapes)
    split_at = split_folders(read)
    named = [
        split_of(parts[place]) for parts, place in zip(read, split_at, strict=True) if place >= 0
    ]
    if not (len(named) * 2 > len(read) or not {*named} <= {"train"}):
        split_at = [-1] * len(read)
    groups = [
        parts[:-1] if place < 0 else parts[:place] + parts[place + 1 : -1]
        for parts, place in zip(read, split_at, strict=True)
    ]
    depth, told = _class_depth(read, groups, classes)
    names = [group[depth] if 0 <= depth < len(group) else "" for group in groups]
    given = [
        split_of(parts[place]) if place >= 0 else ""
        for parts, place in zip(read, split_at, strict=True)
    ]
    splits = settled(given)
    if splits != given and "test" not in given:
        told += "; shapes to evaluate on are the test split, as there is no other"
    folders = {
        parts[: depth + (0 <= place <= depth) + 1]
        for parts, place, name, shape in zip(read, split_at, names, shapes, strict=True)
        if name and parts == shape
    }
    return Places(
        [Place(name, split) for name, split in zip(names, splits, strict=True)], told, folders
    )


def settled(splits: Iterable[str]) -> list[str]:
    """Splits where what is called `eval` is the test split, if no other is; else validation."""
    given = list(splits)
    meant = "val" if "test" in given else "test"
    return [meant if split == _LATER else split for split in given]


def _inner_paths(shapes: Iterable[Parts]) -> list[Parts]:
    """Paths without folders named after the ending of all files within, as in `obj/a.obj`.

    Where only some files of an ending lie in such a folder it is another name: a bin.
    """
    given = list(shapes)
    endings = [suffix(parts[-1]).lstrip(".") for parts in given]
    inside = Counter(
        ending
        for parts, ending in zip(given, endings, strict=True)
        if ending in {name.lower() for name in parts[:-1]}
    )
    said = {ending for ending, count in Counter(endings).items() if inside[ending] == count}
    return [
        (*(name for name in parts[:-1] if name.lower() != ending or ending not in said), parts[-1])
        for parts, ending in zip(given, endings, strict=True)
    ]


def _told_apart(shapes: Sequence[Parts]) -> list[Parts]:
    """Paths without folders named after endings, and with `chair_train` as two folders.

    The latter only where there are several such classes, each with several splits, and no other
    folder within.
    """
    read = _inner_paths(shapes)
    last = {parts[-2] for parts in read if len(parts) > 1}
    above = {name for parts in read for name in parts[:-2]}
    for pattern in _CLASS_AND_SPLIT:
        found = {name: pattern.fullmatch(name) for name in last - above}
        pairs = {
            name: (match["name"], _split_named(match["split"]))
            for name, match in found.items()
            if match
        }
        splits = Counter(class_name for class_name, _ in {*pairs.values()})
        if len(splits) > 1 and min(splits.values()) > 1:
            read = [
                (*parts[:-2], *pairs[parts[-2]], parts[-1])
                if parts[-2:-1] and parts[-2] in pairs
                else parts
                for parts in read
            ]
            break
    return read


def split_of(name: str) -> str:
    """The split that a name such as `train_set` or `my_test_list` stands for, '' if for none.

    `eval` of evaluation sets and hold-outs, see `settled`.
    """
    found = _SPLIT_NAME.fullmatch(name) or _PREFIXED_SPLIT.fullmatch(name)
    return _split_named(found["split"]) if found else ""


def _split_named(word: str) -> str:
    """The split that a word stands for: train, trn, trainval, test, tst, eval; else val."""
    word = word.lower()
    if word.startswith(("eval", "h")):
        return _LATER
    return _SPLITS.get(word, "train" if word.startswith("train") else "val")


def split_folders(shapes: Sequence[Parts]) -> list[int]:
    """Which folder around each shape names a split: the last one that does, -1 if none.

    Names with something in front count only beside another split of the same name, as
    `mine_train` beside `mine_test`.
    """
    prefixes: dict[str, set[str]] = defaultdict(set)
    folders = {name for parts in shapes for name in parts[:-1]}
    for name in folders:
        if found := _PREFIXED_SPLIT.fullmatch(name):
            prefixes[found["prefix"].lower()].add(split_of(name))
    told = {
        name
        for name in folders
        if _SPLIT_NAME.fullmatch(name)
        or (
            (found := _PREFIXED_SPLIT.fullmatch(name))
            and len(prefixes[found["prefix"].lower()]) > 1
        )
    }
    if len({split_of(name) for name in told}) == 1:  # perhaps a name of the whole, as test_data
        told = {name for name in told if _SPLIT_WORD.fullmatch(name)}
    return [
        max((place for place, name in enumerate(parts[:-1]) if name in told), default=-1)
        for parts in shapes
    ]


def _class_depth(
    shapes: Sequence[Parts], groups: Sequence[Parts], classes: Classes
) -> tuple[int, str]:
    """Which folder is the class, -1 if none is; and why, as a clause."""
    if classes == "none":
        return -1, "no classes (--classes none)"
    deepest = max(map(len, groups), default=0)
    depth = 0
    if classes.isdecimal():
        depth = int(classes) - 1
        if depth >= deepest:
            others = f"1 to {deepest}, auto" if deepest > 1 else "1, auto" if deepest else "auto"
            raise ConfigError(
                f"--classes {classes}: shapes lie at most {deepest} levels of folders deep, not "
                f"counting splits. Use {others}, folders or none."
            )
    while classes in ("auto", "folders") and all(len(group) > depth for group in groups):
        names = {group[depth] for group in groups}
        is_last = not all(len(group) > depth + 1 for group in groups)
        if len(names) == 1 and not is_last:
            depth += 1  # a folder around all others says nothing
        elif classes == "auto" and _are_batches(shapes, groups, depth):
            if is_last:
                return -1, (
                    f"no classes: folders such as {min(names)} are numbered batches (if they are "
                    "classes: --classes folders)"
                )
            depth += 1
        else:
            break
    counts = Counter(group[: depth + 1] for group in groups if len(group) > depth)
    if not counts:
        return -1, "no classes: the files lie in no folders of their own"
    if classes == "auto" and _are_objects(shapes, counts):
        return -1, (
            f"no classes: each folder, such as {min(counts)[-1]}, holds one object (if they are "
            "classes: --classes folders)"
        )
    names = {group[depth] for group in groups if len(group) > depth}
    if classes == "auto" and len(names) == 1 and _HEAP.fullmatch(min(names)):
        return -1, (
            f"no classes: {min(names)} is the only folder (if it is a class: --classes folders)"
        )
    told = ", ".join(sorted(names)[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    numbered = all(name.isdecimal() and len(name) < _SYNSET_DIGITS for name in names)
    doubt = " (if they are batches: --classes none)" if numbered else ""
    return depth, f"{len(names)} class{'es' * (len(names) > 1)} by folder: {told}{doubt}"


def _are_batches(shapes: Sequence[Parts], groups: Sequence[Parts], depth: int) -> bool:
    """Whether folders are batches of shapes: named so, numbered `000`, `001`, or by hash."""
    names = {group[depth] for group in groups}
    if all(map(_BATCH.fullmatch, names)):
        return True
    if len(names) < 2 or len({*map(len, names)}) > 1:
        return False
    stems = [stem(parts[-1]).lower() for parts in shapes]
    if all(map(_HASH.fullmatch, names)) and all(map(_LONG_HASH.match, stems)):
        begin = ["".join(group[: depth + 1]) for group in groups]
        if all(name.startswith(start) for name, start in zip(stems, begin, strict=True)):
            return True
    if not all(map(_COUNTED.fullmatch, names)) or max(map(int, names)) > 2 * len(names) + 2:
        return False
    inner = {
        (group[depth], group[depth + 1] if len(group) > depth + 1 else name)
        for group, name in zip(groups, stems, strict=True)
    }
    shared = Counter(name for _, name in inner)
    return (
        max(shared.values()) == 1  # of classes, each counts its shapes from the start
        and len(inner) > len(names)
        and all(map(_IDENTIFIER.search, shared))
    )


def _are_objects(shapes: Sequence[Parts], counts: Counter[Parts]) -> bool:
    """Whether folders hold one shape each, and do not look like classes of one shape."""
    single = sum(count == 1 for count in counts.values())
    if len(counts) < 2 or single < 0.9 * len(counts):
        return False
    named_alike = len({stem(parts[-1]) for parts in shapes}) == 1
    identified = sum(bool(_IDENTIFIER.search(name[-1])) for name in counts)
    return named_alike or len(counts) >= _MANY_OBJECTS or identified >= 0.9 * len(counts)
