"""Features of every point of shapes: a file per shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from i2pmae.atomic_write import written
from i2pmae.config import EmbedConfig
from i2pmae.datasets import ShapeSource
from i2pmae.evaluation.features import extract_features
from i2pmae.evaluation.shape_files import ShapeFiles
from i2pmae.model.frozen import FrozenEncoder


class DenseFiles:
    """Writes `points` (N, 3) float32 and `features` (N, C) float16 of shapes to `.npz` files.

    Attributes:
        files: where they go.

    Raises:
        DataError: if that would overwrite files of the user's.
    """

    def __init__(
        self,
        config: EmbedConfig,
        source: ShapeSource,
        encoder: FrozenEncoder,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.files = ShapeFiles(config.out, source, [config.data], "npz", "i2pmae embed --dense")
        self._encoder, self._device, self._dtype = encoder, device, dtype

    def write(self, points: Sequence[NDArray[np.float32]], indices: Sequence[int]) -> None:
        """Write the files of a batch.

        Raises:
            DataError: if one cannot be written.
        """
        features = extract_features(
            self._encoder.point_features,
            points,
            batch_size=len(points),
            device=self._device,
            dtype=self._dtype,
        )
        for index, cloud, of_points in zip(indices, points, features, strict=True):
            with written(self.files.file(index)) as temporary, temporary.open("wb") as stream:
                np.savez(
                    stream,
                    made_by=np.bytes_(self.files.mark),  # first, so that the mark is at the start
                    points=cloud,
                    features=of_points.astype(np.float16),
                )
