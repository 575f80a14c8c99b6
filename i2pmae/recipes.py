"""Recipes: finding, reading and merging TOML files of settings.

Precedence: default, then recipe (`--recipe`), then `--set key.sub=value`, then a command's own
options.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from i2pmae.commands import COMMANDS
from i2pmae.config import RENAMED, Config, ExtractConfig, PretrainConfig, with_new_names
from i2pmae.errors import ConfigError, one_line
from i2pmae.suggest import suggestion

ConfigT = TypeVar("ConfigT", bound=Config)
_WITH_RECIPES = [command.name for command in COMMANDS.values() if command.takes_recipe]
RUN_SETTINGS = "config.json"  # of a run's folder
_LARGEST_RECIPE = 1 << 14  # bytes
_LARGEST_SETTINGS = 1 << 20  # bytes
_DEEPEST = 16  # tables in one another
_ABOUT = "about"  # a recipe's table for people: data, command, published figure, cost


def load_config(
    kind: type[ConfigT],
    command: str,
    *,
    recipe: str | Path | None = None,
    base: Mapping[str, Any] | None = None,
    derived: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Build a command's settings: default, base or recipe, derived, overrides, options.

    Args:
        kind: class of the settings.
        command: name of the command; a recipe may hold one table per command.
        recipe: file, or name of a recipe that ships with the package.
        base: settings of an earlier run, see `settings_of_run`.
        derived: dotted key to value, of settings that the recipe leaves to the data.
        overrides: `key.sub=value`, values in TOML (bare words are strings).
        options: dotted key to value, or to the values of a table; `None` values are left out.

    Raises:
        ConfigError: if a key is unknown or a value cannot be used; one line.
    """
    values = _nested_defaults(kind)
    source = "the options"
    if base is not None:
        source = f"{RUN_SETTINGS} of the run and the options"
        _merge(values, with_new_names(base))
    if recipe is not None:
        source = f"recipe {recipe}"
        _merge(values, with_new_names(read_recipe(recipe, command, kind.model_fields)))
    for key, value in (derived or {}).items():
        _assign(values, key, value)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(
                f"--set {override}: expected key.sub=value, for example --set optim.lr=0.0005"
            )
        _assign(values, key.strip(), _parse_value(text))
    for key, value in (options or {}).items():
        if isinstance(value, dict):
            _merge(values, with_new_names({key: value}))
        elif value is not None:
            _assign(values, key, value)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{command}: {_describe(error, kind)} (from {source})") from None


def _nested_defaults(kind: type[Config]) -> dict[str, Any]:
    """Defaults of a stage's tables; else one key of a table would bring back the table's own."""
    defaults = {name: field.default for name, field in kind.model_fields.items()}
    return {
        name: value.model_dump() for name, value in defaults.items() if isinstance(value, Config)
    }


def settings_of_run(out: str | Path) -> dict[str, Any] | None:
    """Settings of the run in a folder, without its `out`; None if it holds none that can be read.

    Whether they can be resumed from is checked where the run is opened.
    """
    path = Path(out) / RUN_SETTINGS
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_LARGEST_SETTINGS))
        _check_plain(found)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {key: value for key, value in found.items() if key not in ("command", "out")}


def read_recipe(recipe: str | Path, command: str, fields: Collection[str] = ()) -> dict[str, Any]:
    """Read a recipe's keys for one command, without its table for people.

    Args:
        recipe: file, or name of one that ships with the package.
        command: whose keys are wanted.
        fields: the command's own; pre-training has a table `svm`, which is a command as well. It
            is pre-training's in a recipe without a table `pretrain`.

    Raises:
        ConfigError: if the file is missing or not TOML, or is for other commands.
    """
    path = find_recipe(recipe)
    values = _read_toml(path)
    about = values.pop(_ABOUT, {})
    meant_for = about.get("commands", _WITH_RECIPES) if isinstance(about, dict) else []
    if command not in meant_for:
        raise ConfigError(
            f"recipe {path.stem} is for {one_line(', '.join(meant_for), 100)}, not for {command}; "
            "'i2pmae recipes' lists what there is"
        )
    sections = _sections(values, () if command in values else fields)
    _merge(values, sections.get(command, {}))
    return values


