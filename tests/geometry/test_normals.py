import torch

from i2pmae.geometry.normals import surface_normals


def test_points_of_a_ball_look_outwards():
    points = torch.randn(1, 400, 3, generator=torch.Generator().manual_seed(0))
    points = points / points.norm(dim=2, keepdim=True)
    cosines = (surface_normals(points) * points).sum(dim=2).abs()
    assert cosines.min() > 0.9


def test_a_plane_has_one_direction():
    points = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0))
    points[0, :, 1] = 0.3
    normals = surface_normals(points)
    torch.testing.assert_close(normals[0].abs(), torch.tensor([0.0, 1, 0]).expand(50, 3))
    torch.testing.assert_close(normals.norm(dim=2), torch.ones(2, 50))


def test_a_cloud_of_few_points_has_no_surface():
    assert not surface_normals(torch.rand(1, 5, 3)).any()
