"""Golden vectors and real shapes, both optional; a tiny store and a tiny network, made once."""

import importlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from i2pmae.checkpoints import checkpoint, names
from i2pmae.cli import main
from i2pmae.config import (
    EncoderConfig,
    ExtractConfig,
    FinetuneConfig,
    ImageModelConfig,
    MaskingConfig,
    OptimConfig,
    PretrainConfig,
    StoreConfig,
    TargetConfig,
    to_plain,
)
from i2pmae.image_model.weights import file_hash
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.progress import configure
from i2pmae.stages import export, extract_2d, pretrain
from i2pmae.store.schema import ARRAYS
from i2pmae.training.run_folder import RunFolder

from .hub_server import TOKEN, HubServer
from .process_state import ProcessState, process_state, restore
from .tiny_copies import write  # noqa: F401

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")
SHARED = Path(os.environ.get("I2PMAE_SHARED", Path(__file__).parents[2] / "shared"))


# Arrays of a store with parts, of summed depth maps.
USUAL_ARRAYS = [array for array in ARRAYS if array.only not in ("normals", "visible")]
N_CORES = len(os.sched_getaffinity(0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes of `-n auto`; each takes up to 2 GB."""
    return min(N_CORES, 8)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[object]) -> None:
    """The processes share the cores, and so does what they start."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, N_CORES // len(specs))))


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not here; set I2PMAE_SHARED to the folder that holds it")
    return path


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is kept in the user's cache folder."""
    os.environ["I2PMAE_CACHE_DIR"] = str(tmp_path_factory.mktemp("user-cache"))


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A script's background jobs ignore it, and so would the programs that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _at_the_beginning(_ctrl_c_is_heard: None) -> ProcessState:
    return process_state()


@pytest.fixture(autouse=True)
def _nothing_is_left_to_later_tests(_at_the_beginning: ProcessState) -> Iterator[None]:
    """A test that changes threads, signal handlers or timers for those after it fails."""
    yield
    if changes := restore(_at_the_beginning):
        pytest.fail("left to later tests: " + "; ".join(changes))


@pytest.fixture
def little_memory():
    """No more than 2 GB above what the process has taken already."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (2 << 30), old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of golden vectors computed with the official implementation."""
    return _existing(SHARED / "parity")


@pytest.fixture(scope="session")
def official_weights(parity: Path) -> Callable[[str], dict[str, Tensor]]:
    """State dict of a released network, filled by rule B; names and shapes are official."""

    def load(name: str) -> dict[str, Tensor]:
        entries = json.loads((parity / f"{name}_state_dict.json").read_text())["entries"]
        return {e["key"]: _filled(e["key"], e["shape"], e["kind"]) for e in entries}

    return load


def _filled(key: str, shape: list[int], kind: str) -> Tensor:
    """One tensor by filling rule B of the golden vectors."""
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    match kind:
        case "normal" if len(shape) >= 2 and shape[0] != 1:
            value = np.sqrt(2 / np.prod(shape[1:])) * noise
        case "normal" | "running_mean":
            value = 0.1 * noise
        case "norm_weight":
            value = 1 + 0.1 * noise
        case "running_var":
            value = 0.25 + abs(0.1 * noise)
        case "counter":
            return torch.tensor(0)
        case _:
            raise ValueError(f"{key} is of kind {kind}, which rule B does not know")
    return torch.from_numpy(np.asarray(value).astype(np.float32))


@pytest.fixture(autouse=True)
def _plain_console() -> Iterator[None]:
    """Commands run with `--json` keep stdout for it until the process ends; tests share one."""
    yield
    configure()


@pytest.fixture(scope="session")
def shapes_hdf5() -> Path:
    """ModelNet10 (24^3 voxels) in the hdf5 layout."""
    return _existing(SHARED / "data" / "modelnet10_vox24")


@pytest.fixture(scope="session")
def cases() -> Path:
    """Small files of faults that people met."""
    return _existing(SHARED / "cases" / "files")


@pytest.fixture(scope="session")
def furniture() -> Path:
    """Real meshes in the `<class>/{train,test}/*` layout."""
    return _existing(SHARED / "data" / "furniture_meshes")


@pytest.fixture(scope="session")
def vit_small_weights() -> Path:
    """A real ViT-S/14 of 224 px, timm names."""
    return _existing(SHARED / "weights" / "vit_small_patch14_dinov2_224.safetensors")


TINY_IMAGE_MODEL = ImageModelConfig(name="timm:test_vit", pretrained="random", image_size=64)
TINY_ENCODER = EncoderConfig(
    n_centers=(64, 32, 16),
    group_sizes=(8, 4, 4),
    widths=(12, 24, 48),
    depths=(1, 1, 1),
    embedding_width=8,
)


def extract_config(cache: Path, **changes) -> ExtractConfig:
    values = {
        "data": Path("procedural"),
        "cache": cache,
        "limit": 20,
        "points": 512,
        "batch_size": 3,
        "precision": "fp32",
        "image_model": TINY_IMAGE_MODEL,
        "store": StoreConfig(shard_size=8),
    }
    return ExtractConfig(**(values | changes))


def pretrain_config(cache: Path, out: Path, **changes) -> PretrainConfig:
    values = {
        "cache": cache,
        "out": out,
        "epochs": 3,
        "batch_size": 4,
        "points": 256,
        "precision": "fp32",
        "encoder": TINY_ENCODER,
        "optim": OptimConfig(warmup_epochs=1, cosine_epochs=3),
    }
    return PretrainConfig(**(values | changes))


def pretrain_command(config: PretrainConfig) -> list[str]:
    """The command line of a run, from the package's name on."""
    return ["i2pmae", "pretrain", *options_of(config)]


def finetune_command(config: FinetuneConfig) -> list[str]:
    """The same of fine-tuning from scratch on a store."""
    return ["i2pmae", "finetune", "--from-scratch", *options_of(config, "checkpoint", "data")]


def options_of(config: PretrainConfig | FinetuneConfig, *left_out: str) -> list[str]:
    """Every setting as an option."""
    options = ["--cache", str(config.cache), "--out", str(config.out)]
    for key, value in _flat(to_plain(config)):
        if key not in ("cache", "out", "from_scratch", "recipe", *left_out):
            options += ["--set", f"{key}={'none' if value is None else json.dumps(value)}"]
    return options


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.fixture
def start_soon(monkeypatch):
    """Start a command in a process that begins with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["i2pmae.cli", "i2pmae.stages.extract_2d", "i2pmae.stages.pretrain", "timm", "typer.main"]
    )

    def start_soon(words):
        monkeypatch.setattr(sys, "argv", words)  # a new process takes it over
        process = context.Process(target=main)
        process.start()
        return process

    return start_soon


def after_first_epoch(config: PretrainConfig) -> None:
    """Wait until a run has written a row of metrics."""
    until = time.monotonic() + 300  # a loaded machine must not fail a test
    while not RunFolder(config.out).rows():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "tiny.zarr"
    extract_2d.run(extract_config(path))
    return path


@pytest.fixture(scope="session")
def trained(store, tmp_path_factory) -> Path:
    """Checkpoint of an uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    pretrain.run(pretrain_config(store, out))
    return out / "last.pt"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """Checkpoint of a tiny network with random weights."""
    torch.manual_seed(0)
    model = PretrainingModel(TINY_ENCODER, MaskingConfig(), TargetConfig())
    path = tmp_path_factory.mktemp("runs") / "untrained.pt"
    config = {"encoder": to_plain(TINY_ENCODER)}
    checkpoint.save(path, kind="pretraining", config=config, model=model.state_dict())
    return path


@pytest.fixture(scope="session")
def parts_folder(tmp_path_factory) -> Path:
    """Knives and mugs of 128 points in ShapeNetPart's layout: 12 train, 4 val, 6 test.

    A point's part is told by its height, so it can be learned.
    """
    root = tmp_path_factory.mktemp("data") / "parts"
    (root / "train_test_split").mkdir(parents=True)
    categories = {"Knife": ("03624134", 22), "Mug": ("03797390", 36)}
    (root / "synsetoffset2category.txt").write_text(
        "".join(f"{name}\t{synset}\n" for name, (synset, _) in categories.items())
    )
    generator = np.random.default_rng(0)
    number = 0
    for split, per_category in (("train", 6), ("val", 2), ("test", 3)):
        listed = []
        for name, (synset, first) in categories.items():
            (root / synset).mkdir(exist_ok=True)
            for _ in range(per_category):
                points = generator.normal(size=(128, 3)) * ((0.2, 1, 0.2) if name == "Knife" else 1)
                table = np.zeros((128, 7))
                table[:, :3], table[:, 6] = points, first + (points[:, 1] > 0)
                np.savetxt(root / synset / f"{number:04d}.txt", table, fmt="%.6f")
                listed.append(f"shape_data/{synset}/{number:04d}")
                number += 1
        (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(
            json.dumps(listed)
        )
    return root


@pytest.fixture(scope="session")
def parts_store(parts_folder, tmp_path_factory) -> Path:
    """The same shapes in a store."""
    path = tmp_path_factory.mktemp("cache") / "parts.zarr"
    extract_2d.run(extract_config(path, data=parts_folder, split="all", limit=None, points=128))
    return path


@pytest.fixture(scope="module")
def browser():
    """A real browser; Debian's, as a test tool's own cannot be had everywhere."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        pytest.skip("no chromium here")
    os.environ.setdefault("PLAYWRIGHT_SKIP_VALIDATE_HOST_REQUIREMENTS", "1")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C comes as a method of a class is called with a first argument of which that is true."""

    @contextmanager
    def interrupted(kind, method, is_time):
        call = getattr(kind, method)

        def until_then(self, first, *others):
            if is_time(first):
                raise KeyboardInterrupt
            return call(self, first, *others)

        with monkeypatch.context() as patch:
            patch.setattr(kind, method, until_then)
            with pytest.raises(KeyboardInterrupt):
                yield

    return interrupted


@pytest.fixture
def module(monkeypatch):
    """Import a script of `benchmarks/` or `experiments/` by its name."""
    folders = [Path(__file__).parents[1] / name for name in ("benchmarks", "experiments")]
    for folder in folders:
        monkeypatch.syspath_prepend(folder)
    yield importlib.import_module
    for name, script in [*sys.modules.items()]:
        if Path(getattr(script, "__file__", None) or "").parent in folders:
            del sys.modules[name]


@pytest.fixture
def shipped(untrained, tmp_path, monkeypatch) -> str:
    """Name of a tiny encoder that ships, in a table that lists it alone."""
    folder = tmp_path / "shipped"
    export.run(untrained, folder / "i2pmae-small.safetensors", card=False, dtype="float16")
    entry = {
        "file": "i2pmae-small.safetensors",
        "sha256": file_hash(folder / "i2pmae-small.safetensors"),
        "license": "MIT",
        "training_data": "3 random shapes",
        "command": "i2pmae pretrain --recipe pretrain-small",
    }
    lines = ["[i2pmae-small]", *(f'{key} = "{value}"' for key, value in entry.items())]
    lines += ["[i2pmae-small.scores]", '"linear SVM, modelnet10_vox24" = 12.5']
    (folder / names.TABLE).write_text("\n".join(lines))
    monkeypatch.setattr(names, "FOLDER", folder)
    return "i2pmae-small"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[HubServer]:
    """A Hub of its own, with a cache of its own; its user is known."""
    from huggingface_hub import close_session, constants

    server = HubServer()
    cache = tmp_path / "hub-cache"
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,  # its protocol is a closed one
        "HF_HUB_DISABLE_TELEMETRY": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name, value in {
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    close_session()
    server.close()
