from types import SimpleNamespace

import numpy as np
import pytest
import torch

from i2pmae.config import AugmentConfig, FinetuneConfig
from i2pmae.errors import DataError
from i2pmae.geometry.draws import WHOLE
from i2pmae.training.classify import Classification
from i2pmae.training.labeled import Batch, open_labeled
from i2pmae.training.losses import smoothed_cross_entropy
from i2pmae.training.supervised import LabeledTask

LABELS = np.repeat([0, 2], [30, 10])


def objective(**changes):
    config = FinetuneConfig(data="d", out="o", points=64, **changes)
    data = SimpleNamespace(class_names=("a", "b", "c"), train=SimpleNamespace(labels=LABELS))
    return Classification.of(config, data)


def test_classes_count_as_they_are_rarer_where_asked():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.zeros(4, 1, 3), torch.ones(4), torch.tensor([0, 2, 0, 2]))
    assert objective().weights is None
    balanced = objective(class_weights="balanced")
    assert balanced.weights[[0, 2]].tolist() == pytest.approx([40 / 90, 40 / 30])
    assert balanced.weights.isfinite().all()  # of a class without a shape, too
    found = balanced.loss(lambda _: logits, batch)
    assert found == smoothed_cross_entropy(logits, batch.labels, 0.2, balanced.weights)
    assert found != objective().loss(lambda _: logits, batch)


def test_only_labels_in_use_weigh_classes(tmp_path):
    points = np.random.default_rng(0).random((64, 3))
    for name, count in (("train/a", 20), ("train/b", 5), ("test/a", 1), ("test/b", 1)):
        (tmp_path / name).mkdir(parents=True)
        for number in range(count):
            np.save(tmp_path / name / f"{number}.npy", points)
    config = FinetuneConfig(data=tmp_path, out="o", labels=0.3, class_weights="balanced")
    data = open_labeled(config)
    assert np.bincount(data.train.labels).tolist() == [6, 2]
    assert Classification.of(config, data).weights.tolist() == pytest.approx([8 / 12, 8 / 4])


def test_the_weights_of_classes_stay_where_they_are():
    """On a GPU as well: a head is fitted with them on the CPU after training."""
    balanced = objective(class_weights="balanced")
    meta = Batch(*(torch.zeros(4, dtype=torch.long, device="meta") for _ in range(3)))
    balanced.loss(lambda _: torch.zeros(4, 3, device="meta"), meta)
    assert balanced.weights.device.type == "cpu"


def test_training_shapes_of_one_class_are_refused():
    data = SimpleNamespace(class_names=("a", "b"), train=SimpleNamespace(labels=np.zeros(8)))
    with pytest.raises(DataError, match="all training shapes are of one class"):
        Classification.of(FinetuneConfig(data="d", out="o"), data)


def nearest(points):
    """Median distance of a point to the nearest other one."""
    return torch.cdist(points, points).fill_diagonal_(torch.inf).amin(dim=1).median()


def test_a_step_sees_points_as_the_sampling_says():
    """Spread over the cloud with sampling `spread`, and others in another step."""
    cloud = torch.rand(1, 1000, 3, generator=torch.Generator().manual_seed(0))
    clouds = SimpleNamespace(
        labels=LABELS, batches=lambda *_, **__: [Batch(cloud, torch.tensor([1000]), torch.zeros(1))]
    )
    training = SimpleNamespace(device=torch.device("cpu"), counters=())
    seen = {}
    for sampling in ("spread", "random"):
        still = AugmentConfig(scale=(1, 1), shift=0)
        stage = objective(sampling=sampling, augment=still)
        stage.loss = lambda _, batch: batch.points
        task = LabeledTask(stage, clouds, training)
        (batch,) = task.batches(1, 0, 0, WHOLE)
        generators = (torch.Generator().manual_seed(step) for step in range(2))
        seen[sampling] = [task.losses_of(None, batch, each)[0, 0] for each in generators]
        assert not torch.equal(*seen[sampling])
    assert nearest(seen["spread"][0]) > 1.5 * nearest(seen["random"][0])
