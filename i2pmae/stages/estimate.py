"""What to run on a data set on this machine, and what both stages would take, in seconds."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NotRequired, TypedDict

from i2pmae.config import ExtractConfig, PretrainConfig
from i2pmae.datasets.stored import StoredShapes
from i2pmae.device import out_of_memory_explained, pick_device
from i2pmae.errors import ConfigError
from i2pmae.progress import format_bytes, format_seconds, note, print_lines, print_table
from i2pmae.recipes import load_config, recipe_commands
from i2pmae.stages import dry_run, extract_2d
from i2pmae.training.cost import Cost, pretraining_cost
from i2pmae.training.recommended import recommend_extraction, recommend_pretraining

Configs = tuple[ExtractConfig, PretrainConfig]


class Recommended(TypedDict):
    """Settings that suit a data set and this machine."""

    image_model: str
    recipe: str
    epochs: int
    batch_size: int
    commands: list[str]


class Result(TypedDict):
    """What both stages would take."""

    extraction: dry_run.Result
    pretraining: Cost
    recommended: NotRequired[Recommended]  # where no recipe was named


def of_recipe(recipe: str, data: Path | None, cache: Path) -> Configs:
    """Settings of both stages; a recipe counts for the stages it is meant for.

    Raises:
        ConfigError: if it is for neither.
    """
    meant = recipe_commands(recipe)
    if not {"extract-2d", "pretrain"} & {*meant}:
        raise ConfigError(
            f"recipe {recipe} is for {', '.join(meant) or 'no command'}; doctor estimates "
            "extract-2d and pretrain"
        )
    extract = load_config(
        ExtractConfig,
        "extract-2d",
        recipe=recipe if "extract-2d" in meant else None,
        options={"data": data or Path(), "cache": cache},
    )
    pretrain = load_config(
        PretrainConfig,
        "pretrain",
        recipe=recipe if "pretrain" in meant else None,
        options={"cache": cache, "out": Path("runs/pretrain")},
    )
    return extract, pretrain


def run(data: Path, cache: Path, chosen: Configs | None) -> Result:
    """Measure both stages on a few shapes, and show what they would take.

    Args:
        data: the data set.
        cache: where its store would go.
        chosen: settings of both stages; None: those that suit the data set and this machine.

    Raises:
        ConfigError: if the data set is a store and no recipe is named, or if clouds have too few
            points.
        DataError: if the data set cannot be used.
    """
    if chosen is not None:
        extraction = dry_run.extraction(chosen[0])
        training = _training(chosen[1], extraction)
        _show(data, extraction, training)
        return {"extraction": extraction, "pretraining": training}
    if StoredShapes.is_at(data):
        raise ConfigError(
            f"{data} is a store already: pre-train from it with "
            f"{shlex.join(['i2pmae', 'pretrain', '--cache', str(data)])}, or name a --recipe to "
            "estimate another extraction"
        )
    device = pick_device("auto")
    store = extract_2d.store_path(cache, data)
    first = recommend_extraction(str(data), str(store), device)
    extraction = dry_run.extraction(first.config, survey=False)
    n_shapes, n_points = extraction["training_shapes"], extraction["points"]
    second = recommend_pretraining(str(store), n_shapes, n_points, device)
    training = _training(second.config, extraction)
    recommended: Recommended = {
        "image_model": first.config.image_model.name,
        "recipe": second.recipe or "pretrain",
        "epochs": second.config.epochs,
        "batch_size": second.config.batch_size,
        "commands": [first.command, second.command],
    }
    print_table(
        f"Recommended for {data}: {extraction['shapes']:,} shapes, {n_shapes:,} to train on",
        ["what", "value", "why"],
        [
            ["2D model", recommended["image_model"], first.why],
            ["recipe", recommended["recipe"], second.why],
            ["epochs", recommended["epochs"], "the recipe's, or more for few shapes"],
            ["batch size", recommended["batch_size"], "the recipe's, or all shapes"],
        ],
    )
    _show(data, extraction, training)
    if second.caution is not None:
        note(second.caution)
    print_lines(recommended["commands"])
    return {"extraction": extraction, "pretraining": training, "recommended": recommended}


def _training(config: PretrainConfig, extraction: dry_run.Result) -> Cost:
    with out_of_memory_explained("the batches of this recipe are too large for this machine"):
        return pretraining_cost(
            config, n_shapes=extraction["training_shapes"], **extraction["sizes"]
        )


def _show(data: Path, extraction: dry_run.Result, training: Cost) -> None:
    enough = dry_run.fits(extraction)
    print_table(
        f"Estimate for {data}: {extraction['shapes']:,} shapes",
        ["stage", "time, about", "rate here", "disk"],
        [
            [
                "extract-2d",
                format_seconds(extraction["seconds"]),
                f"{extraction['shapes_per_s']:.3g} shapes/s",
                f"{format_bytes(extraction['bytes'])}{'' if enough else ', too little is free'}",
            ],
            [
                f"pretrain, {training['epochs']} epochs",
                format_seconds(training["seconds"]),
                f"{training['shapes_per_s']:.3g} shapes/s",
                format_bytes(12 * training["parameters"]),
            ],
        ],
    )
    note(
        f"measured on {extraction['measured_on']} shapes; check-data reads all of them and says "
        "which cannot be used"
    )
