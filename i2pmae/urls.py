"""Paths as people read them; URLs that were made paths, which keep one slash of two."""

import os
import re
from pathlib import Path

HUB = "hf"

_COLLAPSED = re.compile(r"^([a-z][a-z0-9]+):/(?!/)")  # what pathlib makes of hf://owner ...


def as_typed(path: str | Path) -> str:
    """A path as text, a URL with both its slashes."""
    return _COLLAPSED.sub(r"\1://", str(path))


def is_hub_name(path: str | Path) -> bool:
    """Whether a path stands for a repository of the Hugging Face Hub: `hf://owner/name`."""
    return as_typed(path).startswith(f"{HUB}://")


def absolute_path(path: str | Path) -> Path:
    """A path from the root, without `.` and `..`; links are followed only where `..` needs it."""
    path = Path(path).absolute()
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def absolute_if_there(path: Path) -> str:
    """An existing path from the root; URLs and words that need no files as they are."""
    return str(absolute_path(path) if path.exists() else path)
