"""Shapes from disk, as a store holds their points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.config import ExtractConfig
from i2pmae.datasets import ShapeSource, open_split
from i2pmae.datasets.reading import PieceReader
from i2pmae.datasets.source import Shape
from i2pmae.errors import DataError
from i2pmae.extraction.surfaces import Camera, SurfaceViews
from i2pmae.formats.polygons import Mesh
from i2pmae.geometry.transforms import normalize_to_unit_sphere, unit_sphere
from i2pmae.store.quantize import round_points


def open_data(config: ExtractConfig) -> ShapeSource:
    """The shapes to extract."""
    return open_split(
        config.data,
        split=config.split,
        limit=config.limit,
        points=config.points,
        seed=config.seed,
        **config.reading,
    )


class LoadedShapes(NamedTuple):
    """Some shapes as they are stored, and why others cannot be."""

    indices: list[int]
    points: NDArray[np.float32]  # (B, N, 3)
    parts: NDArray[np.uint8] | None  # (B, N)
    unusable: dict[int, str]
    not_finite: dict[int, int]  # points that were left out, by index
    surfaces: SurfaceViews | None = None  # where a camera draws them


@dataclass(frozen=True)
class ShapeReader(PieceReader[LoadedShapes]):
    """Reads shapes as a store holds them.

    Attributes:
        n_points: of each shape in the store.
        on_error: whether a shape that cannot be used is an error or left out.
        camera: draws the shapes' surfaces; None: only points are read.
    """

    n_points: int
    on_error: Literal["stop", "skip"]
    camera: Camera | None = None

    def __call__(self, wanted: Sequence[int]) -> LoadedShapes:
        """Read some shapes.

        Raises:
            DataError: if one cannot be used and `on_error` is `stop`.
            OutageError: if the system failed, so that nothing is known of a shape.
        """
        clouds, parts, meshes, indices, unusable = [], [], [], [], {}
        for index in wanted:
            try:
                shape, mesh = self.of_shape(index, self._load)
                if len(shape.points) < self.n_points:
                    raise DataError(
                        f"{self.source.ids[index]} has {len(shape.points)} points, the store "
                        f"{self.n_points} per shape"
                    )
            except DataError as error:
                if self.on_error == "stop":
                    raise DataError(
                        f"{str(error).rstrip('.')}; shapes written so far are kept. Repair or "
                        "remove it, or add --on-error skip, then rerun the command to resume."
                    ) from error
                unusable[index] = str(error)
                continue
            indices.append(index)
            clouds.append(shape.points[: self.n_points])
            if mesh is not None:
                meshes.append(mesh)
            if shape.parts is not None:
                parts.append(shape.parts[: self.n_points])
        points = np.zeros((0, self.n_points, 3), np.float32)
        surfaces = None
        if clouds:
            stacked = torch.from_numpy(np.stack(clouds))
            points = round_points(normalize_to_unit_sphere(stacked).numpy())
            if self.camera is not None:
                surfaces = _views(self.camera, stacked, points, meshes)
        not_finite = {i: self.source.not_finite[i] for i in indices if i in self.source.not_finite}
        return LoadedShapes(
            indices, points, np.stack(parts) if parts else None, unusable, not_finite, surfaces
        )

    def _load(self, index: int) -> tuple[Shape, Mesh | None]:
        if self.camera is None:
            return self.source.load(index), None
        return self.source.load_with_surface(index)


def _views(
    camera: Camera, clouds: Tensor, points: NDArray[np.float32], meshes: Sequence[Mesh]
) -> SurfaceViews:
    """Surfaces in the coordinates of the stored points, drawn.

    Args:
        camera: what draws them.
        clouds: (B, N, 3) as the meshes lie.
        points: (B, N, 3) as stored.
        meshes: B surfaces.
    """
    centers, radii = (part.numpy() for part in unit_sphere(clouds))
    drawn = [
        camera(Mesh((mesh.vertices - center) / radius, mesh.faces), cloud)
        for mesh, center, radius, cloud in zip(meshes, centers, radii, points, strict=True)
    ]
    fields: list[Any] = [
        None if parts[0] is None else np.stack(parts) for parts in zip(*drawn, strict=True)
    ]
    return SurfaceViews(*fields)
