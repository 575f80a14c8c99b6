import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2pmae.datasets import open_source
from i2pmae.datasets.source import Entry, ShapeSource, random_order, shape_generator
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


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_random_orders_agree_with_a_full_shuffle(n, kept, seed):
    keys = np.random.default_rng(seed).random(n)
    slow = sorted(range(n), key=lambda i: keys[i])[:kept]
    assert random_order(n, kept, np.random.default_rng(seed)).tolist() == slow


def test_generators_belong_to_shapes():
    draws = {shape_generator(s, i).random() for s in range(5) for i in ("a", "b", "a/b")}
    assert len(draws) == 15
    assert shape_generator(3, "a").random() == shape_generator(3, "a").random()


def test_validation_shapes_are_left_out_with_a_note(tmp_path):
    for name in ("train/a", "train/b", "val/c", "test/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random((9, 3)))
    source = open_source(tmp_path)
    assert len(source) == 2
    assert "1 shapes of split val are left out" in source.notes[-1]
    assert "of split val" not in str(open_source(tmp_path, split="all").notes)
