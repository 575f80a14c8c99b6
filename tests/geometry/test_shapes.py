import pytest
import torch

from i2pmae.config import EncoderConfig, HeadConfig
from i2pmae.geometry.grouping import group
from i2pmae.geometry.projection import fit_pixels, view_axes
from i2pmae.geometry.sampling import farthest_points
from i2pmae.geometry.shapes import require_shape
from i2pmae.model.classifier import Classifier
from i2pmae.model.segmenter import Segmenter

EXPECTED = r"points: \(B, N, 3\) expected, \(1024, 3\) given"


def test_letters_stand_for_any_size():
    require_shape("points", torch.zeros(2, 0, 3), "B", "N", 3)
    for wrong in (torch.zeros(2, 3), torch.zeros(2, 3, 4), torch.zeros(1, 2, 1, 3)):
        with pytest.raises(ValueError, match="expected"):
            require_shape("points", wrong, "B", "N", 3)


TINY = EncoderConfig(
    n_centers=(16, 8, 4),
    group_sizes=(4, 4, 2),
    widths=(6, 12, 18),
    depths=(1, 1, 1),
    embedding_width=8,
    n_heads=3,
)


def test_wrong_shapes_are_named_wherever_clouds_are_taken():
    cloud = torch.rand(1024, 3)
    classifier = Classifier(TINY, HeadConfig(width=16), n_classes=2)
    segmenter = Segmenter(TINY, n_parts=4, n_categories=2)
    for call in (
        lambda: farthest_points(cloud, 8),
        lambda: group(cloud, (8, 4), (4, 2)),
        lambda: fit_pixels(cloud, view_axes(3)),
        lambda: classifier(cloud),
        lambda: segmenter(cloud, torch.tensor([0])),
    ):
        with pytest.raises(ValueError, match=EXPECTED):
            call()
    with pytest.raises(ValueError, match=r"category: \(2,\) expected, \(1,\) given"):
        segmenter(torch.rand(2, 64, 3), torch.tensor([0]))


def test_networks_print_themselves_on_one_line():
    classifier = Classifier(TINY, HeadConfig(width=16), n_classes=7)
    shown = repr(classifier)
    assert shown.startswith("Classifier((B, N, 3) -> logits (B, 7); N >= ")
    assert "M parameters" in shown
    assert "\n" not in shown
    assert "log-probabilities (B, N, 4)" in repr(Segmenter(TINY, 4, 2))
