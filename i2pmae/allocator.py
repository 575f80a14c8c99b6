"""Settings of the C allocator that suit networks on a CPU."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # numbers of `mallopt` in malloc.h


def keep_freed_memory() -> bool:
    """Have glibc keep large blocks for later instead of returning them to the system at once.

    Networks allocate and free the same tens of megabytes at every operation. By default each of
    them is mapped again, and the system clears it page by page at first touch: a third of the time
    of a bfloat16 ViT-B on a CPU. The process keeps what it once needed until it ends.

    Settings of the user's (`MALLOC_...`, `GLIBC_TUNABLES`) and other allocators win.

    Returns:
        Whether it took effect; only glibc knows how.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ):
        return False
    try:
        # One arena: the others give blocks of more than 64 MB back whatever they are told.
        options = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        return all(mallopt(option, value) == 1 for option, value in options.items())
    except (OSError, AttributeError):
        return False
