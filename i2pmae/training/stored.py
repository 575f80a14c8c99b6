"""Arrays of a store as a network takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensors(
    arrays: Mapping[str, NDArray[Any]], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The same arrays on a device."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if torch.device(device).type == "cuda":  # from memory that is not pinned a copy waits
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
