import numpy as np
import pytest
from matplotlib.colors import to_rgb

from i2pmae.errors import DataError
from i2pmae.pictures.retrieval import Drawn, draw_neighbors
from i2pmae.pictures.style import ACCENT, NEUTRAL, PALETTE


def has(image, color):
    """Whether a color's hue is in a picture: points are shaded, the legend is not."""
    return (np.abs(image - to_rgb(color)).max(axis=2) < 0.02).sum() > 20


def test_colors_say_which_neighbors_are_of_the_querys_class(cloud, pixels, tmp_path):
    query = Drawn(cloud, "a/b/query", "chair")
    same, other = Drawn(cloud, "one", "chair"), Drawn(cloud, "two", "table")
    path = draw_neighbors(tmp_path / "p.png", query, [same, other], ["0.9", "0.5"])
    assert all(has(pixels(path), color) for color in (ACCENT, PALETTE[0], NEUTRAL))
    path = draw_neighbors(tmp_path / "p.png", query, [same, same], ["0.9", "0.5"])
    assert has(pixels(path), PALETTE[0])


def test_without_classes_neighbors_are_alike(cloud, tmp_path):
    query, neighbor = Drawn(cloud, "query", ""), Drawn(cloud, "one", "")
    path = draw_neighbors(tmp_path / "p.svg", query, [neighbor], ["0.9"])
    text = path.read_text()
    assert "neighbor" in text
    assert "same class" not in text
    assert "other class" not in text


def test_more_than_five_take_another_row(cloud, pixels, tmp_path):
    shape = Drawn(cloud, "x", "chair")
    one = pixels(draw_neighbors(tmp_path / "1.png", shape, [shape] * 5, ["1.0"] * 5))
    two = pixels(draw_neighbors(tmp_path / "2.png", shape, [shape] * 6, ["1.0"] * 6))
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] > 1.6 * one.shape[0]


def test_the_same_picture_is_the_same_file(cloud, tmp_path):
    shape = Drawn(cloud, "x", "chair")
    files = [draw_neighbors(tmp_path / f"{k}.svg", shape, [shape], ["1.0"]) for k in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_other_formats_are_refused(cloud, tmp_path):
    shape = Drawn(cloud, "x", "chair")
    with pytest.raises(DataError, match="jpg"):
        draw_neighbors(tmp_path / "p.jpg", shape, [shape], ["1.0"])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        draw_neighbors(tmp_path / "p.png", shape, [shape], [])
