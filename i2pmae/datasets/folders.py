"""People's own folders of shapes, one file each: class and split from the folders' names.

`<class>/{train,test}/...`, `{train,test}/<class>/...`, either without classes, without splits, or
without both; nested as deep as one likes.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from i2pmae.datasets.source import Entry
from i2pmae.errors import DataError

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
MESH_SUFFIXES = (".glb", ".obj", ".off", ".ply", ".stl")
CLOUD_SUFFIXES = (".las", ".npy", ".npz", ".pcd", ".ply", ".xyz")
_ARCHIVES = (".gz", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".laz")


class Folder(NamedTuple):
    """Everything below a folder."""

    files: list[tuple[str, ...]]  # path of each file, in parts, sorted
    folders: list[tuple[str, ...]]

    def with_suffix(self, suffixes: Collection[str]) -> list[tuple[str, ...]]:
        """Files whose name ends so, in any case."""
        return [parts for parts in self.files if suffix(parts[-1]) in suffixes]


def suffix(name: str) -> str:
    """Ending of a file's name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def walk(root: Path) -> Folder:
    """List all regular files and folders below `root`, but hidden ones; or the file that it is.

    Symbolic links are followed; a folder is entered once, by its own name rather than a link's,
    so loops end and the order of a listing does not matter.

    Raises:
        DataError: if a folder cannot be listed, or a name cannot be stored as an id.
    """
    files: list[tuple[str, ...]] = []
    folders: list[tuple[str, ...]] = []
    entered: set[tuple[int, int]] = set()
    waiting: deque[tuple[str, ...]] = deque([()])
    if root.is_file():
        return Folder([(root.name,)], [])
    while waiting:
        parts = waiting.popleft()
        here = root.joinpath(*parts)
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            folders.append(parts)
            with os.scandir(here) as listing:
                items = sorted(listing, key=lambda item: (item.is_symlink(), item.name))
            for item in items:
                if item.name.startswith((".", "__MACOSX")):
                    continue
                if _leads_nowhere(item):
                    if _is_shape(item.name):  # an error where it is read
                        files.append((*parts, _storable(item.name, here)))
                elif item.is_dir():
                    waiting.append((*parts, _storable(item.name, here)))
                elif item.is_file() and (item.name.isprintable() or _is_shape(item.name)):
                    files.append((*parts, _storable(item.name, here)))
        except OSError as error:
            raise DataError(f"{here} cannot be listed: {error.strerror}. Check it.") from error
    return Folder(sorted(files), sorted(folders[1:]))


def _leads_nowhere(item: os.DirEntry[str]) -> bool:
    """Whether it is a link to what is not there, or to itself."""
    return item.is_symlink() and not os.path.exists(item.path)


def _is_shape(name: str) -> bool:
    return suffix(name) in (*MESH_SUFFIXES, *CLOUD_SUFFIXES)


def _storable(name: str, folder: Path) -> str:
    if not name.isprintable():
        raise DataError(
            f"{folder}: the name {name!a} holds characters that cannot be stored. Rename it."
        )
    return name


def contents(folder: Folder) -> str:
    """What a folder holds, in a few words."""
    kinds = Counter(suffix(parts[-1]) or "no ending" for parts in folder.files)
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6))
    return f"{len(folder.files)} files ({named})" if named else "no files"


def left_out(folder: Folder, suffixes: Collection[str]) -> list[str]:
    """Notes on files that look like shapes but are not read."""
    notes = []
    for layout, others in (("meshes", MESH_SUFFIXES), ("clouds", CLOUD_SUFFIXES)):
        count = len(folder.with_suffix([kind for kind in others if kind not in suffixes]))
        if count:
            notes.append(f"{count} files are left out; --layout {layout} reads them")
    archives = folder.with_suffix(_ARCHIVES)
    if archives:
        example = "/".join(archives[0])
        notes.append(f"{len(archives)} packed files are left out, such as {example}; unpack them")
    return notes


