"""Every command and every block of Python, TOML and shell that the documentation shows.

Commands of `i2pmae` go through the real command line with the stages taken out, so their options,
recipes and settings must exist. Where `<!-- run -->` stands above a block, they are run as well, in
one folder per page, with `SMALL` added to make them quick. Python blocks share a page's folder and
names. A line that nothing here understands is an error.
"""

import importlib
import json
import pkgutil
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trimesh
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import i2pmae.stages
from i2pmae.cli import main
from i2pmae.datasets import clouds

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("docs/*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(ROOT / folder / "README.md" for folder in ("cache", "pipeline", "benchmarks", "experiments")),
]
LONG = {ROOT / "docs" / f"{name}.md" for name in ("first-hour", "image-models", "own-meshes")}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TINY = " ".join(
    f"'--set=encoder.{setting}'"
    for setting in (
        "n_centers=[64, 32, 16]",
        "group_sizes=[8, 4, 4]",
        "widths=[12, 24, 48]",
        "depths=[1, 1, 1]",
        "embedding_width=8",
    )
)
SMALL = {  # options that win over those of the page
    "extract-2d": "--image-model timm:test_vit --pretrained random --image-size 64 --points 256",
    "pretrain": f"--epochs 1 --batch-size 8 --points 128 {TINY}",
    "svm": "--limit 24 --points 128",
    "evaluate": "--limit 24 --points 128 --bootstrap 50",
    "finetune": "--epochs 1 --batch-size 4 --points 128 --limit 24",
    "predict": "--limit 24",
    "embed": "--limit 24 --points 128",
    "show": "--points 256",
}
UNDERSTOOD = (
    *("source", "cd", "git", "mkdir", "unzip", "tar", "apt-get", "docker", "dask"),
    *("ruff", "mypy", "mkdocs", "pre-commit"),
)


