"""Procedural shapes without end: random arrangements of one to nine primitives.

Meant for pre-training: shapes from random programs were found to be about as good for it as
ShapeNet (Point-MAE-Zero, arXiv:2411.17467). y is up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from i2pmae.procedural.arrangements import ARRANGEMENTS
from i2pmae.procedural.constructive import Array
from i2pmae.procedural.deformations import deform
from i2pmae.procedural.draw import Draw
from i2pmae.procedural.form import Form
from i2pmae.procedural.primitives import X, Y, Z, turn_about

_DEFORMED = 0.3  # share of the shapes


def draw_shape(
    arrangement: str, n_points: int, generator: np.random.Generator
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """A shape of one of `ARRANGEMENTS`: (N, 3) points of its surface, (N,) kinds of primitives."""
    while True:  # again in the rare case that cuts leave nothing
        form = Form(Draw(generator))
        ARRANGEMENTS[arrangement](form)
        if form.draw.chance(_DEFORMED):
            deform(form.draw, form.assembly)
        turn = _orientation(form.draw)
        # Drawn before the points, so that the form does not depend on how many there are.
        sample = form.assembly.sample(n_points, generator)
        if sample is not None:
            points, parts = sample
            return np.einsum("nc,lc->nl", points, turn), parts


def _orientation(draw: Draw) -> Array:
    """(3, 3): mostly upright in steps of a quarter turn, else lying down, else any."""
    style = draw.one_of(*["upright"] * 14, *["turned"] * 2, *["lying"] * 3, "any")
    quarter = turn_about(Y, np.pi / 2 * draw.one_of(0, 0, 0, 1, 2, 3))
    if style == "upright":
        return quarter
    if style == "turned":
        return turn_about(Y, draw.between(-np.pi, np.pi))
    if style == "lying":
        return turn_about(draw.one_of(X, Z), np.pi / 2 * draw.one_of(1, 1, 2, 3)) @ quarter
    turns = [turn_about(axis, draw.between(-np.pi, np.pi)) for axis in (X, Y, Z)]
    return np.asarray(turns[0] @ turns[1] @ turns[2])
