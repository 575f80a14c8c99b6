import numpy as np
import pytest

from i2pmae.pictures.reconstruction import draw_reconstructions
from i2pmae.pictures.style import ACCENT, NEUTRAL, PALETTE


def hue_share(picture, color):
    """Share of pixels that are this color, lit or faded."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    direction = value - value.mean()
    chroma = picture - picture.mean(axis=2, keepdims=True)
    strength = chroma @ direction / np.linalg.norm(direction)
    return float((strength > 0.6 * np.linalg.norm(chroma, axis=2).clip(0.15)).mean())


def test_each_panel_shows_its_part(tmp_path, cloud, pixels):
    seen, hidden = cloud[:100], cloud[100:]
    path = draw_reconstructions(tmp_path / "a.png", [seen], [hidden], [cloud], ["box"])
    picture = pixels(path)[60:-80]  # without titles and legend
    left, middle, right = np.array_split(picture[:, 60:], 3, axis=1)
    blue, orange = PALETTE[0], ACCENT
    assert hue_share(left, blue) > 0.03
    assert hue_share(left, orange) == 0
    assert hue_share(middle, blue) > 0.02
    assert hue_share(middle, orange) > 0.05
    assert hue_share(right, orange) == 0
    assert NEUTRAL not in (blue, orange)
    assert (right.mean(axis=2) < 0.8).mean() > 0.1


def test_rows_fit_clouds_of_different_sizes(tmp_path, cloud):
    clouds = [cloud[::4], cloud[:50] * [3, 0.2, 1]]
    path = draw_reconstructions(
        tmp_path / "a.svg", clouds, clouds, clouds, ["a", f"bench/{'b' * 60}/c"], up="z"
    )
    text = path.read_text()
    assert ">bench/bbbbb…bbbbbbbbbb/c<" in text  # both ends of a long name stay readable
    assert ">reconstruction<" in text


def test_nothing_visible_and_nothing_reconstructed_can_be_drawn(tmp_path, cloud):
    nothing = np.zeros((0, 3))
    draw_reconstructions(tmp_path / "a.png", [nothing], [nothing], [cloud], ["box"])


def test_sequences_of_different_length_are_refused(tmp_path, cloud):
    with pytest.raises(ValueError, match="shorter"):
        draw_reconstructions(tmp_path / "a.png", [cloud], [], [cloud], ["box"])
