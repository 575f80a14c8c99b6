"""Random damage to any file of any layout: data, or one line that says what is wrong."""

import random
import shutil
import time

import pytest

from i2pmae.datasets import open_source
from i2pmae.errors import DataError

from ..mutations import damaged

LAYOUTS = {
    "modelnet_hdf5": "auto",
    "scanobjectnn": "scanobjectnn-pb-t50-rs",
    "shapenet55": "auto",
    "modelnet_text": "auto",
    "modelnet_pickle": "auto",
    "few_shot": "auto",
    "shapenetpart": "auto",
    "meshes": "auto",
    "clouds": "auto",
}
SECONDS = 5.0


@pytest.fixture(scope="module")
def originals(write, tmp_path_factory):
    """What `open_source` takes, and the folder that holds it, by layout."""
    folder = tmp_path_factory.mktemp("originals")
    return {
        layout: (getattr(write, layout)(folder / layout), folder / layout) for layout in LAYOUTS
    }


def complaints(path, layout):
    """Every error that opening and reading ends in; any other than a DataError is a bug."""
    found = []
    for split in ("train", "test"):
        try:
            source = open_source(path, layout, split, points=32)
        except DataError as error:
            found.append(str(error))
            continue
        for index in range(len(source)):
            try:
                source.load(index)
            except DataError as error:
                found.append(str(error))
    return found


def attack(originals, folder, seed):
    rng = random.Random(seed)
    layout = rng.choice(sorted(LAYOUTS))
    path, original = originals[layout]
    copy = folder / "copy"
    shutil.copytree(original, copy)
    victim = rng.choice(sorted(file for file in copy.rglob("*") if file.is_file()))
    victim.write_bytes(damaged(victim.read_bytes(), rng))
    started = time.process_time()  # a loaded machine must not fail the test
    for line in complaints(copy / path.relative_to(original), LAYOUTS[layout]):
        assert "\n" not in line
        assert len(line) < 1500
    assert time.process_time() - started < SECONDS, f"seed {seed}: {victim}"
    shutil.rmtree(copy)


@pytest.mark.parametrize("block", range(5))
def test_random_damage(originals, tmp_path, block):
    for seed in range(20 * block, 20 * block + 20):
        attack(originals, tmp_path, seed)


@pytest.mark.slow
def test_more_random_damage(originals, tmp_path):
    for seed in range(1000, 11_000):
        attack(originals, tmp_path, seed)
