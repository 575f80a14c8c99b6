"""Zero-shot classification of stored shapes, by the words of the CLIP model that saw them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from i2pmae.config import ZeroShotConfig
from i2pmae.errors import ConfigError, StoreMismatchError
from i2pmae.image_model.text import TextTower, load_text_tower
from i2pmae.progress import note, print_table, track
from i2pmae.store import StoreReader, resolve_store


def run(config: ZeroShotConfig) -> dict[str, Any]:
    """Name stored shapes by the class whose prompts are nearest to their image features.

    A view's feature is the mean of its patch features over the patches that show the object;
    its cosines with the classes are averaged over views. CLIP itself compares texts with a pooled
    feature, its class token, which the store does not hold: the mean of patches approximates it,
    well for ResNets, whose pool averages patches by attention, less well for ViTs.

    Args:
        config: settings.

    Returns:
        `accuracy` in percent over shapes whose own class is among the classes (None without
        any), `chance`, `per_class`, `scored`, `shapes`, `classes`, `predictions` (`id`, `class`,
        `cosine`).

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
    result = {
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


def mean_patches(
    features: NDArray[np.generic], scale: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Mean feature of each view over the patches that any point reads.

    Args:
        features: (B, V, h, w, C) as stored; patches that are never read are zero.
        scale: (B, C) of int8 codes, or None.

    Returns:
        (B, V, C) float32.
    """
    n_read = features.any(axis=4).sum(axis=(2, 3))
    means: NDArray[np.float32] = features.sum(axis=(2, 3), dtype=np.float32)
    means /= np.maximum(n_read, 1)[..., None].astype(np.float32)
    return means if scale is None else means * scale[:, None]


def _cosines(
    reader: StoreReader, indices: NDArray[np.int64], texts: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cosines (B, K) of some shapes with the classes, mean over views."""
    names = [name for name in ("features", "feature_scale") if name in reader.step_arrays]
    batch = reader.read(indices, names)
    views = mean_patches(batch["features"], batch.get("feature_scale"))
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
    made_by = reader.info.settings["image_model"]
    pretrained = config.pretrained or str(reader.info.provenance["weights"])
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
) -> dict[str, Any]:
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


def _show(result: dict[str, Any]) -> None:
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
    print_table(
        f"Zero-shot, chance {result['chance']:.1f} %",
        ["class", "shapes named so", "accuracy %"],
        [*rows, ["all", result["shapes"], overall]],
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
