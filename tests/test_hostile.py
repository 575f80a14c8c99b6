"""Random damage to everything else that is read: recipes, checkpoints, stores, results, vectors.

Whatever a file holds, using it gives its values or one line that says what is wrong, soon, and
without taking much more memory than the file is large. Nothing in a file is ever run.
"""

import json
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.networks import load_classifier, load_encoder, load_pretraining
from i2pmae.config import FinetuneConfig, PretrainConfig, to_plain
from i2pmae.errors import CheckpointError, ConfigError, I2PMAEError, StoreError
from i2pmae.evaluation.vectors import Vectors, read_vectors, write_vectors
from i2pmae.image_model.weights import read_weights
from i2pmae.model.classifier import Classifier
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.recipes import load_config, recipe_folder
from i2pmae.stages import compare, extract_2d
from i2pmae.store import StoreReader, describe
from i2pmae.store.location import Location
from i2pmae.store.metadata import DIGEST, digest, load_documents
from i2pmae.store.schema import StoreSpec, arrays
from i2pmae.store.verify import check_store
from i2pmae.training.run_folder import RunFolder

from .conftest import TINY_ENCODER, extract_config
from .mutations import damaged

SECONDS = 5.0


def use_recipe(file):
    for kind, command in ((PretrainConfig, "pretrain"), (FinetuneConfig, "finetune")):
        options = {"out": file, "data": file} if command == "finetune" else {"out": file}
        load_config(kind, command, recipe=file, options=options)


def use_store(folder):
    describe(folder)
    reader = StoreReader(folder)
    indices = reader.indices()
    for name in ("id", "split", "label", "status"):
        reader.read_all(name)
    next(reader.batches(min(4, len(indices)), seed=0, epoch=0, indices=indices))


def use_run(folder):
    run = RunFolder(folder)
    run.rows()
    run.results()
    run.start(PretrainConfig(out=folder), resume=True)
    compare.run([folder])


def use_checkpoint(file):
    load = {"pretraining": load_pretraining, "classifier": load_classifier}
    load[checkpoint.load(file).kind](file)
    load_encoder(file)


