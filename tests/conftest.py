"""Where tests find golden vectors and real shapes; both are optional."""

import json
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from i2pmae.progress import configure

SHARED = Path(os.environ.get("I2PMAE_SHARED", Path(__file__).parents[2] / "shared"))


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
def furniture() -> Path:
    """Real meshes in the `<class>/{train,test}/*` layout."""
    return _existing(SHARED / "data" / "furniture_meshes")


@pytest.fixture(scope="session")
def vit_small_weights() -> Path:
    """A real ViT-S/14 of 224 px, timm names."""
    return _existing(SHARED / "weights" / "vit_small_patch14_dinov2_224.safetensors")
