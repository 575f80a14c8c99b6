"""Settings of a command from options, a recipe and an earlier run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from i2pmae.commands import Command, settings_of
from i2pmae.config import CHECKPOINT, Config
from i2pmae.errors import ConfigError
from i2pmae.recipes import load_config, settings_of_run
from i2pmae.urls import is_hub_name


def build_config(
    command: Command,
    given: Mapping[str, Any],
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
) -> Config:
    """Settings of a command from its options.

    Args:
        command: which one.
        given: by the option's name, or a table's with some or all of its values; None: not given.
        recipe: file, or name of a recipe that ships with the package.
        overrides: `key.sub=value`, as for `--set`.
        resume: start from the settings of the run in `out`, if there is one and no recipe is given.

    Raises:
        ConfigError: if a name is unknown or a value cannot be used; one line.
        HubError: if a checkpoint of the Hub cannot be fetched.
    """
    options = {name: value for name, value in given.items() if value is not None}
    saved = None
    if resume and recipe is None:
        saved = settings_of_run(options.get("out", command.kind.model_fields["out"].default))
    if command.data_alone and "checkpoint" in options and "data" not in options:
        options["data"] = options.pop("checkpoint")
    derived: dict[str, Any] = {}
    if command.name == "finetune":
        _sort_out(options, is_new=saved is None)
        if saved is None:
            recipe, derived = _from_shapes(options, recipe, overrides)
            options["recipe"] = recipe
    config = load_config(
        command.kind,
        command.name,
        recipe=recipe,
        base=saved,
        derived=derived,
        overrides=overrides,
        options=_by_key(command, options),
    )
    return _pinned(config)


def _pinned(config: Config) -> Config:
    """The same settings, with a checkpoint of the Hub by its commit, which is then recorded."""
    for name, info in type(config).model_fields.items():
        named = getattr(config, name)
        if CHECKPOINT in info.metadata and named is not None and is_hub_name(named):
            from i2pmae.checkpoints.names import pinned  # imports torch

            config = config.model_copy(update={name: Path(pinned(named))})
    return config


def _by_key(command: Command, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the dotted key of their setting, tables by their name."""
    keys = {setting.name: setting.key for setting in settings_of(command.kind) if setting.name}
    found = {}
    for name, value in options.items():
        values = value.model_dump() if isinstance(value, BaseModel) else value
        found[name if isinstance(values, dict) else keys[name]] = values
    return found


def _sort_out(options: dict[str, Any], *, is_new: bool) -> None:
    """Tell CHECKPOINT from DATA among the options of fine-tuning; a new run needs both."""
    from_scratch = options.get("from_scratch", False)
    is_only = "data" not in options and "cache" not in options and "checkpoint" in options
    if is_only and from_scratch:
        options["data"] = options.pop("checkpoint")
    elif is_only and is_new:
        raise ConfigError("finetune: give CHECKPOINT and DATA, or --from-scratch and DATA")
    if is_new and "checkpoint" not in options and not from_scratch:
        raise ConfigError("finetune: give a CHECKPOINT to start from, or --from-scratch")


def _from_shapes(
    options: Mapping[str, Any], recipe: str | Path | None, overrides: Sequence[str]
) -> tuple[str | Path | None, dict[str, Any]]:
    """The recipe, the data set's if none is given, and settings that it leaves to the shapes."""
    is_one = ("data" in options) != ("cache" in options)  # else the settings say so in one line
    if not is_one or (recipe is not None and not _is_own_data(recipe)):
        return recipe, {}
    from i2pmae.training import own_data  # imports torch

    shapes = own_data.find_shapes(options)
    recipe = own_data.default_recipe(shapes) if recipe is None else recipe
    if not _is_own_data(recipe):
        return recipe, {}
    epochs = _asked("epochs", options, overrides)
    return recipe, own_data.settings_for(
        shapes,
        options,
        int(epochs) if epochs.isdecimal() else None,
        _share(_asked("labels", options, overrides)),
    )


def _is_own_data(recipe: str | Path) -> bool:
    return Path(recipe).name.removesuffix(".toml") == "finetune-own-data"


def _asked(name: str, options: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """What the user gives for a setting, as text; empty if nothing."""
    asked = [text.partition("=")[2] for text in overrides if text.split("=")[0].strip() == name]
    return str(options.get(name, asked[-1] if asked else "")).strip()


def _share(text: str) -> float:
    """A share that a user gives; 1 for what the settings refuse later."""
    try:
        share = float(text)
    except ValueError:
        return 1.0
    return share if 0 < share < 1 else 1.0
