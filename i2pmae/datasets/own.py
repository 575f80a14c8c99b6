"""Users' own folders of shapes, one file each: which files are read, and their ids.

`<class>/{train,test}/...`, `{train,test}/<class>/...`, either without classes, without splits, or
without both; nested as deep as one likes. Splits may also come from lists, `train.txt` and the
like, anywhere in the folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from i2pmae.datasets.folders import (
    ARCHIVES,
    CLOUD_SUFFIXES,
    MESH_SUFFIXES,
    Folder,
    contents,
    counted,
    escaped,
    not_read,
    walk,
)
from i2pmae.datasets.kinds import Kind, kinds_of
from i2pmae.datasets.listed import ENDINGS as _LISTS
from i2pmae.datasets.listed import listed_classes, listed_splits, some
from i2pmae.datasets.naming import (
    Classes,
    Parts,
    one_ending,
    one_variant,
    places_of,
    split_of,
    without_values,
)
from i2pmae.datasets.source import Entry, ShapeSource
from i2pmae.errors import ConfigError, DataError
from i2pmae.formats.files import stem, suffix

_LOOKED_AT = 5  # of the files that are called like values of points
_SUFFIXES = {"mesh": MESH_SUFFIXES, "cloud": CLOUD_SUFFIXES}


class OwnFolder(NamedTuple):
    """The files of a folder and their kinds."""

    root: Path  # the folder, or a single file
    folder: Folder
    kinds: dict[Parts, Kind]

    @classmethod
    def look_into(cls, root: Path) -> OwnFolder:
        """List a folder and look into files whose ending does not say what they are."""
        folder = walk(root)
        if root.is_file():
            return cls(root, folder, _named_kinds(root.parent, folder.files))
        return cls(root, folder, kinds_of(root, folder.files))

    @classmethod
    def of_files(cls, root: Path, files: Sequence[Parts]) -> OwnFolder:
        """Some files below a folder, as if it held nothing else."""
        listed = sorted(files)
        return cls(root, Folder(listed, []), _named_kinds(root, listed))

    @property
    def majority(self) -> Literal["mesh", "cloud"] | None:
        """Whether most shapes are meshes or clouds; None if there is neither."""
        counts = Counter(self.kinds.values())
        if counts["mesh"] or counts["cloud"]:
            return "mesh" if counts["mesh"] >= counts["cloud"] else "cloud"
        unclear = {suffix(parts[-1]) for parts, kind in self.kinds.items() if kind == "unclear"}
        if unclear:
            return "mesh" if unclear <= {*MESH_SUFFIXES} else "cloud"
        return None

    def shapes(self, kind: Literal["mesh", "cloud"]) -> list[Parts]:
        """Files that are read as meshes or clouds."""
        both = [parts for parts, found in self.kinds.items() if found in (kind, "unclear")]
        return sorted(parts for parts in both if suffix(parts[-1]) in _SUFFIXES[kind])


def _named_kinds(root: Path, files: Sequence[Parts]) -> dict[Parts, Kind]:
    """Kinds of files that the user has named: reading them says what is wrong with them."""
    kinds = kinds_of(root, files)
    odd = [parts for parts, kind in kinds.items() if kind == "other"]
    return kinds | {p: "unclear" for p in odd if suffix(p[-1]) in (*MESH_SUFFIXES, *CLOUD_SUFFIXES)}


class OwnShapes(ShapeSource):
    """Shapes in users' own folders; see the classes for meshes and for clouds.

    Args:
        root: folder, or a single file.
        prefer: ending that is read where one name has several.
        classes: which folders are classes, see `places_of`.
        own: what lies in `root`.

    Raises:
        DataError: if there are no shapes.
        ConfigError: if no file has the preferred ending, or none lies in such a folder.
    """

    kind: ClassVar[Literal["mesh", "cloud"]]

    def __init__(
        self,
        root: Path,
        *,
        own: OwnFolder,
        prefer: str | None = None,
        classes: Classes = "auto",
        **options: Any,
    ):
        arranged = _arrange(own, self.kind, prefer, classes, self._holds_values)
        super().__init__(
            root if root.is_dir() else root.parent,
            arranged.class_names,
            arranged.entries,
            **options,
            notes=arranged.notes,
        )

    @staticmethod
    def _holds_values(_file: Path) -> bool:
        """Whether a file that is called like values of points holds such, not a shape."""
        return False


class _Arranged(NamedTuple):
    entries: list[Entry]
    class_names: tuple[str, ...]
    notes: list[str]


def _arrange(
    own: OwnFolder,
    kind: Literal["mesh", "cloud"],
    prefer: str | None,
    classes: Classes,
    holds_values: Callable[[Path], bool],
) -> _Arranged:
    """Shapes of a folder with class and split, the names of the classes, and what to say of it."""
    found = own.shapes(kind)
    if not found:
        raise DataError(_no_shapes(own, kind))
    order = list(_SUFFIXES[kind])
    if prefer is not None:
        preferred = f".{prefer.lower().lstrip('.')}"
        if preferred not in {suffix(parts[-1]) for parts in found}:
            raise ConfigError(
                f"--prefer {prefer}: {own.root} holds no such files; it holds {counted(found)}"
            )
        order = [preferred, *(ending for ending in order if ending != preferred)]
    notes = []
    shapes, same, endings = one_ending(found, order)
    if same:
        first = min(endings, key=[*order, *endings].index)
        notes.append(
            f"{len(same)} names have several endings ({' '.join(sorted(endings))}): {first} is "
            "read; --prefer chooses another"
        )
    others, values = without_values(shapes)
    looked_at = values[:: max(len(values) // _LOOKED_AT, 1)]
    if values and all(holds_values(own.root.joinpath(*parts)) for parts in looked_at):
        shapes = others
        told = some("/".join(parts) for parts in values)
        notes.append(f"{len(values)} files hold values of points in other files: {told}")
    else:
        values = []
    variants: list[Parts] = []
    if classes != "folders":  # a folder may be one object in several files
        shapes, variants, told = one_variant(shapes)
        if variants:
            notes.append(told)
    places, understood, class_folders = places_of(shapes, classes)
    splits = [place.split for place in places]
    class_names = [escaped(place.class_name) for place in places]
    maybe_lists = [
        parts
        for parts in own.folder.files
        if suffix(parts[-1]) in _LISTS and own.kinds[parts] == "other"
    ]
    lists: list[Parts] = []
    if not any(splits):
        listed = listed_splits(own.root, maybe_lists, shapes)
        splits, lists = listed.told, listed.used
        notes += listed.notes
    if classes == "auto" and not any(class_names):
        listed = listed_classes(own.root, maybe_lists, shapes)
        if listed.used:
            class_names = [escaped(name) for name in listed.told]
            understood = "; ".join(listed.notes)
            lists += listed.used
    names = tuple(sorted({name for name in class_names if name}))
    labels = {name: label for label, name in enumerate(names)}
    parent = own.root.parent if own.root.is_file() else own.root
    entries = [
        Entry(
            escaped("/".join((*parts[:-1], stem(parts[-1])))),
            labels.get(name, -1),
            split,
            parent.joinpath(*parts),
        )
        for parts, name, split in zip(shapes, class_names, splits, strict=True)
    ]
    empty = _empty_folders(own.folder, shapes, class_folders)
    if empty:
        notes.append(f"{len(empty)} folders of a class or split hold no shapes: {some(empty)}")
    chosen = {*shapes, *same, *values, *variants, *lists}
    left_out = [parts for parts in own.folder.files if parts not in chosen]
    notes += _left_out(own, kind, left_out)
    what = "mesh" if kind == "mesh" else "point cloud"
    if len(shapes) > 1:
        what = "meshes" if kind == "mesh" else "point clouds"
    return _Arranged(
        entries, names, [f"{len(shapes)} {what} ({counted(shapes)}); {understood}", *notes]
    )


def _left_out(own: OwnFolder, kind: Kind, files: Sequence[Parts]) -> list[str]:
    """A note on files that are not read, if there are any."""
    others = [parts for parts in files if own.kinds[parts] in ("mesh", "cloud")]
    arrays = [
        parts
        for parts in files
        if own.kinds[parts] == "other" and suffix(parts[-1]) in (".npy", ".npz")
    ]
    told = {*others, *arrays}
    said = []
    if others:
        what, layout = ("point clouds", "clouds") if kind == "mesh" else ("meshes", "meshes")
        said.append(f"{counted(others)} that are {what} (--layout {layout} reads them)")
    if arrays:
        said.append(f"{counted(arrays)} that hold no points")
    said += not_read(parts for parts in files if parts not in told)
    return [f"left out: {'; '.join(said)}"] if said else []


def _no_shapes(own: OwnFolder, kind: Literal["mesh", "cloud"]) -> str:
    remedy = "Convert your shapes to these."
    if own.folder.with_suffix(ARCHIVES):
        remedy = "Unpack them."
    elif own.majority is not None:
        layout = "clouds" if kind == "mesh" else "meshes"
        remedy = f"Read what is there with --layout {layout}."
    return (
        f"{own.root} holds {contents(own.folder)}; expected files that end in "
        f"{' '.join(_SUFFIXES[kind])}. {remedy}"
    )


def _empty_folders(folder: Folder, shapes: Sequence[Parts], class_folders: set[Parts]) -> list[str]:
    """Folders of a class or split that hold no shapes: perhaps something was not unpacked."""
    full = {parts[:depth] for parts in shapes for depth in range(len(parts))}
    used = {parts[:depth] for parts in folder.files for depth in range(len(parts))}
    beside = {parts[:-1] for parts in class_folders}
    split_parents = {parts[:-1] for parts in folder.folders if split_of(parts[-1])}
    beside_splits = {parts[:-1] for parts in full if parts and split_of(parts[-1])}
    empty: list[Parts] = []
    for parts in folder.folders:
        is_class = parts[:-1] in beside and (parts not in used or parts in split_parents)
        is_split = parts[:-1] in class_folders | beside_splits and split_of(parts[-1])
        if parts not in full and (is_class or is_split) and parts[:-1] not in empty:
            empty.append(parts)
    return ["/".join(parts) for parts in empty]
