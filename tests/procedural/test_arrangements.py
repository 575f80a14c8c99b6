import numpy as np
import pytest

from i2pmae.procedural.arrangements import ARRANGEMENTS
from i2pmae.procedural.constructive import half_space
from i2pmae.procedural.draw import Draw
from i2pmae.procedural.form import Form
from i2pmae.procedural.primitives import KINDS, at


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_arrangements_draw_one_to_nine_primitives(name):
    counts, extents = [], []
    for seed in range(40):
        form = Form(Draw(np.random.default_rng(seed)))
        ARRANGEMENTS[name](form)
        counts.append(form.n_primitives)
        low, high = form.assembly.bounds
        assert (high > low).all()
        extents.append((high - low) / (high - low).max())
    assert 1 <= min(counts) <= 3
    assert 2 <= max(counts) <= 9
    assert len(set(counts)) >= 2
    assert np.std(extents, axis=0).min() > 0.08


def test_a_tenth_primitive_is_left_out():
    form = Form(Draw(np.random.default_rng(0)))
    for place in range(12):
        form.put("box", (1, 1, 1), (2 * place, 0, 0))
    assert form.n_primitives == 9
    assert form.assembly.bounds[1, 0] == pytest.approx(16.5)


def test_copies_count_once_and_cuts_do_not():
    form = Form(Draw(np.random.default_rng(0)))
    form.put("box", (1, 1, 1), plain=1)
    form.cut("cylinder", (0.5, 2, 0.5), (0, 0, 0))
    form.assembly.cut(half_space(2), at((0, 0, 0.2)))
    assert form.n_primitives == 1
    points, parts = form.assembly.sample(2000, np.random.default_rng(0))
    assert set(parts) == {KINDS.index("box")}
    assert np.hypot(points[:, 0], points[:, 2]).min() > 0.24
    assert points[:, 2].max() == pytest.approx(0.2)
