"""Encoder with a classification head."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from i2pmae.config import EncoderConfig, HeadConfig
from i2pmae.geometry.grouping import group
from i2pmae.model.fine_tuned import FineTuned
from i2pmae.model.layers import Dropout
from i2pmae.model.row_norm import RowNorm
from i2pmae.model.summary import summary


class NamedClass(NamedTuple):
    """The likeliest class of a cloud."""

    name: str
    probability: float
    top: tuple[tuple[str, float], ...]  # the likeliest classes, this one first


class Classifier(FineTuned):
    """Class of a cloud from the mean and maximum over its coarsest tokens.

    With `freeze_embeddings` its groups are embedded as they are, whatever else is trained.

    Args:
        encoder: the encoder's settings.
        head: the head's settings.
        n_classes: number of classes.
        class_names: of the classes, if they are known.

    Source: Point-M2AE, section 4.2.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        head: HeadConfig,
        n_classes: int,
        class_names: Sequence[str] = (),
    ):
        super().__init__(encoder, class_names)
        self.head_config = head
        self._frozen = False
        width = encoder.widths[-1]
        self.norm = nn.LayerNorm(width)
        pooled = width if head.pooling == "sum" else 2 * width
        if head.kind == "probe":
            self.head = nn.Sequential(
                nn.Linear(pooled, head.width), nn.ReLU(), nn.Linear(head.width, n_classes)
            )
            return
        self.head = nn.Sequential(
            nn.Linear(pooled, head.width),
            RowNorm(head.width),
            nn.ReLU(),
            Dropout(head.dropout),
            nn.Linear(head.width, head.width),
            RowNorm(head.width),
            nn.ReLU(),
            Dropout(head.dropout),
            nn.Linear(head.width, n_classes),
        )

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; frozen embeddings stay in the latter."""
        super().train(mode)
        if self._frozen:
            self.encoder.embeddings.eval()
        return self

    def freeze_embeddings(self) -> None:
        """Keep the embeddings of all levels from now on, the statistics of their BatchNorms too.

        Coordinates within a group are small, so the first BatchNorm divides by standard deviations
        of a few hundredths: a small change of the weights before it changes the features a lot.
        """
        self._frozen = True
        self.encoder.embeddings.requires_grad_(False)
        self.train(self.training)

    def __repr__(self) -> str:
        last: nn.Linear = self.head[-1]  # type: ignore[assignment]
        return summary(self, self.config, f"logits (B, {last.out_features})")

    def forward(self, points: Tensor) -> Tensor:
        """(B, N, 3) to logits (B, n_classes)."""
        logits: Tensor = self.head(self.pooled(points))
        return logits

    @torch.inference_mode()
    def predict(self, points: Any, top: int = 5) -> list[NamedClass]:
        """Name the classes of clouds, as files hold them.

        Clouds are moved and scaled to the unit sphere, and reduced to as many farthest points as
        the network was trained on. Points that are not finite are left out.

        Args:
            points: (B, N, 3), or (N, 3) of one cloud, tensor or array, any unit, y up.
            top: classes to name per cloud.

        Returns:
            One entry per cloud.

        Raises:
            DataError: if a cloud has too few finite points.
        """
        return self.named(self(self.prepared(points)[1]), top)

    def named(self, logits: Tensor, top: int = 5) -> list[NamedClass]:
        """The likeliest classes by logits (B, n_classes); classes without a name have a number."""
        names = self.class_names or tuple(map(str, range(logits.shape[1])))
        found = logits.float().softmax(dim=1).topk(min(top, logits.shape[1]), dim=1)
        classes = [
            tuple((names[index], probability) for index, probability in zip(*row, strict=True))
            for row in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]
        return [NamedClass(*likeliest[0], likeliest) for likeliest in classes]

    def pooled(self, points: Tensor) -> Tensor:
        """What the head sees of clouds (B, N, 3): (B, C), or (B, 2C) with pooling `concat`."""
        grouping = group(points.float(), self.config.n_centers, self.config.group_sizes)
        tokens = self.norm(self.encoder(grouping)[-1])
        mean, maximum = tokens.mean(dim=1), tokens.amax(dim=1)
        found: Tensor = mean + maximum
        return found if self.head_config.pooling == "sum" else torch.cat([mean, maximum], dim=1)
