"""Pre-training as a task: batches of a store in, 2D and 3D losses out (section 3 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from i2pmae.config import PretrainConfig, TargetConfig
from i2pmae.geometry.draws import Part
from i2pmae.geometry.grouping import gather_rows
from i2pmae.geometry.transforms import augment, normalize_to_unit_sphere, random_subset
from i2pmae.model.pretraining import TARGET_LEVEL, PretrainingModel, PretrainingOutput
from i2pmae.store import StoreReader
from i2pmae.store.point_features import stored_pixels, stored_visible
from i2pmae.store.reader import epoch_order
from i2pmae.training.distributed import ProcessGroup, plain
from i2pmae.training.run_folder import Row
from i2pmae.training.stored import to_tensors
from i2pmae.training.target_statistics import channel_statistics


def build_model(config: PretrainConfig, reader: StoreReader) -> PretrainingModel:
    """The pre-training network for a store's views and features."""
    model = PretrainingModel(
        config.encoder,
        config.masking,
        config.targets,
        **network_sizes(reader),
        embed=config.embed,
    )
    if model.standardized:
        model.standardize_targets(*channel_statistics(reader, reader.indices(config.split)))
    return model


def network_sizes(reader: StoreReader) -> dict[str, int]:
    """What of a store decides the network's sizes."""
    spec = reader.info.spec
    return {
        "n_views": spec.n_views,
        "image_channels": spec.channels,
        "image_size": spec.image_size,
    }


class PretrainingTask:
    """Reconstruction of hidden tokens and of image features.

    Args:
        config: settings.
        reader: the store.
        indices: shapes to train on.
        process_group: those that share the batches.
        device: that batches go to.
        metrics: of the network after an epoch.
    """

    losses: tuple[str, ...] = ("loss", "loss_2d", "loss_3d")
    score: str | None = None

    def __init__(
        self,
        config: PretrainConfig,
        reader: StoreReader,
        indices: NDArray[np.int64],
        process_group: ProcessGroup,
        device: torch.device,
        metrics: Callable[[int], Row],
    ) -> None:
        self.n_shapes = len(indices)
        self.metrics = metrics
        self._config = config
        self._reader = reader
        self._indices = indices
        self._process_group = process_group
        self._device = device
        self._axes = torch.from_numpy(reader.view_axes).to(device)

    def batches(self, size: int, epoch: int, start: int, part: Part) -> Iterator[dict[str, Tensor]]:
        """See `Task`."""
        for arrays in self._reader.batches(
            size,
            seed=self._config.seed,
            epoch=epoch,
            indices=self._indices,
            start=start,
            part=(part.index, part.count),
        ):
            yield to_tensors(arrays, self._device)

    def losses_of(
        self, network: nn.Module, batch: Mapping[str, Tensor], generator: Generator | None
    ) -> Tensor:
        """See `Task`."""
        output = pretraining_step(network, batch, self._config, self._axes, generator)
        return shared_losses(output, self._config.targets, self._process_group)

    def ids(self, epoch: int, first: int, n: int) -> list[str]:
        """See `Task`."""
        order = epoch_order(self._indices, self._config.seed, epoch)
        return [str(name) for name in self._reader.read_all("id")[order[first : first + n]]]


def pretraining_step(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    config: PretrainConfig,
    axes: Tensor,
    generator: Generator | None,
) -> PretrainingOutput:
    """Losses of one batch of a store.

    Pixels belong to the canonical coordinates that were rendered; sampling, centering and
    augmentation touch only what the 3D network sees.

    Args:
        model: the network, perhaps as `ProcessGroup.wrap` returns it.
        batch: arrays of the store on the model's device, shapes first.
        config: number of points and augmentation.
        axes: (V, 3, 3) directions of the store's views.
        generator: on the model's device; draws points, augmentation and masks. None: torch's
            own, the only one that a compiled step can draw from without breaking its graph.

    Source: section 3.2 of the paper; ShapeNet's sampling in the official recipe.
    """
    chosen = random_subset(batch["points"], config.points, generator)
    canonical = gather_rows(batch["points"], chosen)
    points = normalize_to_unit_sphere(canonical)
    points = augment(points, **dict(config.augment), generator=generator)
    image_size = cast(PretrainingModel, plain(model)).image_size
    output: PretrainingOutput = model(
        points,
        batch["features"],
        batch["saliency"],
        stored_pixels(batch, canonical, axes, image_size),
        generator=generator,
        feature_scale=batch.get("feature_scale"),
        seen=stored_visible(batch, chosen),
    )
    return output


def shared_losses(
    output: PretrainingOutput, targets: TargetConfig, process_group: ProcessGroup
) -> Tensor:
    """Total, 2D and 3D loss (3,), whose means over processes are those of the whole batch.

    Each loss is a mean over tokens, visible or hidden ones or all, and processes differ in how
    many they have. So a process's mean counts as its share of them.
    """
    if not process_group.together:
        return torch.stack([output.loss, output.loss_2d, output.loss_3d])
    counts = torch.stack([output.n_compared, output.masks[TARGET_LEVEL].sum()]).to(output.loss)
    shares = process_group.shares(counts)
    loss_2d, loss_3d = (shares * torch.stack([output.loss_2d, output.loss_3d])).unbind()
    loss = targets.weight_2d * loss_2d + targets.weight_3d * loss_3d
    return torch.stack([loss, loss_2d, loss_3d])
