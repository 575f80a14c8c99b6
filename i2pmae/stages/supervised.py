"""What training a classifier and a segmenter have in common."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from i2pmae.config import EncoderConfig, FinetuneConfig, to_plain
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import CheckpointError, ConfigError, TrainingError
from i2pmae.evaluation.split import labelled_part, validation_split
from i2pmae.geometry.transforms import augment
from i2pmae.interrupts import StopRequest, delayed_stop
from i2pmae.loading import encoder_config_of
from i2pmae.model.official import Kind, official_name
from i2pmae.progress import Progress, note
from i2pmae.stages.labelled import Batch, Clouds, draw_points
from i2pmae.stages.results import published_figures
from i2pmae.stages.run_folder import LAST, RunFolder
from i2pmae.training import checkpoint
from i2pmae.training.checkpoint import Checkpoint
from i2pmae.training.optim import make_optimizer, set_learning_rate
from i2pmae.training.seeding import step_generator, step_seed

ModelT = TypeVar("ModelT", bound=nn.Module)
BEST = "best.pt"
# Settings of the encoder that a checkpoint brings, also to a run from scratch beside it.
TAKEN = ("n_centers", "widths", "depths", "embedding_width", "n_heads", "init")


@dataclass
class Training(Generic[ModelT]):
    """A network in training, and all that changes with it."""

    kind: Kind
    model: ModelT
    optimizer: torch.optim.Optimizer
    config: FinetuneConfig
    encoder: EncoderConfig
    extra: dict[str, Any]  # kept in checkpoints
    device: torch.device
    dtype: torch.dtype
    report: str  # what the network starts from
    epoch: int = 0  # finished epochs
    best_score: float = -1.0  # on the validation clouds, percent
    best_epoch: int = 0

    def autocast(self) -> torch.autocast:
        """Context in which the network runs."""
        enabled = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def save(self, path: Path, *, with_optimizer: bool = True) -> None:
        """Write a checkpoint."""
        checkpoint.save(
            path,
            kind=self.kind,
            config={**to_plain(self.config), "encoder": to_plain(self.encoder)},
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict() if with_optimizer else None,
            epoch=self.epoch,
            metrics={"best_score": self.best_score, "best_epoch": self.best_epoch},
            extra=self.extra,
        )

    def restore(self, folder: RunFolder) -> None:
        """Continue after the last finished epoch of the run in a folder."""
        if folder.last.exists():
            saved = checkpoint.load(folder.last, map_location=self.device)
            if saved.kind != self.kind or saved.optimizer is None:
                raise CheckpointError(
                    f"{folder.last} is no checkpoint of an interrupted fine-tuning"
                )
            checkpoint.restore(folder.last, saved, self.model, self.optimizer)
            try:
                self.best_score = float(saved.metrics["best_score"])
                self.best_epoch = int(saved.metrics["best_epoch"])
            except (LookupError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{folder.last} is damaged: it does not say the best epoch; restore it from a "
                    "copy, or start again in another --out"
                ) from error
            self.epoch = saved.epoch
        folder.go_on(self.epoch)
        note(f"resuming {folder.path} after {self.epoch} epochs")


Loss = Callable[[Batch], Tensor]  # of augmented clouds, on their device


def load_pretrained(config: FinetuneConfig) -> Checkpoint | None:
    """The checkpoint to start from, or None.

    Raises:
        CheckpointError: if it cannot be read.
    """
    if config.checkpoint is None:
        return None
    pretrained = checkpoint.load(config.checkpoint)
    for message in pretrained.notes:
        note(message)
    return pretrained


def begin(
    kind: Kind,
    build: Callable[[EncoderConfig], ModelT],
    config: FinetuneConfig,
    pretrained: Checkpoint | None,
    extra: dict[str, Any],
    *counters: int,
) -> Training[ModelT]:
    """A network with the pre-trained encoder, ready for its first epoch.

    Args:
        kind: of the network.
        build: makes it.
        config: settings.
        pretrained: gives the encoder's settings `TAKEN`, and its weights unless the run is from
            scratch.
        extra: plain values to keep in checkpoints.
        counters: tell runs of the same seed apart.

    Raises:
        CheckpointError: if the checkpoint holds no encoder that fits.
        ConfigError: if the settings do not fit its sizes.
    """
    device = pick_device(config.device)
    encoder = config.encoder
    if pretrained is not None:
        sizes = encoder_config_of(pretrained)
        encoder = _with_sizes(encoder, {name: getattr(sizes, name) for name in TAKEN})
    encoder.require_points(config.points)
    torch.manual_seed(step_seed(config.seed, *counters))
    model = build(encoder)
    report = "random weights"
    if pretrained is not None and not config.from_scratch:
        report = str(checkpoint.load_encoder_weights(model, pretrained))
    model.to(device)
    optimizer = make_optimizer(model, config.optim, partial(official_name, kind))
    dtype = pick_dtype(config.precision, device)
    return Training(kind, model, optimizer, config, encoder, extra, device, dtype, report)


def _with_sizes(encoder: EncoderConfig, sizes: dict[str, Any]) -> EncoderConfig:
    """The recipe's encoder with a checkpoint's sizes."""
    try:
        return EncoderConfig.model_validate({**to_plain(encoder), **sizes})
    except ValidationError as error:
        reasons = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
        raise ConfigError(
            f"the checkpoint's encoder and these settings do not fit: {reasons}; set what differs, "
            "such as encoder.group_sizes and encoder.radii"
        ) from None


def divide(clouds: Clouds, config: FinetuneConfig) -> tuple[Clouds, Clouds]:
    """Clouds to train on, and clouds of the training split to choose the best epoch with.

    Both come from the share of the training split whose labels are used.

    Raises:
        DataError: if there are too few.
        ConfigError: if those to train on do not fill a batch.
    """
    if config.labels < 1:
        clouds = clouds.select(labelled_part(clouds.labels, config.labels, config.seed))
    fit, held_out = validation_split(clouds.labels, share=config.validation, seed=config.seed)
    if len(fit) < config.batch_size:
        raise ConfigError(
            f"{config.shapes} holds {len(fit)} training shapes after validation, fewer than "
            f"batch_size={config.batch_size}; lower it with --batch-size"
        )
    return clouds.select(fit), clouds.select(held_out)


def fit(
    training: Training[ModelT],
    folder: RunFolder,
    train: Clouds,
    loss_of: Loss,
    validate: Callable[[], dict[str, float]],
    score: str,
) -> None:
    """Train the epochs that are left.

    The folder gets one row of metrics per epoch, the last epoch's state and the weights of the
    epoch that is best on validation.

    Args:
        training: the network.
        folder: of the run.
        train: clouds to train on.
        loss_of: mean loss of a batch.
        validate: figures of the network as it is, in percent.
        score: the figure that decides which epoch is best.

    Raises:
        TrainingError: if the loss is not finite.
    """
    config = training.config
    n_steps = len(train.labels) // config.batch_size
    total, done = config.epochs * n_steps, training.epoch * n_steps
    with delayed_stop() as stop, Progress("finetune", total=total, done=done) as progress:
        while training.epoch < config.epochs:
            row = train_epoch(training, train, config.batch_size, loss_of, progress, stop)
            row |= validate()
            folder.log(row)
            if row[score] > training.best_score:
                training.best_score, training.best_epoch = row[score], training.epoch
                training.save(folder.to_save(BEST), with_optimizer=False)
            training.save(folder.to_save())
            progress.describe(
                f"epoch {training.epoch}/{config.epochs}, validation {row[score]:.2f}%"
            )
            stop.obey()


def train_epoch(
    training: Training[ModelT],
    train: Clouds,
    batch_size: int,
    loss_of: Loss,
    progress: Progress,
    stop: StopRequest,
    *counters: int,
) -> dict[str, float]:
    """One pass over the clouds; an incomplete last batch is dropped.

    What is random depends on the seed, `counters`, the epoch and the step alone.

    Returns:
        `epoch`, mean `loss`, `lr`.

    Raises:
        TrainingError: if the loss or a weight is not finite.
    """
    config, model, epoch = training.config, training.model, training.epoch
    rate, n_steps = 0.0, len(train.labels) // batch_size
    model.train()
    order_seed = step_seed(config.seed, *counters)
    losses: list[Tensor] = []
    for batch in train.batches(batch_size, seed=order_seed, epoch=epoch):
        if stop and losses:  # the epoch is repeated from the last checkpoint
            stop.obey()
        step = len(losses)
        rate = set_learning_rate(training.optimizer, config.optim, epoch, step / n_steps)
        # Dropout and stochastic depth draw from the global generator.
        torch.manual_seed(step_seed(config.seed, *counters, epoch, step))
        generator = step_generator(config.seed, *counters, epoch, step, device=training.device)
        drawn = draw_points(batch.to(training.device), config.points, generator)
        changed = augmented(drawn.points, config, generator)
        with training.autocast():
            loss = loss_of(drawn._replace(points=changed))
        loss.backward()
        if config.optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        progress.advance()
    mean_loss = float(torch.stack(losses).mean())
    spoiled = not torch.nn.utils.get_total_norm(model.parameters()).isfinite()
    if spoiled or not math.isfinite(mean_loss):
        last = config.out / LAST
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint is kept"
        raise TrainingError(
            f"{'weights are' if math.isfinite(mean_loss) else 'loss is'} not finite in epoch "
            f"{epoch + 1}; {kept}; lower optim.lr or use --precision fp32"
        )
    training.epoch = epoch + 1
    return {"epoch": training.epoch, "loss": mean_loss, "lr": rate}


def augmented(points: Tensor, config: FinetuneConfig, generator: torch.Generator) -> Tensor:
    """Clouds changed as the recipe says."""
    return augment(
        points,
        scale=config.augment.scale,
        scale_per_axis=config.augment.scale_per_axis,
        shift=config.augment.shift,
        rotation=config.augment.rotation,
        generator=generator,
    )


def evaluate_both(
    training: Training[ModelT], folder: RunFolder, evaluate: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Evaluate the test clouds once with the last and once with the selected epoch's weights.

    Returns:
        The figures of the selected epoch as they are, numbers of the last under `NAME_last`, and
        likewise those of validation under `validation_NAME`; `best_epoch`; `epochs`.
    """
    last = evaluate()
    best = last
    if training.best_epoch != training.epoch:
        saved = checkpoint.load(folder.path / BEST, map_location=training.device)
        training.model.load_state_dict(saved.model)
        best = evaluate()
    validation = {
        name: value
        for name, value in folder.row(training.epoch).items()
        if name.startswith("validation")
    }
    best_row = folder.row(training.best_epoch)
    return {
        **best,
        **{f"{name}_last": value for name, value in last.items() if isinstance(value, float)},
        **{name: best_row[name] for name in validation},
        **{f"{name}_last": value for name, value in validation.items()},
        "best_epoch": training.best_epoch,
        "epochs": training.epoch,
    }


def outcome(
    training: Training[ModelT],
    folder: RunFolder,
    figures: dict[str, Any],
    clouds: dict[str, Clouds],
    started: float,
) -> dict[str, Any]:
    """A run's figures with all that says where they come from.

    Args:
        training: the network.
        folder: of the run.
        figures: what was measured.
        clouds: train, validation and test.
        started: `time.monotonic()` at the beginning.
    """
    config = training.config
    return {
        "task": config.task,
        **figures,
        "published": published_figures(config.recipe),
        **{f"n_{name}": len(part.labels) for name, part in clouds.items()},
        "data": str(config.shapes),
        "recipe": config.recipe,
        "pretrained": None if config.checkpoint is None else str(config.checkpoint),
        "from_scratch": config.checkpoint is None or config.from_scratch,
        "seed": config.seed,
        "checkpoint": str(folder.path / BEST),
        "out": str(config.out),
        "seconds": round(time.monotonic() - started, 2),
    }
