"""What the shell offers for values that are neither files nor choices."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import typer

from i2pmae.commands import COMMANDS, settings_of

_PACKAGED = "efficientnet-lite0-packaged"  # image_model.names.PACKAGED, whose import brings torch


def complete_recipes(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Packed recipes that are for the command, with their titles."""
    from i2pmae.recipes import recipe_about, recipe_names

    command = COMMANDS.get(context.info_name or "")
    found = []
    for name in recipe_names():
        about = recipe_about(name)
        fits = command is None or not command.takes_recipe or command.name in about["commands"]
        if fits and name.startswith(incomplete):
            found.append((name, str(about["title"])))
    return found


def complete_image_models(incomplete: str) -> list[str]:
    """Names of image models; open_clip's without importing it, which takes seconds."""
    if incomplete.startswith("timm:"):
        import timm

        return [
            name
            for name in map("timm:{}".format, timm.list_models())
            if name.startswith(incomplete)
        ]
    open_clip = find_spec("open_clip")
    folders = [] if open_clip is None else open_clip.submodule_search_locations or []
    names = [path.stem for folder in folders for path in Path(folder).glob("model_configs/*.json")]
    return [name for name in [_PACKAGED, "timm:", *sorted(names)] if name.startswith(incomplete)]


def complete_keys(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Keys for `--set`, with what they mean."""
    return [
        (f"{setting.key}=", str(setting.field.description))
        for setting in settings_of(COMMANDS[str(context.info_name)].kind)
        if setting.key.startswith(incomplete)
    ]
