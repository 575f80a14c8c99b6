"""A fine-tuned network applied to shapes: a row per shape, and what labeled ones say of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, TypedDict, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from i2pmae.checkpoints import checkpoint as checkpoints
from i2pmae.checkpoints.networks import load_classifier, load_segmenter
from i2pmae.config import AugmentConfig, FinetuneConfig, PredictConfig
from i2pmae.datasets import Shape, ShapeSource
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import CheckpointError, ConfigError, DataError, one_line
from i2pmae.evaluation.clouds import with_points
from i2pmae.evaluation.metrics import (
    accuracy,
    confusion,
    mean_class_accuracy,
    part_iou,
    per_class_accuracy,
    restrict_to_category,
)
from i2pmae.evaluation.shape_files import ShapeFiles
from i2pmae.evaluation.tables import Columns
from i2pmae.evaluation.voting import POOL_RATIO
from i2pmae.formats.labeled_points import write_labeled_points
from i2pmae.geometry.sampling import farthest_points
from i2pmae.geometry.transforms import augment
from i2pmae.model.classifier import Classifier
from i2pmae.model.segmenter import Segmenter
from i2pmae.progress import note, warn
from i2pmae.training.labeled import Batch
from i2pmae.training.prediction import Prediction, Voting, predict
from i2pmae.training.seeding import step_seed
from i2pmae.urls import as_typed

NetworkT = TypeVar("NetworkT", Classifier, Segmenter)
Row = dict[str, Any]


@final
class ClassFigures(TypedDict):
    """What a classifier reached on labeled shapes, in percent."""

    n_labeled: int
    accuracy: float
    mean_class_accuracy: float
    per_class: dict[str, float]
    classes: list[str]
    confusion: list[list[int]]  # shapes by true and by predicted class
    unknown: dict[str, int]  # more labeled shapes, by class: those that the network does not know


@final
class PartFigures(TypedDict):
    """What a segmenter reached on labeled shapes: mean IoU in percent."""

    n_labeled: int
    instance_miou: float
    category_miou: float
    per_category: dict[str, float]


class Predictor(ABC, Generic[NetworkT]):
    """What classifiers and segmenters share: which points they see, and how they are run.

    Args:
        network: in evaluation mode.
        saved: settings of the network's training.
        config: of the command.
        source: the shapes.

    Attributes:
        columns: of a shape's row, without `error`.
        kind: column with what a shape is.
        n_points: that are read of a shape.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        network: NetworkT,
        saved: Mapping[str, Any],
        config: PredictConfig,
        source: ShapeSource,
    ) -> None:
        assert network.n_points is not None  # networks of files know it
        self.network: NetworkT = network.to(pick_device(config.device))
        self.source = source
        self.used = config.points or network.n_points
        network.config.require_points(self.used)
        self.n_points = self.used
        self._config = config
        self._augment = AugmentConfig.model_validate(
            saved.get("augment", FinetuneConfig.model_fields["augment"].default)
        )
        self.columns = self._begin()

    @property
    def choose(self) -> Callable[[Shape], Shape]:
        """Gives the points of a shape that the network was trained to see."""
        return partial(_as_evaluated, self.n_points, self.network.sampling)

    def read(self, index: int) -> Shape:
        """One shape, its first points again where it has too few."""
        return with_points(self.choose(self.source.load(index)), self.n_points)

    def predict(self, shapes: Sequence[Shape], categories: Sequence[int], first: int) -> Prediction:
        """The network's scores of a batch.

        Args:
            shapes: of equally many points.
            categories: label of each; read by segmenters.
            first: index of the first shape, for what is drawn at random.
        """
        points = torch.from_numpy(np.stack([shape.points for shape in shapes]))
        counts = torch.full((len(shapes),), points.shape[1])
        voting, device = None, pick_device(self._config.device)
        if self._config.vote:
            voting = Voting(self._config.vote, self._change, step_seed(self._config.seed, first))
        return next(
            predict(
                self.network,
                [Batch(points, counts, torch.tensor(categories))],
                self.used,
                dtype=pick_dtype(self._config.precision, device),
                voting=voting,
            )
        )

    @abstractmethod
    def _begin(self) -> Columns:
        """Prepare for the shapes, and say which columns their rows have."""

    @abstractmethod
    def rows(self, shapes: Sequence[Shape], indices: Sequence[int]) -> list[Row]:
        """A row per shape, by column."""

    def _change(self, points: Tensor, generator: Generator) -> Tensor:
        return augment(points, **dict(self._augment), generator=generator)

    def _class_of(self, index: int) -> str | None:
        """Name of a shape's class in its data set."""
        label = self.source.labels[index]
        return self.source.class_names[label] if label >= 0 else None


