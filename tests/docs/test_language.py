"""Words that the project does not use, in its documentation and in the texts of its code."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("*/README.md")),
]
SOURCES = [*sorted((ROOT / "i2pmae").rglob("*.py")), *sorted((ROOT / "pipeline").glob("*.toml"))]
AVOIDED = {  # a pattern, and what to write
    r"labelled": "labeled",
    r"misspelt": "misspelled",
    r"licence": "license",
    r"colour": "color",
    r"behaviour": "behavior",
    r"neighbour": "neighbor",
    r"centre(?!\w)": "center",
    r"(?:recogn|normal|organ|initial|optim|standard|quant)is(?:e|ed|es|ing|ation)(?!\w)": "-ize",
    r"beyond chance": "significant",
    r"labels? a class": "labels per class",
    r"\bmend(?:s|ed)?\b": "repair, fix",
    r"guidance teach": "Does 2D guidance help?",
    r"win over a recipe": "override a recipe",
    r"as they lie": "without augmentation",
    r"\b1 epochs\b": "1 epoch",
}
# Not after a letter, a digit or a sign that makes it a version, a path or a name.
NO_ZERO = re.compile(r"(?<![\w.)\]/*`'\"~}])\.\d")
PROSE = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}


def prose_of(path: Path) -> list[tuple[int, str]]:
    """Lines of text with their numbers: of a page without code, of a source its texts."""
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        return [(token.start[0], token.string) for token in tokens if token.type in PROSE]
    text = path.read_text()
    if path.suffix == ".md":
        text = re.sub(
            r"^ *```.*?^ *```", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S
        )
        text = re.sub(r"`[^`\n]*`", "``", text)
    return list(enumerate(text.splitlines(), start=1))


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_keep_to_the_project_s_words(path):
    found = [
        f"{path.name}:{number}: {match[0]!r}, write {better}"
        for number, line in prose_of(path)
        for pattern, better in AVOIDED.items()
        for match in re.finditer(pattern, line, re.IGNORECASE)
    ]
    assert found == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_decimals_have_a_leading_zero(path):
    assert [line for _, line in prose_of(path) if NO_ZERO.search(line)] == []


def test_a_decimal_without_zero_is_found_and_names_are_not():
    assert all(map(NO_ZERO.search, ("of .5 s", "-.3", "(.01)", "| .5 |")))
    assert not any(map(NO_ZERO.search, ("0.5", "v1.2.3", "file.3mf", "a.1", "runs/.1")))
