"""What torchrun tells the processes that it starts; light, for the command line needs it."""

from __future__ import annotations

import os
from typing import NamedTuple


class Launch(NamedTuple):
    """One of several processes of the same command."""

    rank: int  # from 0, over all machines
    local_rank: int  # from 0, on this machine
    n_processes: int  # on all machines


def launched() -> Launch | None:
    """This process's place among those of torchrun; None where torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return Launch(*(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))


def is_first() -> bool:
    """Whether this process logs for its run: it is the only one, or rank 0 of torchrun's."""
    found = launched()
    return found is None or found.rank == 0
