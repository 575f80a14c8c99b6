"""Encoder with a head per point: which part of the object a point belongs to."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2pmae.config import EncoderConfig, SegmentHeadConfig
from i2pmae.errors import ConfigError
from i2pmae.geometry.grouping import group, nearest_neighbors
from i2pmae.geometry.shapes import require_shape
from i2pmae.model.decoder import interpolate
from i2pmae.model.fine_tuned import FineTuned
from i2pmae.model.layers import Dropout
from i2pmae.model.row_norm import RowNorm
from i2pmae.model.summary import summary


class NamedParts(NamedTuple):
    """Parts of a cloud's points."""

    parts: Tensor  # (N,) int64
    names: tuple[str, ...]  # of all parts that the network knows
    probability: Tensor  # (N,) of each point's part, among those of the cloud's category

    @property
    def named(self) -> list[str]:
        """The name of every point's part."""
        return [self.names[part] for part in self.parts.tolist()]


class LevelToPoints(nn.Module):
    """Tokens of one level brought to the points."""

    def __init__(self, width: int, hidden: int, width_out: int):
        super().__init__()
        self.first = nn.Linear(3 + width, hidden)
        self.first_norm = RowNorm(hidden)
        self.second = nn.Linear(hidden, width_out)
        self.second_norm = RowNorm(width_out)

    def forward(self, points: Tensor, centers: Tensor, tokens: Tensor) -> Tensor:
        """(B, N, 3), (B, G, 3), (B, G, C) to rows (B N, C')."""
        carried = interpolate(points, centers, tokens)
        rows = torch.cat([points.to(carried.dtype), carried], dim=-1).flatten(0, 1)
        rows = self.first_norm(self.first(rows)).relu()
        spread: Tensor = self.second_norm(self.second(rows)).relu()
        return spread


class Segmenter(FineTuned):
    """Part of every point.

    Args:
        encoder: the encoder's settings.
        n_parts: number of parts over all categories.
        n_categories: number of object categories.
        head: the head's settings; None: the paper's.
        class_names: of the categories, if they are known.
        part_names: of the parts, likewise.
        class_parts: per category, the parts that it may have, likewise.

    Source: Point-M2AE, section 4.2.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        n_parts: int,
        n_categories: int,
        head: SegmentHeadConfig | None = None,
        class_names: Sequence[str] = (),
        part_names: Sequence[str] = (),
        class_parts: Sequence[Sequence[int]] = (),
    ):
        super().__init__(encoder, class_names, normalized=True)
        self.part_names = tuple(part_names)
        self.class_parts = tuple(map(tuple, class_parts))
        head = SegmentHeadConfig() if head is None else head
        self.head_config = head
        self.n_categories, self.n_parts = n_categories, n_parts
        self.category = nn.Sequential(
            nn.Linear(n_categories, 64, bias=False), RowNorm(64), nn.LeakyReLU(0.2)
        )
        hidden, level_width = head.level_widths
        self.levels = nn.ModuleList(
            LevelToPoints(width, hidden, level_width) for width in encoder.widths
        )
        self.width = level_width * len(encoder.widths)
        first, second, third = head.widths
        self.head = nn.Sequential(
            nn.Linear(2 * self.width + 64, first),
            RowNorm(first),
            nn.ReLU(),
            Dropout(head.dropout),
            nn.Linear(first, second),
            RowNorm(second),
            nn.ReLU(),
            nn.Linear(second, third),
            RowNorm(third),
            nn.ReLU(),
            nn.Linear(third, n_parts),
        )

    def __repr__(self) -> str:
        last: nn.Linear = self.head[-1]  # type: ignore[assignment]
        return summary(self, self.config, f"log-probabilities (B, N, {last.out_features})")

    def forward(self, points: Tensor, category: Tensor) -> Tensor:
        """Log-probabilities.

        Args:
            points: (B, N, 3) float.
            category: (B,) int64, of the object.

        Returns:
            (B, N, n_parts).
        """
        require_shape("points", points, "B", "N", 3)
        require_shape("category", category, points.shape[0])
        batch, n_points, _ = points.shape
        points = points.float()
        grouping = group(points, self.config.n_centers, self.config.group_sizes)
        encoded = self.encoder(grouping)
        rows = torch.cat(
            [
                level(points, centers, tokens)
                for level, centers, tokens in zip(
                    self.levels, grouping.centers, encoded, strict=True
                )
            ],
            dim=-1,
        )
        per_point = rows.view(batch, n_points, self.width)
        whole = per_point.amax(dim=1) + per_point.mean(dim=1)
        kind = self.category(F.one_hot(category, self.n_categories).to(whole.dtype))
        # The first layer acts on [whole, category, point]: the first two once per cloud.
        first: nn.Linear = self.head[0]  # type: ignore[assignment]
        per_cloud = F.linear(
            torch.cat([whole, kind], dim=1), first.weight[:, : -self.width], first.bias
        )
        rows = F.linear(rows, first.weight[:, -self.width :]).view(batch, n_points, -1)
        rows = self.head[1:]((rows + per_cloud[:, None]).flatten(0, 1))
        scores: Tensor = rows.view(batch, n_points, -1).float()
        return scores.log_softmax(dim=-1)

    @torch.inference_mode()
    def predict(self, points: Any, category: str | int | None = None) -> list[NamedParts]:
        """Name the parts of every point of clouds, as files hold them.

        Clouds are moved and scaled to the unit sphere. Of a cloud with more points than the network
        was trained on it sees as many farthest ones; the others take the part of the nearest.
        Points that are not finite are left out; their parts mean nothing and have probability 0.

        Args:
            points: (B, N, 3), or (N, 3) of one cloud, tensor or array, any unit, y up.
            category: of the objects, by name or number; None where the network knows one only.

        Returns:
            One entry per cloud.

        Raises:
            ConfigError: if the network does not know the category.
            DataError: if a cloud has too few finite points.
        """
        place = self._place_of(category)
        clouds, seen, finite = self.prepared(points)
        nearest = None if seen is clouds else nearest_neighbors(clouds, seen, 1).squeeze(2)
        scores = self(seen, torch.full((len(seen),), place, device=seen.device))
        if self.class_parts:
            allowed = torch.zeros(self.n_parts, dtype=torch.bool, device=scores.device)
            allowed[list(self.class_parts[place])] = True
            scores = scores.masked_fill(~allowed, -torch.inf)
        probability, parts = scores.softmax(dim=2).max(dim=2)
        if nearest is not None:
            probability, parts = probability.gather(1, nearest), parts.gather(1, nearest)
        probability = probability * finite
        names = self.part_names or tuple(f"part {k}" for k in range(self.n_parts))
        return [
            NamedParts(of_cloud, names, sure)
            for of_cloud, sure in zip(parts, probability, strict=True)
        ]

    def _place_of(self, category: str | int | None) -> int:
        """Number of a category.

        Raises:
            ConfigError: if there is none such.
        """
        names = self.class_names or tuple(map(str, range(self.n_categories)))
        if category is None and len(names) == 1:
            return 0
        asked = str(category)
        if asked in names:
            return names.index(asked)
        if isinstance(category, int) and 0 <= category < len(names):
            return category
        what = "no category is named" if category is None else f"there is no category {asked!r}"
        raise ConfigError(f"{what}; the segmenter knows {', '.join(names)}")
