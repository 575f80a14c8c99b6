from types import SimpleNamespace

import numpy as np
import torch

from i2pmae.evaluation import point_samples


def test_features_of_stored_points_are_means_over_the_views_that_see_them(monkeypatch):
    visible = np.array([[[1, 1, 0, 0], [1, 0, 1, 0]]], np.uint8)  # (shape, view, point)
    values = torch.arange(8.0).view(1, 2, 4, 1)
    arrays = {"points": np.zeros((1, 4, 3), np.float32), "visible": visible}
    arrays["parts"] = np.arange(4, dtype=np.uint8)[None]
    reader = SimpleNamespace(
        n_points=4, view_axes=np.zeros((2, 3, 3)), image_size=8, step_arrays=["points", "visible"]
    )
    reader.read = lambda _, names: {name: arrays[name] for name in names}
    order = np.random.default_rng(0).permutation(4)
    monkeypatch.setattr(point_samples, "point_features", lambda *_: values[:, :, order])
    found, parts = point_samples.stored_points(reader, np.array([0]))
    assert parts.tolist() == [order.tolist()]
    by_hand = np.array([2.0, 1.0, 6.0, 5.0])  # the last one is seen by none: all count
    assert found[0, :, 0].tolist() == by_hand[order].tolist()
