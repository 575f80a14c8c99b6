"""Zero-shot classification of stored shapes, by the words of the CLIP model that saw them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from i2pmae.config import ZeroShotConfig
from i2pmae.errors import ConfigError, StoreMismatchError
from i2pmae.evaluation.image_features import pooled_image_features
from i2pmae.evaluation.metrics import mean_class_accuracy
from i2pmae.extraction.recorded import tag_of_weights
from i2pmae.image_model.text import TextTower, load_text_tower
from i2pmae.progress import note, print_class_table, track
from i2pmae.store import StoreReader, resolve_store

Named = TypedDict("Named", {"id": str, "class": str, "cosine": float})


class Scores(TypedDict):
    """Accuracy in percent over shapes whose own class is among the classes."""

    accuracy: float | None  # None without such shapes
    per_class: dict[str, float]
    scored: int  # such shapes


class Result(Scores):
    """Stored shapes named by words."""

    chance: float
    shapes: int
    classes: list[str]
    predictions: list[Named]


def run(config: ZeroShotConfig) -> Result:
    """Name stored shapes by the class whose prompts are nearest to their image features.

    A view's feature is the mean of its patch features over the patches that show the object;
    its cosines with the classes are averaged over views. CLIP itself compares texts with a pooled
    feature, its class token, which the store does not hold: the mean of patches approximates it,
    well for ResNets, whose pool averages patches by attention, less well for ViTs.

    Args:
        config: settings.

    Returns:
        See `Result`.

    Raises:
        WeightsError: if the store's features are not CLIP's, or its weights cannot be had here.
        StoreMismatchError: if they come from other weights.
        ConfigError: if there are fewer than two classes.
    """
    reader = StoreReader(resolve_store(config.cache))
    classes = _class_names(config, reader)
    texts = class_vectors(_text_tower(config, reader), classes, config.templates)
    indices = reader.indices(config.split)
    cosines = np.concatenate(
        [
            _cosines(reader, indices[start : start + config.batch_size], texts)
            for start in track(range(0, len(indices), config.batch_size), "zero-shot")
        ]
    )
    predicted = cosines.argmax(axis=1)
    ids = reader.read_all("id")[indices]
    result: Result = {
        **_score(reader, indices, classes, predicted),
        "chance": 100 / len(classes),
        "shapes": len(indices),
        "classes": classes,
        "predictions": [
            {"id": str(name), "class": classes[k], "cosine": round(float(row[k]), 6)}
            for name, k, row in zip(ids, predicted.tolist(), cosines, strict=True)
        ],
    }
    _show(result)
    return result


def class_vectors(
    tower: TextTower, classes: Sequence[str], templates: Sequence[str]
) -> NDArray[np.float32]:
    """One vector per class: the mean over prompts.

    Args:
        tower: texts to vectors of length 1.
        classes: K names; underscores are read as spaces.
        templates: prompts with `{}` for the class; "a {}" becomes "an {}" before a vowel.

    Returns:
        (K, C) float32 of length 1.

    Source: the prompt ensembles of CLIP.
    """
    vectors = torch.stack(
        [tower([_prompt(template, name) for template in templates]).mean(dim=0) for name in classes]
    )
    normalized: NDArray[np.float32] = torch.nn.functional.normalize(vectors, dim=1).numpy()
    return normalized


def _cosines(
    reader: StoreReader, indices: NDArray[np.int64], texts: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cosines (B, K) of some shapes with the classes, mean over views."""
    views = pooled_image_features(reader, indices, batch_size=len(indices))
    lengths = np.linalg.norm(views, axis=2, keepdims=True)
    cosines: NDArray[np.float32] = (views / np.maximum(lengths, 1e-12) @ texts.T).mean(axis=1)
    return cosines


def _class_names(config: ZeroShotConfig, reader: StoreReader) -> list[str]:
    """The classes to choose from: those given, else the store's."""
    given = [name.strip() for name in config.classes]
    classes = list(dict.fromkeys(name for name in (given or reader.class_names) if name))
    if len(classes) < 2:
        raise ConfigError(
            f"{len(classes)} classes to choose from; name two or more, as in --classes "
            '"chair,table,lamp"'
        )
    if not given and all(name.isdigit() for name in classes):
        raise ConfigError(
            f"the store's classes are numbers, such as {classes[0]}, which say nothing to a text "
            'tower; name them, as in --classes "airplane,bench,cabinet"'
        )
    return classes


def _text_tower(config: ZeroShotConfig, reader: StoreReader) -> TextTower:
    """The text tower of the very weights that made the store's features."""
    for key in ("name", "pretrained", "image_size", "weights_sha256"):
        reader.info.recorded(f"image_model.{key}")
    made_by = reader.info.settings["image_model"]
    recorded = str(reader.info.recorded("weights"))
    pretrained = config.pretrained or tag_of_weights(config.cache, recorded)
    tower = load_text_tower(made_by["name"], pretrained, made_by["image_size"])
    if made_by["weights_sha256"] not in tower.image_weights or tower.channels != reader.channels:
        raise StoreMismatchError(
            f"the features of {config.cache} come from other weights than {pretrained} "
            f"({made_by['name']}, {made_by['pretrained']}); pass those with --pretrained"
        )
    if "block" in made_by:
        raise StoreMismatchError(
            f"the features of {config.cache} are of block {made_by['block']} of "
            f"{made_by['name']}, which texts are not compared with; extract those of the last "
            "block, without image_model.block"
        )
    return tower


def _score(
    reader: StoreReader, indices: NDArray[np.int64], classes: list[str], predicted: NDArray[Any]
) -> Scores:
    """Accuracy over shapes whose own class is among the classes."""
    places = {_words(name): place for place, name in enumerate(classes)}
    own = [places.get(_words(name), -1) for name in reader.class_names]
    labels = reader.read_all("label")[indices]
    truth = np.array([own[label] if label >= 0 else -1 for label in labels.tolist()])
    known = truth >= 0
    if not known.any():
        return {"accuracy": None, "per_class": {}, "scored": 0}
    right = predicted == truth
    return {
        "accuracy": float(100 * right[known].mean()),
        "per_class": {
            name: float(100 * right[truth == place].mean())
            for place, name in enumerate(classes)
            if (truth == place).any()
        },
        "scored": int(known.sum()),
    }


def _show(result: Result) -> None:
    counts = Counter(row["class"] for row in result["predictions"])
    rows = [
        [
            name,
            counts[name],
            f"{result['per_class'][name]:.2f}" if name in result["per_class"] else "-",
        ]
        for name in result["classes"]
    ]
    overall = "-" if result["accuracy"] is None else f"{result['accuracy']:.2f}"
    mean = mean_class_accuracy(result["per_class"])
    print_class_table(
        f"Zero-shot, chance {result['chance']:.1f} %",
        ["class", "shapes named so", "accuracy %"],
        rows,
        [
            ["all", result["shapes"], overall],
            ["mean over classes", "", "-" if mean is None else f"{mean:.2f}"],
        ],
    )
    if result["scored"] < result["shapes"]:
        note(
            f"{result['shapes'] - result['scored']} shapes have no class or another one than "
            "these; they are not scored"
        )


def _prompt(template: str, name: str) -> str:
    words = _words(name)
    if words[:1] in set("aeiou"):
        template = re.sub(r"\ba \{\}", "an {}", template)
    return template.replace("{}", words)


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
