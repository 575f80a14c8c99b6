import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from i2pmae.geometry.projection import (
    back_project,
    fit_pixels,
    is_visible,
    mean_over_views,
    patches_read,
    pixels,
    render,
    view_axes,
    visible_points,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def clouds(batch=2, n_points=64, seed=0):
    return torch.randn(batch, n_points, 3, generator=seeded(seed))


def sphere(batch, n_points):
    return F.normalize(clouds(batch, n_points), dim=-1)


def slow_render(cloud, axis, image_size):
    """One cloud, one view, point by point, splat by splat: the text of the method."""
    row_axis, column_axis, depth_axis = axis
    splats, minimum = [], cloud.min(dim=0).values
    extent = cloud.max(dim=0).values - minimum
    size = max(extent[row_axis], extent[column_axis]) / (image_size - 3)
    for point in cloud:
        row, column = (
            math.floor(((point[a] - minimum[a]) / size).item()) + 1 for a in (row_axis, column_axis)
        )
        splats += [
            (row + i, column + j, point[depth_axis]) for i in range(-2, 3) for j in range(-2, 3)
        ]
    shift = [
        image_size // 2 - 1 - (max(s[k] for s in splats) + min(s[k] for s in splats)) // 2
        for k in (0, 1)
    ]
    image = torch.zeros(image_size, image_size)
    last = image_size - 1
    for row, column, value in splats:
        image[min(max(row + shift[0], 0), last), min(max(column + shift[1], 0), last)] += value
    return image.sigmoid()


def slow_back_project(maps, pixels, image_size):
    """Enlarge the whole map, then read the pixels."""
    batch, views, n_points, _ = pixels.shape
    found = torch.empty(batch, views, n_points, maps.shape[-1])
    for b in range(batch):
        for v in range(views):
            dense = F.interpolate(
                maps[b, v].permute(2, 0, 1)[None], size=(image_size, image_size), mode="bicubic"
            )[0]
            row, column = pixels[b, v].unbind(dim=-1)
            found[b, v] = dense[:, row, column].T
    return found


def all_pixels(image_size):
    line = torch.arange(image_size)
    return torch.cartesian_prod(line, line)[None, None]


def test_depth_maps_equal_the_official_ones(parity):
    golden = np.load(parity / "projection.npz")
    points, axes = torch.from_numpy(golden["points"]), view_axes(3)
    pixel_map = fit_pixels(points, axes)
    found = pixels(points, pixel_map, axes).transpose(0, 1).numpy()
    depth_maps = render(points, pixel_map, axes, draw="sum").transpose(0, 1).numpy()
    np.testing.assert_array_equal(pixel_map.origin.transpose(0, 1), golden["pc_min"])
    np.testing.assert_array_equal(pixel_map.size.T, golden["grid_size"])
    np.testing.assert_array_equal(pixel_map.shift[..., 0].T, golden["offset_x"])
    np.testing.assert_array_equal(pixel_map.shift[..., 1].T, golden["offset_y"])
    np.testing.assert_array_equal(found[..., 0], golden["idx_row"])
    np.testing.assert_array_equal(found[..., 1], golden["idx_col"])
    np.testing.assert_array_equal(depth_maps, golden["img_sigmoid"])
    np.testing.assert_allclose(
        torch.logit(torch.from_numpy(depth_maps).double()), golden["depth_sum"], atol=1e-3
    )


def test_back_projection_equals_the_official_one(parity):
    golden = np.load(parity / "backprojection.npz")
    points, axes = torch.from_numpy(golden["points"]), view_axes(3)
    maps = torch.from_numpy(golden["feat"]).permute(0, 2, 3, 1)[:, None].expand(-1, 3, -1, -1, -1)
    found = back_project(maps, pixels(points, fit_pixels(points, axes), axes))
    np.testing.assert_allclose(found.transpose(0, 1), golden["out"], atol=2e-6)
    whole = back_project(maps[:1, :1, ..., :1], all_pixels(224)).view(224, 224)
    np.testing.assert_allclose(whole, golden["upsampled_cloud0_ch0"], atol=2e-6)


@pytest.mark.parametrize("image_size", [16, 33, 224])
def test_sum_agrees_with_the_slow_version(image_size):
    points, axes = clouds(2, 20), view_axes(3)
    found = render(points, fit_pixels(points, axes, image_size), axes, image_size, "sum")
    for b in range(2):
        for v, axis in enumerate([(0, 1, 2), (2, 0, 1), (1, 2, 0)]):
            torch.testing.assert_close(found[b, v], slow_render(points[b], axis, image_size))


def test_pixels_by_hand():
    # Extents 13 x 6.5 in an image of 16: pixels of size 1, rows 0..13 and columns 0..6 before
    # adding 1; with splats rows -1..16, shift 7 - 7 = 0, and columns -1..9, shift 7 - 4 = 3.
    points = torch.tensor([[[0.0, 0.0, 5.0], [13.0, 6.5, 7.0], [4.5, 2.0, 6.0]]])
    axes = view_axes(1)
    pixel_map = fit_pixels(points, axes, 16)
    assert pixel_map.origin.tolist() == [[[0, 0]]]
    assert pixel_map.size.tolist() == [[1]]
    assert pixel_map.shift.tolist() == [[[0, 3]]]
    assert pixels(points, pixel_map, axes, 16).tolist() == [[[[1, 4], [14, 10], [5, 6]]]]


def test_nearest_by_hand():
    # A near point hides a far one; a third lies apart. In an image of 33, gaps of 2 are closed.
    points = torch.tensor([[[0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [30.0, 30.0, 0.5]]])
    axes = view_axes(1)
    image = render(points, fit_pixels(points, axes, 33), axes, 33, draw="nearest")[0, 0]
    expected = torch.zeros(33, 33)
    expected[0:3, 0:3] = 1  # the 5x5 block around pixel (0, 0), cut by the border
    expected[28:33, 28:33] = 0.25 + 0.75 * 0.5 / 2
    torch.testing.assert_close(image, expected)


def test_nearest_closes_gaps_but_keeps_outlines():
    # Points in rows 0 and 9 of an image of 160: blocks 5 high leave a gap of 4, which closes.
    # Row 40 is too far: the gap stays, and no outline moves.
    points = torch.tensor([[[0.0, 0.0, 1.0], [9.0, 0.0, 1.0], [40.0, 0.0, 1.0], [157.0, 0.0, 0.0]]])
    axes = view_axes(1)
    image = render(points, fit_pixels(points, axes, 160), axes, 160, draw="nearest")[0, 0]
    filled = (image == 1).nonzero()
    rows, columns = filled.unbind(dim=1)
    assert rows.unique().tolist() == [*range(13), *range(39, 44)]
    assert columns.unique().tolist() == [*range(77, 82)]
    assert len(filled) == (13 + 5) * 5


def test_nearest_hardly_depends_on_the_number_of_points():
    points, axes = sphere(1, 8192), view_axes(1)
    pixel_map = fit_pixels(points, axes)
    full = render(points, pixel_map, axes, draw="nearest")[0, 0]
    quarter = render(points[:, :2048], pixel_map, axes, draw="nearest")[0, 0]
    square = (torch.arange(224) - 111.0).pow(2)
    distance = (square[:, None] + square[None]).sqrt()
    inside = distance < 100
    for image in (full, quarter):
        assert (image[inside] > 0.6).float().mean() > 0.995  # no holes, no back surface
        assert (image[distance > 114] == 0).all()  # the outline stays
    assert (full - quarter)[inside].abs().mean() < 0.02


@pytest.mark.parametrize("pose", ["upright", "oblique"])
@pytest.mark.parametrize("n_views", [1, 2, 3, 5, 6])
def test_views_are_turned_and_never_mirrored(pose, n_views):
    axes = view_axes(n_views, pose).double()
    eye = torch.eye(3, dtype=torch.float64).expand(n_views, 3, 3)
    torch.testing.assert_close(axes @ axes.mT, eye, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones_like(axes[:, 0, 0]))


def test_upright_views_are_the_axis_views_turned():
    axes, upright = view_axes(6), view_axes(6, "upright")
    assert torch.equal(upright[:, 2], axes[:, 2])  # seen from where the axis views are
    for row, column, depth in upright[depth_is_level(upright)].tolist():
        assert row == [0, -1, 0]  # rows run downwards, y points up
        assert column[1] == depth[1] == 0


def test_upright_views_by_hand():
    # A chair of three points: seat at the origin, back above it, front at +z, right at +x.
    points = torch.tensor([[[0.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]])
    axes = view_axes(3, "upright")
    at = pixels(points, fit_pixels(points, axes), axes)[0]
    seat, back, front, right = at.unbind(dim=1)
    assert back[0, 0] < seat[0, 0]
    assert right[0, 1] > seat[0, 1]
    assert front[1, 0] > seat[1, 0]
    assert right[1, 1] > seat[1, 1]
    assert back[2, 0] < seat[2, 0]
    assert front[2, 1] < seat[2, 1]


def test_oblique_views_look_down_from_around():
    axes = view_axes(3, "oblique")
    depth = axes[:, 2]
    degrees = torch.rad2deg(torch.atan2(depth[:, 2], depth[:, 0])) % 360
    torch.testing.assert_close(degrees, torch.tensor([30.0, 150.0, 270.0]))
    torch.testing.assert_close(torch.rad2deg(depth[:, 1].asin()), torch.full((3,), 25.0))
    assert (axes[:, 0, 1] < -0.9).all()
    assert axes[:, 1, 1].abs().max() < 1e-6
    assert torch.equal(view_axes(6, "oblique")[::2], axes)


def test_points_that_a_view_sees_by_hand():
    buffer = torch.full((1, 1, 6, 6), -torch.inf)
    buffer[0, 0, 1, 1], buffer[0, 0, 1, 2] = 2.0, 1.0
    pixel = torch.tensor([[[[1, 1], [1, 1], [1, 1], [1, 2], [5, 5]]]])
    depth = torch.tensor([[[2.5, 1.9, 1.7, 1.7, -9.0]]])
    found = is_visible(buffer, pixel, depth, torch.tensor([[0.2]]))
    assert found.tolist() == [[[True, True, False, True, True]]]


def test_a_level_surface_hides_none_of_its_points():
    points = clouds(1, 8000) * torch.tensor([1.0, 0.0, 1.0]) + torch.tensor([0.0, 0.3, 0.0])
    axes = view_axes(3, "oblique")
    assert visible_points(points, fit_pixels(points, axes), axes).all()


def test_points_behind_a_cloud_are_not_seen():
    front = clouds(1, 2000) * torch.tensor([1.0, 1.0, 0.0])
    points = torch.cat([front, front[:, :500] * 0.8 - torch.tensor([0.0, 0.0, 1.0])], dim=1)
    axes = view_axes(6)
    seen = visible_points(points, fit_pixels(points, axes), axes)[0].float()
    assert seen[0, :2000].mean() == 1  # from the front
    assert seen[0, 2000:].mean() < 0.05
    assert seen[3, 2000:].mean() == 1  # from behind
    assert 0.1 < seen[3, :2000].mean() < 0.6  # all around the smaller one


def test_mean_over_views_counts_those_that_see_a_point():
    values = torch.arange(6.0).view(1, 2, 3, 1)
    seen = torch.tensor([[[True, True, False], [False, True, False]]])
    assert mean_over_views(values, seen).flatten().tolist() == [0.0, 2.5, 3.5]
    assert torch.equal(mean_over_views(values, None), values.mean(dim=1))


def depth_is_level(axes):
    return axes[:, 2, 1] == 0


def test_nearest_of_a_flat_cloud_is_all_bright():
    points = clouds() * torch.tensor([1.0, 1.0, 0.0])
    axes = view_axes(1)
    image = render(points, fit_pixels(points, axes), axes, draw="nearest")
    assert set(image.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("draw", ["sum", "nearest"])
def test_points_are_drawn_on_the_map_of_the_whole_cloud(draw):
    points, axes = clouds(1, 500), view_axes(3)
    pixel_map = fit_pixels(points, axes)
    drawn = render(points[:, :50], pixel_map, axes, draw=draw)
    background = 0.5 if draw == "sum" else 0.0
    at = pixels(points[:, :50], pixel_map, axes)
    for v in range(3):
        row, column = at[0, v].unbind(dim=-1)
        assert (drawn[0, v, row, column] != background).all()
    assert pixels(points, pixel_map, axes).amin() >= 0
    assert pixels(points, pixel_map, axes).amax() <= 223


@pytest.mark.parametrize("draw", ["sum", "nearest"])
def test_a_batch_is_rendered_like_its_clouds(draw):
    points, axes = clouds(3) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1), view_axes(6)
    together = render(points, fit_pixels(points, axes), axes, draw=draw)
    for b in range(3):
        alone = render(points[b : b + 1], fit_pixels(points[b : b + 1], axes), axes, draw=draw)
        assert torch.equal(alone[0], together[b])


@pytest.mark.parametrize("draw", ["sum", "nearest"])
def test_a_view_without_extent_is_drawn_in_the_middle(draw):
    points = torch.zeros(1, 4, 3)
    points[0, :, 2] = torch.arange(4.0)  # a stick along z: no extent seen along z
    axes = view_axes(3)
    pixel_map = fit_pixels(points, axes)
    assert pixel_map.size[0, 0] == 1
    assert pixels(points, pixel_map, axes)[0, 0].tolist() == [[111, 111]] * 4
    depth_maps = render(points, pixel_map, axes, draw=draw)
    assert depth_maps.isfinite().all()
    background = 0.5 if draw == "sum" else 0.0
    assert (depth_maps[0, 0] != background).nonzero().amin() >= 100


@given(shift=st.integers(-8, 8), exponent=st.integers(-6, 6), image_size=st.sampled_from([32, 112]))
@settings(max_examples=20)
def test_pixels_forget_place_and_size(shift, exponent, image_size):
    # Multiples of 1/64 moved by whole numbers and scaled by powers of 2 stay exact.
    points = (clouds(1, 30) * 64).round() / 64
    axes = view_axes(3)
    moved = (points + shift) * 2.0**exponent
    expected = pixels(points, fit_pixels(points, axes, image_size), axes, image_size)
    assert torch.equal(
        pixels(moved, fit_pixels(moved, axes, image_size), axes, image_size), expected
    )


@pytest.mark.parametrize("n_views", [1, 2, 3, 4, 6, 10, 64])
def test_axes_are_right_handed_frames(n_views):
    axes = view_axes(n_views)
    assert axes.shape == (n_views, 3, 3)
    torch.testing.assert_close(axes @ axes.transpose(1, 2), torch.eye(3).expand(n_views, 3, 3))
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(n_views))


@pytest.mark.parametrize("n_views", [3, 6, 10, 64])
def test_directions_are_well_spread(n_views):
    closest = (view_axes(n_views)[:, 2] @ view_axes(n_views)[:, 2].T).fill_diagonal_(-1).amax()
    even = 1 - 8 / n_views / math.sqrt(3)  # cosine between neighbors of the densest packing, about
    assert math.acos(closest) > 0.75 * math.acos(max(even, 0))


def test_three_views_select_coordinates_exactly():
    points = clouds(1, 10)
    coordinates = points[0, :, [[0, 1], [2, 0], [1, 2]]].permute(1, 0, 2)
    torch.testing.assert_close(
        fit_pixels(points, view_axes(3)).origin[0], coordinates.amin(dim=1), rtol=0, atol=0
    )
    assert torch.equal(view_axes(6)[:3], view_axes(3))
    assert torch.equal(view_axes(1), view_axes(3)[:1])


def test_opposite_views_see_opposite_sides():
    points, axes = clouds(1, 4000), view_axes(6)
    depth_maps = render(points, fit_pixels(points, axes), axes, draw="nearest")[0]
    silhouettes = depth_maps > 0
    for v in range(3):
        mirrored = silhouettes[v + 3].flip(1)
        shared = (silhouettes[v] & mirrored).sum() / (silhouettes[v] | mirrored).sum()
        assert shared > 0.85  # up to the rounding of pixels
        assert not torch.allclose(depth_maps[v], depth_maps[v + 3].flip(1), atol=0.1)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="image_size is 7"):
        fit_pixels(clouds(), view_axes(3), 7)
    with pytest.raises(ValueError, match="n_views is 0"):
        view_axes(0)


@pytest.mark.parametrize(("grid", "image_size"), [((14, 14), 224), ((7, 5), 33), ((3, 3), 3)])
def test_back_projection_agrees_with_the_slow_version(grid, image_size):
    maps = torch.randn(2, 3, *grid, 4, generator=seeded(1))
    at = torch.randint(image_size, (2, 3, 50, 2), generator=seeded(2))
    expected = slow_back_project(maps, at, image_size)
    torch.testing.assert_close(back_project(maps, at, image_size), expected, atol=2e-6, rtol=1e-5)


def test_every_pixel_agrees_with_the_slow_version():
    maps = torch.randn(1, 1, 16, 16, 2, generator=seeded(3))
    torch.testing.assert_close(
        back_project(maps, all_pixels(224)),
        slow_back_project(maps, all_pixels(224), 224),
        atol=1e-5,
        rtol=1e-5,
    )


def test_constant_maps_stay_constant():
    maps = torch.full((1, 1, 14, 14, 1), 3.0)
    found = back_project(maps, all_pixels(224))
    torch.testing.assert_close(found, torch.full_like(found, 3.0))


def test_codes_are_scaled_after_interpolation():
    codes = torch.randint(-127, 128, (2, 3, 14, 14, 8), generator=seeded(4)).to(torch.int8)
    scale = torch.rand(2, 8, generator=seeded(5))
    at = torch.randint(224, (2, 3, 20, 2), generator=seeded(6))
    values = codes.float() * scale[:, None, None, None]
    torch.testing.assert_close(
        back_project(codes, at, scale=scale), back_project(values, at), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_of_half_precision_are_read_in_full(dtype):
    maps = torch.randn(1, 2, 14, 14, 8, generator=seeded(7)).to(dtype)
    at = torch.randint(224, (1, 2, 20, 2), generator=seeded(8))
    found = back_project(maps, at)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, back_project(maps.float(), at))
    low = back_project(maps, at, dtype=torch.bfloat16)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), found, atol=0.05, rtol=0.02)


