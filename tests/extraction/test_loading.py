import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import i2pmae
from i2pmae.config import StoreConfig
from i2pmae.datasets.clouds import Clouds
from i2pmae.errors import DataError, OutageError
from i2pmae.formats import files
from i2pmae.stages import extract_2d
from i2pmae.store import open_cache

from ..conftest import extract_config
from ..stages.test_extract_2d import digests


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "clouds"
    found.mkdir()
    for index in range(6):
        np.save(found / f"{index}.npy", np.random.default_rng(index).random((64, 3)))
    return found


def config_of(folder, tmp_path, **changes):
    values = {"data": folder, "points": 64, "limit": None, "store": StoreConfig(shard_size=2)}
    return extract_config(tmp_path / "x.zarr", **{**values, "on_error": "skip", **changes})


def failing(error, index):
    """A reader of files that fails at one of them, once a store is being written."""
    read = Clouds._read

    def read_or_fail(self, entry):
        if entry.id == str(index):
            with files.parsing(entry.file, "Repair it."):
                raise error
        return read(self, entry)

    return read_or_fail


OUTAGES = [
    OSError(number, "said")
    for number in (errno.EMFILE, errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EACCES)
]


@pytest.mark.parametrize("error", [*OUTAGES, MemoryError()], ids=repr)
def test_errors_of_the_system_stop_and_are_tried_again(folder, tmp_path, monkeypatch, error):
    """With `--on-error skip` too: a shape is not bad because it could not be read."""
    with monkeypatch.context() as patch:
        patch.setattr(Clouds, "_read", failing(error, 3))
        with pytest.raises(OutageError, match=r"3\.npy.*run the same command again"):
            extract_2d.run(config_of(folder, tmp_path))
    assert extract_2d.run(config_of(folder, tmp_path))["skipped"] == 0


def test_a_folder_that_goes_away_is_no_folder_of_bad_shapes(folder, tmp_path, monkeypatch):
    read = Clouds._read
    n_read = []

    def and_then_it_is_gone(self, entry):
        n_read.append(entry.id)
        if len(n_read) == 4:
            shutil.move(folder, tmp_path / "elsewhere")
        return read(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Clouds, "_read", and_then_it_is_gone)
        with pytest.raises(OutageError, match="No such file"):
            extract_2d.run(config_of(folder, tmp_path, batch_size=1))
    shutil.move(tmp_path / "elsewhere", folder)
    assert extract_2d.run(config_of(folder, tmp_path))["skipped"] == 0
    assert list(open_cache(tmp_path / "x.zarr")["status"].compute()) == [1] * 6


# Every process that starts in the test's folder does this first.
AT_START = """
import os, signal
from i2pmae.datasets.source import ShapeSource

def load_or_die(self, index):
    if self.ids[index] == os.environ["POISON"] and os.getpid() != int(os.environ.get("MAIN", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    return load(self, index)

load, ShapeSource.load = ShapeSource.load, load_or_die
"""
# A script as people write it: without a guard.
SCRIPT = """
import os, sys
from pathlib import Path
os.environ["MAIN"] = str(os.getpid())
from i2pmae.config import ExtractConfig
from i2pmae.errors import I2PMAEError
from i2pmae.stages import extract_2d
folder, *runs = sys.argv[1:]
for store, on_error in zip(runs[::2], runs[1::2]):
    config = ExtractConfig(
        data=folder, cache=store, points=64, loaders=2, on_error=on_error, batch_size=1,
        image_model={"name": "timm:test_vit", "pretrained": "random", "image_size": 64},
        store={"shard_size": 2}, precision="fp32",
    )
    try:
        extract_2d.run(config)
    except I2PMAEError as error:
        print("ended:", error, len(list(Path(store).glob("status/c/*"))), file=sys.stderr)
"""


class TestProcesses:
    """In a process of its own, whose children a shape may end."""

    @pytest.fixture
    def run(self, folder, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(AT_START)
        (tmp_path / "run.py").write_text(SCRIPT)
        path = os.pathsep.join([str(tmp_path), str(Path(i2pmae.__file__).parents[1])])

        def run(poison, *runs):
            done = subprocess.run(
                [sys.executable, "run.py", folder, *runs],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": path, "POISON": poison},
            )
            assert done.returncode == 0, done.stderr
            return done.stderr

        return run

    def test_they_read_the_same_and_name_what_is_bad(self, run, folder, tmp_path):
        np.save(folder / "2.npy", np.full((64, 3), np.nan))
        said = run("none", "processes.zarr", "skip", "stop.zarr", "stop")
        assert "skipped 2: 2 (" in said
        assert re.search(r"ended: 2 .*none of its 64 points is finite.* are kept\..* 1\n", said)
        extract_2d.run(config_of(folder, tmp_path, batch_size=1))
        assert digests(tmp_path / "processes.zarr") == digests(tmp_path / "x.zarr")

    @pytest.mark.slow
    def test_a_shape_that_ends_its_process_is_isolated(self, run, tmp_path):
        said = run("3", "x.zarr", "stop", "x.zarr", "skip")
        assert re.search(r"ended: 3 crashes every process that reads it.* 1\n", said)
        assert "skipped 3: 3 crashes every process that reads it" in said
        assert list(open_cache(tmp_path / "x.zarr")["status"].compute()) == [1, 1, 1, 2, 1, 1]


def test_points_that_are_left_out_are_counted(folder, tmp_path, capsys):
    cloud = np.random.default_rng(0).random((80, 3))
    cloud[5:9] = np.nan
    np.save(folder / "1.npy", cloud)
    extract_2d.run(config_of(folder, tmp_path))
    assert "4 points of 1 shapes are not finite" in capsys.readouterr().err


def test_one_file_that_is_missing_is_a_bad_shape(folder, tmp_path):
    (folder / "2.npy").unlink()
    (folder / "2.npy").symlink_to("nowhere")
    assert extract_2d.run(config_of(folder, tmp_path))["skipped"] == 1


def test_errors_in_the_content_are_the_contents(folder):
    for error in (OSError("truncated file"), OSError(errno.EINVAL, "seek to -4"), ValueError("x")):
        with pytest.raises(DataError), files.parsing(folder / "0.npy", "Repair it."):
            raise error
    opened = OSError("unable to open file: name = '0', errno = 24, error message = 'Too many'")
    with pytest.raises(OutageError, match="Too many open files"), files.parsing(folder, "."):
        raise opened  # as h5py says it
