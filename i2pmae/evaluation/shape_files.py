"""Files about single shapes beside a command's table, which never replace files of the user's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from i2pmae.datasets import ShapeSource
from i2pmae.errors import DataError

_START = 512  # bytes in which the mark of a file lies
_PACKAGE = "i2pmae"  # mark of a picture


class ShapeFiles:
    """Where a command writes a file about every shape.

    Args:
        out: the command's table.
        source: the shapes.
        given: their paths, as the user named them.
        ending: of the files.
        mark: what these files hold in their first bytes: the command, by which a rerun knows them.

    Attributes:
        folder: called as the table, without its ending.
        picture: of some shapes, beside the table.

    Raises:
        DataError: if the folder lies in that of the shapes, or a file is there that was not
            written by this command.
    """

    def __init__(
        self, out: Path, source: ShapeSource, given: Sequence[Path], ending: str, mark: str
    ) -> None:
        self.folder, self.picture = out.with_suffix(""), out.with_suffix(".png")
        self.mark = mark
        self._ids, self._ending = source.ids, ending
        for path in given:
            if path.is_dir() and self.folder.resolve().is_relative_to(path.resolve()):
                raise DataError(
                    f"--out {out}: a file per shape would go into {self.folder}, among the shapes "
                    f"of {path}. Choose an --out outside of it."
                )
        marks = {self.file(index): mark for index in range(len(source))} | {self.picture: _PACKAGE}
        there = [file for file in marks if os.path.lexists(file)]
        refuse_own_files(there, source)
        for file in there:
            if not _is_marked(file, marks[file]):
                raise DataError(
                    f"{file} would be overwritten, but was not written by {marks[file]}. Choose "
                    "another --out, or move the file."
                )

    def file(self, index: int) -> Path:
        """The file about a shape."""
        return file_of_shape(self.folder, self._ids[index], self._ending)


def file_of_shape(folder: Path, shape_id: str, ending: str) -> Path:
    """Path of a file about a shape: always below the folder, whatever the id."""
    parts = [part for part in shape_id.split("/") if part not in ("", ".", "..")]
    return folder.joinpath(*parts[:-1], f"{parts[-1] if parts else 'shape'}.{ending}")


def _is_marked(file: Path, mark: str) -> bool:
    try:
        with file.open("rb") as stream:
            return mark.encode() in stream.read(_START)
    except OSError:
        return False


def refuse_own_files(outputs: Sequence[Path], source: ShapeSource) -> None:
    """Say early that a shape itself would be overwritten.

    Args:
        outputs: files to be written.
        source: the shapes.

    Raises:
        DataError: if one of them is a file of the source.
    """
    there = [path for path in outputs if path.exists()]
    own = {entry.file.resolve() for entry in source.entries} if there else set()
    for path in there:
        if path.resolve() in own:
            raise DataError(
                f"{path} is one of the shapes and would be overwritten. Choose another --out."
            )
