import threading
import time

import numpy as np
import pytest

from i2pmae.datasets import check, open_source, survey, survey_headers
from i2pmae.datasets.clouds import Clouds


@pytest.fixture
def folder(tmp_path):
    """Ten clouds of 40 to 49 points; 3 and 7 cannot be used."""
    for number in range(10):
        points = np.random.default_rng(number).random((40 + number, 3))
        np.save(tmp_path / f"{number}.npy", points)
    np.save(tmp_path / "3.npy", np.zeros((5, 3)))
    (tmp_path / "7.npy").write_bytes(b"damaged")
    return tmp_path


@pytest.mark.parametrize("workers", [1, 4, None])
def test_bad_shapes_are_found_in_order(folder, workers):
    bad = survey(open_source(folder), workers=workers).bad
    assert list(bad) == [3, 7]
    assert "all 5 points coincide" in bad[3]
    assert "7.npy cannot be read" in bad[7]


def test_the_survey_counts_points_of_usable_shapes(folder):
    found = survey(open_source(folder, points=45))
    assert set(found.bad) == {3, 7}
    assert found.n_points == {i: min(40 + i, 45) for i in range(10) if i not in (3, 7)}
    assert set(survey(open_source(folder, points=20)).n_points.values()) == {20}
    assert survey(open_source(folder), indices=[3, 7]).n_points == {}


def test_indices_choose_shapes(folder):
    source = open_source(folder)
    assert list(survey(source, indices=[0, 1, 7, 9]).bad) == [7]
    assert survey(source, indices=[0, 1]).bad == {}
    assert survey(source, indices=[9, 8]).n_points == {9: 49, 8: 48}


@pytest.mark.parametrize(
    ("counts", "shared", "small"),
    [
        ([3000, 3000, 3000, 3000, 3000, 10], 3000, [5]),
        ([10, 3000], 3000, [0]),
        ([10] * 4 + [3000] * 3, 10, []),
        ([40, 41, 49], 40, []),
        ([8192, 5000, 8192, 4095], 5000, [3]),
        ([10] * 5 + [3000], 10, []),
        ([7], 7, []),
        ([3000] * 9 + [1501], 3000, [9]),  # nearly all have as many
        ([3000] * 9 + [2800], 2800, []),
        ([3000] * 8 + [1501] * 2, 1501, []),
        ([3000] * 8 + [1501], 1501, []),  # of few shapes nobody is an exception
        ([3000] * 57 + [2900, 1501, 1600, 1700], 2900, [58, 59, 60]),
        (range(2000, 4000, 20), 2000, []),  # no number that nearly all have
        ([*range(2000, 4000, 20), 1501], 1501, []),
        ([*range(2000, 4000, 20), 900], 2000, [100]),
    ],
)
def test_a_small_shape_never_cuts_the_others(counts, shared, small):
    found = check.shared_points(dict(enumerate(counts)))
    assert found[0] == shared
    assert list(found[1]) == small


def test_points_that_are_not_finite_are_counted(tmp_path):
    for number, n_bad in enumerate((0, 10, 39)):
        points = np.random.default_rng(number).random((40, 3))
        points[:n_bad, number] = (np.nan, np.inf, -np.inf)[number]
        np.save(tmp_path / f"{number}.npy", points)
    found = survey(open_source(tmp_path))
    assert found.n_points == {0: 40, 1: 30}
    assert "all 1 points coincide" in found.bad[2]
    assert found.not_finite == {1: 10}
    assert found.notes() == [
        "10 points of 1 shapes are not finite (NaN or infinite) and are left out"
    ]


def test_progress_is_told_once_a_shape_in_the_calling_thread(folder):
    threads = []
    survey(open_source(folder), progress=lambda n: threads.append((n, threading.get_ident())))
    assert threads == [(1, threading.get_ident())] * 10


def test_an_interrupted_survey_stops_soon(folder, monkeypatch):
    source = open_source(folder)
    loaded, original = [], source.load

    def load(index):
        loaded.append(index)
        time.sleep(0.01)
        return original(index)

    monkeypatch.setattr(source, "load", load)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(source, indices=[0] * 1000, workers=2, progress=interrupt)
    assert len(loaded) < 500


def test_bugs_are_not_taken_for_bad_shapes(folder, monkeypatch):
    source = open_source(folder)
    monkeypatch.setattr(source, "_read", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        survey(source)


class TestHeaders:
    """What files say of themselves, without being read."""

    @pytest.fixture
    def clouds(self, tmp_path):
        for index in range(8):
            np.save(tmp_path / f"{index}.npy", np.random.default_rng(index).random((90 + index, 3)))
        return tmp_path

    def test_counts_are_those_of_reading(self, clouds, monkeypatch):
        source = open_source(clouds, points=94)
        expected = survey(source).n_points
        monkeypatch.setattr(Clouds, "_read", lambda *_: pytest.fail("a shape is read"))
        assert {index: source.count(index) for index in range(8)} == expected
        source.points = 80  # all have more: nothing is to be read
        assert survey_headers(source) == ({}, dict.fromkeys(range(8), 80), {})

    def test_what_headers_do_not_tell_is_read(self, clouds):
        points = np.load(clouds / "3.npy")
        points[:60] = np.nan
        np.save(clouds / "3.npy", points)
        np.savetxt(clouds / "8.xyz", np.random.default_rng(8).random((50, 3)))
        (clouds / "4.npy").write_bytes(b"")
        seen = []
        found = survey_headers(open_source(clouds, points=512), seen.append)
        assert found.n_points == {**{i: 90 + i for i in (0, 1, 2, 5, 6, 7)}, 3: 33, 8: 50}
        assert "4.npy is empty" in found.bad[4]
        assert found.not_finite == {3: 60}
        assert sum(seen) == 9

    def test_meshes_and_built_in_shapes_have_as_many_as_asked_for(self, tmp_path):
        (tmp_path / "0.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
        (tmp_path / "1.off").write_text("")
        found = survey_headers(open_source(tmp_path, points=70))
        assert (found.n_points, [*found.bad]) == ({0: 70}, [1])
        assert survey_headers(open_source("procedural", limit=2, points=70)).n_points[1] == 70
