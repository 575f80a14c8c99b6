import numpy as np
import pytest
from matplotlib.image import imread


@pytest.fixture
def cloud():
    """Points on a box with a ball on top, (400, 3), y up."""
    generator = np.random.default_rng(0)
    box = generator.uniform(-0.5, 0.5, (200, 3))
    box[np.arange(200), generator.integers(0, 3, 200)] = 0.5
    ball = generator.normal(size=(200, 3))
    ball = 0.3 * ball / np.linalg.norm(ball, axis=1, keepdims=True) + (0, 0.8, 0)
    return np.concatenate([box, ball])


@pytest.fixture
def pixels():
    """Read a written picture as (H, W, 3) in [0, 1]."""
    return lambda path: imread(path)[..., :3]
