import numpy as np
import pytest

from i2pmae.evaluation.bootstrap import Estimate, estimate, resampled_means


def test_means_by_hand():
    values = np.array([[100.0, 0, 0, 100], [np.nan, 0, 100, 100]])
    assert resampled_means(values, draws=5)[0] == pytest.approx([50, 200 / 3])
    # Class 7 has the first three shapes: 100/3 and 50; class 9 the last: 100.
    groups = np.array([7, 7, 7, 9])
    assert resampled_means(values, groups, draws=5)[0] == pytest.approx([200 / 3, 75])


def test_the_interval_is_that_of_the_binomial():
    hits = np.repeat([100.0, 0], [70, 30])
    found = estimate(resampled_means(hits[None], draws=4000)[:, 0])
    half = 1.96 * np.sqrt(0.7 * 0.3 / 100) * 100
    assert found.value == 70
    assert found.low == pytest.approx(70 - half, abs=1)
    assert found.high == pytest.approx(70 + half, abs=1)


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    hard = 100.0 * (rng.random(50) < 0.5)
    better = np.minimum(hard + 10, 110)  # each shape by the same
    means = resampled_means(np.stack([better, hard]))
    found = estimate(means[:, 0] - means[:, 1])
    assert found == pytest.approx((10, 10, 10))
    assert found.is_significant


def test_repetitions_are_drawn_as_well():
    rng = np.random.default_rng(0)
    of_draws = rng.normal(size=5)  # what all shapes share in a draw of points
    values = of_draws[None, :, None] + np.zeros((1, 5, 40))
    means = resampled_means(values, draws=4000)[:, 0]
    assert means[0] == pytest.approx(of_draws.mean())
    assert means[1:].std() == pytest.approx(of_draws.std() / 5**0.5, rel=0.05)
    same = np.repeat(rng.random((2, 1, 40)), 3, axis=1)  # three equal draws tell nothing more
    groups = rng.integers(3, size=40)
    assert resampled_means(same, groups, draws=0) == pytest.approx(
        resampled_means(same[:, 0], groups, draws=0)
    )


def test_a_measure_that_no_drawn_shape_has_is_left_out():
    values = np.array([[np.nan, np.nan, 40.0]])
    assert estimate(resampled_means(values, draws=50)[:, 0]) == (40, 40, 40)


def test_estimates_print_themselves():
    found = Estimate(76.12, -0.04, 80)
    assert str(found) == "76.1 [-0.0, 80.0]"
    assert not found.is_significant
