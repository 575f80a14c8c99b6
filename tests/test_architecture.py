"""Imports point one way, and no file is long.

What is imported in functions or for types alone counts as well.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import i2pmae

PACKAGE = Path(i2pmae.__file__).parent
# From the top to the bottom: a room imports rooms of lower lines alone.
LAYERS = (
    "i2pmae __main__",
    "cli api",
    "arguments",
    "stages",
    "report",
    "extraction training",
    "checkpoints evaluation pictures",
    "datasets recipes",
    "model store image_model",
    "formats procedural",
    "untrusted geometry hub commands allocator interrupts launch settings streams suggest",
    "config device progress atomic_write",
    "errors terminal urls version",
)
LONGEST, LONGEST_STAGE = 500, 250  # lines
SCHEMAS = {"config.py": 1000}  # tables of settings, which read well at any length


def room(module: str) -> str:
    """The folder of a module, or its own name where it is in none."""
    return module.split(".")[1] if "." in module else module


def imports() -> dict[str, set[str]]:
    """The modules of the package that each of its modules imports."""
    files = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = file
    found: dict[str, set[str]] = {}
    for module, file in files.items():
        names = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: relative import"
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    names.add(whole if whole in files else str(node.module))
        found[module] = (names & files.keys()) - {module}
    return found


def test_modules_do_not_import_each_other_in_circles():
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None


def test_rooms_import_only_rooms_below_them():
    level = {name: number for number, line in enumerate(LAYERS) for name in line.split()}
    found = imports()
    assert {room(module) for module in found} == level.keys()
    upwards = [
        f"{module} imports {other}"
        for module, others in found.items()
        for other in others
        if room(module) != room(other) and level[room(module)] >= level[room(other)]
    ]
    assert not upwards


def test_no_file_is_too_long_to_read():
    found = {
        str(file.relative_to(PACKAGE)): len(file.read_text(encoding="utf-8").splitlines())
        for file in PACKAGE.rglob("*.py")
    }
    for name, n_lines in found.items():
        longest = LONGEST_STAGE if name.startswith("stages") else LONGEST
        assert n_lines <= SCHEMAS.get(name, longest), name
    assert all(found[name] > LONGEST for name in SCHEMAS)  # else it is no exception any more