USES = {
    "recipe": use_recipe,
    "pretraining.pt": use_checkpoint,
    "classifier.pt": use_checkpoint,
    "pretraining.safetensors": use_checkpoint,
    "weights.pth": read_weights,
    "weights.safetensors": read_weights,
    "store.zarr": use_store,
    "vectors.npz": read_vectors,
    "vectors.parquet": read_vectors,
    "run": use_run,
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A good one of every kind."""
    folder = tmp_path_factory.mktemp("originals")
    shutil.copytree(recipe_folder(), folder / "recipe", ignore=shutil.ignore_patterns("slurm"))
    torch.manual_seed(0)
    models = {
        "pretraining": PretrainingModel(
            TINY_ENCODER, PretrainConfig(out="o").masking, PretrainConfig(out="o").targets, 1, 8, 64
        ),
        "classifier": Classifier(TINY_ENCODER, FinetuneConfig(out="o", data="d").head, 3),
    }
    for name in ("pretraining.pt", "classifier.pt", "pretraining.safetensors"):
        kind = name.partition(".")[0]
        checkpoint.save(
            folder / name,
            kind=kind,
            config={"encoder": to_plain(TINY_ENCODER)},
            model=models[kind].state_dict(),
            extra={"network": {"n_views": 1, "image_channels": 8, "image_size": 64}},
        )
    weights = {f"layer{i}.weight": torch.randn(5, i + 1) for i in range(3)}
    torch.save({"state_dict": weights}, folder / "weights.pth")
    save_file(weights, folder / "weights.safetensors")
    extract_2d.run(extract_config(folder / "store.zarr", limit=6, points=64))
    values = Vectors(
        ids=["a", "b"],
        labels=np.array([0, 1]),
        splits=["train", "test"],
        vectors=np.ones((2, 8), np.float32),
        class_names=("x", "y"),
        settings={"checkpoint": "c.pt"},
    )
    for suffix in ("npz", "parquet"):
        write_vectors(folder / f"vectors.{suffix}", values)
    run = RunFolder(folder / "run")
    run.start(PretrainConfig(out=folder / "run"), resume=False)
    run.log({"epoch": 1, "loss": 0.5})
    run.write_results(
        {
            "task": "classification",
            "accuracy": 90.0,
            "accuracy_last": 89.0,
            "epochs": 300,
            "data": "d",
            "from_scratch": True,
            "pretrained": None,
            "published": {},
            "recipe": "finetune-own-data",
            "seed": 0,
        },
        "table",
    )
    return folder


def complaint(use, *arguments):
    """What is said of a file; any other error than ours is a bug."""
    try:
        use(*arguments)
    except I2PMAEError as error:
        return str(error)
    return ""


def attack(originals, folder, seed):
    rng = random.Random(seed)
    name = rng.choice(sorted(USES))
    copy = folder / name
    if (originals / name).is_dir():
        shutil.copytree(originals / name, copy)
    else:
        shutil.copy(originals / name, copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file()) or [copy]
    victim = rng.choice(files)
    victim.write_bytes(damaged(victim.read_bytes(), rng))
    started = time.process_time()  # a loaded machine must not fail the test
    try:
        line = complaint(USES[name], victim if name == "recipe" else copy)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {victim}") from error
    assert "\n" not in line, f"seed {seed}"
    assert len(line) < 1500, f"seed {seed}"
    assert time.process_time() - started < SECONDS, f"seed {seed}: {victim}"
    shutil.rmtree(copy) if copy.is_dir() else copy.unlink()


@pytest.mark.usefixtures("little_memory")
def test_every_original_can_be_used(originals):
    for name, use in USES.items():
        if name == "recipe":
            load_config(PretrainConfig, "pretrain", recipe=originals / name / "pretrain.toml",
                        options={"out": originals})  # fmt: skip
        elif name == "run":
            with pytest.raises(ConfigError, match=r"other settings|out"):
                RunFolder(originals / name).start(PretrainConfig(out="x", seed=3), resume=True)
            use(originals / name)
        else:
            use(originals / name)


@pytest.mark.parametrize("block", range(4))
@pytest.mark.usefixtures("little_memory")
def test_random_damage(originals, tmp_path, block):
    for seed in range(100 * block, 100 * block + 100):
        attack(originals, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, 11))
@pytest.mark.usefixtures("little_memory")
def test_more_random_damage(originals, tmp_path, block):
    for seed in range(1000 * block, 1000 * block + 1000):
        attack(originals, tmp_path, seed)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda values: (
        st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4)
    ),
    max_leaves=10,
)
KEYS = ["encoder", "masking", "targets", "head", "network"]
NAMES = ["n_centers", "group_sizes", "widths", "depths", "n_heads", "ratio", "kind", "width",
         "image_channels", "embedding_width", "n_views", "image_size"]  # fmt: skip
sizes = st.sampled_from([0, 1, 3, 8, 10**5, 10**12, 2**63, -1]) | st.lists(
    st.sampled_from([0, 1, 2, 48, 10**5, 10**12]), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(KEYS),
        plain | st.dictionaries(st.sampled_from(NAMES), sizes | plain, max_size=3),
    )
)
@pytest.mark.usefixtures("little_memory")
@pytest.mark.slow
def test_settings_of_a_checkpoint_that_do_not_fit_are_refused(originals, tmp_path_factory, found):
    """Whatever the settings say, no network larger than the weights is built."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for kind in ("pretraining", "classifier"):
        saved = torch.load(originals / f"{kind}.pt", weights_only=True)
        merged = {"encoder": dict(saved["config"]["encoder"])}
        for key, value in found.items():
            if isinstance(value, dict) and key == "encoder":
                merged[key] |= value
            else:
                merged[key] = value
        saved["config"] = merged
        saved["extra"] = {"network": found.get("network", {})}
        torch.save(saved, folder / "last.pt")
        started = time.process_time()
        assert "\n" not in complaint(use_checkpoint, folder / "last.pt")
        assert time.process_time() - started < SECONDS


@settings(max_examples=60)
@given(st.text(max_size=60), st.text(max_size=40) | st.integers().map(str) | plain.map(repr))
def test_settings_on_the_command_line_are_values_or_one_line(key, value):
    def use():
        load_config(PretrainConfig, "pretrain", overrides=[f"{key}={value}"], options={"out": "o"})

    assert len(complaint(use)) < 1500


@pytest.mark.parametrize(
    "text",
    [
        "epochs = 0x" + "f" * 20_000,
        "epochs = " + "9" * 20_000,
        "epochs = " + "[" * 100_000,
        "a." * 50_000 + "a = 1",
        "batch_size = inf",
        "[encoder]\nwidths = [99999999999, 6, 6]",
        "\0",
    ],
)
@pytest.mark.usefixtures("little_memory")
def test_a_recipe_that_asks_for_the_impossible_is_one_line(tmp_path, text):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        use_recipe(tmp_path / "bad.toml")
    assert len(str(error.value)) < 1000


@pytest.fixture
def store(originals, tmp_path):
    return Path(shutil.copytree(originals / "store.zarr", tmp_path / "store.zarr"))


@pytest.mark.parametrize(
    ("size", "value"),
    [("n_shapes", 10**15), ("n_points", 10**15), ("channels", 10**12), ("shard_size", 10**15),
     ("image_size", 10**9), ("n_views", 10**10), ("n_shapes", 2**70), ("n_shapes", 2**31)],
)  # fmt: skip
@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.usefixtures("little_memory")
def test_a_store_that_says_it_is_huge_is_refused(store, size, value, complete):
    """Made with intent: sizes, every array's metadata and the checksum agree."""
    group = json.loads((store / "zarr.json").read_text())
    attributes = group["attributes"]
    attributes["complete"] = complete
    attributes["sizes"][size] = value
    values = attributes["sizes"]
    spec = StoreSpec(**{**values, "grid": tuple(values["grid"])})
    for name, array in arrays(spec).items():
        document = json.loads((store / name / "zarr.json").read_text())
        document["shape"] = list(array.shape(spec))
        document["chunk_grid"]["configuration"]["chunk_shape"] = list(
            array.shards(spec) or array.chunks(spec)
        )
        (store / name / "zarr.json").write_text(json.dumps(document))
    documents = load_documents(Location.of(store), arrays(spec))
    attributes[DIGEST] = digest(attributes, documents)
    (store / "zarr.json").write_text(json.dumps(group))
    for use in (describe, StoreReader, check_store):
        started = time.process_time()
        if complete or value != 2**31 or use is not describe:
            with pytest.raises(StoreError) as error:
                use(store)
            assert len(str(error.value)) < 1000
        else:  # it might be: nothing says how much of a store is still to come
            assert use(store)["shapes"]["pending"] == value - 6
        assert time.process_time() - started < SECONDS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# a comment\n" * 2000, "more than 16384 bytes"),
        ("value = " + "[" * 20 + "]" * 20, "more than 16 tables"),
        ("value = " + "9" * 25, "63 bits"),
    ],
)
def test_a_recipe_is_refused_before_others_must_bear_it(tmp_path, text, expected):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        use_recipe(tmp_path / "bad.toml")


