"""Checks of untrusted archives and tensors before anything is unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def check_stored(path: Path) -> None:
    """Refuse a zip file whose content may be larger than the file; others pass.

    torch and numpy write their entries uncompressed.

    Raises:
        ValueError: if an entry is compressed.
        OSError: if the file cannot be read.
        zipfile.BadZipFile: if it is a damaged one.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("compressed entries")


def check_dense(tensors: Mapping[str, Any]) -> None:
    """Refuse a tensor that stands for more numbers than it holds.

    Raises:
        ValueError: naming it.
    """
    for name, tensor in tensors.items():
        if _is_tensor(tensor) and tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} repeats its numbers")


def _is_tensor(value: Tensor | Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided
