"""What a classifier and a segmenter know besides their weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from i2pmae.config import EncoderConfig
from i2pmae.errors import DataError
from i2pmae.geometry.coordinates import finite_rows, to_unit_sphere, usable
from i2pmae.geometry.grouping import gather_rows
from i2pmae.geometry.sampling import farthest_points
from i2pmae.model.encoder import Encoder


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

    def prepared(self, points: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Clouds as files hold them, and the points of each that the network is to see.

        Args:
            points: (B, N, 3), or (N, 3) of one cloud, tensor or array, any unit.

        Returns:
            (B, N, 3) in the unit sphere on the network's device; as many farthest points of each as
            the network was trained on, or the clouds themselves if they have no more; and (B, N),
            whether a point was finite. One that was not is the copy of another.

        Raises:
            DataError: if a cloud is none, or has too few points that are finite.
        """
        if isinstance(points, Tensor):
            points = points.detach().cpu().double().numpy()
        given = np.asarray(points)
        given = given[None] if given.ndim == 2 else given
        if given.ndim != 3 or len(given) == 0 or given.dtype.kind not in "fiu":
            raise DataError(
                f"the clouds are {given.dtype} of shape {given.shape}; expected numbers of shape "
                "(B, N, 3), or (N, 3) of one cloud."
            )
        found = [self._usable(number, cloud) for number, cloud in enumerate(given)]
        device = next(self.parameters()).device
        clouds, finite = (
            torch.from_numpy(np.stack(each)).to(device) for each in zip(*found, strict=True)
        )
        if self.n_points is None or self.n_points >= clouds.shape[1]:
            return clouds, clouds, finite
        return clouds, gather_rows(clouds, farthest_points(clouds, self.n_points)), finite

    def _usable(
        self, number: int, cloud: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """A cloud (N, 3) in the unit sphere, and which of its points (N,) were finite."""
        least = self.config.least_points
        try:
            finite = finite_rows(cloud)
            xyz = to_unit_sphere(usable(cloud[finite]))
            if len(xyz) < least:
                raise DataError(f"has {len(xyz)} finite points; the network needs {least} or more.")
        except DataError as error:
            raise DataError(f"cloud {number}: {error}") from None
        filled = np.empty((len(cloud), 3), np.float32)
        filled[finite], filled[~finite] = xyz, np.resize(xyz, (np.count_nonzero(~finite), 3))
        return filled, finite
