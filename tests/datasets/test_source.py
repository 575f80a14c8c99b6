import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.datasets.source import (
    Entry,
    ShapeSource,
    random_order,
    shape_generator,
    to_unit_sphere,
    usable,
)
from i2pmae.errors import DataError


class Numbered(ShapeSource):
    """Clouds whose coordinates say which point and shape they are."""

    layout = "numbered"
    unit_sphere = False

    def _read(self, entry):
        rows = np.arange(30.0)
        parts = np.arange(30) % 4
        return np.stack([rows, rows, np.full(30, float(entry.row))], axis=1), parts


class Shuffled(Numbered):
    shuffled = True


def entries(path, splits):
    return [Entry(f"shape{i}", i % 2, name, path, i) for i, name in enumerate(splits)]


def source_of(cls, path, splits, **options):
    chosen = {"split": "all", "limit": None, "points": 10, "seed": 0} | options
    return cls(path, ("even", "odd"), entries(path, splits), **chosen)


def test_the_first_points_are_kept(tmp_path):
    points, parts = source_of(Numbered, tmp_path, ["train"] * 3).load(2)
    np.testing.assert_array_equal(points[:, 0], np.arange(10))
    np.testing.assert_array_equal(points[:, 2], 2)
    np.testing.assert_array_equal(parts, np.arange(10) % 4)


def test_a_random_subset_keeps_points_and_parts_together(tmp_path):
    source = source_of(Shuffled, tmp_path, ["train"] * 3)
    first, first_parts = source.load(0)
    second, _ = source.load(1)
    assert len(set(first[:, 0])) == 10
    assert sorted(first[:, 0]) != list(range(10))
    np.testing.assert_array_equal(first[:, 0] % 4, first_parts)
    assert (first[:, 0] != second[:, 0]).any()
    np.testing.assert_array_equal(first, source.load(0).points)
    other_seed = source_of(Shuffled, tmp_path, ["train"] * 3, seed=1)
    assert (first[:, 0] != other_seed.load(0).points[:, 0]).any()


def test_fewer_points_are_the_first_of_more(tmp_path):
    few = source_of(Shuffled, tmp_path, ["train"], points=7)
    many = source_of(Shuffled, tmp_path, ["train"], points=29)
    np.testing.assert_array_equal(few.load(0).points, many.load(0).points[:7])


@pytest.mark.parametrize(
    ("splits", "split", "expected"),
    [
        (["train", "test", "train"], "train", [0, 2]),
        (["train", "test", "train"], "test", [1]),
        (["train", "test", "val"], "val", [2]),
        (["train", "test", ""], "all", [0, 1, 2]),
        (["train", "test", ""], "train", [0, 2]),
        (["test", "test", ""], "train", [2]),
        (["train", "test", ""], "test", [1]),
        (["", "", ""], "train", [0, 1, 2]),
        (["", "", ""], "all", [0, 1, 2]),
    ],
)
def test_splits(tmp_path, splits, split, expected):
    source = source_of(Numbered, tmp_path, splits, split=split)
    assert source.ids == [f"shape{i}" for i in expected]
    assert source.labels == [i % 2 for i in expected]
    assert source.splits == [splits[i] for i in expected]


def test_notes_say_what_was_left_out(tmp_path):
    outside = source_of(Numbered, tmp_path, ["train", "train", ""], split="train")
    assert outside.notes == [
        "1 shapes lie outside the folders of a split and count as training data"
    ]
    absent = source_of(Numbered, tmp_path, ["train", "test"], split="train")
    assert absent.notes == ["1 of 2 classes have no shape here: odd"]
    assert source_of(Numbered, tmp_path, ["train", "test"], split="train", limit=1).notes == []


def test_limits_keep_the_first_shapes_of_the_split(tmp_path):
    splits = ["test", "train", "train", "train"]
    source = source_of(Numbered, tmp_path, splits, split="train", limit=2)
    assert source.ids == ["shape1", "shape2"]


