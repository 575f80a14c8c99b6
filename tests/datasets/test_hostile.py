"""Random damage to any file of any layout: data, or one line that says what is wrong."""

import random
import re
import shutil
import time

import pytest

from i2pmae.datasets import open_source
from i2pmae.errors import DataError

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
NUMBERS = [b"99999999999", b"-1", b"1e999", b"nan", b"0", b"18446744073709551615", b"9" * 5000]
BYTES = [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 7 + b"\x7f"]
SECONDS = 5.0


def damaged(data, rng):
    """A copy with a few changes of one kind."""
    data = bytearray(data)
    kind = rng.choice(["byte", "bytes", "cut out", "insert", "repeat", "number", "truncate"])
    for _ in range(rng.choice([1, 1, 2, 5])):
        if not data:
            break
        place = rng.randrange(rng.choice([len(data), min(len(data), 200)]))
        if kind == "byte":
            data[place] = rng.randrange(256)
        elif kind == "bytes":
            new = rng.choice(BYTES)
            data[place : place + len(new)] = new
        elif kind == "cut out":
            del data[place : place + rng.randrange(1, 40)]
        elif kind == "insert":
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == "repeat":
            start = rng.randrange(len(data))
            data[place:place] = data[start : start + rng.randrange(1, 200)]
        elif kind == "number":
            numbers = list(re.finditer(rb"\d+", data[place : place + 400]))
            if numbers:
                found = rng.choice(numbers)
                data[place + found.start() : place + found.end()] = rng.choice(NUMBERS)
        else:
            data = data[:place]
    return bytes(data)


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
