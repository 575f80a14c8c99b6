"""The commands as typer shows and parses them.

What a command takes is read from its settings when it is asked for, so `i2pmae --help` answers at
once.
"""

from __future__ import annotations

import sys
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from i2pmae.cli.completion import complete_recipes
from i2pmae.commands import COMMANDS, Command
from i2pmae.errors import ConfigError
from i2pmae.launch import is_first, launched
from i2pmae.version import __version__

_WELCOME = """\
I2P-MAE: 3D encoders from 2D pre-trained models.

  1. i2pmae extract-2d shapes/ --cache cache/shapes.zarr   cache what a frozen 2D model sees
  2. i2pmae pretrain --cache cache/ --out runs/first       pre-train a 3D encoder from it
  3. i2pmae finetune runs/first/last.pt shapes/            train a classifier, or i2pmae svm

Start with one of these:
     i2pmae demo       the whole pipeline on generated shapes, a few minutes
     i2pmae doctor     check this machine, and estimate time and disk for your data
     i2pmae --help     all commands
"""
_CONTEXT = {"help_option_names": ["-h", "--help"]}


class _Group(TyperGroup):
    """Gives a command its arguments and options once it is asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, whole_command(COMMANDS[name]) if name in COMMANDS else command, rest


app = typer.Typer(
    name="i2pmae",
    cls=_Group,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=_CONTEXT,
    help=(
        "I2P-MAE: 3D encoders from 2D pre-trained models.\n\n"
        "The pipeline has three commands: [bold]extract-2d[/] renders shapes and caches the "
        "features of a frozen 2D model, [bold]pretrain[/] trains a 3D encoder from that cache, "
        "[bold]finetune[/] (or [bold]svm[/]) uses it. Start with [bold]i2pmae demo[/]."
    ),
)


def whole_command(command: Command) -> Any:
    """A command with its arguments and options."""
    from i2pmae.arguments import build_config
    from i2pmae.cli.options import parameters

    def call(context: typer.Context, **values: Any) -> None:
        given: dict[str, Any] = {
            name: _plain(value)
            for name, value in values.items()
            if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"
        }
        as_json = given.pop("as_json", False)
        flags = {name: given.pop(name) for name in command.flags if name in given}
        for name in ("quiet", "log_json"):  # their callbacks have done it
            given.pop(name, None)
        recipe = given.pop("recipe", None) if command.takes_recipe else None
        config = build_config(
            command,
            given,
            recipe=recipe,
            overrides=given.pop("overrides", ()),
            resume=flags.get("resume", False),
        )
        _finish(command, command.run(config, **flags), as_json=as_json)

    own = list(parameters(command))
    context = Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    call.__signature__ = Signature([context, *own])  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in [context, *own]}
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=_CONTEXT)
    alone.command(command.name, help=_help(command))(call)
    return typer.main.get_command(alone)


def _plain(value: Any) -> Any:
    """A value without the enumeration that typer made of it."""
    return [getattr(part, "value", part) for part in value] if isinstance(value, list) else value


def _help(command: Command) -> str:
    example = f"Example: i2pmae {command.name} {command.example}".rstrip()
    return "\n\n".join(filter(None, [command.about, command.more, example]))


def _finish(command: Command, result: dict[str, Any], *, as_json: bool) -> None:
    if as_json and is_first():
        from i2pmae.progress import print_json

        print_json(result)
    if command.verdict and not result[command.verdict]:
        raise typer.Exit(1)


def _listed() -> None:
    """Stands for a command in the list of all."""


for _command in COMMANDS.values():
    app.command(_command.name, help=_command.about)(_listed)


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Recipe to print.", autocompletion=complete_recipes)
    ] = None,
) -> None:
    """List the packed recipes, or print one.

    Example: i2pmae recipes pretrain
    """
    from i2pmae.progress import print_lines, print_table, print_text
    from i2pmae.recipes import find_recipe, recipe_about, recipe_names

    if name is not None:
        print_text(find_recipe(name).read_text(encoding="utf-8").removesuffix("\n"))
    elif sys.stdout.isatty():
        rows = [[known, str(recipe_about(known).get("title", ""))] for known in recipe_names()]
        print_table("Recipes", ["name", "title"], rows)
    else:
        print_lines(recipe_names())


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"i2pmae {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    name = context.invoked_subcommand
    if name is None:
        sys.stdout.write(_WELCOME)
        return
    launch = launched()
    several = launch is not None and launch.n_processes > 1
    if several and not (name in COMMANDS and COMMANDS[name].takes_processes):
        able = ", ".join(known.name for known in COMMANDS.values() if known.takes_processes)
        raise ConfigError(f"{name} runs as one process; torchrun may start several only of {able}")
