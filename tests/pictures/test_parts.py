import numpy as np
import pytest

from i2pmae.pictures.parts import draw_parts
from i2pmae.pictures.style import ACCENT, PALETTE


def share(picture, color):
    """Share of pixels whose color points the same way, lit or faded."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    direction = value - value.mean()
    chroma = picture - picture.mean(axis=2, keepdims=True)
    strength = chroma @ direction / np.linalg.norm(direction)
    return float((strength > 0.8 * np.linalg.norm(chroma, axis=2).clip(0.15)).mean())


@pytest.fixture
def columns(tmp_path, cloud, pixels):
    """Draw one shape and cut the picture into its three panels."""

    def columns(truth, predicted):
        path = draw_parts(tmp_path / "a.png", [cloud], [truth], [predicted], ["box and ball"])
        return np.array_split(pixels(path)[60:-80, 60:], 3, axis=1)  # without titles and legend

    return columns


def test_mistakes_are_marked_where_the_prediction_differs(columns):
    truth = np.repeat([0, 1], 200)  # box below, ball on top
    labeled, predicted, mistakes = columns(truth, np.zeros(400, np.int64))
    assert share(labeled, PALETTE[0]) > 0.05
    assert share(labeled, PALETTE[1]) > 0.02
    assert share(predicted, PALETTE[1]) == 0
    top, bottom = np.array_split(mistakes, [mistakes.shape[0] // 3])
    assert share(top, ACCENT) > 0.02
    assert share(bottom[-100:], ACCENT) == 0


def test_a_perfect_prediction_has_no_mistakes(columns):
    truth = np.arange(400) % 3
    labeled, predicted, mistakes = columns(truth, truth)
    assert np.array_equal(labeled[:, 5:-5], predicted[:, : labeled.shape[1]][:, 5:-5]) or (
        abs(share(labeled, PALETTE[0]) - share(predicted, PALETTE[0])) < 0.01
    )
    assert share(mistakes, ACCENT) == 0


def test_more_parts_than_colors_can_be_drawn(tmp_path, cloud):
    parts = np.arange(400) % (len(PALETTE) + 3)
    path = draw_parts(tmp_path / "a.svg", [cloud, cloud], [parts] * 2, [parts] * 2, ["a", "b"])
    assert ">labeled<" in path.read_text()


def test_sequences_of_different_length_are_refused(tmp_path, cloud):
    with pytest.raises(ValueError, match="shorter"):
        draw_parts(tmp_path / "a.png", [cloud], [], [np.zeros(400, np.int64)], ["box"])
