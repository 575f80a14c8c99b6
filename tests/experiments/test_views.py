"""Pooled features of pictures: bookkeeping, and one tiny comparison from end to end."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh


@pytest.fixture
def views(module):
    return module("views")


class Reader:
    """A store of four classes of which each has 8 training and 2 test shapes."""

    def __init__(self):
        self.label = np.repeat(np.arange(4), 10)
        self.split = np.tile(["train"] * 8 + ["test"] * 2, 4)

    def read_all(self, name):
        return getattr(self, name)


def test_choices_are_made_without_the_test_shapes(views):
    reader = Reader()
    features = np.eye(4, dtype=np.float32)[reader.label]
    features[reader.split == "test"] = 7  # tells nothing
    assert views.score(features, reader, of_test=False)["svm"] == 100
    assert views.score(features, reader, of_test=True)["svm"] == 25


def test_points_that_no_view_sees_have_no_part(views, monkeypatch):
    batch = {"visible": views.torch.tensor([[[1, 1, 0], [0, 0, 0]]], dtype=views.torch.uint8)}
    features = views.torch.tensor([[[[1.0], [3.0], [9.0]], [[9.0], [9.0], [9.0]]]])
    monkeypatch.setattr(views, "to_tensors", lambda arrays: arrays)
    monkeypatch.setattr(views, "point_features", lambda *_: features)
    monkeypatch.setattr(views, "pooled_image_features", lambda *_: np.zeros((1, 2, 1)))

    class One(SimpleNamespace):
        def __len__(self):
            return 1

    reader = One(view_axes=np.eye(3)[None], image_size=8, read=lambda _: batch)
    (_, first), (name, second) = views.pooled(reader)
    assert first.shape == (1, 2)
    assert (name, second.tolist()) == ("points_seen", [[2.0, 0.0]])


@pytest.mark.slow
def test_a_comparison_from_end_to_end(views, tmp_path, monkeypatch, capsys):
    for name, make in (("ball", trimesh.creation.icosphere), ("box", trimesh.creation.box)):
        for split, n in (("train", 8), ("test", 2)):
            folder = tmp_path / "meshes" / name / split
            folder.mkdir(parents=True)
            for number in range(n):
                make().export(folder / f"{name}{number}.ply")
    monkeypatch.setattr(views, "VIT", ("--image-model", "timm:test_vit", "--image-size", "64"))
    results = tmp_path / "found.json"
    arguments = ["--vit", "random", "--block", "1", "--draws", "nearest", "surface-depth"]
    arguments += ["--poses", "oblique", "--work", str(tmp_path / "work"), "--results", str(results)]
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path / "meshes"), *arguments])
    views.main()
    found = json.loads(results.read_text())
    assert [scores["draw"] for scores in found] == ["nearest", "surface-depth"]
    assert found[1]["points_seen"]["svm"] == 100
    lines = capsys.readouterr().out.splitlines()
    assert lines == [*views.HEAD, *map(views.row, found)]
