"""Hook of MkDocs: the page of all commands and settings, made from the code at every build."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from i2pmae.commands import COMMANDS, Command, Setting, settings_of

_INTRODUCTION = """\
# Commands and settings

This page is generated from the code. Every command takes its settings from four places; later ones
override earlier ones: the defaults below (the paper's settings), a recipe (`--recipe`), `--set
KEY=VALUE`, and the command's own options. In a recipe, a key such as `optim.lr` is the key `lr` of
the table `[optim]`; settings without an option of their own are set by `--set` or a recipe.

Every command also takes `--quiet` (no progress bars, no notes), `--log-json FILE` (notes, progress
and metrics as lines of JSON) and `--json` (the result as one JSON object on stdout).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, "reference.md", content=page()))
    return files


def page() -> str:
    """The page in Markdown."""
    return "\n".join([_INTRODUCTION, *(line for c in COMMANDS.values() for line in _section(c))])


def _section(command: Command) -> Iterator[str]:
    settings = list(settings_of(command.kind))
    yield f"## {command.name}\n\n{command.about} {command.more}\n"
    yield f"```bash\ni2pmae {command.name} {command.example}\n```\n"
    yield f"In Python: `i2pmae.{command.python_name}({_call(command)})`.\n"
    yield "| Option | Setting | Type | Default | Meaning |\n| --- | --- | --- | --- | --- |"
    for setting in settings:
        if setting.name in command.arguments:
            option = f"`{setting.metavar or setting.name.upper()}`"
        elif setting.name is None:
            option = ""
        else:
            option = f"`--{setting.name.replace('_', '-')}`"
        cells = [option, f"`{setting.key}`", _type(setting), _default(setting)]
        yield _row([*cells, str(setting.field.description)])
    for name, text in command.flags.items():
        yield _row([f"`--{name.replace('_', '-')}`", "", "flag", "", text])
    yield ""


def _call(command: Command) -> str:
    """Its arguments as a call shows them."""
    return ", ".join([*command.arguments, "**settings"])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _type(setting: Setting) -> str:
    """A type in words, with its bounds: `number, > 0`."""
    bounds = [
        f"{sign} {getattr(bound, name):g}"
        for bound in setting.field.metadata
        for name, sign in {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}.items()
        if hasattr(bound, name)
    ]
    return ", ".join([_words(setting.types[0]), *bounds])


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list: {_words(get_args(kind)[0])}"
    words = {"int": "integer", "float": "number", "str": "text", "bool": "true or false"}
    return words.get(kind.__name__, "path")


def _default(setting: Setting) -> str:
    if setting.field.is_required():
        return "required"
    value = setting.default
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        parts = [f"{part:.4g}" if isinstance(part, float) else str(part) for part in value]
        return f"`[{', '.join(parts)}]`"
    return f"`{value}`"
