"""Few-shot episodes of ModelNet40 as published: `<way>way_<shot>shot/<fold>.pkl`, or alike.

Each pickle holds {'train': list, 'test': list} of (8192 x 6 array, label 0 to way - 1, class of
ModelNet40). Pickles are read without running any code that they name.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy.typing as npt

from i2pmae.datasets.hdf5 import MODELNET40_NAMES
from i2pmae.datasets.modelnet_text import pickled_cloud, pickled_label
from i2pmae.datasets.source import Entry, ShapeSource
from i2pmae.errors import DataError, one_line
from i2pmae.formats.files import read_pickle, storable
from i2pmae.untrusted.unpickling import as_array

_MARK = r"[-_ ,.]*"
_SETTINGS = (  # 5way_10shot as published; 5-way 10-shot, 5w10s, way5_shot10, each after a prefix
    re.compile(rf"(.*\D)?(?P<ways>\d+){_MARK}w(ays?)?{_MARK}(?P<shots>\d+){_MARK}s(hots?)?", re.I),
    re.compile(rf"(.*[-_ .])?ways?{_MARK}(?P<ways>\d+){_MARK}shots?{_MARK}(?P<shots>\d+)", re.I),
)


class Setting(NamedTuple):
    """Size of an episode."""

    ways: int  # classes
    shots: int  # training shapes per class


def setting_of(folder: Path) -> Setting | None:
    """The setting that a folder of episodes is named after, None if after none."""
    for pattern in _SETTINGS:
        if found := pattern.fullmatch(folder.name):
            return Setting(int(found["ways"]), int(found["shots"]))
    return None


def setting_folders(root: Path) -> dict[Setting, Path]:
    """Folders below a folder that are named after settings; or the folder itself, if it is."""
    own = setting_of(root.absolute())
    if own is not None:
        return {own: root}
    inside = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    return {setting: folder for folder in inside if (setting := setting_of(folder)) is not None}


class FewShotEpisode(ShapeSource):
    """One episode: all 8192 points centered and scaled, the first ones kept.

    They are in farthest-point order, so the first n are well spread. Normals are ignored.

    Raises:
        DataError: if the pickle is damaged, is no episode, or holds anything but numbers.
    """

    layout = "few-shot"
    recipe = "fewshot-modelnet40"
    normalized_points: ClassVar[int | None] = None
    uniform: ClassVar[bool] = True
    hash_contents: ClassVar[bool] = True

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        file = _one_episode(root)
        clouds, labels, splits, class_names = _read_episode(file)
        counts = dict.fromkeys(splits, 0)
        entries = []
        for row, (label, name) in enumerate(zip(labels, splits, strict=True)):
            entries.append(Entry(f"{name}/{counts[name]:04d}", label, name, file, row))
            counts[name] += 1
        self._lock = threading.Lock()
        self._clouds: list[npt.NDArray[Any]] | None = clouds
        super().__init__(
            file.parent, class_names, entries, split=split, limit=limit, points=points, seed=seed
        )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_lock": None, "_clouds": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def _read(self, entry: Entry) -> tuple[npt.NDArray[Any], None]:
        with self._lock:
            if self._clouds is None:
                self._clouds = _read_episode(entry.file)[0]
        return self._clouds[entry.row], None


def few_shot_episode(path: str | Path, points: int = 8192) -> ShapeSource:
    """One published episode with both its splits; `splits` says which shape is for training.

    Args:
        path: `<way>way_<shot>shot/<fold>.pkl`.
        points: most points per shape.

    Raises:
        DataError: if the file is no such episode.
    """
    return FewShotEpisode(Path(path), split="all", limit=None, points=points, seed=0)


def few_shot_folds(folder: str | Path) -> list[Path]:
    """The episodes of one setting, `<way>way_<shot>shot`, by number.

    Raises:
        DataError: if there are none.
    """
    found = [file for file in Path(folder).glob("*.pkl") if file.is_file()]
    if not found:
        raise DataError(
            f"{folder} holds no episodes; expected 0.pkl, 1.pkl, ... Give a folder such as "
            "5way_10shot."
        )
    return sorted(found, key=lambda file: (len(file.stem), file.stem))


def _one_episode(root: Path) -> Path:
    if root.is_file():
        return root
    if not root.exists():
        raise DataError(f"{root} does not exist. Check the path.")
    found = [
        file
        for folder in (setting_folders(root).values() or [root])
        for file in sorted(folder.glob("*.pkl"))
    ]
    if len(found) != 1:
        example = f", such as {found[0].relative_to(root)}" if found else ""
        raise DataError(
            f"{root} holds {len(found)} few-shot episodes; one is read at a time. Give one "
            f"file{example}."
        )
    return found[0]


def _read_episode(
    file: Path,
) -> tuple[list[npt.NDArray[Any]], list[int], list[str], tuple[str, ...]]:
    """Clouds, labels, splits, and the names of the classes."""
    value = read_pickle(file)
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name), list | tuple) and value[name] for name in ("train", "test")
    ):
        keys = f" with keys {one_line(list(value)[:8])}" if isinstance(value, dict) else ""
        raise DataError(
            f"{file} holds {type(value).__name__}{keys}; expected {{'train': list, 'test': list}}, "
            "neither empty. Download it again."
        )
    rows = [(name, row) for name in ("train", "test") for row in value[name]]
    setting = setting_of(file.absolute().parent)
    ways = setting.ways if setting else len(MODELNET40_NAMES)
    clouds, labels, splits = [], [], []
    originals: dict[int, str] = {}
    for number, (name, row) in enumerate(rows):
        if not isinstance(row, list | tuple) or not 2 <= len(row) <= 3:
            raise DataError(
                f"{file}: item {number} is no (points, label, class). Download it again."
            )
        clouds.append(pickled_cloud(row[0], file, number))
        labels.append(pickled_label(row[1], ways, file, number))
        splits.append(name)
        originals.setdefault(labels[-1], _class_name(row[2] if len(row) == 3 else None, labels[-1]))
    n_train = splits.count("train")
    unseen = sorted(set(labels) - set(labels[:n_train]))
    if unseen:
        raise DataError(
            f"{file}: label {unseen[0]} has test shapes but none to train on: an empty class. "
            "Download it again."
        )
    ways = max(ways if setting else 0, max(labels) + 1)
    names = tuple(originals.get(label, f"class {label}") for label in range(ways))
    return clouds, labels, splits, names


def _class_name(original: object, label: int) -> str:
    """What ModelNet40 calls a class of the episode."""
    if isinstance(original, str) and storable(original) and original:
        return original
    number = as_array(original)
    if number is not None and number.size == 1 and number.dtype.kind in "iu":
        index = int(number.reshape(-1)[0])
        if 0 <= index < len(MODELNET40_NAMES):
            return MODELNET40_NAMES[index]
    return f"class {label}"
