"""Random numbers and choices, as shapes are drawn from them."""

from __future__ import annotations

from typing import Any

import numpy as np


class Draw:
    """Random choices that read like a sentence."""

    def __init__(self, generator: np.random.Generator):
        self._generator = generator

    def between(self, low: float, high: float) -> float:
        """Evenly between two numbers."""
        return low + (high - low) * float(self._generator.random())

    def scale(self, low: float, high: float) -> float:
        """Evenly between the logarithms of two positive numbers."""
        return float(low * (high / low) ** self._generator.random())

    def chance(self, probability: float) -> bool:
        """True with some probability."""
        return float(self._generator.random()) < probability

    def one_of(self, *choices: Any) -> Any:
        """One of the choices, each as likely; a repeated one is likelier."""
        return choices[int(self._generator.random() * len(choices))]
