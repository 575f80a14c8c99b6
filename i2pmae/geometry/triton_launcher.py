"""Whether triton's kernels can be launched on this machine."""

import functools
import subprocess

import triton  # type: ignore[import-untyped]

from i2pmae.progress import warn


@functools.cache
def can_launch() -> bool:
    """Whether triton works here: when first used it builds its launcher with a C compiler."""
    if triton.knobs.runtime.interpret:
        return True
    try:
        triton.runtime.driver.active.get_current_target()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        warn(
            "farthest points and nearest neighbors are found without their GPU kernels, many times "
            f"slower: {error}; triton needs a C compiler (gcc) and Python's headers"
        )
        return False
    return True
