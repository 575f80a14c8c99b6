"""One look for all pictures: colors that color-blind readers can tell apart, type, saving."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from i2pmae.atomic_write import written
from i2pmae.errors import DataError

# Okabe and Ito's palette, in the order in which categories take it.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#3B3F45")
ACCENT = PALETTE[5]  # what a picture is about
NEUTRAL = "#8C939C"  # what only gives context
INK = "#22262B"
FRAME = "#C9CDD2"

# Lightness falls evenly, so it reads in grey as well; both ends stand out from white.
SALIENCY = LinearSegmentedColormap.from_list(
    "i2pmae-saliency", mpl.colormaps["magma_r"](np.linspace(0.12, 0.92, 256))
)

FORMATS = (".png", ".pdf", ".svg")
_DPI = 200
_SMALL, _LARGE = 7, 8  # points of type
_CHARACTER = 0.64  # width of a character as a share of its height, about
_LONGEST = 24  # characters of a name
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are the same everywhere
    "svg.fonttype": "none",
    "svg.hashsalt": "i2pmae",  # the same picture is the same file
    "pdf.fonttype": 42,
}


def panels(
    n_rows: int,
    n_columns: int,
    *,
    width: float = 1.5,
    heights: Sequence[float] | None = None,
    left: float = 0.0,
    bottom: float = 0.0,
    together: int = 1,
    row_gap: float = 0.05,
) -> tuple[Figure, NDArray[np.object_]]:
    """Make a figure of panels without axes; nothing global is touched.

    Args:
        n_rows, n_columns: of the grid.
        width: of a panel, inches.
        heights: of the panels of each row, inches; None makes them square.
        left: room for row names, inches.
        bottom: room for a legend or color bar, inches.
        together: neighboring columns that belong together, set apart from the next ones.
        row_gap: room below each row, inches.

    Returns:
        The figure and its (n_rows, n_columns) axes.
    """
    heights = [width] * n_rows if heights is None else heights
    gap, wide_gap, top = 0.05, 0.16, 0.28
    steps = [wide_gap if column % together == together - 1 else gap for column in range(n_columns)]
    figure_width = left + gap + n_columns * width + sum(steps[:-1]) + gap
    figure_height = top + sum(heights) + n_rows * row_gap + bottom
    figure = Figure(figsize=(figure_width, figure_height), facecolor="white")
    axes = np.empty((n_rows, n_columns), dtype=object)
    y = figure_height - top
    for row, height in enumerate(heights):
        y -= height
        x = left + gap
        for column, step in enumerate(steps):
            panel = figure.add_axes(
                (x / figure_width, y / figure_height, width / figure_width, height / figure_height)
            )
            panel.set(xticks=[], yticks=[])
            for spine in panel.spines.values():
                spine.set(color=FRAME, linewidth=0.6)
            axes[row, column] = panel
            x += width + step
        y -= row_gap
    return figure, axes


def color_bar(figure: Figure, colors: Colormap, low: str, high: str) -> None:
    """Draw a bar without numbers in the figure's bottom room, its ends named."""
    width, height = figure.get_size_inches()
    bar = figure.add_axes((0.5 - 0.75 / width, 0.16 / height, 1.5 / width, 0.09 / height))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=colors, aspect="auto", interpolation="bilinear")
    bar.set_axis_off()
    place: dict[str, Any] = {
        "va": "center",
        "fontsize": _SMALL,
        "color": INK,
        "transform": bar.transAxes,
    }
    bar.text(-0.04, 0.45, low, ha="right", **place)
    bar.text(1.04, 0.45, high, ha="left", **place)


def legend(figure: Figure, entries: Mapping[str, str]) -> None:
    """Name colors in the figure's bottom room.

    Args:
        figure: made by `panels` with room at the bottom.
        entries: from name to color.
    """
    marks = [
        Line2D([], [], marker="o", linestyle="", color=color, markersize=5, label=name)
        for name, color in entries.items()
    ]
    figure.legend(
        handles=marks,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.03 / figure.get_figheight()),
        ncols=len(marks),
        frameon=False,
        fontsize=_SMALL,
        labelcolor=INK,
        handletextpad=0.2,
        columnspacing=1.5,
    )


def name_row(axes: Axes, name: str) -> None:
    """Write a name to the left of a row's first panel, shortened in its middle if too long."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    height = axes.get_position().height * figure.get_figheight()
    longest = max(min(int(height * 72 / (_CHARACTER * _SMALL)), _LONGEST), 5)
    label = _shortened(name, longest)
    axes.set_ylabel(label, fontsize=_SMALL, color=INK, labelpad=4, parse_math=False)


def name_column(axes: Axes, name: str) -> None:
    """Write a name above a column's first panel."""
    axes.set_title(name, fontsize=_LARGE, color=INK, pad=4, parse_math=False)


def name_below(axes: Axes, name: str) -> None:
    """Write a name below a panel, small, shortened in its middle if too long."""
    axes.text(
        0.5,
        -0.01,
        _shortened(name, _LONGEST),
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=_SMALL - 1,
        color=NEUTRAL,
        parse_math=False,
    )


def _shortened(name: str, longest: int) -> str:
    if len(name) <= longest:
        return name
    kept = longest - 1
    return f"{name[: kept // 2]}…{name[kept // 2 - kept :]}"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, PDF or SVG, by its suffix, and return where.

    Raises:
        DataError: if the suffix is another or the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise DataError(
            f"{path}: pictures are written as {', '.join(FORMATS)}, not '{path.suffix}'"
        )
    metadata = {
        ".svg": {"Date": None},
        ".pdf": {"CreationDate": None},
        ".png": {"Software": "i2pmae"},
    }[path.suffix]
    with written(path) as temporary, mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # Names may have signs that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, dpi=_DPI, metadata=metadata)
    return path