def run(arguments: list[str]) -> None:
    """A command as a user types it."""
    sys.argv = ["i2pmae", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, shlex.join(sys.argv)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which somebody has worked before: shapes, a store, a run, the demo's results."""
    home = tmp_path_factory.mktemp("home")
    for name, mesh in {
        "box": trimesh.creation.box((1, 2, 1)),
        "ball": trimesh.creation.icosphere(1),
        "can": trimesh.creation.cylinder(0.3, 1),
    }.items():
        for split, n_shapes in {"train": 8, "test": 4}.items():
            folder = home / "shapes" / name / split
            folder.mkdir(parents=True)
            for number in range(n_shapes):
                mesh.apply_scale((1.1, 1, 0.95))
                mesh.export(folder / f"{name}_{number:02d}.off")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for data, cache, out in (
            ("shapes", "cache/shapes.zarr", "runs/first"),
            ("procedural", "demo/cache/procedural.zarr", "demo/run"),
        ):
            small = f"{SMALL['extract-2d']} --limit 24 --quiet"
            run(shlex.split(f"extract-2d {data} --cache {cache} {small}"))
            run(shlex.split(f"pretrain --cache {cache} --out {out} {SMALL['pretrain']} --quiet"))
    return home


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """A copy of it for one page, which may change it."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    shutil.copytree(home, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@contextmanager
def stages_taken_out() -> Iterator[None]:
    """Commands parse what they are given and stop before they do anything."""
    names = [
        f"i2pmae.stages.{found.name}" for found in pkgutil.iter_modules(i2pmae.stages.__path__)
    ]
    stages = [importlib.import_module(name) for name in names]  # before any of them is changed
    with pytest.MonkeyPatch.context() as patch:
        for stage in stages:
            for name in ("run", "split"):
                if hasattr(stage, name):
                    patch.setattr(stage, name, lambda *_, **__: {"ready": True, "ok": True})
        patch.setattr("i2pmae.arguments._from_shapes", lambda _, recipe, __: (recipe, {}))
        patch.setattr("i2pmae.checkpoints.names.pinned", str)  # asks the Hub
        yield


def words_of(block: str) -> list[list[str]]:
    """Commands of a shell block, without comments, variables and the folders of programs."""
    commands: list[list[str]] = []
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;"):
                commands.append(command)
                command = []
            elif command or not re.fullmatch(r"export|[A-Z_]+=.*", word):
                command.append(word if command else Path(word).name)
    return list(filter(None, commands))


def check(words: list[str]) -> None:
    """A command must be one that a user could give, as far as this can be seen."""
    program, *arguments = words
    if program == "i2pmae":
        if "--install-completion" not in arguments:  # it would change the user's shell
            run(arguments)
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(arguments)
        assert (parsed.module, parsed.training_script) == (True, "i2pmae"), words
        run(parsed.training_script_args)
    elif program == "docker" and arguments[0] == "run":
        run(arguments[arguments.index("i2pmae") + 1 :])
    elif program in ("pip", "pip3"):
        assert arguments[0] == "install"
        for named in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
            assert set(named.split(",")) <= EXTRAS.keys(), words
    elif program == "sbatch":
        assert any((ROOT / argument).is_file() for argument in arguments), words
    elif program in ("python", "python3") and arguments[0] != "-m":
        script = (ROOT / arguments[0]).read_text()
        for option in filter(re.compile("--[a-z]").match, arguments[1:]):
            assert f'"{option}"' in script, words
    else:
        assert program in (*UNDERSTOOD, "python", "python3"), f"nobody checks {words}"


def shell_block(example: Example) -> None:
    """Check every command of a block, then run them if the page says so."""
    commands = words_of(example.parsed)
    assert commands, "a block without a command"
    with stages_taken_out():
        for words in commands:
            check(words)
    if example.namespace.pop("run", False):
        for program, *arguments in commands:
            assert program == "i2pmae", f"{program} is not run here"
            run([*arguments, *shlex.split(SMALL.get(arguments[0], ""))])


def toml_block(example: Example) -> None:
    assert tomllib.loads(example.parsed)


def mark(example: Example) -> None:
    example.namespace["run"] = True


def marks(document: Document) -> Iterator[Region]:
    """`<!-- run -->`: the next shell block is run."""
    for found in re.finditer("^<!-- run -->$", document.text, re.MULTILINE):
        yield Region(found.start(), found.end(), None, mark)


def parse(page: Path) -> Document:
    """A page as blocks that evaluate themselves."""
    parsers = [
        PythonCodeBlockParser(),
        CodeBlockParser("bash", shell_block),
        CodeBlockParser("toml", toml_block),
        marks,
    ]
    return Sybil(parsers, filenames=[page.name]).parse(page)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow) if page in LONG else page for page in PAGES],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_what_a_page_shows_works(page):
    document = parse(page)
    for example in document.examples():
        example.evaluate()
    assert "run" not in document.namespace, "<!-- run --> without a shell block below it"


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_first_hour_s_own_fine_tuning_reaches_more_than_chance():
    """Its commands as they are, of full size."""
    page = (ROOT / "docs" / "first-hour.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (block,) = [block for block in blocks if "i2pmae finetune" in block]
    for _, *arguments in words_of(block):
        run(arguments)
    found = json.loads(Path("runs/classes/results.json").read_text())
    assert found["accuracy"] > 2 * found["baselines"]["chance"]
    assert found["accuracy"] > 2 * found["baselines"]["majority"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_its_language(page):
    fences = re.findall(r"^[ ]*```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "python", "text", "toml"}
    assert set(fences[1::2]) <= {""}


def test_every_extra_is_explained():
    page = (ROOT / "docs" / "install.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == EXTRAS.keys()
    (kinds,) = re.findall(r"^\| `clouds` \| point clouds in (.*) files \|", page, re.MULTILINE)
    assert {f".{kind.lower()}" for kind in kinds.split(" and ")} == clouds._PACKAGES.keys()
