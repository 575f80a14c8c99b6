import numpy as np
import pytest

from i2pmae.formats.labeled_points import write_labeled_points

NAMES, PALETTE = ["seat", "back  rest", "leg"], ("#0072B2", "#E69F00")


@pytest.fixture
def points():
    return np.random.default_rng(0).random((5, 3), np.float32)


def test_a_ply_file_has_part_and_color_of_every_vertex(tmp_path, points):
    parts = np.array([0, 2, 1, 0, 2])
    write_labeled_points(tmp_path / "a.ply", points, parts, NAMES, PALETTE, made_by="test")
    text, _, data = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert text.startswith(b"ply\nformat binary_little_endian 1.0\ncomment made by test\n")
    assert b"comment part 1 back rest\n" in text
    assert b"element vertex 5\n" in text
    rows = np.frombuffer(data, [("xyz", "<f4", 3), ("rgb", "u1", 3), ("part", "<i4")])
    np.testing.assert_array_equal(rows["xyz"], points)
    assert rows["part"].tolist() == parts.tolist()
    assert rows["rgb"][:3].tolist() == [[0, 114, 178], [0, 114, 178], [230, 159, 0]]


def test_an_npz_file_holds_the_arrays(tmp_path, points):
    parts = np.zeros(5, np.int64)
    write_labeled_points(tmp_path / "a.npz", points, parts, NAMES, PALETTE, made_by="test")
    saved = np.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(saved["points"], points)
    assert saved["part_names"].tolist() == NAMES
    assert saved["made_by"] == b"test"
