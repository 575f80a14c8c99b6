import numpy as np
import pytest
import torch

from i2pmae.geometry import projection
from i2pmae.training import target_statistics
from i2pmae.training.target_statistics import channel_statistics

VIEWS, CHANNELS, SIZE = 3, 4, 32


class Store:
    """What is asked of a store's reader, of random shapes in memory."""

    view_axes = projection.view_axes(VIEWS).numpy()
    image_size, channels = SIZE, CHANNELS

    def __init__(self, n_shapes: int):
        rng = np.random.default_rng(0)
        self.points = rng.uniform(-1, 1, (n_shapes, 50, 3)).astype(np.float32)
        self.features = rng.normal(size=(n_shapes, VIEWS, 2, 2, CHANNELS)).astype(np.float32)
        self.features *= np.array([1, 2, 3, 0], np.float32)
        self.features += np.array([0, -5, 7, 1], np.float32)
        self.asked: list[int] = []

    def read(self, indices):
        self.asked += indices.tolist()
        points = torch.from_numpy(self.points[indices])
        origin, size, shift = projection.fit_pixels(points, torch.from_numpy(self.view_axes), SIZE)
        return {
            "points": self.points[indices],
            "features": self.features[indices],
            "pixel_origin": origin.numpy(),
            "pixel_size": size.numpy(),
            "pixel_shift": shift.numpy(),
        }


def test_mean_and_deviation_of_what_points_see():
    store = Store(40)
    mean, deviation = channel_statistics(store, np.arange(40))
    seen = []
    for index in range(40):
        maps = torch.from_numpy(store.features[index]).permute(0, 3, 1, 2)
        large = torch.nn.functional.interpolate(maps, (SIZE, SIZE), mode="bicubic")
        points, axes = torch.from_numpy(store.points[[index]]), torch.from_numpy(store.view_axes)
        at = projection.pixels(points, projection.fit_pixels(points, axes, SIZE), axes, SIZE)[0]
        seen += [large[view][:, row, column] for view in range(VIEWS) for row, column in at[view]]
    expected = torch.stack(seen)
    torch.testing.assert_close(mean, expected.mean(dim=0), rtol=1e-4, atol=1e-4)
    constant = torch.tensor([False, False, False, True])
    expected = expected.std(dim=0, correction=0).masked_fill(constant, 1)
    torch.testing.assert_close(deviation, expected, rtol=1e-4, atol=1e-4)
    assert sorted(store.asked) == list(range(40))


@pytest.mark.parametrize("n_shapes", [1, 9])
def test_shapes_and_points_are_spread_evenly(n_shapes, monkeypatch):
    monkeypatch.setattr(target_statistics, "_SHAPES", 4)
    store = Store(30)
    channel_statistics(store, np.arange(20, 20 + n_shapes))
    assert store.asked == ([20] if n_shapes == 1 else [20, 22, 25, 28])
