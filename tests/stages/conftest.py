"""Shared by the tests of stages: built-in shapes are drawn once."""

import pytest

from i2pmae.datasets.procedural import ProceduralShapes


@pytest.fixture(scope="package", autouse=True)
def drawn_once():
    """Many stages read the same built-in shapes; drawing them costs more than the stages do."""
    draw, drawn = ProceduralShapes._read, {}

    def read(source, entry):
        key = (source.seed, source.points, entry.id)
        if key not in drawn:
            drawn[key] = draw(source, entry)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProceduralShapes, "_read", read)
        yield
