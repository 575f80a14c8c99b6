"""Stores made with intent: whatever they hold, the checksum of their metadata is right."""

import copy
import json
import random
import resource
import struct
import time
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from numcodecs.zstd import Zstd

from i2pmae.errors import I2PMAEError, StoreDamageError, StoreError
from i2pmae.store.inspect import describe, open_cache
from i2pmae.store.location import Location
from i2pmae.store.metadata import DIGEST, digest, load_info
from i2pmae.store.reader import StoreReader
from i2pmae.store.strings import decode_strings
from i2pmae.store.verify import check_store

from ..conftest import USUAL_ARRAYS

VALUES = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 1e300, "", "x", "s3://bucket", "\x1b[2J", "$" * 3),
    *([], [1], ["\n"], [{"name": "gzip"}], [{}], [[]], {}, {"name": "x"}, {"separator": "."}),
)


def sign(store, documents):
    """Write metadata as an attacker would: with the checksum that goes with them."""
    group, arrays = documents["zarr.json"], {}
    for array in USUAL_ARRAYS:
        file = f"{array.name}/zarr.json"
        if file in documents:
            arrays[array.name] = documents[file]
    attributes = group.get("attributes")
    if isinstance(attributes, dict):
        attributes[DIGEST] = digest(attributes, arrays)
    for file, document in documents.items():
        (store / file).write_text(json.dumps(document))


def places(value, at=()):
    """Every place in a document, with the keys that lead there."""
    yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))


def change(documents, rng):
    """Replace, remove or add something anywhere."""
    file = rng.choice(sorted(documents))
    at = rng.choice([place for place in places(documents[file]) if place and DIGEST not in place])
    target = documents[file]
    for key in at[:-1]:
        target = target[key]
    kind = rng.choice(["replace", "replace", "replace", "remove", "add"])
    if kind == "remove":
        del target[at[-1]]
    elif kind == "add" and isinstance(target, dict):
        target["surprise"] = rng.choice(VALUES)
    else:
        target[at[-1]] = copy.deepcopy(rng.choice(VALUES))


def complaint(use, seed):
    """What is said; any other error than ours is a bug."""
    try:
        use()
    except I2PMAEError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"seed {seed}") from error
    return ""


@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 150), marks=pytest.mark.slow)])
def test_metadata_of_a_stranger_give_values_or_one_line(store, spec, write_store, seeds):
    names = sorted(file.relative_to(store).as_posix() for file in store.rglob("zarr.json"))
    sound = {name: json.loads((store / name).read_text()) for name in names}
    sound["zarr.json"].pop("consolidated_metadata", None)

    def read():
        reader = StoreReader(store)
        next(reader.batches(2, seed=0, epoch=0))
        for name in ("id", "split", "label"):
            reader.read_all(name)

    def inspect():
        describe(store)
        open_cache(store)["features"][3].compute()

    uses = (read, inspect, lambda: check_store(store), lambda: write_store(store, spec))
    refused = 0
    for seed in seeds:
        documents = copy.deepcopy(sound)
        rng = random.Random(seed)
        for _ in range(rng.choice([1, 1, 3])):
            change(documents, rng)
        for use in uses:
            sign(store, documents)
            started = time.process_time()
            said = complaint(use, seed)
            refused += bool(said)
            assert "\n" not in said, seed
            assert len(said) < 1000, seed
            assert time.process_time() - started < 5, seed
    assert refused > 1.3 * len(seeds)
    sign(store, sound)
    assert check_store(store)[1] == []


@pytest.fixture
def little_memory():
    """No more than 300 MB above what the process has taken already."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (300 << 20), old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)


def checked(payload):
    return payload + struct.pack("<I", google_crc32c.value(payload))


@pytest.fixture(scope="module")
def bomb():
    """Half a gigabyte in 16 kB, with a checksum."""
    return checked(Zstd(3).encode(bytes(500 << 20)))


@pytest.mark.parametrize("name", ["id", "split", "label", "status", "parts", "depth", "features"])
@pytest.mark.parametrize("complete", [True, False])
def test_chunks_that_unpack_to_much_more_are_damage(store, bomb, name, complete, request):
    schema = next(array for array in USUAL_ARRAYS if array.name == name)
    spec = load_info(Location.of(store)).spec
    content = bomb
    if schema.layout == "shape":
        index = np.array([[0, len(bomb)]] * spec.shard_size, "<u8").tobytes()
        content += checked(index)
    (store / schema.key(1)).write_bytes(content)
    if not complete:
        document = json.loads((store / "zarr.json").read_text())
        document["attributes"] |= {"complete": False, "counts": {}}
        documents = {"zarr.json": document} | {
            f"{array.name}/zarr.json": json.loads((store / array.name / "zarr.json").read_text())
            for array in USUAL_ARRAYS
        }
        sign(store, documents)
    request.getfixturevalue("little_memory")
    _, found = check_store(store)
    assert {(f.array, f.shard, f.kind) for f in found if f.shard is not None} == {
        (name, 1, "damaged")
    }
    with pytest.raises(StoreDamageError):
        StoreReader(store, unfinished=True).read_shard(1, name)
    with pytest.raises(StoreError):
        open_cache(store)[name][4:6].compute()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xff\xff\xff", "holds 4294967295 strings, expected 3"),
        (struct.pack("<II", 3, 2**32 - 1), "ends within a string"),
        (struct.pack("<III", 3, 0, 0), "ends within a string|unpack"),
        (struct.pack("<I", 3) + struct.pack("<I", 2) + b"\xff\xfe", "utf-8"),
        (b"", "unpack"),
    ],
)
def test_strings_that_are_not_what_they_say(content, expected):
    with pytest.raises(ValueError, match=expected):
        decode_strings(checked(Zstd(3).encode(content)), 3)
    with pytest.raises(ValueError, match="checksum"):
        decode_strings(content, 3)


def test_a_store_with_keys_in_its_url_is_refused_and_not_repeated():
    for url in ("s3://KEY:SECRET@bucket/a.zarr", "gs://KEY:SE/CRET@bucket/a", "s3://KEY@bucket/a"):
        for path in (url, Path(url)):
            with pytest.raises(StoreError, match="holds a key or a password") as raised:
                Location.of(path)
            assert "KEY" not in str(raised.value)
            assert "CRET" not in str(raised.value)