def _sections(values: dict[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Take the tables of commands out of a recipe, but those that are `fields` of one."""
    named = [name for name in _WITH_RECIPES if isinstance(values.get(name), dict)]
    return {name: values.pop(name) for name in named if name not in fields}


def find_recipe(recipe: str | Path) -> Path:
    """Locate a recipe: a file, or the name of one that ships with the package.

    Raises:
        ConfigError: if there is none; names the nearest.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    named = recipe_folder() / f"{path.name.removesuffix('.toml')}.toml"
    if path.parent == Path() and named.is_file():
        return named
    hint = suggestion(path.stem, recipe_names())
    raise ConfigError(f"recipe {recipe}: no such file and no recipe of this name; {hint}")


def recipe_folder() -> Path:
    """Folder of the recipes that ship with the package (`pipeline/` in a clone)."""
    packed = Path(str(resources.files("i2pmae"))) / "pipeline"
    return packed if packed.is_dir() else packed.parents[1] / "pipeline"


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    return sorted(path.stem for path in recipe_folder().glob("*.toml"))


def recipe_about(name: str) -> dict[str, Any]:
    """A recipe's table for people: `title`, `commands`, `data`, `command`, `published`, `cost`."""
    about = _read_toml(find_recipe(name)).get(_ABOUT, {})
    return about if isinstance(about, dict) else {}


def published_figures(recipe: str | None, own: str | None) -> dict[str, float]:
    """Published figures that a recipe states, by the name of ours.

    Args:
        recipe: of the run; None: there is none.
        own: the recipe of the run's data set, if figures are published of it. Those that ship are
            of one data set each, and nothing is stated of another. A user's own recipe is always
            shown.
    """
    if recipe is None or (recipe in recipe_names() and recipe != own):
        return {}
    try:
        stated = recipe_about(recipe).get("figures", {})
    except ConfigError:  # a recipe that was used once and has gone since
        return {}
    if not isinstance(stated, dict):
        return {}
    return {name: float(value) for name, value in stated.items() if isinstance(value, int | float)}


def recipe_commands(recipe: str | Path) -> list[str]:
    """Stages that a recipe is for: those it names, has a table for, or whose keys it holds."""
    values = _read_toml(find_recipe(recipe))
    about = values.pop(_ABOUT, {})
    if isinstance(about, dict) and "commands" in about:
        return list(about["commands"])
    stages: dict[str, type[Config]] = {"extract-2d": ExtractConfig, "pretrain": PretrainConfig}
    tables = [stage for stage in stages if isinstance(values.get(stage), dict)]
    if tables:
        return tables
    fitting = {stage: len({*values} & {*kind.model_fields}) for stage, kind in stages.items()}
    return [stage for stage, count in fitting.items() if count == max(fitting.values())]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_RECIPE + 1)
        if len(content) > _LARGEST_RECIPE:
            raise ConfigError(f"recipe {path}: more than {_LARGEST_RECIPE} bytes; is it a recipe?")
        found = tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
        _check_plain(found)
        return found
    except OSError as error:
        raise ConfigError(f"recipe {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"recipe {path}: not valid TOML: {error}") from None


def _check_plain(value: Any, depth: int = 0) -> None:
    """Raise ValueError for what no recipe needs and what would choke others."""
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} tables in one another")
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError("a number of more than 63 bits")
    parts = value.values() if isinstance(value, dict) else value
    for part in parts if isinstance(value, dict | list) else ():
        _check_plain(part, depth + 1)


def _parse_value(text: str) -> Any:
    """A TOML value; anything that is not one is a plain string; `none` is None."""
    text = text.strip()
    if text.lower() in ("none", "null"):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = RENAMED.get(dotted, dotted).split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{dotted}: {parent} is a value, not a table")
        values = child
    values[last] = value


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Merge `more` into `values` in place, tables key by key."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _describe(error: ValidationError, kind: type[Config]) -> str:
    """First problem of a validation error in one line, with the nearest known key."""
    first, more = error.errors()[0], error.error_count() - 1
    location = [str(part) for part in first["loc"]]
    where = ".".join(location) or "settings"
    if first["type"] == "extra_forbidden":
        hint = suggestion(location[-1], _keys_at(kind, location[:-1]))
        text = f"unknown key '{where}'; {hint}"
    elif first["type"] == "missing":
        text = f"'{where}' is required"
    else:
        found = f", found {first['input']!r:.80}" if location else ""
        text = f"{where}: {first['msg'].removeprefix('Value error, ')}{found}"
    return text + (f"; and {more} more" if more else "")


def _keys_at(kind: type[Config], parents: Sequence[str]) -> list[str]:
    """Keys that the table at `parents` may hold."""

    for parent in parents:
        field = kind.model_fields.get(parent)
        if field is None:
            return []
        choices = [field.annotation, *get_args(field.annotation)]
        tables = [c for c in choices if isinstance(c, type) and issubclass(c, Config)]
        if not tables:
            return []
        kind = tables[0]
    return list(kind.model_fields)
