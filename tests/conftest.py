"""Where tests find golden vectors and real shapes; both are optional."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("I2PMAE_SHARED", Path(__file__).parents[2] / "shared"))


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not here; set I2PMAE_SHARED to the folder that holds it")
    return path


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is kept in the user's cache folder."""
    os.environ["I2PMAE_CACHE_DIR"] = str(tmp_path_factory.mktemp("user-cache"))


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of golden vectors computed with the official implementation."""
    return _existing(SHARED / "parity")


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