class ClassPredictor(Predictor[Classifier]):
    """Classes of shapes; with labels, accuracy and confusion."""

    kind = "class"

    def _begin(self) -> Columns:
        if self._config.vote and self.network.sampling == "fps":
            self.n_points = round(POOL_RATIO * self.used)  # draws choose from some more points
        columns: dict[str, Any] = {"id": "text", "class": "text", "probability": "number"}
        for place in range(2, self._config.top + 1):
            columns |= {f"class_{place}": "text", f"probability_{place}": "number"}
        self.names = self.network.class_names
        self.knows_classes = bool({*self.names} & {*self.source.class_names})
        return columns | ({"true_class": "text"} if self.knows_classes else {})

    def rows(self, shapes: Sequence[Shape], indices: Sequence[int]) -> list[Row]:
        """See `Predictor`."""
        found = self.predict(shapes, [0] * len(shapes), indices[0])
        rows = []
        for index, named in zip(
            indices, self.network.named(found.scores, self._config.top), strict=True
        ):
            row: Row = {"id": self.source.ids[index]}
            for place, (name, probability) in enumerate(named.top, start=1):
                end = f"_{place}" if place > 1 else ""
                row |= {f"class{end}": name, f"probability{end}": round(probability, 6)}
            if self.knows_classes:
                row["true_class"] = self._class_of(index)
            rows.append(row)
        return rows

    def measure(self, rows: Iterable[Row]) -> ClassFigures | None:
        """Figures of all rows; None without labels."""
        places = {name: place for place, name in enumerate(self.names)}
        if not self.knows_classes and max(self.source.labels) >= 0:
            known, given = (
                one_line(", ".join(n), 60) for n in (self.names, self.source.class_names)
            )
            note(f"no accuracy: the network knows {known}, and no class of the shapes ({given})")
        named = [(row["true_class"], row["class"]) for row in rows if row.get("true_class")]
        unknown = Counter(true for true, _ in named if true not in places)
        if unknown:
            which = one_line(", ".join(f"{name} {n}" for name, n in unknown.most_common()), 120)
            warn(
                f"{unknown.total()} of {len(named)} labeled shapes are of classes that the network "
                f"does not know ({which}): they do not count in the accuracy"
            )
        pairs = [(places[true], places[found]) for true, found in named if true in places]
        if not pairs:
            return None
        truth, predicted = np.array(pairs, dtype=np.int64).T
        per_class = {
            name: float(value)
            for name, value in zip(
                self.names, per_class_accuracy(predicted, truth, len(self.names)), strict=True
            )
            if np.isfinite(value)
        }
        mean = mean_class_accuracy(per_class)
        assert mean is not None  # a labeled shape has a class
        return {
            "n_labeled": len(pairs),
            "accuracy": accuracy(predicted, truth),
            "mean_class_accuracy": mean,
            "per_class": per_class,
            "classes": list(self.names),
            "confusion": confusion(predicted, truth, len(self.names)).tolist(),
            "unknown": dict(unknown),
        }


