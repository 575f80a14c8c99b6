"""Pictures of surfaces: a ray through the middle of every pixel meets the mesh (Embree)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from i2pmae.config import Draw
from i2pmae.errors import ConfigError
from i2pmae.formats.polygons import Mesh
from i2pmae.geometry.projection import FARTHEST, PixelMap, fit_pixels, is_visible, pixels

_LIGHT = (-0.5, -0.4, 1.0)  # along row, column and depth: from above, from the left, from here
_AMBIENT = 0.25  # brightness of a face that the light does not reach
# Pixels that a point may lie behind the middle of its own: as on a surface seen at 20 degrees.
_TOLERANCE = 2.0
_MISS = 1e30  # a ray that meets nothing goes farther

Vectors = NDArray[np.float32]


class SurfaceViews(NamedTuple):
    """Surfaces as their views see them; of one surface without B."""

    pictures: NDArray[np.uint8]  # (B, V, H, W), or (B, V, H, W, 3) of normals
    origin: Vectors  # (B, V, 2), and so on: see `PixelMap`
    size: Vectors  # (B, V)
    shift: NDArray[np.int64]  # (B, V, 2)
    visible: NDArray[np.bool_] | None  # (B, V, N) whether a view sees a point, if asked for


@dataclass(frozen=True)
class Camera:
    """Draws surfaces.

    `surface-depth`: brightness falls linearly from 1 (the mesh's nearest corner in this view) to
    0.25 (its farthest); background 0. `surface-normals`: red, green and blue are the normal's
    share to the right, upwards and towards the viewer, from -1 to 1; background 0.5.
    `surface-shaded`: gray, lit from above and left; background 0. Both sides of a face look alike.

    Attributes:
        axes: (V, 3, 3) from `view_axes`.
        image_size: H = W.
        draw: what a pixel shows.
        visible_only: whether to tell which points a view sees.
    """

    axes: Vectors
    image_size: int
    draw: Draw
    visible_only: bool = False

    def __call__(self, mesh: Mesh, points: Vectors) -> SurfaceViews:
        """Draw a surface in every view.

        Args:
            mesh: with one face or more, in the coordinates of the points.
            points: (N, 3) of the surface.
        """
        axes = torch.from_numpy(self.axes)
        is_used = np.zeros(len(mesh.vertices), np.bool_)
        is_used[mesh.faces] = True
        corners = torch.from_numpy(mesh.vertices[is_used].astype(np.float32))[None]
        pixel_map = fit_pixels(corners, axes, self.image_size)
        filled = pixels(corners, pixel_map, axes, self.image_size)[0]
        scene = _scene(mesh)
        pictures, buffers = zip(
            *(
                self._draw(scene, view, corners[0].numpy(), pixel_map, filled[view])
                for view in range(len(axes))
            ),
            strict=True,
        )
        visible = None
        if self.visible_only:
            cloud = torch.from_numpy(points)[None]
            buffer = torch.from_numpy(np.stack(buffers))[None]
            # The ray of an outline's pixel may pass beside the surface: its neighbors tell.
            beside = F.max_pool2d(buffer, 3, stride=1, padding=1)
            visible = is_visible(
                torch.where(buffer.isinf(), beside, buffer),
                pixels(cloud, pixel_map, axes, self.image_size),
                (cloud @ axes[:, 2].mT).mT,
                _TOLERANCE * pixel_map.size,
            )[0].numpy()
        origin, size, shift = (part[0].numpy() for part in pixel_map)
        return SurfaceViews(np.stack(pictures), origin, size, shift, visible)

    def _draw(
        self, scene: Any, view: int, corners: Vectors, pixel_map: PixelMap, filled: Tensor
    ) -> tuple[NDArray[np.uint8], Vectors]:
        """Picture of a view, and its z-buffer (H, W): depth, minus infinity where nothing is."""
        row, column, toward = self.axes[view]
        origin, size, shift = (part[0, view].numpy() for part in pixel_map)
        low, high = filled.amin(dim=0).tolist(), filled.amax(dim=0).tolist()
        rows, columns = (slice(low[axis], high[axis] + 1) for axis in range(2))
        at = np.arange(self.image_size, dtype=np.float32) - np.float32(0.5)
        middles = origin[:, None] + (at - shift[:, None].astype(np.float32)) * size
        depths = corners @ toward
        start = depths.max() + 1
        across = middles[1, columns, None] * column + start * toward
        starts = middles[0, rows, None, None] * row + across  # (h, w, 3)
        rays = starts.reshape(-1, 3), np.tile(-toward, (starts.size // 3, 1))
        normals = np.zeros((0, 3), np.float32)
        if self.draw == "surface-depth":
            lengths = scene.run(*rays, query="DISTANCE")
        else:
            found = scene.run(*rays, output=1)
            lengths = found["tfar"]
            normals = found["Ng"][lengths < _MISS] @ self.axes[view].T
        lengths = lengths.reshape(starts.shape[:2])
        is_hit = lengths < _MISS
        hits = start - lengths[is_hit]
        colors = np.rint(255 * self._colors(hits, depths, normals)).astype(np.uint8)
        background = 128 if self.draw == "surface-normals" else 0
        picture = np.full((self.image_size, self.image_size, *colors.shape[1:]), background, "u1")
        picture[rows, columns][is_hit] = colors
        buffer = np.full((self.image_size, self.image_size), -np.inf, np.float32)
        buffer[rows, columns][is_hit] = hits
        return picture, buffer

    def _colors(
        self, hits: Vectors, depths: Vectors, normals: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """What pixels show, (n,) or (n, 3) in [0, 1], by their depth and their normals (n, 3)."""
        if self.draw == "surface-depth":
            near, far = float(depths.max()), float(depths.min())
            faint: NDArray[np.floating] = (near - hits) / max(near - far, 1e-12)
            return 1 - (1 - FARTHEST) * faint
        normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        normals = normals * np.where(normals[:, 2:] < 0, -1, 1)  # of the side that is seen
        if self.draw == "surface-normals":
            return (normals[:, [1, 0, 2]] * (1, -1, 1) + 1) / 2
        lit: NDArray[np.floating] = np.maximum(normals @ _LIGHT / np.linalg.norm(_LIGHT), 0)
        return _AMBIENT + (1 - _AMBIENT) * lit


def require_ray_caster() -> None:
    """Refuse to draw surfaces without Embree.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import embreex  # noqa: F401
    except ImportError:
        raise ConfigError(
            "views.draw surface-* casts rays with Embree, which is not installed: "
            "pip install 'i2pmae[surfaces]'"
        ) from None


def _scene(mesh: Mesh) -> Any:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))
    return scene