def entries_of(
    root: Path, folder: Folder, suffixes: Collection[str]
) -> tuple[list[Entry], tuple[str, ...]]:
    """Shapes of a folder with class and split, and the names of the classes.

    A part of the path named train, test or val (or longer forms of these) is the split, the last
    one; if only few files have one and none is held out, it is a class of trains. The first
    remaining part that differs between files is the class. The id is the path without ending.

    Args:
        root: the folder, or a single file.
        folder: what lies in it.
        suffixes: endings of files that are shapes.

    Raises:
        DataError: if there are no shapes, or a class has none.
    """
    shapes = folder.with_suffix(suffixes)
    if not shapes:
        remedy = (
            "Unpack them." if folder.with_suffix(_ARCHIVES) else "Convert your shapes to these."
        )
        raise DataError(
            f"{root} holds {contents(folder)}; expected files that end in {' '.join(suffixes)}. "
            f"{remedy}"
        )
    root = root.parent if root.is_file() else root
    places = [_split_place(parts[:-1]) for parts in shapes]
    named = [
        SPLIT_WORDS[parts[place].lower()]
        for parts, place in zip(shapes, places, strict=True)
        if place is not None
    ]
    has_splits = len(named) * 2 > len(shapes) or not {*named} <= {"train"}
    splits, groups = [], []
    for parts, place in zip(shapes, places, strict=True):
        if has_splits and place is not None:
            splits.append(SPLIT_WORDS[parts[place].lower()])
            groups.append(parts[:place] + parts[place + 1 : -1])
        else:
            splits.append("")
            groups.append(parts[:-1])
    depth = _class_depth(groups)
    classes = [group[depth] if len(group) > depth else "" for group in groups]
    stems = {os.path.splitext(parts[-1])[0] for parts in shapes}
    if len(stems) == 1 and len(shapes) > 1 and len(set(classes)) == len(shapes):
        classes = [""] * len(shapes)  # <object>/model.obj: the folders are objects
    names = tuple(sorted({name for name in classes if name}))
    labels = {name: label for label, name in enumerate(names)}
    entries = [
        Entry(
            "/".join((*parts[:-1], os.path.splitext(parts[-1])[0])),
            labels.get(name, -1),
            split,
            root.joinpath(*parts),
        )
        for parts, name, split in zip(shapes, classes, splits, strict=True)
    ]
    class_folders = {
        parts[: depth + (place is not None and has_splits and place <= depth) + 1]
        for parts, place, name in zip(shapes, places, classes, strict=True)
        if name
    }
    _check_empty(root, folder, shapes, class_folders)
    return entries, names


def _split_place(folders: tuple[str, ...]) -> int | None:
    """Which of the folders names a split: the last one that does."""
    for place in reversed(range(len(folders))):
        if folders[place].lower() in SPLIT_WORDS:
            return place
    return None


def _class_depth(groups: list[tuple[str, ...]]) -> int:
    """Which part of the path is the class; folders around all others say nothing."""
    depth = 0
    while all(len(group) > depth + 1 for group in groups) and len({g[depth] for g in groups}) == 1:
        depth += 1
    return depth


def _check_empty(
    root: Path,
    folder: Folder,
    shapes: list[tuple[str, ...]],
    class_folders: set[tuple[str, ...]],
) -> None:
    """Refuse folders of a class that hold no shapes: something was not unpacked."""
    full = {parts[:depth] for parts in shapes for depth in range(len(parts))}
    used = {parts[:depth] for parts in folder.files for depth in range(len(parts))}
    beside = {parts[:-1] for parts in class_folders}
    split_parents = {f[:-1] for f in folder.folders if f[-1].lower() in SPLIT_WORDS}
    for parts in folder.folders:
        is_class = parts[:-1] in beside and (parts not in used or parts in split_parents)
        is_split = parts[:-1] in class_folders and parts[-1].lower() in SPLIT_WORDS
        if parts not in full and (is_class or is_split):
            raise DataError(
                f"{root.joinpath(*parts)} holds no shapes: an empty class. Fill it or remove the "
                "folder."
            )
