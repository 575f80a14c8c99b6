"""Where and in which precision to compute."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from i2pmae.errors import ConfigError, TrainingError

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def pick_device(name: str) -> torch.device:
    """Device named `auto`, `cpu`, `cuda` or `mps`; `auto` is the fastest there is.

    Raises:
        ConfigError: if the device is not there.
    """
    found = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in found.items() if there))
    if not found[name]:
        there = ", ".join(kind for kind, is_there in found.items() if is_there)
        raise ConfigError(f"--device {name}: this machine has none; found {there}")
    return torch.device(name)


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`torch.bfloat16` or `torch.float32`; `auto` takes bfloat16 where hardware multiplies it."""
    if precision == "auto":
        fast = {
            "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
            "cpu": torch.cpu._is_avx512_bf16_supported,
        }.get(device.type, lambda: False)
        return torch.bfloat16 if fast() else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def on_cpu(tensor: torch.Tensor) -> bool:
    """Whether work may be chunked for a CPU: it runs on one and is not being traced.

    What is exported or compiled must not depend on the values of one batch.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Whether `torch.export` records what runs, in its default mode.

    Torch 2.11 says so of `torch.compile` as well, which must not take the paths of an export.
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python's or torch's says that memory ran out, on any device."""
    is_torchs = isinstance(error, RuntimeError)
    return isinstance(error, MemoryError) or (
        is_torchs and any(part in str(error) for part in _NO_MEMORY)
    )


@contextmanager
def out_of_memory_explained(advice: str) -> Iterator[None]:
    """Turn running out of memory in the block into one line.

    Args:
        advice: which settings to lower.

    Raises:
        TrainingError: instead of torch's and Python's own errors.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        wanted = re.search(r"allocate ([\d.]+ \w+)", str(error))
        asked = f" ({wanted[1]} more were asked for)" if wanted else ""
        raise TrainingError(f"memory ran out{asked}: {advice}") from error
