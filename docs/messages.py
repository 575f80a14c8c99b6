"""Hook of MkDocs: the page of all error messages, found in the code at every build."""

import ast
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "i2pmae"
ANYTHING = "…"
# Errors of Python that tell programmers of misuse; others reach users as part of a message.
_OF_PROGRAMS = {"AttributeError", "IndexError", "KeyError", "NotImplementedError", "TypeError"}
_INTRODUCTION = f"""\
---
search:
  boost: 0.5
---

# All error messages

Every error message of the package, found in its code; `{ANYTHING}` stands for what differs. Search
this site for a few words of yours; leave out options, as a dash excludes a word from a search. The
message itself says what is wrong, where, what was found and what to do next;
[Troubleshooting](troubleshooting.md) says more about the frequent ones.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, "messages.md", content=page()))
    return files


def page() -> str:
    """The page in Markdown: a section per module."""
    lines = [_INTRODUCTION]
    for file in sorted(PACKAGE.rglob("*.py")):
        found = dict.fromkeys(messages(ast.parse(file.read_text(encoding="utf-8"))))
        if found:
            module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
            lines += [f"## {module}", "", *(f"- `{message}`" for message in found), ""]
    return "\n".join(lines)


def messages(tree: ast.Module) -> Iterator[str]:
    """What a module's `raise` statements say."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind = ast.unparse(node.exc.func).rpartition(".")[2]
            if kind.endswith("Error") and kind not in _OF_PROGRAMS:
                for text in _texts(node.exc.args[0]):
                    plain = " ".join(text.replace("`", "'").split())
                    if plain.strip(f" {ANYTHING}"):
                        yield plain


def _texts(node: ast.expr) -> Iterator[str]:
    """A text with its values as an ellipsis; of a choice, each."""
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.BinOp):
        for left in _texts(node.left):
            yield from (left + right for right in _texts(node.right))
    elif isinstance(node, ast.JoinedStr):
        yield "".join("".join(_texts(part)) for part in node.values)
    else:
        yield str(node.value) if isinstance(node, ast.Constant) else ANYTHING