class PartPredictor(Predictor[Segmenter]):
    """Parts of the points of shapes, a file each; with labels, their IoU."""

    kind = "category"

    def _begin(self) -> Columns:
        network, known = self.network, self.source.part_names
        if self._config.vote:
            raise ConfigError("--vote is for classifiers; the checkpoint is a segmenter's")
        n_parts = network.n_parts
        self.part_names = network.part_names or tuple(f"part {k}" for k in range(n_parts))
        self.class_parts = network.class_parts or ((*range(n_parts),),) * network.n_categories
        self.knows_parts = known is not None and tuple(known) == network.part_names
        self.categories = self._categories()
        asked = self._config
        self.files = ShapeFiles(
            asked.out, self.source, asked.shapes, asked.format, "i2pmae predict"
        )
        columns: dict[str, Any] = {"id": "text", "category": "text", "file": "text"}
        columns |= {"points": "count", "parts": "text"}
        return columns | ({"iou": "number"} if self.knows_parts else {})

    def rows(self, shapes: Sequence[Shape], indices: Sequence[int]) -> list[Row]:
        """See `Predictor`; writes the points and parts of every shape."""
        from i2pmae.pictures.style import PALETTE  # imports matplotlib

        rows = []
        parts = self.parts(shapes, indices)
        for index, shape, predicted in zip(indices, shapes, parts, strict=True):
            category, name = self.categories[index], self.source.ids[index]
            file = self.files.file(index)
            write_labeled_points(
                file, shape.points, predicted, self.part_names, PALETTE, made_by=self.files.mark
            )
            counts = Counter(predicted.tolist())
            row = {
                "id": name,
                "category": self.category_name(category),
                "file": str(file),
                "points": len(predicted),
                "parts": ", ".join(f"{self.part_names[k]} {counts[k]}" for k in sorted(counts)),
            }
            if self.knows_parts:
                assert shape.parts is not None
                truth, of = shape.parts[None].astype(np.int64), np.array([category])
                iou = part_iou(predicted[None], truth, of, self.class_parts)
                row["iou"] = round(iou.instance, 4)
            rows.append(row)
        return rows

    def parts(self, shapes: Sequence[Shape], indices: Sequence[int]) -> NDArray[np.int64]:
        """(B, N) part of every point, among those that the shape's category may have."""
        categories = [self.categories[index] for index in indices]
        found = self.predict(shapes, categories, indices[0])
        return restrict_to_category(found.scores.numpy(), np.array(categories), self.class_parts)

    def measure(self, rows: Iterable[Row]) -> PartFigures | None:
        """Figures of all rows; None without labels."""
        by_category: dict[str, list[float]] = {}
        for row in rows:
            if row.get("iou") is not None:
                by_category.setdefault(row["category"], []).append(row["iou"])
        if not by_category:
            return None
        means = {name: float(np.mean(values)) for name, values in sorted(by_category.items())}
        every = np.concatenate([*by_category.values()])
        return {
            "n_labeled": len(every),
            "instance_miou": float(every.mean()),
            "category_miou": float(np.mean([*means.values()])),
            "per_category": means,
        }

    def category_name(self, category: int) -> str:
        """Name of a category, or its number."""
        names = self.network.class_names
        return names[category] if names else str(category)

    def _categories(self) -> list[int]:
        """Category of every shape: that of its class, or the one that the user names."""
        names, asked = self.network.class_names, self._config.category
        known = ", ".join(names) or f"0 to {self.network.n_categories - 1}"
        places = {self.category_name(k): k for k in range(self.network.n_categories)}
        if asked is not None and asked not in places:
            raise ConfigError(f"--category {asked}: the segmenter knows {known}")
        default = 0 if len(places) == 1 else places.get(asked or "")
        found = []
        for index, name in enumerate(self.source.ids):
            category = default if asked else places.get(self._class_of(index) or "", default)
            if category is None:
                raise DataError(
                    f"{self.source.root}: the class of {name} is none that the segmenter knows "
                    f"({known}). Name the category of all shapes with --category."
                )
            found.append(category)
        return found


def load_predictor(config: PredictConfig, source: ShapeSource) -> ClassPredictor | PartPredictor:
    """The network of a checkpoint, ready for shapes.

    Raises:
        CheckpointError: if it was not fine-tuned.
        ConfigError, DataError: if settings or shapes do not go with it.
    """
    saved = checkpoints.load(config.checkpoint)
    if saved.kind == "classifier":
        classifier = load_classifier(config.checkpoint, config.variant)
        return ClassPredictor(classifier, saved.config, config, source)
    if saved.kind == "segmenter":
        return PartPredictor(load_segmenter(config.checkpoint), saved.config, config, source)
    raise CheckpointError(
        f"{as_typed(config.checkpoint)} holds the {saved.kind} network, which knows no classes. "
        "Make a classifier with i2pmae finetune, or compare shapes with i2pmae embed and similar."
    )


def _as_evaluated(n_points: int, sampling: str | None, shape: Shape) -> Shape:
    """The points of a shape that evaluation takes."""
    points, parts = shape
    order = np.arange(min(n_points, len(points)))
    if sampling == "fps":
        order = farthest_points(torch.from_numpy(points)[None], len(order))[0].numpy()
    return Shape(points[order], None if parts is None else parts[order])
