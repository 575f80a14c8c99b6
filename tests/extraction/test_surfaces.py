"""Pictures of meshes: by hand, and against the points that lie on them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from i2pmae.config import PretrainConfig, ReportConfig, ShowConfig, ViewConfig
from i2pmae.errors import ConfigError, DataError
from i2pmae.extraction.surfaces import Camera
from i2pmae.formats.polygons import Mesh
from i2pmae.geometry.projection import FARTHEST, PixelMap, pixels, view_axes
from i2pmae.stages import extract_2d, inspect, pretrain, report, show, verify
from i2pmae.store import StoreReader, open_cache

from ..conftest import extract_config, pretrain_config

SIZE = 64


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(np.asarray(shape.vertices), np.asarray(shape.faces, np.int32))


def camera(draw: str, n_views: int = 1, pose: str = "upright", **settings) -> Camera:
    return Camera(view_axes(n_views, pose).numpy(), SIZE, draw, **settings)


def plate(z: float, side: float = 1.0) -> trimesh.Trimesh:
    """A square in a plane of constant z, without thickness."""
    corners = side * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) + [0, 0, z]
    return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)


def slope() -> Mesh:
    """A square whose upper edge lies farther away by its length; 45 degrees."""
    corners = np.array([[-1.0, -1, 1], [1, -1, 1], [1, 1, -1], [-1, 1, -1]])
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32))


def test_a_slope_by_hand():
    (picture,) = camera("surface-depth")(slope(), np.zeros((1, 3), np.float32)).pictures
    # The square spans 61 pixels of the 64 and one more that its last corners fall on alone.
    assert (picture > 0).sum() == 61**2
    rows, columns = np.nonzero(picture)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 61, 1, 61)
    shown = picture[1:62, 1:62].astype(float)
    assert np.ptp(shown, axis=1).max() == 0
    # From the far edge above, 0.25, to the near one below, 1, at the middles of the pixels.
    middles = (np.arange(61) + 0.5) / 61
    np.testing.assert_allclose(shown[:, 0] / 255, FARTHEST + 0.75 * middles, atol=0.51 / 255)


def test_normals_and_shading_of_a_slope_by_hand():
    views = {
        draw: camera(draw)(slope(), np.zeros((1, 3), np.float32)).pictures[0]
        for draw in ("surface-normals", "surface-shaded")
    }
    # Its normal is half up, half towards us.
    normal = np.rint(255 * (np.array([0, 0.5**0.5, 0.5**0.5]) + 1) / 2)
    np.testing.assert_allclose(views["surface-normals"][32, 32], normal, atol=1)
    assert (views["surface-normals"][0, 0] == 128).all()
    light = np.array([-0.4, 0.5, 1]) / np.linalg.norm([-0.4, 0.5, 1])  # right, up, towards us
    expected = 0.25 + 0.75 * light @ [0, 0.5**0.5, 0.5**0.5]
    assert views["surface-shaded"][32, 32] == pytest.approx(255 * expected, abs=1)
    assert views["surface-shaded"][0, 0] == 0


@pytest.mark.parametrize("draw", ["surface-depth", "surface-normals", "surface-shaded"])
def test_both_sides_of_a_face_look_alike(draw):
    mesh = mesh_of(trimesh.creation.icosphere(1))
    there, back = (
        camera(draw, 3, "oblique")(Mesh(mesh.vertices, faces), np.zeros((1, 3), np.float32))
        for faces in (mesh.faces, mesh.faces[:, ::-1])
    )
    difference = there.pictures.astype(int) - back.pictures
    assert (np.abs(difference) > 1).mean() < 1e-3  # rays that meet an edge may meet either face


def test_what_a_plate_hides_is_not_seen():
    mesh = mesh_of(trimesh.util.concatenate([plate(0.5, 0.5), plate(-0.5)]))
    points = np.array(
        [[0, 0, 0.5], [0.4, 0.4, 0.5], [0, 0, -0.5], [0.4, 0.4, -0.5], [0.9, 0, -0.5]], np.float32
    )
    found = camera("surface-depth", 6, visible_only=True)(mesh, points)
    assert found.visible[0].tolist() == [True, True, False, False, True]  # along z
    assert found.visible[3].tolist() == [False, False, True, True, True]  # from behind
    # From the sides the plates are lines that no ray meets; nothing hides anything.
    assert found.visible[[1, 2, 4, 5]].all()


def test_a_face_seen_edge_on_is_not_seen_from_behind():
    """Rays of its outline's pixels pass beside a box, by a share of a pixel that means nothing."""
    shape = trimesh.creation.box((1, 0.77, 0.9))
    points, faces = trimesh.sample.sample_surface(shape, 4000, seed=0)
    axes = view_axes(6)
    found = Camera(axes.numpy(), 224, "surface-depth", visible_only=True)(
        mesh_of(shape), points.astype(np.float32)
    )
    faces_us = shape.face_normals[faces] @ axes[:, 2].numpy().T > 0.5
    assert ((found.visible == faces_us.T).mean(axis=1) > 0.97).all()


