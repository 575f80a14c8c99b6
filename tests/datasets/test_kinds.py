import numpy as np
import pytest

from i2pmae.datasets import kinds
from i2pmae.datasets.kinds import kinds_of
from i2pmae.evaluation.vectors import Vectors, write_vectors


def test_endings_and_beginnings_tell(tmp_path, write, monkeypatch):
    monkeypatch.setattr(kinds, "_PIECE", 2)
    points = write.cloud(0)
    (tmp_path / "mesh.ply").write_bytes(write.ply_bytes())
    (tmp_path / "cloud.PLY").write_bytes(write.ply_bytes(points, None))
    (tmp_path / "damaged.ply").write_bytes(b"ply\n")
    np.save(tmp_path / "cloud.npy", points)
    np.save(tmp_path / "labels.npy", np.zeros(9))
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY")
    np.savez(tmp_path / "cloud.npz", points=points)
    np.savez(tmp_path / "labels.npz", a=np.zeros(9), b=np.eye(4))
    np.savez(tmp_path / "two.npz", a=points, b=points)
    write_vectors(
        tmp_path / "vectors.npz",
        Vectors(["a", "b"], np.zeros(2, int), ["", ""], np.ones((2, 12), np.float32), (), {}),
    )
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    np.savetxt(tmp_path / "cloud.txt", points)
    (tmp_path / "prose.txt").write_text("hello")
    expected = {
        "mesh.ply": "mesh",
        "cloud.PLY": "cloud",
        "damaged.ply": "unclear",
        "cloud.npy": "cloud",
        "labels.npy": "other",
        "damaged.npy": "unclear",
        "cloud.npz": "cloud",
        "labels.npz": "other",
        "two.npz": "unclear",
        "vectors.npz": "other",
        "damaged.npz": "unclear",
        "cloud.txt": "cloud",
        "prose.txt": "other",
        "gone.txt": "unclear",
        "any.obj": "mesh",  # not looked into
        "any.xyz": "cloud",
        "any.png": "other",
    }
    found = kinds_of(tmp_path, [(name,) for name in expected])
    assert {parts[0]: kind for parts, kind in found.items()} == expected


@pytest.mark.parametrize("data", [b"", b"x" * 10_000, bytes(range(256)) * 40])
@pytest.mark.parametrize("ending", [".csv", ".npy", ".npz", ".ply", ".txt"])
def test_nothing_is_an_error(tmp_path, data, ending):
    (tmp_path / f"a{ending}").write_bytes(data)
    assert kinds_of(tmp_path, [(f"a{ending}",)])[f"a{ending}",] in ("unclear", "other")


def test_a_packed_array_that_is_damaged_is_unclear(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", points=np.random.default_rng(0).random((99, 3)))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:60] + bytes(20) + whole[80:])
    parts = ("a.npz",)
    assert kinds_of(tmp_path, [parts]) == {parts: "unclear"}


def test_a_file_is_looked_into_once_until_it_changes(tmp_path, write, monkeypatch):
    looked, looks_like_points = [], kinds.looks_like_points

    def look(stream):
        looked.append(stream.name)
        return looks_like_points(stream)

    monkeypatch.setattr(kinds, "looks_like_points", look)
    parts = ("a.txt",)
    np.savetxt(tmp_path / "a.txt", write.cloud(0))
    assert [kinds_of(tmp_path, [parts])[parts] for _ in range(2)] == ["cloud", "cloud"]
    assert len(looked) == 1
    (tmp_path / "a.txt").write_text("nothing but words\n")
    assert kinds_of(tmp_path, [parts]) == {parts: "other"}
