"""What is published: wheel and sdist, and that they work with the oldest and newest dependencies.

tests/README.md says how to run the slow ones.
"""

import ast
import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOCUSED = (
    "tests/store",
    "tests/datasets",
    "tests/cli",
    "tests/test_recipes.py",
    "tests/stages/test_extract_2d.py",
    "tests/stages/test_pretrain.py",
    "tests/stages/test_export.py",
    "tests/report/test_model_card.py",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Folder with the sdist, and with the wheel made from it."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    return out


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    return next(built.glob("*.whl"))


def test_the_wheel_holds_the_package_and_its_recipes_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    package = {f"i2pmae/{path}" for path in _files(ROOT / "i2pmae")}
    recipes = {f"i2pmae/pipeline/{path}" for path in _files(ROOT / "pipeline")}
    assert "i2pmae/py.typed" in package
    assert "i2pmae/pipeline/pretrain.toml" in recipes
    assert {name for name in names if ".dist-info/" not in name} == package | recipes


def test_the_sdist_holds_what_the_wheel_is_made_of(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [Path(name).parts[1:] for name in archive.getnames()]
    assert {name[0] for name in names} == {
        ".gitignore",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "i2pmae",
        "pipeline",
        "pyproject.toml",
    }


def test_the_metadata_names_every_extra(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        found = email.message_from_bytes(archive.read(name))
    assert set(found.get_all("Provides-Extra")) == set(EXTRAS)
    assert (found["License-Expression"], found["Requires-Python"]) == ("MIT", ">=3.11")


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_every_dependency_has_a_lower_and_an_upper_bound(extra):
    for text in PROJECT["dependencies"] if extra is None else EXTRAS[extra]:
        operators = {specifier.operator for specifier in Requirement(text).specifier}
        assert operators == {"=="} or {">="} < operators <= {">=", "<", "<="}, text


def test_whatever_is_imported_is_a_dependency():
    homes = metadata.packages_distributions()
    stated = [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]
    known = {canonicalize_name(Requirement(text).name) for text in stated}
    known |= {"i2pmae", "triton"}  # triton comes with torch, and is looked for
    known |= {"fsspec", "botocore"}  # come with s3fs, the first with gcsfs too
    known |= {"tornado"}  # comes with distributed
    unknown = {
        module
        for module in _imported(ROOT / "i2pmae")
        if not known & {canonicalize_name(home) for home in homes.get(module, [module])}
    }
    assert not unknown - set(sys.stdlib_module_names)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(3600)
def test_the_wheel_runs_the_demo_in_an_environment_of_its_own(wheel, tmp_path):
    python = _environment(tmp_path / "venv")
    _uv(python, f"{wheel}[demo]")
    command = python.with_name("i2pmae")
    _run(command, "demo", "--out", tmp_path / "demo", cwd=tmp_path)
    _run(
        command,
        "export",
        tmp_path / "demo" / "run" / "last.pt",
        "--out",
        tmp_path / "export" / "encoder.safetensors",
        cwd=tmp_path,
    )
    assert (tmp_path / "export" / "README.md").exists()


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_bounds(tmp_path, resolution):
    python = _environment(tmp_path / "venv")
    _uv(python, "--resolution", resolution, "-e", f"{ROOT}[test]")
    _run(python, "-m", "pytest", "-p", "no:cacheprovider", *FOCUSED, cwd=ROOT)


def _files(folder: Path) -> list[str]:
    """Files that are packed, relative to the folder."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return [path.as_posix() for path in found if "__pycache__" not in path.parts]


def _imported(folder: Path) -> set[str]:
    """Top-level names of all modules that the files of a folder import."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names


def _environment(folder: Path) -> Path:
    """Python of a new environment that has this one's torch, gigabytes that are not downloaded."""
    venv.create(folder)
    python = folder / "bin" / "python"
    home = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in _with_needs("torch", "torchvision"):
        for file in metadata.files(name) or []:
            if ".." in file.parts or not file.locate().is_file():
                continue
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.locate(), home / file)
            except OSError:  # another disk
                shutil.copy2(file.locate(), home / file)
    return python


def _with_needs(*names: str) -> set[str]:
    """Installed distributions, and all that they need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need.name)
    return found


def _uv(python: Path, *arguments: str) -> None:
    """Install with uv, whatever the lower bounds, this environment's torch."""
    pins = python.parents[1] / "pins.txt"
    pins.write_text("".join(f"{n}=={metadata.version(n)}\n" for n in ("torch", "torchvision")))
    command = [sys.executable, "-m", "uv", "pip", "install", "--python", python]
    _run(*command, "--override", pins, *arguments)


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
