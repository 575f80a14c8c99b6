import os

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from i2pmae.errors import DataError
from i2pmae.pictures.style import (
    PALETTE,
    SALIENCY,
    name_below,
    name_column,
    name_row,
    panels,
    save,
)


def test_panels_have_the_asked_size_and_do_not_overlap():
    figure, axes = panels(2, 3, width=1.0, heights=[1.0, 0.5], left=0.3, bottom=0.4, together=2)
    width, height = figure.get_size_inches()
    boxes = [panel.get_position() for panel in axes.flat]
    for box, expected in zip(boxes, [1, 1, 1, 0.5, 0.5, 0.5], strict=True):
        assert box.width * width == pytest.approx(1.0)
        assert box.height * height == pytest.approx(expected)
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0.4 / height <= box.y0 < box.y1 <= 1
    starts = [box.x0 * width for box in boxes[:3]]
    assert starts[2] - starts[1] > starts[1] - starts[0] > 1.0  # the pair stands closer


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_the_same_picture_is_the_same_file(tmp_path, suffix):
    contents = []
    for name in ("first", "second"):
        figure, axes = panels(1, 1)
        axes[0, 0].scatter([0, 1], [1, 0])
        path = save(figure, tmp_path / "new" / (name + suffix))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert sorted(os.listdir(tmp_path / "new")) == [f"first{suffix}", f"second{suffix}"]


def test_settings_of_the_user_are_left_alone(tmp_path):
    before = dict(mpl.rcParams)
    save(panels(1, 1)[0], tmp_path / "a.png")
    assert dict(mpl.rcParams) == before


def test_other_formats_and_unwritable_folders_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"a\.jpeg: pictures are written as \.png, \.pdf, \.svg"):
        save(panels(1, 1)[0], tmp_path / "a.jpeg")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*a\.png: .*Choose another folder"):
        save(panels(1, 1)[0], tmp_path / "file" / "a.png")


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_saliency_reads_in_grey():
    lightness = [luminance(SALIENCY(value)) for value in np.linspace(0, 1, 50)]
    assert all(np.diff(lightness) < 0)


# Machado, Oliveira and Fernandes (2009), severity 1, linear RGB.
DEFICIENCIES = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_categories_stay_apart_for_color_blind_readers(deficiency):
    colors = np.array([to_rgb(color) for color in PALETTE]) ** 2.2
    seen = (colors @ np.array(DEFICIENCIES[deficiency]).T).clip(0, 1) ** (1 / 2.2)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    assert distances[~np.eye(len(PALETTE), dtype=bool)].min() > 0.09


@pytest.mark.parametrize(
    "name", ["$x^", "a$_$b", r"$\frac$", "$", "\N{DUCK} \N{CJK UNIFIED IDEOGRAPH-68EE}"]
)
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_any_name_is_written_as_it_is(tmp_path, name, suffix):
    figure, axes = panels(1, 1)
    for write in (name_row, name_column, name_below):
        write(axes[0, 0], name)
    path = save(figure, tmp_path / f"a{suffix}")
    assert suffix == ".png" or path.read_text().count(f">{name}</text>") == 3


@pytest.mark.parametrize("height", [0.4, 0.8, 3.0])
def test_a_rows_name_is_no_longer_than_its_row(height):
    figure, axes = panels(1, 1, heights=[height], left=0.3)
    name_row(axes[0, 0], "appliance/train/clothes_washing_machine_11")
    figure.draw_without_rendering()
    label = axes[0, 0].yaxis.label
    assert label.get_window_extent().height <= axes[0, 0].get_window_extent().height
    assert label.get_text().startswith("a")
    assert label.get_text().endswith("11")
