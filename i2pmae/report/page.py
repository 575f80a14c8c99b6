"""What a page shows, and the page."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any, Literal

from i2pmae.version import __version__

Rows = list[list[str]]

_SCRIPTS = ("basics.js", "viewer.js", "charts.js", "gallery.js", "map.js", "page.js")  # one program


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading."""

    title: str
    columns: list[str]
    rows: Rows


@dataclass(frozen=True)
class Answer:
    """What was found, in sentences."""

    question: str
    sentences: list[str]


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Chart:
    """How something changes over epochs."""

    title: str
    unit: str
    series: list[Series]

    @property
    def rows(self) -> list[tuple[float, list[float | None]]]:
        """Every epoch that a line has a value of, with the values of all lines."""
        values = [dict(zip(line.x, line.y, strict=True)) for line in self.series]
        epochs = sorted({epoch for found in values for epoch in found})
        return [(epoch, [found.get(epoch) for found in values]) for epoch in epochs]


@dataclass(frozen=True)
class Layer:
    """One way to color points."""

    key: str
    title: str
    kind: Literal["plain", "scale", "colors", "kinds"]
    low: str = ""  # of a scale: what its ends mean
    high: str = ""
    kinds: list[str] = field(default_factory=list)  # names of categories
    note: str = ""


@dataclass(frozen=True)
class Shape:
    """A shape that turns under the mouse."""

    id: str
    class_name: str
    split: str
    n: int
    points: str  # see report.packed
    normals: str
    layers: dict[str, str]  # by key of a layer, packed values
    views: str = ""  # URL of a picture
    facts: list[list[str]] = field(default_factory=list)
    predicted: str = ""
    wrong: bool | None = None  # None: nothing was predicted
    rank: float = 0.0  # among the mistakes; the largest is the worst


@dataclass(frozen=True)
class Confusion:
    """True classes against predicted ones."""

    names: list[str]
    counts: list[list[int]]
    note: str = ""  # which classes are left out


@dataclass(frozen=True)
class Map:
    """Vectors of shapes brought to the plane."""

    note: str
    x: list[float]  # in [0, 1]
    y: list[float]
    kinds: list[int]  # into `names`
    names: list[str]
    ids: list[str]
    wrong: list[bool]
    neighbors: list[list[int]]  # of each shape those of the most similar vectors, nearest first
    thumbnails: list[str]  # packed points
    n_points: int  # per thumbnail


@dataclass(frozen=True)
class Cloud:
    """A cloud whose points are of several kinds."""

    points: str  # packed
    kinds: str  # packed, into those of its `CloudTable`


@dataclass(frozen=True)
class CloudRow:
    """The same shape in several columns; its clouds turn together."""

    name: str
    clouds: list[Cloud | None]


@dataclass(frozen=True)
class CloudTable:
    """Clouds side by side, one shape per row."""

    note: str
    columns: list[str]
    kinds: list[str]
    rows: list[CloudRow]


@dataclass(frozen=True)
class Balance:
    """Shapes per class and split."""

    splits: list[str]
    names: list[str]
    counts: list[list[int]]  # per class, per split


@dataclass
class Page:
    """Everything on a page; what is left out has no section."""

    title: str
    kind: str  # what the page is about, two or three words
    facts: list[list[str]]  # value and what it is
    answers: list[Answer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    shapes_note: str = ""
    confusion: Confusion | None = None
    per_class: Table | None = None
    results: list[Table] = field(default_factory=list)
    clouds: CloudTable | None = None
    map: Map | None = None
    balance: Balance | None = None
    sizes: Table | None = None
    skipped: list[str] = field(default_factory=list)
    n_skipped: int = 0
    provenance: list[Table] = field(default_factory=list)
    ramps: dict[str, str] = field(default_factory=dict)  # packed color maps, light and dark


def render(page: Page) -> str:
    """The page as one HTML document that needs nothing else."""
    import jinja2

    files = resources.files("i2pmae.report")
    style = (files / "style.css").read_text(encoding="utf-8")
    script = "".join((files / "script" / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        page=page,
        version=__version__,
        style=style,
        script=f'"use strict";\n(() => {{\n{script}}})();',
        data=_embedded(page),
    )


def _embedded(page: Page) -> str:
    """What the script needs, as JSON that no name in it can end early."""
    values: dict[str, Any] = {
        "charts": [asdict(chart) for chart in page.charts],
        "layers": [asdict(layer) for layer in page.layers],
        "shapes": [asdict(shape) for shape in page.shapes],
        "clouds": None if page.clouds is None else asdict(page.clouds),
        "map": None if page.map is None else asdict(page.map),
        "ramps": page.ramps,
    }
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
