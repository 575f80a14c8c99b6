"""Default recipe and settings of fine-tuning for a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2pmae.config import ReadingConfig
from i2pmae.datasets import Located, locate, open_source
from i2pmae.datasets.few_shot import FewShotEpisode
from i2pmae.errors import StoreError
from i2pmae.evaluation.split import labeled_part
from i2pmae.progress import note
from i2pmae.recipes import recipe_names
from i2pmae.store import StoreReader, resolve_store

Shapes = Located | StoreReader
_SEEN = 20_000  # shapes that a run sees in all, where epochs are few
_FEWEST, _MOST = 12, 50  # epochs
_UNEVEN = 10  # times as many shapes of the most frequent class as of the rarest


def find_shapes(options: Mapping[str, Any]) -> Shapes:
    """The labeled shapes that the options of `i2pmae finetune` name: `data` or `cache`.

    Raises:
        DataError, StoreError: if there is no data set or store.
    """
    if "cache" in options:
        return StoreReader(resolve_store(Path(options["cache"])))
    return locate(Path(options["data"]), options.get("layout", "auto"))


def default_recipe(shapes: Shapes) -> str:
    """Name of the recipe for shapes of their layout.

    Raises:
        DataError, StoreError: if they cannot be read, or a store names no recipe of i2pmae.
    """
    if isinstance(shapes, Located):
        if shapes.layout == FewShotEpisode.layout:
            return FewShotEpisode.recipe
        return open_source(shapes, split="all").recipe
    provenance = shapes.info.provenance
    recorded = provenance.get("finetune_recipe") or provenance.get("recipe")  # an older store's
    if recorded not in recipe_names():  # never a file: the store may be untrusted
        raise StoreError(
            f"{shapes.path} names no recipe that ships with i2pmae, but {recorded!r}. Give "
            "--recipe."
        )
    return str(recorded)


def settings_for(
    shapes: Shapes, options: Mapping[str, Any], epochs: int | None = None, share: float = 1.0
) -> dict[str, Any]:
    """Epochs, rate, batch size, and class weights by the number of training shapes and classes.

    Args:
        shapes: found by `find_shapes`.
        options: of `i2pmae finetune`, which say how they are read.
        epochs: that were asked for.
        share: of the labels that is used.

    Returns:
        Dotted key to value.

    Raises:
        DataError, StoreError: if they cannot be read.
    """
    labels, n_classes = _training_labels(shapes, options)
    if share < 1 and len(labels):
        labels = labels[labeled_part(labels, share, seed=0)]  # as many of a class with any seed
    n_shapes = max(len(labels), 1)
    counts = np.bincount(labels[labels >= 0], minlength=1)
    counts = counts[counts > 0]
    if epochs is None:
        epochs = min(max(_SEEN // n_shapes, _FEWEST), _MOST)
    batch_size = 32 if n_shapes >= 1000 else 16 if n_shapes >= 64 else 4
    is_new = bool(options.get("from_scratch", False))
    is_uneven = len(counts) > 0 and counts.max() >= _UNEVEN * counts.min()
    found = {
        "epochs": epochs,
        "batch_size": batch_size,
        "class_weights": "balanced" if is_uneven else "none",
        "optim.lr": 1e-3 if is_new else 3e-5,
        "optim.warmup_epochs": min(1.0, epochs / 10),
        "optim.cosine_epochs": epochs,
    }
    note(
        f"{n_shapes} training shapes of {n_classes} classes, the rarest with "
        f"{counts.min(initial=n_shapes)}: at most {epochs} epochs, batches of {batch_size}, "
        f"rate {found['optim.lr']:g}, class weights {found['class_weights']}"
    )
    return found


def _training_labels(shapes: Shapes, options: Mapping[str, Any]) -> tuple[NDArray[np.int64], int]:
    """Labels of the training shapes, and how many classes there are."""
    limit = options.get("limit")
    if isinstance(shapes, StoreReader):
        labels = shapes.read_all("label")[shapes.indices("train")][:limit]
        return labels.astype(np.int64), len(shapes.class_names)
    reading = {name: options[name] for name in ReadingConfig.model_fields if name in options}
    source = open_source(shapes, split="train", limit=limit, **reading)
    return np.asarray(source.labels, dtype=np.int64), len(source.class_names)
