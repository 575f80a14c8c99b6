"""What a classifier and a segmenter know besides their weights."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from i2pmae.config import EncoderConfig
from i2pmae.geometry.clouds import normalized_clouds
from i2pmae.geometry.grouping import gather_rows
from i2pmae.geometry.sampling import farthest_points
from i2pmae.model.encoder import Encoder
from i2pmae.model.row_norm import RowNorm


class FineTuned(nn.Module):
    """An encoder that was fine-tuned on labeled shapes; its head is a subclass's.

    Args:
        encoder: the encoder's settings.
        class_names: of the shapes, if they are known.
        normalized: as of `Encoder`.

    Attributes:
        n_points: points of a cloud that it was trained on; None where nothing says it.
        sampling: how evaluation chose these points; None where nothing says it.
        up: axis that pointed up in the files of the shapes it was trained on.
    """

    def __init__(
        self, encoder: EncoderConfig, class_names: Sequence[str], *, normalized: bool = False
    ):
        super().__init__()
        self.config = encoder
        self.class_names = tuple(class_names)
        self.n_points: int | None = None
        self.sampling: str | None = None
        self.up = "y"
        self.encoder = Encoder(encoder, normalized=normalized)

    @property
    def normalizes_shapes(self) -> bool:
        """Whether the head has a BatchNorm, which takes two shapes or more to train."""
        parts = (part for name, part in self.named_children() if name != "encoder")
        return any(isinstance(module, RowNorm) for part in parts for module in part.modules())

    def prepared(self, points: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Clouds as files hold them, and the points of each that the network is to see.

        Args:
            points: (B, N, 3), or (N, 3) of one cloud, tensor or array, any unit.

        Returns:
            What `normalized_clouds` does, on the network's device, and between the two as many
            farthest points of each cloud as the network was trained on, or the clouds themselves if
            they have no more.

        Raises:
            DataError: if a cloud is none, or has too few points that are finite.
        """
        device = next(self.parameters()).device
        clouds, finite = normalized_clouds(points, self.config.least_points, device)
        if self.n_points is None or self.n_points >= clouds.shape[1]:
            return clouds, clouds, finite
        return clouds, gather_rows(clouds, farthest_points(clouds, self.n_points)), finite
