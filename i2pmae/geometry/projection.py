"""Points to depth maps, and image features back to points (section 3.2 of the paper).

Every view is orthographic: two in-plane axes (image row, image column) and a depth axis. The map
from a point to its pixel belongs to the coordinates that were rendered, so it is fitted once per
cloud (`fit_pixels`) and handed to everything that needs a pixel.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from i2pmae.config import Pose
from i2pmae.geometry.shapes import require_shape

AZIMUTH, ELEVATION = 30.0, 25.0  # degrees, of the first `oblique` view and of all of them
SPLAT = 5  # side of the block of pixels that one point covers
CUBIC = -0.75  # the free parameter of bicubic interpolation, as in torch and OpenCV
# Pixels that a point may lie behind its own: a block's reach and rounding, on what `oblique` views
# of level surfaces show.
BEHIND = (SPLAT // 2 + 1) / math.tan(math.radians(ELEVATION))
FARTHEST = 0.25  # brightness of a cloud's farthest point in a `nearest` depth map
GAP = 5.0  # width of the gaps that are closed, in mean distances between drawn points


class PixelMap(NamedTuple):
    """How the points of each cloud become pixels, per view.

    pixel = floor((coordinate - origin) / size) + 1 + shift, per in-plane axis.
    """

    origin: Tensor  # (B, V, 2) float32, least in-plane coordinates, unit of the points
    size: Tensor  # (B, V) float32, side of a pixel, unit of the points
    shift: Tensor  # (B, V, 2) int64, pixels, centers the object in the image


def view_axes(n_views: int, pose: Pose = "axis") -> Tensor:
    """Directions to look from.

    `axis`: up to 3 views are the coordinate axes: (x, y) seen along z, (z, x) along y, (y, z)
    along x. 6 views add the opposite directions. Any other number spreads evenly over the sphere
    (a Fibonacci lattice about the y axis), each image upright for shapes whose y axis is up.

    `upright`: the same directions, each image turned so that y points up in it, and x to the right
    where y is the depth axis.

    `oblique`: evenly spaced around the y axis, 25 degrees above the plane of x and z, upright; the
    first at 30 degrees from x towards z. Three are at 30, 150 and 270 degrees.

    Args:
        n_views: V, at least 1.
        pose: see above.

    Returns:
        (V, 3, 3) float32, orthonormal and right-handed; rows: image row, image column, depth
        (grows towards the viewer).

    Raises:
        ValueError: if `n_views` is less than 1.

    Source: I2P-MAE, section 3.2, for 3 `axis` views; the others are ours.
    """
    if n_views < 1:
        raise ValueError(f"n_views is {n_views}; at least 1 view is needed")
    i = torch.arange(n_views, dtype=torch.float64)
    if pose == "oblique":
        height = torch.full_like(i, math.sin(math.radians(ELEVATION)))
        return _upright_axes(height, math.radians(AZIMUTH) + 2 * math.pi * i / n_views)
    if n_views <= 3 or n_views == 6:
        front = torch.eye(3)[torch.tensor([[0, 1, 2], [2, 0, 1], [1, 2, 0]])]
        if pose == "upright":  # along z, y and x; their pictures' rows and columns, with signs
            front = torch.eye(3)[torch.tensor([[1, 0, 2], [2, 0, 1], [1, 2, 0]])]
            front = front * torch.tensor([[-1.0, 1, 1], [1, 1, 1], [-1, -1, 1]])[..., None] + 0.0
        if n_views <= 3:
            return front[:n_views]
        # Seen from the other side, the picture's left and right change places.
        return torch.cat([front, front * torch.tensor([1.0, -1.0, -1.0]).view(3, 1)])
    return _upright_axes(1 - (2 * i + 1) / n_views, i * math.pi * (3 - math.sqrt(5)))


def _upright_axes(height: Tensor, angle: Tensor) -> Tensor:
    """Views (V, 3, 3) from heights (V,) within (-1, 1) and angles (V,) about the y axis."""
    radius = (1 - height**2).sqrt()
    depth = torch.stack([radius * angle.cos(), height, radius * angle.sin()], dim=1)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand_as(depth)
    column = F.normalize(torch.linalg.cross(up, depth), dim=1)
    row = torch.linalg.cross(column, depth)  # downwards, as image rows run
    return torch.stack([row, column, depth], dim=1).float()


def fit_pixels(points: Tensor, axes: Tensor, image_size: int = 224) -> PixelMap:
    """Fit each cloud to the image: its larger in-plane extent spans `image_size - 3` pixels.

    The object is then centered. A cloud without extent in both in-plane directions of a view gets
    pixels of size 1, so all its points share the image's central pixel.

    Args:
        points: (B, N, 3) float, finite; the cloud that is rendered, N at least 1.
        axes: (V, 3, 3) from `view_axes`.
        image_size: side of the image in pixels, at least 8.

    Returns:
        The map of every cloud and view.

    Raises:
        ValueError: if `image_size` is less than 8.

    Source: the release of I2P-MAE ("efficient projection").
    Differs: the release stops where both in-plane extents are zero.
    """
    if image_size < 8:
        raise ValueError(f"image_size is {image_size}; a depth map needs at least 8 pixels a side")
    plane, _ = _view_coordinates(points, axes)
    origin = plane.amin(dim=2)
    extent = (plane.amax(dim=2) - origin).amax(dim=-1)
    # By a tensor: CUDA multiplies by the rounded reciprocal of a plain number.
    size = extent / torch.full_like(extent, image_size - 3)
    size = torch.where(size > 0, size, 1.0)
    index = _cell(plane, origin, size)
    reach = SPLAT // 2
    first, last = index.amin(dim=2) + 1 - reach, index.amax(dim=2) + 1 + reach
    middle = torch.div(first + last, 2, rounding_mode="floor")
    return PixelMap(origin, size, image_size // 2 - 1 - middle)


def pixels(points: Tensor, pixel_map: PixelMap, axes: Tensor, image_size: int = 224) -> Tensor:
    """Pixel of every point in every view.

    Args:
        points: (B, M, 3) float, from the clouds that `pixel_map` was fitted to; other points get
            the nearest pixel of the image.
        pixel_map: from `fit_pixels`.
        axes: (V, 3, 3) from `view_axes`.
        image_size: side of the image in pixels.

    Returns:
        (B, V, M, 2) int64: row, column.
    """
    plane, _ = _view_coordinates(points, axes)
    return _pixels(plane, pixel_map, image_size)


def render(
    points: Tensor,
    pixel_map: PixelMap,
    axes: Tensor,
    image_size: int = 224,
    draw: Literal["sum", "nearest"] = "sum",
) -> Tensor:
    """Depth maps of clouds.

    `sum`: every point adds its depth coordinate to a block of 5x5 pixels; sigmoid of the sums,
    background 0.5. Brightness grows with the number of points, and front and back add up.

    `nearest`: the nearest point wins, as in a z-buffer. Brightness falls linearly from 1 (the
    cloud's nearest point in this view) to 0.25 (its farthest); background 0. Every point covers
    5x5 pixels; then gaps as wide as are usual between so many points are closed (morphological
    closing, at most 1/10 of the image), so that surfaces have few holes, outlines stay where they
    are, and the picture depends little on the number of points.

    Args:
        points: (B, N, 3) float: the points to draw, all or some of the cloud.
        pixel_map: from `fit_pixels` on the whole cloud.
        axes: (V, 3, 3) from `view_axes`.
        image_size: H = W.
        draw: what a pixel shows.

    Returns:
        (B, V, H, W) float32 in [0, 1].

    Source: `sum` is the release's; the paper says depth map. `nearest` is ours.
    """
    plane, distance = _view_coordinates(points, axes)
    pixel = _pixels(plane, pixel_map, image_size)
    if draw == "sum":
        return _splat_sum(pixel, distance, image_size).sigmoid()
    return _splat_nearest(pixel, _brightness(distance)[0], image_size)


def visible_points(
    points: Tensor, pixel_map: PixelMap, axes: Tensor, image_size: int = 224
) -> Tensor:
    """Which points of clouds each view sees, by the z-buffer that `render` draws as `nearest`.

    Args:
        points: (B, N, 3) float, the whole clouds.
        pixel_map: from `fit_pixels`.
        axes: (V, 3, 3) from `view_axes`.
        image_size: H = W.

    Returns:
        (B, V, N) bool.
    """
    plane, distance = _view_coordinates(points, axes)
    pixel = _pixels(plane, pixel_map, image_size)
    brightness, per_unit = _brightness(distance)
    buffer = _splat_nearest(pixel, brightness, image_size)
    buffer = torch.where(buffer > 0, buffer, -torch.inf)
    # A point's block covers pixels on which a slanted surface is as much farther away.
    return is_visible(buffer, pixel, brightness, BEHIND * pixel_map.size * per_unit)


def is_visible(buffer: Tensor, pixel: Tensor, depth: Tensor, tolerance: Tensor) -> Tensor:
    """Which points are seen: those that are not behind what their own pixel shows.

    Args:
        buffer: (B, V, H, W) float, depth of what each pixel shows, grows towards the viewer;
            minus infinity where that is nothing.
        pixel: (B, V, N, 2) int64 row and column of the points.
        depth: (B, V, N) float, theirs, in the same unit.
        tolerance: (B, V) float, how far a point may lie behind.

    Returns:
        (B, V, N) bool.
    """
    at = pixel[..., 0] * buffer.shape[-1] + pixel[..., 1]
    return depth >= buffer.flatten(2).gather(2, at) - tolerance[..., None]


def back_project(
    feature_maps: Tensor,
    pixels: Tensor,
    image_size: int = 224,
    scale: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Feature of every point: the bicubic enlargement of its feature map, at its pixel.

    Equals enlarging the maps to `image_size` (a = -0.75, corners not aligned, borders repeated)
    and reading the pixels, but only the 4x4 patches around each pixel are read.

    Args:
        feature_maps: (B, V, h, w, C) float, or int8 codes together with `scale`.
        pixels: (B, V, M, 2) int64 from `pixels`.
        image_size: side of the image that the pixels belong to.
        scale: (B, C) float, value of one step of the codes; applied after the interpolation.
        dtype: of the arithmetic and the result.

    Returns:
        (B, V, M, C) of `dtype`.

    Source: I2P-MAE, section 3.4.
    """
    batch, views, height, width, channels = feature_maps.shape
    rows, row_weights = _cubic_taps(pixels[..., 0], image_size, height)  # (B, V, M, 4)
    columns, column_weights = _cubic_taps(pixels[..., 1], image_size, width)
    view = torch.arange(batch * views, device=pixels.device).view(batch, views, 1, 1, 1)
    patch = (view * height + rows[..., :, None]) * width + columns[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    # A bag of 16 weighted rows per point: half the time of a dense product on a CPU, and a tenth
    # of gathering tap by tap.
    found = F.embedding_bag(
        patch.view(-1, 16),
        feature_maps.reshape(-1, channels).to(dtype),
        mode="sum",
        per_sample_weights=weights.view(-1, 16).to(dtype),
    ).view(*pixels.shape[:3], channels)
    return found if scale is None else found.mul_(scale.to(dtype)[:, None, None, :])


def mean_over_views(values: Tensor, seen: Tensor | None) -> Tensor:
    """Mean of back-projected values over the views that see a point; over all where none does.

    Args:
        values: (B, V, M, C).
        seen: (B, V, M) bool; None: all see all.

    Returns:
        (B, M, C).
    """
    if seen is None:
        return values.mean(dim=1)
    weights = (seen | ~seen.any(dim=1, keepdim=True)).to(values.dtype)[..., None]
    return (weights * values).sum(dim=1) / weights.sum(dim=1)


def patches_read(pixels: Tensor, grid: tuple[int, int], image_size: int = 224) -> Tensor:
    """Which patches `back_project` reads for any of the pixels; the others may hold anything.

    Args:
        pixels: (B, V, M, 2) int64 from `pixels`.
        grid: (h, w), patches per column and per row of the feature map.
        image_size: side of the image that the pixels belong to.

    Returns:
        (B, V, h, w) bool.
    """
    line = torch.arange(image_size, device=pixels.device)
    rows, columns = (
        torch.zeros(image_size, n, device=pixels.device).scatter_(
            1, _cubic_taps(line, image_size, n)[0], 1.0
        )
        for n in grid
    )
    position = pixels[..., 0] * image_size + pixels[..., 1]
    covered = torch.zeros(*pixels.shape[:2], image_size**2, device=pixels.device)
    covered = covered.scatter_(2, position, 1.0).unflatten(2, (image_size, image_size))
    found: Tensor = rows.mT @ covered @ columns > 0
    return found


def _cubic_taps(pixel: Tensor, image_size: int, n_patches: int) -> tuple[Tensor, Tensor]:
    """The 4 patches that a pixel of an enlarged line is made of, and their weights, (..., 4)."""
    position = (torch.arange(image_size, device=pixel.device) + 0.5) * (n_patches / image_size)
    tap = (position - 0.5).floor()[:, None] + torch.arange(-1, 3, device=pixel.device)
    distance = (position[:, None] - 0.5 - tap).abs()
    inner = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    outer = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    weights = torch.where(distance <= 1, inner, outer)
    return tap.clamp(0, n_patches - 1).long()[pixel], weights[pixel]


def _view_coordinates(points: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """In-plane coordinates (B, V, N, 2) and depth (B, V, N) of every point."""
    require_shape("points", points, "B", "N", 3)
    # Not a matrix product: coordinates along the axes must come out unrounded on every device.
    # Points lie side by side in memory, so that sums and extremes over them run at full speed.
    x, y, z = points.float().mT.contiguous()[:, None, :, None].unbind(2)  # (B, 1, 1, N)
    turned = axes.to(points.device)[..., None]  # (V, 3, 3, 1)
    turned = x * turned[:, :, 0] + y * turned[:, :, 1] + z * turned[:, :, 2]  # (B, V, 3, N)
    return turned[:, :, :2].mT, turned[:, :, 2]


def _brightness(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness (B, V, N) of depths in a `nearest` depth map, and its change per unit (B, V)."""
    near = distance.amax(dim=2, keepdim=True)
    extent = near - distance.amin(dim=2, keepdim=True)
    extent = torch.where(extent > 0, extent, 1.0)
    brightness = 1 - (1 - FARTHEST) * (near - distance) / extent
    return brightness, (1 - FARTHEST) / extent.squeeze(2)


def _cell(plane: Tensor, origin: Tensor, size: Tensor) -> Tensor:
    """Whole pixels between the origin and each point, (B, V, N, 2) int64."""
    return ((plane - origin[:, :, None]) / size[:, :, None, None]).floor().long()


def _pixels(plane: Tensor, pixel_map: PixelMap, image_size: int) -> Tensor:
    """Rows and columns of in-plane coordinates, (B, V, N, 2) int64."""
    cell = _cell(plane, pixel_map.origin, pixel_map.size)
    return (cell + 1 + pixel_map.shift[:, :, None].long()).clamp(0, image_size - 1)


def _flatten(rows: Tensor, columns: Tensor, image_size: int) -> Tensor:
    """Position in the flattened image, (B V, pixels)."""
    return (rows * image_size + columns).flatten(2).flatten(0, 1)


def _splat_sum(pixel: Tensor, values: Tensor, image_size: int) -> Tensor:
    """Sum of the values whose block covers each pixel, (B, V, H, W)."""
    batch, views = pixel.shape[:2]
    offsets = torch.arange(SPLAT, device=pixel.device) - SPLAT // 2
    block = (pixel[..., None] + offsets).clamp(0, image_size - 1)  # (B, V, N, 2, 5)
    target = _flatten(block[..., 0, :, None], block[..., 1, None, :], image_size)
    # Point by point, block by block: the order in which the release adds decides the last digit.
    added = values[..., None].expand(-1, -1, -1, SPLAT**2).flatten(2).flatten(0, 1)
    images = values.new_zeros(batch * views, image_size**2).scatter_add_(1, target, added)
    return images.view(batch, views, image_size, image_size)


def _splat_nearest(pixel: Tensor, brightness: Tensor, image_size: int) -> Tensor:
    """Brightest value whose block covers each pixel, gaps closed, (B, V, H, W)."""
    batch, views, n_points, _ = pixel.shape
    gap = _closing_width(n_points, image_size)
    block = SPLAT + gap - 1
    margin = block // 2 + gap // 2
    side = image_size + 2 * margin
    target = ((pixel[..., 0] + margin) * side + pixel[..., 1] + margin).flatten(0, 1)
    images = brightness.new_zeros(batch * views, side**2)
    images = images.scatter_reduce_(1, target, brightness.flatten(0, 1), "amax")
    # Growing by more than the block and shrinking back leaves a lone point its 5x5 pixels.
    grown = _window_maximum(images.view(batch, views, side, side), block)
    return -_window_maximum(-grown, gap)


def _closing_width(n_points: int, image_size: int) -> int:
    """Odd side of the window that closes gaps between points of one surface."""
    # Half of the points face the viewer, and a steep face has few of them; so pictures, not a
    # formula, chose GAP: 21 pixels for 2048 points at 224, 9 for 8192.
    side = math.ceil(GAP * image_size / math.sqrt(n_points)) - SPLAT
    return min(max(side, 0), image_size // 10) // 2 * 2 + 1


def _window_maximum(images: Tensor, side: int) -> Tensor:
    """Largest value of each window of `side` by `side` that lies in the image."""
    for dim in (-1, -2):
        span = 1
        while span < side:
            step = min(span, side - span)
            length = images.shape[dim] - step
            images = torch.maximum(images.narrow(dim, 0, length), images.narrow(dim, step, length))
            span += step
    return images
