"""From a path to a data set: which layout it has, or what is missing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

from i2pmae.datasets.clouds import Clouds, read_cloud
from i2pmae.datasets.few_shot import FewShotEpisode, setting_folders, setting_of
from i2pmae.datasets.folders import (
    CLOUD_SUFFIXES,
    MESH_SUFFIXES,
    Folder,
    contents,
    is_hidden,
)
from i2pmae.datasets.hdf5 import ModelNetHdf5
from i2pmae.datasets.kinds import kinds_of
from i2pmae.datasets.listed import some
from i2pmae.datasets.meshes import Meshes
from i2pmae.datasets.modelnet_text import PICKLES, ModelNet10Text, ModelNetPickle, ModelNetText
from i2pmae.datasets.naming import Classes
from i2pmae.datasets.own import OwnFolder, OwnShapes
from i2pmae.datasets.partnet import PartNet, PartNetHdf5, PartNetInstances
from i2pmae.datasets.procedural import ProceduralShapes, RandomShapes
from i2pmae.datasets.scanobjectnn import FOLDERS, VARIANTS
from i2pmae.datasets.shapenet import ShapeNet55
from i2pmae.datasets.shapenetpart import ShapeNetPart, ShapeNetPartHdf5
from i2pmae.datasets.source import SPLIT_NAMES, ShapeSource, SplitError
from i2pmae.datasets.stored import StoredShapes
from i2pmae.errors import ConfigError, DataError
from i2pmae.formats.files import suffix
from i2pmae.geometry.coordinates import Up, usable

_CLASSES: tuple[type[ShapeSource], ...] = (
    ModelNetHdf5,
    ModelNetText,
    ModelNet10Text,
    ModelNetPickle,
    FewShotEpisode,
    *VARIANTS,
    ShapeNet55,
    ShapeNetPart,
    ShapeNetPartHdf5,
    PartNet,
    PartNetHdf5,
    PartNetInstances,
    Meshes,
    Clouds,
    ProceduralShapes,
    RandomShapes,
    StoredShapes,
)
_SOURCES: dict[str, type[ShapeSource]] = {source.layout: source for source in _CLASSES}
LAYOUTS = tuple(_SOURCES)
_WORDS = (ProceduralShapes.layout, RandomShapes.layout)  # layouts that need no files
_SCANOBJECTNN = "scanobjectnn"  # whichever variant is there
_DEEPEST_WRAPPER = 4  # folders that hold nothing but a folder
_MOST_CHILDREN = 64  # folders that are looked into for a data set one level below


class Located(NamedTuple):
    """Path and kind of a data set, as found by `locate`."""

    layout: str
    path: Path
    notes: tuple[str, ...] = ()
    own: OwnFolder | None = None


def open_source(
    path: str | Path | Located,
    layout: str = "auto",
    split: str = "train",
    limit: int | None = None,
    points: int = 8192,
    seed: int = 0,
    up: Up = "y",
    prefer: str | None = None,
    classes: Classes = "auto",
    files: Sequence[Path] = (),
) -> ShapeSource:
    """Open a data set on disk, or procedural shapes.

    Args:
        path: folder or file; a store, or its URL; or a word that needs no files: `procedural`,
            `procedural-random` or `procedural-random:30000` for that many shapes. What `locate`
            has found is not looked for again.
        layout: one of `LAYOUTS`, or `auto` to tell from the files; `locate` has it already.
        split: `train`, `val`, `test` or `all`. Data without splits counts as training data.
        limit: read only the first shapes of the split.
        points: most points per shape.
        seed: decides random samples of surfaces and clouds.
        up: axis of the files that points up: shapes are turned so that it is y.
        prefer: ending that is read where one name has several, as `obj` or `stl`; of people's own
            folders.
        classes: which folders of people's own are classes: `auto` to tell from their names,
            `folders` for the first that differ, `none`, or a level: `2` for the folders inside
            the top ones. Folders of splits do not count as a level.
        files: more files of shapes, where `path` is a file as well.

    Returns:
        A source; no shape has been read yet.

    Raises:
        DataError: if the path holds no data set, or one that is incomplete or damaged.
        StoreError: if it is a store that cannot be read.
        ConfigError: if an argument has no such value.
    """
    if split not in SPLIT_NAMES:
        raise ConfigError(f"split {split!r} is unknown; use one of {', '.join(SPLIT_NAMES)}")
    if points < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"points ({points}) and limit ({limit}) must be positive")
    if up not in get_args(Up):
        raise ConfigError(f"up {up!r} is unknown; use x, y or z")
    if classes not in get_args(Classes):
        raise ConfigError(f"classes {classes!r} is unknown; use auto, folders, none or 1 to 4")
    found = path if isinstance(path, Located) else locate(path, layout, files)
    path = found.path
    with _readable(path):
        options: dict[str, Any] = {"split": split, "limit": limit, "points": points, "seed": seed}
        kind = _SOURCES[found.layout]
        if issubclass(kind, OwnShapes):
            options |= {"prefer": prefer, "classes": classes, "own": found.own}
        elif prefer is not None or classes != "auto":
            name = "--classes" if prefer is None else "--prefer"
            raise ConfigError(
                f"{name} is for folders of single files; {path} is {found.layout}. Leave it out."
            )
        if kind is StoredShapes:
            options["layouts"] = _SOURCES
        source = kind(found.path, **options)
        source.up = up
        if source.stated_up not in (None, up):
            axis = source.stated_up
            source.notes.append(f"files say that {axis} points up: --up {axis} turns the shapes")
        source.notes[:0] = found.notes
        return source


def locate(path: str | Path, layout: str = "auto", files: Sequence[Path] = ()) -> Located:
    """Detect the data set at a path; `open_source` then opens its splits.

    Args:
        path, layout, files: as of `open_source`.

    Raises:
        DataError, StoreError, ConfigError: as `open_source`.
    """
    path = Path(path)
    if layout not in (*LAYOUTS, "auto", _SCANOBJECTNN):
        near = difflib.get_close_matches(layout, LAYOUTS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"layout {layout!r} is unknown; known: {', '.join(LAYOUTS)}.{hint}")
    with _readable(path):
        found = _own_files([path, *files], layout) if files else _find(path, layout)
        if found.own is None and issubclass(_SOURCES[found.layout], OwnShapes):
            found = found._replace(own=OwnFolder.look_into(found.path))
        return found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise a one-line error for what the system does not allow to be read."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise DataError(
            f"{place} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from error


def open_split(path: str | Path, *more: Path, **options: Any) -> ShapeSource:
    """`open_source` for commands that have an option `--split`.

    Args:
        path: as of `open_source`.
        more: files that are read with it, if it is a file as well.
        options: of `open_source`.

    Raises:
        DataError, ConfigError: as `open_source`.
    """
    try:
        return open_source(path, files=more, **options)
    except SplitError as error:
        raise SplitError(f"{error} Choose one with --split, or read all: --split all.") from None


def open_labeled_splits(
    path: str | Path, purpose: str, *, layout: str = "auto", **options: Any
) -> tuple[ShapeSource, ShapeSource]:
    """The training and the test split of a data set, all shapes of which have a class.

    Args:
        path, layout, options: as of `open_source`.
        purpose: what needs them, for the error.

    Raises:
        DataError: if a split or its labels are missing; else as `open_source`.
    """
    found = locate(path, layout)
    train, test = (open_source(found, split=split, **options) for split in ("train", "test"))
    for source, split in ((train, "train"), (test, "test")):
        require_labels(path, split, source.labels, source.ids, purpose)
    return train, test


def require_labels(
    path: str | Path, split: str, labels: Sequence[int], ids: Sequence[str], purpose: str
) -> None:
    """Raise a DataError unless a split has shapes, all of them with a class."""
    without = [name for name, label in zip(ids, labels, strict=True) if label < 0]
    if 0 < len(without) < len(labels):
        raise DataError(
            f"{path}: {len(without)} of {len(labels)} shapes of split '{split}' without a class "
            f"({some(without)}); move each into a class folder or remove it"
        )
    if len(without) == len(labels):
        raise DataError(
            f"{path}: no labeled shapes of split '{split}'; {purpose} needs classes and a train "
            "and a test split"
        )


def read_like(source: ShapeSource, layout: str, *, stored: bool) -> None:
    """Have the points of a file chosen and scaled like those of a data set, to find shapes in it.

    Args:
        source: the file.
        layout: of the data set.
        stored: whether its points come from a store, where all are scaled to the unit sphere.
    """
    kind = _SOURCES.get(layout)
    if kind is None or issubclass(kind, OwnShapes | StoredShapes):
        return
    source.in_order = not kind.shuffled
    if not stored:
        source.unit_sphere = kind.unit_sphere  # type: ignore[misc]
        source.normalized_points = kind.normalized_points  # type: ignore[misc]


def _own_files(files: Sequence[Path], layout: str) -> Located:
    """Single files as one data set, named by their paths below the folder that holds them all."""
    if layout not in ("auto", Meshes.layout, Clouds.layout):
        raise ConfigError(
            f"--layout {layout} is for one path; several files are read as meshes or clouds. Leave "
            "--layout out."
        )
    missing = [file for file in files if not file.is_file()]
    if missing:
        is_folder = missing[0].is_dir()
        raise DataError(
            f"{missing[0]} is a folder; several paths must be files. Give one folder, or files."
            if is_folder
            else f"{missing[0]} does not exist."
        )
    paths = [file.absolute() for file in files]
    root = Path(os.path.commonpath([file.parent for file in paths]))
    own = OwnFolder.of_files(root, [file.relative_to(root).parts for file in dict.fromkeys(paths)])
    if own.majority is None:
        raise DataError(
            f"{files[0]} and {len(files) - 1} more are neither meshes nor clouds. Give files of "
            "shapes."
        )
    if layout == "auto":
        layout = Meshes.layout if own.majority == "mesh" else Clouds.layout
    return Located(layout, root, (), own)


def detect_layout(path: Path) -> str:
    """Name of the layout that the files at `path` have, or begin to have.

    Raises:
        DataError: if they have none, saying what was found; or several.
    """
    return _find(path, "auto").layout


def _find(path: Path, layout: str) -> Located:
    """What `open_source` is to open, where the user names a layout, or `auto`."""
    if layout in _WORDS:
        return Located(layout, path)
    word = str(path).partition(":")[0]
    if (
        layout == "auto"
        and not path.exists()
        and (str(path) in _WORDS or word == RandomShapes.layout)
    ):
        return Located(word, path)
    if layout == StoredShapes.layout or (layout == "auto" and StoredShapes.is_at(path)):
        return Located(StoredShapes.layout, path)
    _existing(path)
    if layout not in ("auto", _SCANOBJECTNN):
        return Located(layout, path)
    if path.is_file():
        return Located(_layout_of_file(path), path)
    notes: tuple[str, ...] = ()
    for folder in _wrapped(path):
        published = _SCANOBJECTNN if layout == _SCANOBJECTNN else _published(folder)
        if published is not None:
            if folder != path:
                notes = (f"taken for {published}: the data set lies in {folder}",)
            if published == _SCANOBJECTNN:
                published = _variant(folder)
            return Located(published, folder, notes)
    _check_neighbors(path)
    own = OwnFolder.look_into(path)
    if own.majority is None:
        raise DataError(
            f"{path} holds {contents(own.folder)}: no known layout. {_missing(path, own.folder)}"
        )
    return Located(Meshes.layout if own.majority == "mesh" else Clouds.layout, path, (), own)


def _wrapped(folder: Path) -> Iterator[Path]:
    """A folder, and those that hold nothing but one folder each, as unpacked archives do."""
    for _ in range(_DEEPEST_WRAPPER):
        yield folder
        inside = [item for item in folder.iterdir() if not is_hidden(item.name)]
        if len([item for item in inside if item.is_dir()]) != 1:
            return
        folder = next(item for item in inside if item.is_dir())


def _existing(path: Path) -> Path:
    if path.exists():
        return path
    known = [*_WORDS] if path.parent == Path() else []
    if path.parent.is_dir():
        known += [found.name for found in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, known, n=1)
    hint = f" Did you mean {path.with_name(near[0])}?" if near else ""
    raise DataError(
        f"{path} does not exist.{hint} Give the folder of a data set, or the word "
        f"{' or '.join(map(repr, _WORDS))}."
    )


def _layout_of_file(file: Path) -> str:
    kind = suffix(file.name)
    if kind in (*MESH_SUFFIXES, *CLOUD_SUFFIXES):
        if kind == ".ply" and kinds_of(file.parent, [(file.name,)])[(file.name,)] == "cloud":
            return Clouds.layout
        return Meshes.layout if kind in MESH_SUFFIXES else Clouds.layout
    if kind == ".pkl":
        return FewShotEpisode.layout
    if kind == ".dat":
        return ModelNetPickle.layout
    remedy = "Give the folder that it lies in." if kind == ".h5" else "Unpack or convert it."
    raise DataError(
        f"{file} is no folder of a known layout and no single mesh, cloud or pickle. {remedy}"
    )


def _published(folder: Path) -> str | None:
    """The published data set of which at least one telling file lies in a folder."""

    def holds(*patterns: str) -> bool:
        return any(next(folder.glob(pattern), None) is not None for pattern in patterns)

    if holds("all_object_categories.txt", "*_hdf5_file_list.txt"):
        return ShapeNetPartHdf5.layout
    if holds("train_files.txt", "test_files.txt", "ply_data_*.h5"):
        return ModelNetHdf5.layout
    if holds(*FOLDERS, "*_objectdataset*.h5") or any(v.find(folder) for v in VARIANTS):
        return _SCANOBJECTNN
    if holds(ShapeNet55.lists, ShapeNet55.clouds):
        return ShapeNet55.layout
    # Lists and pickles are published together; the texts that the lists name may not be there.
    if holds(PICKLES) and not holds("*/*_0001.txt"):
        return ModelNetPickle.layout
    if holds("modelnet40_train.txt", "modelnet40_test.txt"):
        return ModelNetText.layout
    if holds("modelnet10_train.txt", "modelnet10_test.txt"):
        return ModelNet10Text.layout
    if holds("modelnet40_shape_names.txt"):
        return ModelNetText.layout
    if holds("*.pkl") if setting_of(folder.absolute()) else setting_folders(folder):
        return FewShotEpisode.layout
    if holds("synsetoffset2category.txt", "train_test_split"):
        return ShapeNetPart.layout
    for layout in (PartNet, PartNetInstances, PartNetHdf5):
        if layout.is_at(folder):
            return layout.layout
    return None


def _variant(folder: Path) -> str:
    """The only variant of ScanObjectNN that is there."""
    found = [variant.layout for variant in VARIANTS if variant.find(folder)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{folder} may be read as several variants of ScanObjectNN: {', '.join(found)}. Choose "
            f"one, as in --layout {found[0]}."
        )
    raise DataError(
        f"{folder} holds none of ScanObjectNN's files; expected {FOLDERS[0]} or {FOLDERS[1]} with "
        "training_objectdataset.h5 and test_objectdataset.h5, or the former with "
        "*_objectdataset_augmentedrot_scale75.h5. Download h5_files again."
    )


def _check_neighbors(folder: Path) -> None:
    """Refuse a folder beside or above the one that was meant."""
    parent = folder.absolute().parent
    if (
        folder.name in (ShapeNet55.lists, ShapeNet55.clouds)
        and (parent / ShapeNet55.lists).is_dir()
    ):
        raise DataError(f"{folder} is one part of ShapeNet-55. Give the folder above: {parent}.")
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    for child in children[:_MOST_CHILDREN]:
        layout = _published(child)
        if layout is not None:
            raise DataError(
                f"{folder} itself is no data set, but {child} has the layout {layout}. Give that "
                "folder."
            )


def _missing(root: Path, folder: Folder) -> str:
    """What is missing for a folder to be a data set."""
    if folder.with_suffix([".h5", ".hdf5"]):
        return (
            "Missing beside the .h5 files: train_files.txt, test_files.txt and shape_names.txt, or "
            "ScanObjectNN's folder main_split. Add them."
        )
    if any(len(f) > 1 and f[-1].startswith(f"{f[-2]}_") for f in folder.with_suffix([".txt"])):
        return (
            "Missing beside the folders of text files: modelnet40_train.txt, modelnet40_test.txt "
            "and modelnet40_shape_names.txt. Add them."
        )
    packed = [parts for parts in folder.files if suffix(parts[-1]) in (".gz", ".zip", ".tar")]
    if packed:
        return f"Unpack its archives first, such as {'/'.join(packed[0])}."
    for parts in folder.with_suffix(CLOUD_SUFFIXES)[:1]:
        try:
            usable(read_cloud(root.joinpath(*parts)))
        except DataError as error:
            return f"Its first file that could be a shape, {'/'.join(parts)}: {error}"
    kinds = " ".join(sorted({*MESH_SUFFIXES, *CLOUD_SUFFIXES}))
    return (
        f"Expected files that end in {kinds}, or a published data set (layouts: "
        f"{', '.join(LAYOUTS)}). Check the path or convert the shapes."
    )
