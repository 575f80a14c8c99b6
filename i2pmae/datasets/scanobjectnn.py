"""ScanObjectNN: scanned objects of 15 classes, in three variants.

`main_split` holds objects with their background (OBJ-BG), `main_split_nobg` without (OBJ-ONLY),
and `*_objectdataset_augmentedrot_scale75.h5` in `main_split` the hardest ones (PB-T50-RS). Where
there is no main split, one of the four others is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from i2pmae.datasets.hdf5 import Hdf5Source
from i2pmae.errors import DataError
from i2pmae.formats.files import require_file

CLASS_NAMES = (
    "bag",
    "bin",
    "box",
    "cabinet",
    "chair",
    "desk",
    "display",
    "door",
    "shelf",
    "table",
    "bed",
    "pillow",
    "sink",
    "sofa",
    "toilet",
)
_MAIN = "main_split"
_OTHER_SPLITS = ("split1", "split2", "split3", "split4")  # of the same objects, less used
FOLDERS = (_MAIN, f"{_MAIN}_nobg")
_PREFIXES = {"train": "training", "test": "test"}


class ScanObjectNN(Hdf5Source):
    """One variant of ScanObjectNN, coordinates as stored.

    `root` may be the download, its `h5_files`, or the folder of one split.

    Raises:
        DataError: if the variant's files are not there, or not as published.
    """

    folder: ClassVar[str]
    suffix: ClassVar[str] = ""
    unit_sphere: ClassVar[Literal["always", "outside", "never"]] = "never"
    svm_points = None
    svm_c = 0.018

    def __init__(self, root: Path, *, split: str, limit: int | None, points: int, seed: int):
        folder = self.find(root)
        if folder is None:
            raise DataError(
                f"{root} holds no {self.folder}/training_objectdataset{self.suffix}.h5, which "
                f"{self.layout} needs. Give ScanObjectNN's h5_files folder, or another --layout."
            )
        names = (
            [split] if split != "all" else [n for n in _PREFIXES if self._file(folder, n).is_file()]
        )
        if split == "val":
            names = ["train"]
        files = [
            (name, require_file(self._file(folder, name), f"the {name} split of {self.layout}"))
            for name in names
        ]
        super().__init__(
            root, CLASS_NAMES, files, split=split, limit=limit, points=points, seed=seed
        )

    @classmethod
    def find(cls, root: Path) -> Path | None:
        """The folder at or below `root` that holds files of this variant, or None."""
        ending = cls.folder.removeprefix(_MAIN)
        own = [f"{name}{ending}" for name in (_MAIN, *_OTHER_SPLITS)]
        folders = [above / name for name in own for above in (root / "h5_files", root)]
        others = [f"{name}{other}" for name in (_MAIN, *_OTHER_SPLITS) for other in ("", "_nobg")]
        if root.name in own or root.name not in others:
            folders.append(root)
        for folder in folders:
            if any(cls._file(folder, name).is_file() for name in _PREFIXES):
                return folder
        return None

    @classmethod
    def _file(cls, folder: Path, split: str) -> Path:
        return folder / f"{_PREFIXES[split]}_objectdataset{cls.suffix}.h5"


class ObjBg(ScanObjectNN):
    """OBJ-BG: objects with background."""

    layout = "scanobjectnn-obj-bg"
    recipe = "finetune-scanobjectnn-obj-bg"
    folder = "main_split"


class ObjOnly(ScanObjectNN):
    """OBJ-ONLY: objects without background."""

    layout = "scanobjectnn-obj-only"
    recipe = "finetune-scanobjectnn-obj-only"
    folder = "main_split_nobg"


class PbT50Rs(ScanObjectNN):
    """PB-T50-RS: objects cut, shifted, rotated and scaled."""

    layout = "scanobjectnn-pb-t50-rs"
    recipe = "finetune-scanobjectnn-pb-t50-rs"
    folder = "main_split"
    suffix = "_augmentedrot_scale75"


VARIANTS: tuple[type[ScanObjectNN], ...] = (ObjBg, ObjOnly, PbT50Rs)