def test_absent_splits_are_named(tmp_path):
    with pytest.raises(DataError, match="no shapes of split 'test'; splits found: train, val"):
        source_of(Numbered, tmp_path, ["train", "val"], split="test")
    with pytest.raises(DataError, match="lists no shapes"):
        source_of(Numbered, tmp_path, [])


def test_ids_must_be_unique_and_printable(tmp_path):
    options = {"split": "all", "limit": None, "points": 4, "seed": 0}
    twice = [Entry("a", 0, "", tmp_path / "a.off"), Entry("a", 0, "", tmp_path / "a.obj")]
    with pytest.raises(DataError, match="two shapes have the id 'a'"):
        Numbered(tmp_path, ("x",), twice, **options)
    undecodable = [Entry("caf\udce9", 0, "", tmp_path / "a.off")]
    with pytest.raises(DataError, match=r"'caf\\udce9' holds characters"):
        Numbered(tmp_path, ("x",), undecodable, **options)


@pytest.mark.parametrize("index", [-1, 3])
def test_indices_out_of_range_are_bugs(tmp_path, index):
    with pytest.raises(IndexError):
        source_of(Numbered, tmp_path, ["train"] * 3).load(index)


def test_unit_sphere_by_hand():
    points = to_unit_sphere(np.array([[1.0, 0, 0], [3, 0, 0], [2, 2, 0], [2, -2, 0]]))
    np.testing.assert_allclose(points, [[-0.5, 0, 0], [0.5, 0, 0], [0, 1, 0], [0, -1, 0]])


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.floats(-1e3, 1e3), st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_unit_sphere_undoes_shift_and_scale(n, shift, scale, seed):
    cloud = np.random.default_rng(seed).standard_normal((n, 3))
    points = to_unit_sphere(cloud)
    assert np.sqrt((points**2).sum(axis=1)).max() == pytest.approx(1)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
    moved = to_unit_sphere((cloud + shift) * scale)
    np.testing.assert_allclose(moved, points, atol=1e-11 / np.ptp(cloud, axis=0).max())


@pytest.mark.parametrize("size", [1e-300, 1e-20, 1e300])
def test_unit_sphere_of_extreme_sizes(size):
    cloud = np.random.default_rng(0).standard_normal((9, 3))
    np.testing.assert_allclose(to_unit_sphere(cloud * size), to_unit_sphere(cloud), atol=1e-9)


def test_unit_sphere_refuses_what_rounding_has_merged():
    with pytest.raises(DataError, match="too close together"):
        to_unit_sphere(np.array([[1e9, 0, 0], [np.nextafter(1e9, 2e9), 0, 0]]))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((0, 3)), "holds no points"),
        (np.zeros((4, 2)), r"shape \(4, 2\)"),
        (np.zeros((2, 4, 3)), r"shape \(2, 4, 3\)"),
        (np.zeros((4, 3), complex), "holds complex128"),
        (np.zeros((4, 3), object), "holds object"),
        (np.array([[0, 0, 0], [1, np.nan, 0], [np.inf, 0, 0]]), "2 of 3 .* first in row 1"),
        (np.ones((4, 3)), "all 4 points coincide"),
    ],
)
def test_clouds_that_cannot_be_used(values, reason):
    with pytest.raises(DataError, match=reason):
        usable(values)


@pytest.mark.parametrize("dtype", ["float16", "int32", "uint8", ">f4", ">f8"])
def test_numbers_of_any_kind_can_be_used(dtype):
    values = np.arange(12, dtype=dtype).reshape(3, 4)
    found = usable(values)
    assert found.dtype in (np.float32, np.float64)
    np.testing.assert_array_equal(found, values[:, :3].astype(float))


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_random_orders_agree_with_a_full_shuffle(n, kept, seed):
    keys = np.random.default_rng(seed).random(n)
    slow = sorted(range(n), key=lambda i: keys[i])[:kept]
    assert random_order(n, kept, np.random.default_rng(seed)).tolist() == slow


def test_generators_belong_to_shapes():
    draws = {shape_generator(s, i).random() for s in range(5) for i in ("a", "b", "a/b")}
    assert len(draws) == 15
    assert shape_generator(3, "a").random() == shape_generator(3, "a").random()
