"""The commands as Python functions, with the same settings as keywords.

`i2pmae.pretrain(cache="cache/", out="runs/first", epochs=50, optim={"lr": 5e-4})` does what
`i2pmae pretrain --cache cache/ --out runs/first --epochs 50 --set optim.lr=0.0005` does.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from inspect import Parameter, Signature
from typing import Any

from i2pmae.arguments import build_config
from i2pmae.commands import COMMANDS, Command, tables_of
from i2pmae.progress import quietly
from i2pmae.suggest import suggestion

_RECIPE = "TOML file of settings, or the name of a packed recipe."
_QUIET = "Show no progress bars and no notes."


def command_function(name: str) -> Callable[..., dict[str, Any]]:
    """The function of a command, such as `pretrain`.

    Raises:
        KeyError: if no command has a function of this name.
    """
    command = {each.python_name: each for each in COMMANDS.values()}[name]
    described = list(_parameters(command))
    signature = Signature(
        [parameter for parameter, _ in described], return_annotation=dict[str, Any]
    )

    def function(*arguments: Any, **settings: Any) -> dict[str, Any]:
        for unknown in settings.keys() - signature.parameters.keys():
            hint = suggestion(unknown, [*signature.parameters])
            raise TypeError(f"{name}() has no setting {unknown!r}; {hint}")
        given = signature.bind(*arguments, **settings).arguments
        flags = {flag: given.pop(flag, False) for flag in command.flags}
        is_quiet = given.pop("quiet", False)
        recipe = given.pop("recipe", None) if command.takes_recipe else None
        config = build_config(command, given, recipe=recipe, resume=flags.get("resume", False))
        with quietly() if is_quiet else nullcontext():
            return command.run(config, **flags)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "i2pmae"
    function.__doc__ = _documentation(command, described)
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


def _parameters(command: Command) -> Iterator[tuple[Parameter, str]]:
    """Every keyword with its description."""
    names = set()
    for place, setting in enumerate(command.options()):
        name = str(setting.name)
        names.add(name)
        is_argument = place < len(command.arguments)
        is_required = place < command.n_required if is_argument else setting.field.is_required()
        parameter = Parameter(
            name,
            Parameter.POSITIONAL_OR_KEYWORD if is_argument else Parameter.KEYWORD_ONLY,
            default=Parameter.empty if is_required else setting.default,
            annotation=setting.field.annotation,
        )
        yield parameter, str(setting.field.description)
    for name, table in tables_of(command.kind).items():
        if name not in names:  # else the option's keyword takes the table as well
            yield _keyword(name, None, dict), f"Settings of `{table.__name__}`, some or all."
    if command.takes_recipe:
        yield _keyword("recipe", None, str), _RECIPE
    for name, text in command.flags.items():
        yield _keyword(name, False, bool), text
    yield _keyword("quiet", False, bool), _QUIET


def _keyword(name: str, default: Any, kind: type) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _documentation(command: Command, described: list[tuple[Parameter, str]]) -> str:
    """Docstring in the style of the package."""
    wrapped = [
        textwrap.fill(
            f"{parameter.name}: {text}", 92, subsequent_indent="    ", break_on_hyphens=False
        )
        for parameter, text in described
    ]
    paragraphs = [
        command.about,
        textwrap.fill(command.more, 100),
        "Args:\n" + textwrap.indent("\n".join(wrapped), "    "),
        f"Returns:\n    What `i2pmae {command.name} --json` prints.",
        "Raises:\n    I2PMAEError: if settings, data or files cannot be used; one line.",
    ]
    return "\n\n".join(filter(None, paragraphs))