def test_back_projection_of_no_pixels_is_empty():
    maps = torch.zeros(2, 3, 14, 14, 8)
    assert back_project(maps, torch.zeros(2, 3, 0, 2, dtype=torch.int64)).shape == (2, 3, 0, 8)


def test_back_projection_passes_gradients_to_the_maps():
    maps = torch.randn(1, 1, 4, 4, 2, dtype=torch.float64, requires_grad=True)
    at = torch.tensor([[[[0, 0], [15, 3], [7, 8]]]])
    assert torch.autograd.gradcheck(
        lambda values: back_project(values, at, 16, dtype=torch.float64), maps
    )


def test_patches_read_by_hand():
    # Pixel (8, 100) of 224, patches of 16: rows -1..2 around the edge 0 | 1 minus a half pixel,
    # that is position .03 -> taps -1, 0, 1, 2; column position 5.78 -> taps 4, 5, 6, 7.
    read = patches_read(torch.tensor([[[[8, 100]]]]), (14, 14))[0, 0]
    expected = torch.zeros(14, 14, dtype=torch.bool)
    expected[0:3, 4:8] = True
    assert torch.equal(read, expected)


def test_unread_patches_do_not_matter():
    points, axes = clouds(2, 30), view_axes(3)
    at = pixels(points, fit_pixels(points, axes, 112), axes, 112)
    read = patches_read(at, (14, 14), 112)
    assert 0.2 < read.float().mean() < 0.9
    maps = torch.randn(2, 3, 14, 14, 8, generator=seeded(9))
    changed = torch.where(read[..., None], maps, 0)
    assert torch.equal(back_project(changed, at, 112), back_project(maps, at, 112))


def test_every_patch_called_read_matters():
    at = torch.randint(112, (1, 1, 6, 2), generator=seeded(10))
    maps = torch.zeros(1, 1, 14, 14, 1, requires_grad=True)
    back_project(maps, at, 112).abs().sum().backward()
    weights = maps.new_zeros(1, 1, 14, 14, 1).requires_grad_()
    back_project(weights, at, 112).sum().backward()
    assert torch.equal(weights.grad[..., 0] != 0, patches_read(at, (14, 14), 112))