@pytest.mark.parametrize("pose", ["axis", "upright", "oblique"])
def test_a_seen_point_lies_on_the_pixel_whose_depth_is_its_own(pose):
    shape = trimesh.util.concatenate(
        [
            trimesh.creation.icosphere(3, 0.5),
            trimesh.creation.box((0.3, 1.4, 0.5)).apply_translation((0.8, 0, 0.2)),
        ]
    )
    points, faces = trimesh.sample.sample_surface(shape, 2000, seed=0)
    points = points.astype(np.float32)
    camera_of = Camera(view_axes(3, pose).numpy(), 224, "surface-depth", visible_only=True)
    found = camera_of(mesh_of(shape), points)
    axes = view_axes(3, pose)
    pixel_map = PixelMap(*(torch.from_numpy(part)[None] for part in found[1:4]))
    at = pixels(torch.from_numpy(points)[None], pixel_map, axes, 224)[0].numpy()
    for view, axis in enumerate(axes.numpy()):
        depths = shape.vertices @ axis[2]
        per_unit = (1 - FARTHEST) / np.ptp(depths)
        brightness = 1 - per_unit * (depths.max() - points @ axis[2])
        drawn = found.pictures[view][tuple(at[view].T)] / 255
        behind = (drawn - brightness) / per_unit / found.size[view]  # in pixels
        seen = found.visible[view]
        rounding = 0.51 / 255 / per_unit / found.size[view]
        assert 0.25 < seen.mean() < 0.6
        on_it = drawn > 0  # the middle of its pixel may lie beside the surface
        assert on_it.mean() > 0.7  # rays pass by sides of the box that are seen edge on
        assert (behind[seen & on_it] < 2 + rounding).all()
        assert (behind[~seen & on_it] > 2 - rounding).all()
        # At the edge of a surface, or where it is seen edge on, a pixel may show what lies behind.
        facing = np.abs(shape.face_normals[faces] @ axis[2]) > 0.3
        assert (behind[seen & on_it & facing] > -4).mean() > 0.97


@pytest.fixture(scope="module")
def meshes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    rng = np.random.default_rng(0)
    for name, make in (("ball", trimesh.creation.icosphere), ("box", trimesh.creation.box)):
        for number in range(3):
            (folder / name).mkdir(exist_ok=True)
            shape = make().apply_scale(rng.uniform(0.5, 2, 3)).apply_translation(rng.normal(size=3))
            shape.export(folder / name / f"{number}.ply")
    return folder


def extracted(meshes: Path, path: Path, **views) -> Path:
    settings = ViewConfig(pose="oblique", **views)
    extract_2d.run(extract_config(path, data=meshes, points=256, limit=None, views=settings))
    return path


@pytest.mark.parametrize("draw", ["surface-shaded", "surface-normals"])
def test_a_store_of_surfaces_is_whole_and_shown(meshes, draw, tmp_path):
    path = extracted(meshes, tmp_path / "x.zarr", draw=draw, visible_only=True)
    reader = StoreReader(path)
    assert reader.info.settings["views"] == {
        "n_views": 3,
        "pose": "oblique",
        "draw": draw,
        "sum_points": 2048,
        "visible_only": True,
    }
    name = "normals" if draw == "surface-normals" else "depth"
    assert reader.info.spec.pictures == name
    pictures = open_cache(path)[name].compute()
    assert pictures.shape == (6, 3, 64, 64, *([3] if name == "normals" else []))
    assert 0.3 < reader.read_all("visible").mean() < 0.7
    found = verify.run(path, recompute=2, data=meshes)
    assert (found["ok"], len(found["recomputed"])) == (True, 2)
    shown = show.run(ShowConfig(cache=path, out=tmp_path / "pictures"))
    assert all(Path(file).stat().st_size > 1000 for file in shown["pictures"].values())
    report.run(ReportConfig(subjects=(path,), out=tmp_path / "page.html", shapes=2, map=0))
    assert "data:image/webp" in (tmp_path / "page.html").read_text()
    assert inspect.run(path)["shape"]["class"] in ("ball", "box")


def test_points_of_a_store_are_the_same_whatever_is_drawn(meshes, tmp_path):
    one, other = (
        open_cache(extracted(meshes, tmp_path / f"{draw}.zarr", draw=draw))["points"].compute()
        for draw in ("nearest", "surface-depth")
    )
    np.testing.assert_array_equal(one, other)


def test_pretraining_and_its_pictures_leave_out_what_is_not_seen(meshes, tmp_path):
    path = extracted(meshes, tmp_path / "x.zarr", draw="surface-depth", visible_only=True)
    config: PretrainConfig = pretrain_config(path, tmp_path / "run", epochs=1, points=128)
    found = pretrain.run(config)
    assert np.isfinite(found["loss"])
    shown = show.run(
        ShowConfig(cache=path, out=tmp_path / "pictures", checkpoint=config.out / "last.pt")
    )
    assert "predicted-features" in shown["pictures"]


def test_clouds_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((300, 3)))
    views = ViewConfig(draw="surface-depth")
    with pytest.raises(DataError, match=r"points without surfaces.* Take --draw nearest"):
        extract_2d.run(extract_config(tmp_path / "x.zarr", data=tmp_path, views=views))
    assert not (tmp_path / "x.zarr").exists()


def test_without_embree_it_is_named(meshes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex", None)
    with pytest.raises(ConfigError, match=r"pip install 'i2pmae\[surfaces\]'"):
        extracted(meshes, tmp_path / "x.zarr", draw="surface-depth")
