"""One table of the arrays in a store; `cache/README.md` says the same in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA_VERSION = 1
_MOST_SHAPES = 2**31  # a larger number is damage; fewer are believed with proof, see the reader
_LARGEST_SHARD = 2**20  # shapes; a larger number is damage
_LATER = ("normals", "visible")  # told where they are true: version 0.1 does not know them
_MOST_VALUES = 2**28  # of one array per shape; a larger number is damage

PENDING, DONE, SKIPPED = 0, 1, 2  # values of `status`

Codec = Mapping[str, Any]  # as in the metadata of a Zarr v3 array

ZSTD: Codec = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}


def _bit_planes(item_bytes: int) -> Codec:
    """LZ4 over transposed bits: fast, and rounded floats leave planes of zeros."""
    configuration = {
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "bitshuffle",
        "typesize": item_bytes,
        "blocksize": 0,
    }
    return {"name": "blosc", "configuration": configuration}


@dataclass(frozen=True)
class StoreSpec:
    """Sizes of a store: with the table they fix every array's shape, chunks and dtype."""

    n_shapes: int
    n_points: int
    n_views: int
    image_size: int
    grid: tuple[int, int]  # patches per column and row of a view
    channels: int
    dtype: Literal["int8", "float16", "float32"] = "int8"  # of the features
    shard_size: int = 64  # shapes per shard
    parts: bool = False  # part labels per point
    normals: bool = False  # pictures of normals instead of depth maps
    visible: bool = False  # which points a view sees

    @property
    def pictures(self) -> Literal["depth", "normals"]:
        """Name of the array that holds what the image model was shown."""
        return "normals" if self.normals else "depth"

    @property
    def n_shards(self) -> int:
        """Number of shards, the last of which may be partly filled."""
        return math.ceil(self.n_shapes / self.shard_size)

    def shard(self, k: int) -> slice:
        """Shapes of shard `k`."""
        start = k * self.shard_size
        return slice(start, min(start + self.shard_size, self.n_shapes))

    def sizes(self) -> dict[str, int]:
        """Length of every dimension, by its name."""
        return {
            "shape": self.n_shapes,
            "point": self.n_points,
            "axis": 3,
            "view": self.n_views,
            "view_axis": 3,
            "image_axis": 2,
            "row": self.image_size,
            "column": self.image_size,
            "color": 3,
            "patch_row": self.grid[0],
            "patch_column": self.grid[1],
            "channel": self.channels,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for the store's attributes."""
        values = {**asdict(self), "grid": list(self.grid)}
        return {name: value for name, value in values.items() if value or name not in _LATER}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StoreSpec:
        """Inverse of `to_json`.

        Raises:
            ValueError, TypeError, LookupError: if a size is missing, unknown or impossible.
        """
        spec = cls(**{**values, "grid": tuple(values["grid"])})
        sizes = spec.sizes()
        if any(type(size) is not int or size < 1 for size in (*sizes.values(), spec.shard_size)):
            raise ValueError(f"sizes must be positive whole numbers, found {dict(values)}")
        if spec.n_shapes > _MOST_SHAPES:
            raise ValueError(f"{spec.n_shapes} shapes; a store holds at most {_MOST_SHAPES}")
        if spec.shard_size > _LARGEST_SHARD:
            raise ValueError(f"shards of {spec.shard_size} shapes")
        if spec.dtype not in ("int8", "float16", "float32"):
            raise ValueError(f"unknown dtype {spec.dtype!r}")
        for array in arrays(spec).values():
            of_shape = math.prod(array.shape(spec)[1:])
            if array.layout != "store" and of_shape > _MOST_VALUES:
                raise ValueError(f"{array.name} would hold {of_shape} values per shape")
        return spec


@dataclass(frozen=True)
class ArraySchema:
    """One array of a store."""

    name: str
    dimensions: tuple[str, ...]
    dtype: str  # 'features': as the store's settings say
    description: str
    codec: Codec | None = None  # compression inside a chunk; a crc32c always follows
    layout: Literal["shape", "shard", "store"] = "shape"  # what a chunk holds
    units: str | None = None
    fill: int | float | str = 0  # what unwritten shapes read as
    only: Literal["always", "int8", "parts", "depth", "normals", "visible"] = "always"

    def in_store(self, spec: StoreSpec) -> bool:
        """Whether a store of these sizes holds the array."""
        return {
            "always": True,
            "int8": spec.dtype == "int8",
            "parts": spec.parts,
            "depth": not spec.normals,
            "normals": spec.normals,
            "visible": spec.visible,
        }[self.only]

    def dtype_in(self, spec: StoreSpec) -> str:
        """Zarr's name of the element type."""
        return spec.dtype if self.dtype == "features" else self.dtype

    def shape(self, spec: StoreSpec) -> tuple[int, ...]:
        """Length of every dimension."""
        sizes = spec.sizes()
        return tuple(sizes[name] for name in self.dimensions)

    def chunks(self, spec: StoreSpec) -> tuple[int, ...]:
        """Shape of a chunk: the unit of compression, checksums and reading."""
        shape = self.shape(spec)
        if self.layout == "store":
            return shape
        return (1 if self.layout == "shape" else spec.shard_size, *shape[1:])

    def shards(self, spec: StoreSpec) -> tuple[int, ...] | None:
        """Shape of one file; None if a file is one chunk."""
        return (spec.shard_size, *self.shape(spec)[1:]) if self.layout == "shape" else None

    def codecs(self, spec: StoreSpec) -> list[Any]:
        """Names of the codecs, as `metadata` outlines them; a crc32c always comes last."""
        packed = ["vlen-utf8" if self.dtype == "string" else "bytes"]
        packed += [] if self.codec is None else [self.codec["name"]]
        packed.append("crc32c")
        if self.shards(spec) is None:
            return packed
        index = ["bytes", "crc32c"]
        return [("sharding_indexed", list(self.chunks(spec)), packed, index, "end")]

    def key(self, k: int) -> str:
        """File of shard `k`, relative to the store."""
        return "/".join([self.name, "c", str(k), *["0"] * (len(self.dimensions) - 1)])

    def attributes(self) -> dict[str, Any]:
        """Attributes after the CF conventions."""
        units = {} if self.units is None else {"units": self.units}
        return {"long_name": self.description, **units}


ARRAYS: tuple[ArraySchema, ...] = (
    ArraySchema(
        "points",
        ("shape", "point", "axis"),
        "float32",
        "xyz of every point; multiples of 2^-16 of the power of two that bounds the shape",
        codec=_bit_planes(4),
        units="1",
        fill=math.nan,
    ),
    ArraySchema(
        "depth",
        ("shape", "view", "row", "column"),
        "uint8",
        "depth map or shading of every view, 255 times its value in [0, 1]",
        codec=ZSTD,
        units="1/255",
        only="depth",
    ),
    ArraySchema(
        "normals",
        ("shape", "view", "row", "column", "color"),
        "uint8",
        "normals of the surface in every view, to the right, upwards and towards the viewer; "
        "127.5 times the sum of their value and 1",
        codec=ZSTD,
        units="1/255",
        only="normals",
    ),
    ArraySchema(
        "visible",
        ("shape", "view", "point"),
        "uint8",
        "1 where the view sees the point, else 0",
        codec=ZSTD,
        only="visible",
    ),
    ArraySchema(
        "saliency",
        ("shape", "view", "patch_row", "patch_column"),
        "float32",
        "how much the image model attends to each patch",
        units="1",
        fill=math.nan,
    ),
    ArraySchema(
        "features",
        ("shape", "view", "patch_row", "patch_column", "channel"),
        "features",
        "patch features of the image model; zero where no point reads the patch; "
        "int8 codes times feature_scale give the value",
        codec=ZSTD,
        units="1",
    ),
    ArraySchema(
        "feature_scale",
        ("shape", "channel"),
        "float32",
        "value of one step of the int8 codes in features",
        units="1",
        fill=math.nan,
        only="int8",
    ),
    ArraySchema(
        "pixel_origin",
        ("shape", "view", "image_axis"),
        "float32",
        "smallest coordinate along the row and the column axis of the view",
        layout="shard",
        units="1",
        fill=math.nan,
    ),
    ArraySchema(
        "pixel_size",
        ("shape", "view"),
        "float32",
        "edge of a pixel, in units of the points",
        layout="shard",
        units="1",
        fill=math.nan,
    ),
    ArraySchema(
        "pixel_shift",
        ("shape", "view", "image_axis"),
        "int16",
        "added to row and column so that the object is centered",
        layout="shard",
        units="pixel",
    ),
    ArraySchema(
        "view_axes",
        ("view", "view_axis", "axis"),
        "float32",
        "row axis, column axis and depth axis of every view",
        layout="store",
        units="1",
        fill=math.nan,
    ),
    ArraySchema(
        "parts",
        ("shape", "point"),
        "uint8",
        "part of the object that each point belongs to, an index into part_names",
        codec=ZSTD,
        only="parts",
    ),
    ArraySchema(
        "label",
        ("shape",),
        "int64",
        "class of the shape, an index into class_names; -1 unknown",
        codec=ZSTD,
        layout="shard",
        fill=-1,
    ),
    ArraySchema(
        "id",
        ("shape",),
        "string",
        "name of the shape in its source",
        codec=ZSTD,
        layout="shard",
        fill="",
    ),
    ArraySchema(
        "split",
        ("shape",),
        "string",
        "train, test, val, or empty where the source has no splits",
        codec=ZSTD,
        layout="shard",
        fill="",
    ),
    ArraySchema(
        "status",
        ("shape",),
        "uint8",
        "0 not yet extracted, 1 done, 2 skipped; written after everything else of its shard",
        codec=ZSTD,
        layout="shard",
    ),
)


def arrays(spec: StoreSpec) -> dict[str, ArraySchema]:
    """The arrays of a store of these sizes, by name."""
    return {array.name: array for array in ARRAYS if array.in_store(spec)}
