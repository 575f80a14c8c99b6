import numpy as np
import pytest

from i2pmae.procedural import deformations
from i2pmae.procedural.constructive import Assembly, box
from i2pmae.procedural.deformations import deform
from i2pmae.procedural.draw import Draw
from i2pmae.procedural.primitives import at

MAPS = ("_taper", "_twist", "_bend", "_lean", "_dents")


@pytest.mark.parametrize("name", MAPS)
def test_deformations_change_shapes_and_do_not_fold_them(name):
    generator = np.random.default_rng(0)
    for seed in range(40):
        draw = Draw(np.random.default_rng(seed))
        size = np.array([draw.scale(0.1, 1) for _ in range(3)])
        move = getattr(deformations, name)(draw, size, seed % 3)
        points = (generator.random((200, 3)) - 0.5) * size
        steps = [move(points + 1e-5 * step) for step in (*np.eye(3), np.zeros(3))]
        jacobian = np.stack([step - steps[3] for step in steps[:3]], axis=2) / 1e-5
        assert (np.linalg.det(jacobian) > 0).mean() > 0.98
        assert np.abs(steps[3] - points).max() > 1e-3 * size.max()


def test_deformed_shapes_keep_their_number_of_points():
    for seed in range(20):
        shape = Assembly()
        shape.add(0, box((1, 0.5, 0.2)), at((3, 0, 0)))
        deform(Draw(np.random.default_rng(seed)), shape)
        points, parts = shape.sample(500, np.random.default_rng(0))
        assert points.shape == (500, 3)
        assert parts.shape == (500,)
        assert np.isfinite(points).all()
