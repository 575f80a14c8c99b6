"""Typer's parameters, made from settings: name, type, choices, default and help of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from i2pmae.cli.completion import complete_image_models, complete_keys, complete_recipes
from i2pmae.commands import Command, Setting
from i2pmae.config import CommaSeparated
from i2pmae.launch import is_first

_COMPLETIONS: dict[str, Callable[..., Any]] = {
    "image_model": complete_image_models,
    "recipe": complete_recipes,
}
_PANEL = "General options"


def parameters(command: Command) -> Iterator[Parameter]:
    """Every argument and option of a command, in the order in which its help shows them."""
    for place, setting in enumerate(command.options()):
        if place < len(command.arguments):
            yield _argument(setting, required=place < command.n_required)
        else:
            yield _option(setting)
    for name, text in command.flags.items():
        yield _parameter(name, bool, typer.Option(_words(name), metavar="", help=text), False)
    if command.takes_recipe:
        yield from _RECIPE_PARAMETERS
    yield from _GENERAL_PARAMETERS


def _argument(setting: Setting, *, required: bool) -> Parameter:
    kind, default = _typed(setting)
    name = str(setting.name)
    metavar = setting.metavar or name.upper()
    shown = typer.Argument(help=setting.field.description, metavar=metavar)
    return _parameter(name, kind, shown, Parameter.empty if required else default)


def _option(setting: Setting) -> Parameter:
    kind, default = _typed(setting)
    name = str(setting.name)
    words = f"{_words(name)}/--no-{name.replace('_', '-')}" if default is True else _words(name)
    shown = typer.Option(
        words,
        help=setting.field.description,
        metavar=setting.metavar or ("" if kind is bool else None),
        autocompletion=_COMPLETIONS.get(name),
    )
    required = setting.field.is_required()
    return _parameter(name, kind, shown, Parameter.empty if required else default)


def _typed(setting: Setting) -> tuple[Any, Any]:
    """A setting's type and default as typer has them."""
    kind, *_ = setting.types
    if get_origin(kind) is not tuple:
        return kind, setting.default
    if CommaSeparated in setting.field.metadata:
        return str, ",".join(map(str, setting.default or ())) or None
    return _list_of(get_args(kind)[0]), list(setting.default or ()) or None


def _list_of(kind: Any) -> Any:
    """A list as typer has it, which takes a `Literal` alone, but in a list an `Enum`."""
    if get_origin(kind) is Literal:
        choices = {choice: choice for choice in get_args(kind)}
        return _list_of(Enum("Choices", choices))
    return list[kind]


def _parameter(name: str, kind: Any, shown: Any, default: Any) -> Parameter:
    annotation = Annotated[kind, shown]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _words(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _json_mode(value: bool) -> bool:
    """Keep stdout for the JSON object."""
    if value:
        from i2pmae.progress import results_to_stderr

        results_to_stderr()
    return value


def _quiet_mode(value: bool) -> None:
    if value:
        from i2pmae.progress import be_quiet

        be_quiet()


def _log_mode(value: Path | None) -> None:
    if value is not None and is_first():
        from i2pmae.progress import log_events

        log_events(value)


_RECIPE_PARAMETERS = [
    _parameter(
        "recipe",
        str,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            autocompletion=complete_recipes,
            rich_help_panel=_PANEL,
            help="Recipe: a TOML file, or the name of a packed one; see 'i2pmae recipes'.",
        ),
        None,
    ),
    _parameter(
        "overrides",
        list[str],
        typer.Option(
            "--set",
            metavar="KEY.SUB=VALUE",
            autocompletion=complete_keys,
            rich_help_panel=_PANEL,
            help="Override any setting, also those without an option of their own; repeatable.",
        ),
        None,
    ),
]
_GENERAL_PARAMETERS = [
    _parameter(
        "quiet",
        bool,
        typer.Option(
            "--quiet",
            callback=_quiet_mode,
            rich_help_panel=_PANEL,
            help="Show no progress bars and no notes.",
        ),
        False,
    ),
    _parameter(
        "log_json",
        Path,
        typer.Option(
            "--log-json",
            metavar="FILE",
            callback=_log_mode,
            rich_help_panel=_PANEL,
            help="Append notes, progress and metrics to a file, as lines of JSON.",
        ),
        None,
    ),
    _parameter(
        "as_json",
        bool,
        typer.Option(
            "--json",
            callback=_json_mode,
            rich_help_panel=_PANEL,
            help="Print the result as one JSON object on stdout, and nothing else.",
        ),
        False,
    ),
]
