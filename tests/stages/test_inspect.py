import io
import json

import numpy as np
import pytest
from rich.console import Console

from i2pmae import progress
from i2pmae.config import StoreConfig
from i2pmae.stages import extract_2d, inspect
from i2pmae.store import open_cache

from ..conftest import extract_config


def test_snippets_can_be_copied_and_agree(store):
    pytest.importorskip("xarray")
    names = {}
    for library, text in inspect.snippets(open_cache(store)).items():
        assert text.count("\n") == 2
        names[library] = {}
        exec(text, names[library])
    means = {library: found["means"] for library, found in names.items()}
    np.testing.assert_allclose(means["dask"], means["xarray"], rtol=1e-4, atol=1e-6)
    assert means["dask"].shape == (20, 64)


def test_snippets_of_stores_without_codes(tmp_path):
    pytest.importorskip("xarray")
    path = tmp_path / "f.zarr"
    dtype = StoreConfig(dtype="float16", shard_size=8)
    extract_2d.run(extract_config(path, limit=3, store=dtype))
    names = {}
    exec(inspect.snippets(open_cache(path))["xarray"], names)
    assert names["means"].shape == (3, 64)


def test_a_shape_is_drawn_in_characters_where_there_is_no_terminal(store, capsys):
    found = inspect.run(store, seed=1)
    out = capsys.readouterr().out
    assert found["shape"]["id"] in out
    assert sum(out.count(shade) for shade in "░▒▓█") > 20
    assert "import xarray" in out
    assert inspect.run(store, seed=1)["shape"] == found["shape"]
    assert "histograms" not in found
    json.dumps(found)


@pytest.mark.parametrize("size", [8, 24, 30])
def test_small_images_are_drawn_as_well(size):
    rows = inspect._picture(np.eye(size, dtype=np.uint8)[None])
    side = min(size, 24)
    assert (len(rows), len(rows[0])) == (side, side + 2)
    assert np.isfinite(rows).all()


def test_a_picture_is_grey_on_a_terminal(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80)
    monkeypatch.setattr(progress, "_results", terminal)
    progress.print_picture([[0.0, 1.0], [1.0, 0.5]])
    text = terminal.file.getvalue()
    assert text.count("▀") == 2
    assert "38;2;0;0;0" in text
    assert "48;2;128;128;128" in text


def test_histograms_are_bars(store, capsys):
    found = inspect.run(store, histograms=True)
    assert {"points", "depth", "saliency", "features"} <= set(found["histograms"])
    line = next(
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(" points") and "█" in line
    )
    assert 10 < sum(line.count(bar) for bar in inspect._BARS[1:]) <= 32
    json.dumps(found)
