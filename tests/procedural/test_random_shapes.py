import numpy as np
import pytest

from i2pmae.datasets import detect_layout, open_source
from i2pmae.errors import ConfigError, DataError
from i2pmae.procedural.primitives import KINDS

N = 290  # ten rounds of arrangements


@pytest.fixture(scope="module")
def shapes():
    source = open_source(f"procedural-random:{N}", split="all", points=512)
    return source, [source.load(index) for index in range(len(source))]


@pytest.mark.parametrize(
    ("name", "options", "n", "last"),
    [
        ("procedural-random", {}, 9_000, "random-00009998"),
        ("procedural-random", {"split": "all"}, 10_000, "random-00009999"),
        ("procedural-random", {"limit": 30_000}, 30_000, "random-00033332"),
        ("procedural-random", {"limit": 7, "split": "test"}, 7, "random-00000069"),
        ("procedural-random", {"limit": 7, "split": "all"}, 7, "random-00000006"),
        ("procedural-random:200", {}, 180, "random-00000198"),
        ("procedural-random:200", {"split": "test"}, 20, "random-00000199"),
        ("procedural-random:200", {"limit": 30}, 30, "random-00000032"),
        ("procedural-random:200", {"limit": 300}, 180, "random-00000198"),
    ],
)
def test_there_are_as_many_as_asked_for(name, options, n, last):
    source = open_source(name, points=16, **options)
    assert len(source) == n
    assert source.ids[-1] == last
    assert source.load(n - 1).points.shape == (16, 3)


@pytest.mark.parametrize("count", ["many", "", "1.5", "-3", "0", "10000001", "10:20"])
def test_other_counts_are_refused(count):
    with pytest.raises(ConfigError, match=r"procedural-random:.*expected.*found"):
        open_source(f"procedural-random:{count}")


def test_the_word_goes_without_files_and_folders_of_that_name_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert detect_layout(tmp_path.__class__("procedural-random:5")) == "procedural-random"
    assert len(open_source(tmp_path / "nowhere", "procedural-random", limit=3)) == 3
    (tmp_path / "procedural-random").mkdir()
    with pytest.raises(DataError, match="no known layout"):
        open_source("procedural-random")


def test_labels_and_parts_say_what_was_drawn(shapes):
    source, loaded = shapes
    assert source.part_names == KINDS
    assert len(source.class_names) == len(source.class_parts) == 11
    assert np.bincount(source.labels).tolist() == [
        10 * share for share in (2, 2, 3, 4, 4, 3, 2, 2, 1, 3, 3)
    ]
    assert source.splits.count("test") == N // 10
    assert {
        label for label, s in zip(source.labels, source.splits, strict=True) if s == "test"
    } == (set(range(11)))
    for points, parts in loaded:
        assert points.shape == (512, 3)
        assert parts.shape == (512,)
        assert parts.max() < len(KINDS)


def test_a_shape_depends_on_seed_and_number_alone(shapes):
    source, loaded = shapes
    fewer = open_source("procedural-random", limit=20, points=512)
    for index in (19, 0, 7):
        other = loaded[source.ids.index(fewer.ids[index])]
        np.testing.assert_array_equal(fewer.load(index).points, other.points)
        np.testing.assert_array_equal(fewer.load(index).parts, other.parts)
    seeded = open_source("procedural-random", limit=20, points=512, seed=1)
    assert (seeded.load(0).points != fewer.load(0).points).any()
    assert seeded.fingerprint() != fewer.fingerprint()
    assert fewer.fingerprint() == open_source("procedural-random", limit=20).fingerprint()
    assert fewer.fingerprint() != open_source("procedural-random", limit=21).fingerprint()


def test_the_form_does_not_depend_on_the_number_of_points():
    sparse = open_source("procedural-random:40", points=2000)
    dense = open_source("procedural-random:40", points=8000)
    for index in range(36):
        few, many = sparse.load(index), dense.load(index)
        shares = [np.bincount(s.parts, minlength=9) / len(s.parts) for s in (few, many)]
        np.testing.assert_allclose(*shares, atol=0.06)


def test_shapes_fill_the_unit_sphere_and_differ(shapes):
    _, loaded = shapes
    for points, _ in loaded:
        assert np.isfinite(points).all()
        assert np.linalg.norm(points, axis=1).max() == pytest.approx(1)
        assert np.linalg.norm(points.mean(axis=0)) < 1e-5
    extents = np.stack([np.ptp(points, axis=0) for points, _ in loaded])
    assert len(np.unique(extents.round(4), axis=0)) == N


def test_shapes_vary(shapes):
    """Flat, long and compact ones; of one kind of primitive and of many; every kind occurs."""
    _, loaded = shapes
    extents = np.stack([np.sort(np.ptp(points, axis=0)) for points, _ in loaded])
    flatness, length = extents[:, 0] / extents[:, 1], extents[:, 1] / extents[:, 2]
    for ratio in (flatness, length):
        low, middle, high = np.quantile(ratio, (0.1, 0.5, 0.9))
        assert low < 0.45
        assert 0.5 < middle < 0.85
        assert high > 0.9
    n_kinds = [len(np.unique(parts)) for _, parts in loaded]
    assert 0.1 < np.mean(np.array(n_kinds) == 1) < 0.5
    assert np.mean(np.array(n_kinds) >= 3) > 0.2
    frequent = np.mean([np.bincount(parts, minlength=9) > 0 for _, parts in loaded], axis=0)
    assert frequent.min() > 0.08
