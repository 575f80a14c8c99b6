from collections import Counter

import numpy as np
import pytest

from i2pmae.datasets import open_source


@pytest.fixture(scope="module")
def shapes():
    """All shapes, with few points."""
    source = open_source("procedural", split="all", points=512)
    return source, [source.load(i) for i in range(len(source))]


def test_classes_are_balanced(shapes):
    source, _ = shapes
    counts = Counter(zip(source.splits, source.labels, strict=True))
    assert len(source) == 480
    assert len(source.class_names) == 12
    assert {counts["train", label] for label in range(12)} == {30}
    assert {counts["test", label] for label in range(12)} == {10}
    assert {"chair", "table", "lamp", "bed", "shelf", "mug", "bottle", "airplane"} <= set(
        source.class_names
    )
    assert source.ids[5] == "chair/train/chair_00"


def test_parts_cover_their_class(shapes):
    source, loaded = shapes
    used = {label: set() for label in range(12)}
    for label, shape in zip(source.labels, loaded, strict=True):
        found = set(shape.parts.tolist())
        assert len(found) >= 2
        used[label] |= found
    assert [tuple(sorted(parts)) for parts in used.values()] == list(source.class_parts)
    names = [source.part_names[part] for parts in source.class_parts for part in parts]
    assert names == list(source.part_names)
    assert names[0] == "airplane body"


def test_shapes_fill_the_unit_sphere_and_differ(shapes):
    _, loaded = shapes
    for points, parts in loaded:
        assert points.shape == (512, 3)
        assert parts.shape == (512,)
        assert np.linalg.norm(points, axis=1).max() == pytest.approx(1)
        assert np.ptp(points, axis=0).min() > 0.05
    extents = np.stack([np.ptp(points, axis=0) for points, _ in loaded])
    assert len(np.unique(extents.round(4), axis=0)) == 480


def test_shapes_are_reproducible(shapes):
    source, loaded = shapes
    test = open_source("procedural", split="test", points=512)
    for index in (0, 57, 119):
        other = loaded[source.ids.index(test.ids[index])]
        np.testing.assert_array_equal(test.load(index).points, other.points)
        np.testing.assert_array_equal(test.load(index).parts, other.parts)
    seeded = open_source("procedural", points=512, seed=1)
    assert (seeded.load(0).points != loaded[0].points).any()
    assert seeded.fingerprint() != open_source("procedural", points=512).fingerprint()


def test_the_form_does_not_depend_on_the_number_of_points():
    sparse = open_source("procedural", limit=12, points=2000)
    dense = open_source("procedural", limit=12, points=8000)
    for index in range(12):
        first, second = sparse.load(index), dense.load(index)
        np.testing.assert_allclose(
            np.sort(np.ptp(first.points, axis=0)), np.sort(np.ptp(second.points, axis=0)), atol=0.1
        )
        shares = [
            np.bincount(shape.parts, minlength=41) / len(shape.parts) for shape in (first, second)
        ]
        np.testing.assert_allclose(*shares, atol=0.06)


def test_the_first_shapes_hold_every_class():
    assert open_source("procedural", limit=12).labels == list(range(12))


def test_classes_cannot_be_told_by_their_extent_alone(shapes):
    """One nearest neighbor: extent is not enough, a coarse picture of the shape helps."""
    source, loaded = shapes
    labels = np.array(source.labels)
    train = np.array(source.splits) == "train"

    def accuracy(features):
        features = np.stack(features)
        distances = ((features[~train, None] - features[None, train]) ** 2).sum(axis=2)
        return float((labels[train][distances.argmin(axis=1)] == labels[~train]).mean())

    extent = accuracy([np.ptp(points, axis=0) for points, _ in loaded])
    picture = accuracy(
        [np.histogramdd(p, bins=5, range=[(-1, 1)] * 3)[0].ravel() ** 0.5 for p, _ in loaded]
    )
    assert 0.3 < extent < 0.8
    assert extent < picture < 0.98


def test_the_word_goes_without_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_source("procedural").layout == "procedural"
    assert len(open_source(tmp_path / "nowhere", "procedural", "test")) == 120
