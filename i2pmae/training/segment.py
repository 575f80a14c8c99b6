"""Part segmentation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from i2pmae.checkpoints.official import Kind
from i2pmae.config import EncoderConfig, FinetuneConfig
from i2pmae.errors import DataError
from i2pmae.evaluation.metrics import part_iou
from i2pmae.model.segmenter import Segmenter
from i2pmae.training.labeled import Batch, LabeledSet
from i2pmae.training.prediction import Parts, Prediction, Segmented, segmented

PICTURE = "parts.png"
N_DRAWN = 8  # categories in the picture, at most


class Segmentation:
    """The part of every point; the best epoch has the best instance mIoU on validation.

    Args:
        config: settings.
        class_names: of the categories.
        part_names: of all parts.
        class_parts: per category, the parts that it may have.

    Source: Point-M2AE, section 4.2; Yi et al. for the figures.
    """

    kind: Kind = "segmenter"
    score = "instance_miou"

    def __init__(
        self,
        config: FinetuneConfig,
        class_names: tuple[str, ...],
        part_names: tuple[str, ...],
        class_parts: Parts,
    ) -> None:
        self.config = config
        self.class_names = class_names
        self.part_names = part_names
        self.class_parts = class_parts
        self.extra: dict[str, Any] = {
            "class_names": list(class_names),
            "part_names": list(part_names),
            "class_parts": [list(members) for members in class_parts],
        }

    @classmethod
    def of(cls, config: FinetuneConfig, data: LabeledSet) -> Segmentation:
        """For the parts of a data set.

        Raises:
            DataError: if there are none.
        """
        if data.part_names is None or data.class_parts is None:
            raise DataError(
                f"{config.shapes}: its shapes have no part labels; segmentation needs them, as "
                "ShapeNetPart or the word 'procedural' gives them"
            )
        return cls(config, data.class_names, data.part_names, data.class_parts)

    def build(self, encoder: EncoderConfig) -> Segmenter:
        """A network with random weights."""
        return Segmenter(
            encoder,
            len(self.part_names),
            len(self.class_names),
            self.config.segment_head,
            self.class_names,
            self.part_names,
            self.class_parts,
        )

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean negative log-probability of the points' parts."""
        assert batch.parts is not None  # of
        scores: Tensor = network(batch.points, batch.labels)
        return F.nll_loss(scores.flatten(0, 1), batch.parts.flatten())

    def measure(self, predictions: Iterable[Prediction]) -> dict[str, Any]:
        """In percent: `instance_miou`, `category_miou`, `per_category` where there are shapes."""
        seen = segmented(predictions, self.class_parts)
        found = part_iou(seen.predicted, seen.truth, seen.categories, self.class_parts)
        return {
            "instance_miou": found.instance,
            "category_miou": found.category,
            "per_category": {
                name: float(value)
                for name, value in zip(self.class_names, found.per_category, strict=True)
                if np.isfinite(value)
            },
        }

    def voting(self) -> None:
        """There is none."""

    def draw(self, seen: Segmented, path: Path) -> Path:
        """Draw shapes with labeled and predicted parts."""
        from i2pmae.pictures.parts import draw_parts

        lowest = np.array([min(self.class_parts[category]) for category in seen.categories])
        return draw_parts(
            path,
            list(seen.points),
            list(seen.truth - lowest[:, None]),
            list(seen.predicted - lowest[:, None]),
            [self.class_names[category] for category in seen.categories],
        )
