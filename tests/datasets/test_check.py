import threading
import time

import numpy as np
import pytest

from i2pmae.datasets import check, open_source, survey


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
    assert found.fewest_points == 40
    assert survey(open_source(folder, points=20)).fewest_points == 20
    assert survey(open_source(folder), indices=[3, 7]).fewest_points is None


def test_indices_choose_shapes(folder):
    source = open_source(folder)
    assert list(survey(source, indices=[0, 1, 7, 9]).bad) == [7]
    assert survey(source, indices=[0, 1]).bad == {}
    assert survey(source, indices=[9, 8]).fewest_points == 48


def test_long_surveys_go_window_by_window(folder, monkeypatch):
    monkeypatch.setattr(check, "_WINDOW", 3)
    found = survey(open_source(folder), workers=2)
    assert set(found.bad) == {3, 7}
    assert found.fewest_points == 40


def test_progress_is_told_once_a_shape_in_the_calling_thread(folder):
    threads = []
    survey(open_source(folder), progress=lambda n: threads.append((n, threading.get_ident())))
    assert threads == [(1, threading.get_ident())] * 10


def test_an_interrupted_survey_stops_soon(folder, monkeypatch):
    source = open_source(folder)
    original = source.load
    monkeypatch.setattr(source, "load", lambda index: (time.sleep(0.01), original(index))[1])

    def interrupt(_):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        survey(source, indices=[0] * 1000, workers=2, progress=interrupt)
    assert time.monotonic() - started < 1


def test_bugs_are_not_taken_for_bad_shapes(folder, monkeypatch):
    source = open_source(folder)
    monkeypatch.setattr(source, "_read", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        survey(source)
