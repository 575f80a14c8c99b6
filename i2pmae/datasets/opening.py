"""From a path to a data set: which layout it has, or what is missing."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from i2pmae.datasets.clouds import Clouds
from i2pmae.datasets.few_shot import SETTING_PATTERN, FewShotEpisode
from i2pmae.datasets.folders import CLOUD_SUFFIXES, MESH_SUFFIXES, Folder, contents, suffix, walk
from i2pmae.datasets.hdf5 import ModelNetHdf5
from i2pmae.datasets.meshes import Meshes
from i2pmae.datasets.modelnet_text import ModelNet10Text, ModelNetPickle, ModelNetText
from i2pmae.datasets.ply import ply_header
from i2pmae.datasets.procedural import ProceduralShapes
from i2pmae.datasets.scanobjectnn import FOLDERS, VARIANTS
from i2pmae.datasets.shapenet import ShapeNet55
from i2pmae.datasets.shapenetpart import ShapeNetPart
from i2pmae.datasets.source import SPLIT_NAMES, ShapeSource
from i2pmae.errors import ConfigError, DataError

_CLASSES: tuple[type[ShapeSource], ...] = (
    ModelNetHdf5,
    ModelNetText,
    ModelNet10Text,
    ModelNetPickle,
    FewShotEpisode,
    *VARIANTS,
    ShapeNet55,
    ShapeNetPart,
    Meshes,
    Clouds,
    ProceduralShapes,
)
_SOURCES: dict[str, Callable[..., ShapeSource]] = {source.layout: source for source in _CLASSES}
LAYOUTS = tuple(_SOURCES)
_SCANOBJECTNN = "scanobjectnn"  # whichever variant is there
_MOST_CHILDREN = 64  # folders that are looked into for a data set one level below


def open_source(
    path: str | Path,
    layout: str = "auto",
    split: str = "train",
    limit: int | None = None,
    points: int = 8192,
    seed: int = 0,
) -> ShapeSource:
    """Open a data set that lies on disk, or the procedural shapes.

    Args:
        path: folder or file; or the word `procedural`, which needs no files.
        layout: one of `LAYOUTS`, or `auto` to tell from the files.
        split: `train`, `val`, `test` or `all`. Data without splits counts as training data.
        limit: read only the first shapes of the split.
        points: most points per shape.
        seed: decides random samples of surfaces and clouds.

    Returns:
        A source; no shape has been read yet.

    Raises:
        DataError: if the path holds no data set, or one that is incomplete or damaged.
        ConfigError: if an argument has no such value.
    """
    path = Path(path)
    if layout not in (*LAYOUTS, "auto", _SCANOBJECTNN):
        near = difflib.get_close_matches(layout, LAYOUTS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"layout {layout!r} is unknown; known: {', '.join(LAYOUTS)}.{hint}")
    if split not in SPLIT_NAMES:
        raise ConfigError(f"split {split!r} is unknown; use one of {', '.join(SPLIT_NAMES)}")
    if points < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"points ({points}) and limit ({limit}) must be positive")
    try:
        if layout == "auto":
            layout = detect_layout(path)
        elif layout == _SCANOBJECTNN:
            layout = _variant(_existing(path))
        elif layout != ProceduralShapes.layout:
            _existing(path)
        return _SOURCES[layout](path, split=split, limit=limit, points=points, seed=seed)
    except OSError as error:
        place = error.filename or path
        raise DataError(
            f"{place} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from error


def detect_layout(path: Path) -> str:
    """Name of the layout that the files at `path` have, or begin to have.

    Raises:
        DataError: if they have none, saying what was found; or several.
    """
    if not path.exists() and str(path) == ProceduralShapes.layout:
        return ProceduralShapes.layout
    _existing(path)
    if path.is_file():
        return _layout_of_file(path)
    layout = _published(path)
    if layout == _SCANOBJECTNN:
        return _variant(path)
    if layout is not None:
        return layout
    _check_neighbors(path)
    return _own_shapes(path)


def _existing(path: Path) -> Path:
    if path.exists():
        return path
    known = [ProceduralShapes.layout] if path.parent == Path() else []
    if path.parent.is_dir():
        known += [found.name for found in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, known, n=1)
    hint = f" Did you mean {path.with_name(near[0])}?" if near else ""
    raise DataError(
        f"{path} does not exist.{hint} Give the folder of a data set, or the word "
        f"{ProceduralShapes.layout!r}."
    )


def _layout_of_file(file: Path) -> str:
    kind = suffix(file.name)
    if kind == ".ply":
        return Meshes.layout if ply_header(file).n_faces else Clouds.layout
    if kind in MESH_SUFFIXES:
        return Meshes.layout
    if kind in CLOUD_SUFFIXES:
        return Clouds.layout
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

    if holds("train_files.txt", "test_files.txt", "ply_data_*.h5"):
        return ModelNetHdf5.layout
    if holds(*FOLDERS, "*_objectdataset*.h5") or any(v.find(folder) for v in VARIANTS):
        return _SCANOBJECTNN
    if holds(ShapeNet55.lists, ShapeNet55.clouds):
        return ShapeNet55.layout
    if holds("modelnet40_train.txt", "modelnet40_test.txt"):
        return ModelNetText.layout
    if holds("modelnet40_*_8192pts_fps.dat"):
        return ModelNetPickle.layout
    if holds("modelnet10_train.txt", "modelnet10_test.txt"):
        return ModelNet10Text.layout
    if holds("modelnet40_shape_names.txt"):
        return ModelNetText.layout
    if holds(SETTING_PATTERN) or (fnmatch(folder.name, SETTING_PATTERN) and holds("*.pkl")):
        return FewShotEpisode.layout
    if holds("synsetoffset2category.txt", "train_test_split"):
        return ShapeNetPart.layout
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


def _own_shapes(path: Path) -> str:
    """Whether a folder holds meshes or clouds; whichever are more."""
    folder = walk(path)
    plys = folder.with_suffix([".ply"])
    meshes = len(folder.with_suffix(MESH_SUFFIXES)) - len(plys)
    clouds = len(folder.with_suffix(CLOUD_SUFFIXES)) - len(plys)
    if not meshes and not clouds and plys:
        files = [path.joinpath(*parts) for parts in plys]
        return _layout_of_file(next((file for file in files if file.exists()), files[0]))
    if not meshes and not clouds:
        raise DataError(f"{path} holds {contents(folder)}: no known layout. {_missing(folder)}")
    return Meshes.layout if meshes >= clouds else Clouds.layout


def _missing(folder: Folder) -> str:
    """What would make a data set of a folder that is none."""
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
    kinds = " ".join(sorted({*MESH_SUFFIXES, *CLOUD_SUFFIXES}))
    return (
        f"Expected files that end in {kinds}, or a published data set (layouts: "
        f"{', '.join(LAYOUTS)}). Check the path or convert the shapes."
    )
