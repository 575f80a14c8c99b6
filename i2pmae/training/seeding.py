"""Randomness as a function of (seed, epoch, step), so that resuming needs no stored state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator


def step_seed(seed: int, *counters: int) -> int:
    """Derive a seed from a run's seed and counters such as epoch and step.

    Different arguments give unrelated seeds: neighboring steps or seeds share nothing.

    Args:
        seed: of the run, not negative.
        counters: any number of non-negative integers; (1,) and (1, 0) differ.

    Returns:
        An integer in [0, 2^63).

    Raises:
        ValueError: if a number is negative.
    """
    # The length goes first: SeedSequence takes trailing zeros for nothing.
    sequence = np.random.SeedSequence([len(counters), seed, *counters])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, *counters: int, device: torch.device | str = "cpu") -> Generator:
    """Make a generator that depends on nothing but its arguments; see `step_seed`.

    Dropout and stochastic depth draw from torch's global generator instead: call
    `torch.manual_seed(step_seed(seed, epoch, step))` before each step to fix those as well.
    """
    return Generator(device=device).manual_seed(step_seed(seed, *counters))
