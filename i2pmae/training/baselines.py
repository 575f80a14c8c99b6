"""Baselines that fine-tuning must beat: chance, the most frequent class, a linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2pmae.checkpoints.networks import load_encoder
from i2pmae.config import FinetuneConfig
from i2pmae.evaluation.features import extract_features
from i2pmae.evaluation.metrics import accuracy
from i2pmae.evaluation.svm import linear_svm
from i2pmae.training.labeled import Clouds
from i2pmae.training.loop import Training


def baselines(
    class_names: Sequence[str], train: Clouds, test: Clouds, training: Training[Any]
) -> dict[str, float]:
    """Baselines that need no fine-tuning, in percent of the test shapes.

    Args:
        class_names: of the labels.
        train: shapes whose labels are used.
        test: shapes to test.
        training: whose encoder's checkpoint, settings, device and precision count.

    Returns:
        `chance`, a guess among all classes; `majority`, always the most frequent training class;
        with a pre-trained encoder `linear_probe`, a linear SVM on its frozen features.
    """
    config = training.config
    train_y, test_y = train.labels, test.labels
    found = {
        "chance": 100 / len(class_names),
        "majority": accuracy(np.full_like(test_y, np.bincount(train_y).argmax()), test_y),
    }
    if not isinstance(config, FinetuneConfig) or config.checkpoint is None or config.from_scratch:
        return found
    encoder = load_encoder(config.checkpoint).to(training.device)

    def features(clouds: Clouds) -> NDArray[np.float32]:
        points = (
            cloud
            for batch in clouds.in_order(config.batch_size)
            for cloud in batch.first(config.points).points.numpy()
        )
        return extract_features(
            encoder,
            points,
            batch_size=config.batch_size,
            device=training.device,
            dtype=training.dtype,
        )

    svm = linear_svm(features(train), train_y, features(test), test_y, C=None)
    return found | {"linear_probe": svm.accuracy}