def test_ids_never_lead_out_of_a_folder(store):
    """Ids are text; no command makes a path of one."""
    reader = StoreReader(store)
    assert all(isinstance(name, str) for name in reader.read_all("id").tolist())


class Runs:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "read",
    [
        checkpoint.load,
        read_weights,
        load_encoder,
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_never_run(tmp_path, monkeypatch, read, legacy):
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"model": {"w": torch.ones(2)}, "more": Runs()},
        "bad.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(I2PMAEError):
        read(Path("bad.pth"))
    assert os.listdir() == ["bad.pth"]


def test_code_in_vectors_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("v.npz", ids=np.array([Runs()], dtype=object))
    with pytest.raises(I2PMAEError):
        read_vectors(Path("v.npz"))
    assert os.listdir() == ["v.npz"]


@pytest.mark.usefixtures("little_memory")
def test_archives_that_unpack_to_much_more_are_refused(tmp_path):
    np.savez_compressed(
        tmp_path / "v.npz",
        ids=np.array(["a"]),
        labels=np.zeros(1, np.int64),
        splits=np.array(["train"]),
        vectors=np.zeros((1, 10**7), np.float32),
        class_names=np.array(["a"]),
        settings=np.array("{}"),
    )
    with pytest.raises(I2PMAEError, match="compressed entries"):
        read_vectors(tmp_path / "v.npz")
    repeated = {"encoder.w": torch.ones(1).expand(10**10)}
    torch.save(repeated, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="repeats its numbers"):
        checkpoint.load(tmp_path / "w.pth")
    with pytest.raises(I2PMAEError, match="repeats its numbers"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.usefixtures("little_memory")
def test_a_parquet_file_of_one_repeated_number_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    column = pyarrow.array(np.zeros(10**7, np.int64))
    parquet.write_table(pyarrow.table({"id": column}), tmp_path / "v.parquet", compression="zstd")
    with pytest.raises(I2PMAEError, match=r"\d+ values in a file"):
        read_vectors(tmp_path / "v.parquet")
