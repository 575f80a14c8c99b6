"""The contents of a folder of users' own shapes: files, folders and their kinds."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from i2pmae.errors import DataError
from i2pmae.formats.files import storable, suffix

# Endings that are read; where one name has several, the first of these is.
MESH_SUFFIXES = (".glb", ".gltf", ".ply", ".obj", ".off", ".stl", ".dae", ".3mf", ".step", ".stp")
CLOUD_SUFFIXES = (
    *(".npy", ".npz", ".ply", ".pcd", ".las", ".laz", ".pts", ".xyz", ".txt", ".csv", ".bin"),
)
ARCHIVES = (".gz", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar")
# Files of shapes that nothing here reads; they are counted, where pictures and the like are not.
_OTHER_SHAPES = {
    *(".3dm", ".3ds", ".abc", ".binvox", ".blend", ".dwg", ".dxf", ".e57", ".fbx", ".iges", ".igs"),
    *(".max", ".msh", ".pt", ".pth", ".ptx", ".sdf", ".skp", ".sldprt", ".usd", ".usda", ".usdc"),
    *(".usdz", ".vtk", ".vtp", ".wrl", ".x3d"),
}
_KINDS_TOLD = 6
_SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


class Folder(NamedTuple):
    """Everything below a folder."""

    files: list[tuple[str, ...]]  # path of each file, in parts, sorted
    folders: list[tuple[str, ...]]

    def with_suffix(self, suffixes: Collection[str]) -> list[tuple[str, ...]]:
        """Files whose name ends so, in any case."""
        return [parts for parts in self.files if suffix(parts[-1]) in suffixes]


def escaped(name: str) -> str:
    """A name with characters that cannot be stored written as escapes."""
    if storable(name):
        return name
    return "".join(
        sign if storable(sign) else sign.encode("unicode_escape", "replace").decode()
        for sign in name
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one of those that systems add by themselves."""
    return name.startswith((".", *_SYSTEM))


def walk(root: Path) -> Folder:
    """List all regular files and folders below `root`, but hidden ones; or the file that it is.

    Symbolic links are followed; a folder is entered once, by its own name rather than a link's,
    so loops end and the order of a listing does not matter.

    Raises:
        DataError: if a folder cannot be listed.
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
                if is_hidden(item.name):
                    continue
                if _leads_nowhere(item):
                    if suffix(item.name) in (*MESH_SUFFIXES, *CLOUD_SUFFIXES):
                        files.append((*parts, item.name))  # an error where it is read
                elif item.is_dir():
                    waiting.append((*parts, item.name))
                elif item.is_file():
                    files.append((*parts, item.name))
        except OSError as error:
            raise DataError(f"{here} cannot be listed: {error.strerror}. Check it.") from error
    return Folder(sorted(files), sorted(folders[1:]))


def _leads_nowhere(item: os.DirEntry[str]) -> bool:
    """Whether it is a broken link, or a link to itself."""
    return item.is_symlink() and not os.path.exists(item.path)


def counted(files: Iterable[tuple[str, ...]]) -> str:
    """How many files there are of each ending, the most frequent first."""
    kinds = Counter(suffix(parts[-1]) or "no ending" for parts in files)
    named = [f"{count} {kind}" for kind, count in kinds.most_common(_KINDS_TOLD)]
    return ", ".join(named) + (", ..." if len(kinds) > _KINDS_TOLD else "")


def contents(folder: Folder) -> str:
    """What a folder holds, in a few words."""
    named = counted(folder.files)
    return f"{len(folder.files)} files ({named})" if named else "no files"


def not_read(files: Iterable[tuple[str, ...]]) -> list[str]:
    """What to say of files that are no shapes, or not of a kind that is read.

    Pictures, materials and the like are counted together, in the last part.
    """
    packed: list[tuple[str, ...]] = []
    shapes: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for parts in files:
        kind = suffix(parts[-1])
        pile = packed if kind in ARCHIVES else shapes if kind in _OTHER_SHAPES else others
        pile.append(parts)
    said = []
    if packed:
        said.append(f"{counted(packed)} to be unpacked first")
    if shapes:
        said.append(f"{counted(shapes)} of formats that are not read")
    if others:
        said.append(f"other files ({counted(others)})")
    return said
