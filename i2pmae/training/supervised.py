"""Fine-tuning of a classifier or a segmenter: an encoder and labeled shapes in, a network out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from pydantic import ValidationError
from torch import Generator, Tensor, nn

from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.checkpoint import Checkpoint
from i2pmae.checkpoints.networks import encoder_config_of, load_norm
from i2pmae.config import EncoderConfig, FinetuneConfig, to_plain
from i2pmae.device import pick_device, pick_dtype
from i2pmae.errors import ConfigError
from i2pmae.evaluation.split import validation_split
from i2pmae.geometry.draws import Part
from i2pmae.geometry.transforms import augment
from i2pmae.model.classifier import Classifier
from i2pmae.progress import note
from i2pmae.recipes import published_figures
from i2pmae.store.reader import epoch_order
from i2pmae.training.baselines import baselines
from i2pmae.training.classify import Classification
from i2pmae.training.distributed import ProcessGroup
from i2pmae.training.labeled import Batch, Clouds, draw_points, draw_spread_points, open_labeled
from i2pmae.training.loop import Training, say_begin, train
from i2pmae.training.prediction import Prediction, Voting, predict, segmented
from i2pmae.training.probe_head import fit_head
from i2pmae.training.result import FinetuneResult
from i2pmae.training.run_folder import BEST, Row, RunFolder
from i2pmae.training.seeding import step_seed
from i2pmae.training.segment import N_DRAWN, PICTURE, Segmentation
from i2pmae.urls import as_typed

Objective = Classification | Segmentation
Figures = dict[str, float | dict[str, float]]  # percent; per class or category
# Settings of the encoder that a checkpoint brings, also to a run from scratch beside it.
TAKEN = ("n_centers", "widths", "depths", "embedding_width", "n_heads", "init")
GROUPS = ("group_sizes", "radii")  # that it brings where `groups` says so
_BY_LUCK = 1.5  # validation shapes that one of many epochs may have more than the fitted head


def run(
    config: FinetuneConfig,
    process_group: ProcessGroup,
    pretrained: Checkpoint | None,
    *,
    resume: bool = False,
) -> FinetuneResult:
    """Train a network for the task of the settings.

    The best epoch is chosen on a validation part of the training split; the test split is
    evaluated once, with the last and with that epoch's weights.

    Args:
        config: settings; `out` receives `config.json`, `metrics.jsonl` and checkpoints.
        process_group: those that share the batches.
        pretrained: the checkpoint that the settings name.
        resume: continue the run in `out`, to the numbers of a run that was never interrupted.

    Returns:
        Percent: the objective's figures of the best validation epoch, `validation_*` of the same,
        both of the last epoch under `*_last`; `best_epoch`, `epochs`, `n_train`, `n_validation`,
        `n_test`, `checkpoint` and where it came from. Processes but the first: nothing.

    Raises:
        DataError: if a split or its labels are missing.
        CheckpointError: if the checkpoint holds no encoder that fits.
    """
    started = time.monotonic()
    data = open_labeled(config)
    objective = (Classification if config.task == "classification" else Segmentation).of(
        config, data
    )
    objective.extra |= {"up": data.up, "shapes": _hash_of(data.train, data.test)}
    folder = RunFolder(config.out)
    if process_group.is_first:
        folder.start(config, resume=resume, may_change=may_change(config))
    process_group.wait()
    everything, fit, held_out = divide(data.train, config)
    for clouds in (everything, data.test) if process_group.is_first else (fit,):
        clouds.prepare()
    is_new = not (resume and folder.last.exists())
    training = begin(objective, config, process_group, pretrained, fit_on=fit if is_new else None)
    training.margin = 100 * _BY_LUCK / len(held_out.labels)

    def see(clouds: Clouds, voting: Voting | None = None) -> Iterator[Prediction]:
        batches = clouds.in_order(config.batch_size)
        return predict(training.model, batches, config.points, dtype=training.dtype, voting=voting)

    def metrics(_epoch: int) -> Row:
        return {
            f"validation_{name}": value
            for name, value in objective.measure(see(held_out)).items()
            if isinstance(value, float)
        }

    def test() -> Figures:
        figures, voting = objective.measure(see(data.test)), objective.voting()
        if voting is not None:
            voted = objective.measure(see(data.test, voting))
            figures[f"{objective.score}_vote"] = voted[objective.score]
        return figures

    task = LabeledTask(objective, fit, training, f"validation_{objective.score}", metrics)
    say_begin("finetune", training.model, config, process_group, task.n_shapes)
    if resume:
        saved = training.read(folder)
        if saved is not None:
            _require_same_shapes(saved, folder, config, objective.extra["shapes"])
        training.restore(folder, saved, task)
    train(training, task, folder, "finetune")
    if not process_group.is_first:
        process_group.wait()
        return {}
    last, best = test(), Figures()
    if training.best_epoch != training.epoch:
        saved = checkpoint.load(folder.path / BEST)
        training.model.load_state_dict(saved.model)
        if training.is_fitted_best:
            fit_head_again(training, everything, objective, folder)
        best = test()
    known: dict[str, object] = {}
    if isinstance(objective, Classification):
        known = {"baselines": baselines(objective.class_names, everything, data.test, training)}
    result: dict[str, object] = {
        "command": "finetune",
        "task": config.task,
        **_of_both(best or last, last),
        **_of_both(*(_validated(folder, n) for n in (training.best_epoch, training.epoch))),
        **known,
        "best_epoch": training.best_epoch,
        "epochs": training.epoch,
        "stopped_early": training.epoch < config.epochs,
        "n_train": len(fit.labels),
        "n_validation": len(held_out.labels),
        "n_test": len(data.test.labels),
        "checkpoint": str(folder.path / BEST),
        **origin(config, data.recipe, started),
    }
    if isinstance(objective, Segmentation):  # the first shape of each of the first categories
        first = np.unique(data.test.labels, return_index=True)[1][:N_DRAWN].astype(np.int64)
        seen = segmented(see(data.test.select(first)), objective.class_parts)
        result["picture"] = str(objective.draw(seen, folder.path / PICTURE))
    process_group.wait()
    return cast(FinetuneResult, result)


def _of_both(best: Figures, last: Figures) -> Figures:
    """Figures of the best epoch, and numbers of the last one under other names."""
    return best | {
        f"{name}_last": value for name, value in last.items() if isinstance(value, float)
    }


def _validated(folder: RunFolder, epoch: int) -> Figures:
    row = folder.row(epoch)
    return {name: value for name, value in row.items() if name.startswith("validation")}


def _hash_of(*splits: Clouds) -> str:
    """Hash of the ids and labels of labeled shapes: 64 hexadecimal digits."""
    told = [list(zip(clouds.ids, clouds.labels.tolist(), strict=True)) for clouds in splits]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _require_same_shapes(
    saved: Checkpoint, folder: RunFolder, config: FinetuneConfig, shapes: str
) -> None:
    """Refuse to resume with other shapes, which could validate on those that were trained on."""
    if saved.extra.get("shapes", shapes) != shapes:  # older ones do not say
        raise ConfigError(
            f"--resume: shapes or labels of {config.shapes} have changed since {folder.path} was "
            "begun; restore them, or choose another --out"
        )


def may_change(config: FinetuneConfig) -> tuple[str, ...]:
    """Settings that a resumed run may change, or that older versions did not record as they were.

    Version 0.1 wrote the recipe's sizes of the encoder, where the checkpoint brought others.
    """
    taken = TAKEN if config.checkpoint is not None else ()
    return ("accumulate", *(f"encoder.{name}" for name in taken))


def origin(config: FinetuneConfig, own: str | None, started: float) -> dict[str, object]:
    """What every result says of where it comes from.

    Args:
        config: settings of the run.
        own: see `published_figures`.
        started: by `time.monotonic()`.
    """
    return {
        "published": published_figures(config.recipe, own),
        "data": str(config.shapes),
        "recipe": config.recipe,
        "pretrained": None if config.checkpoint is None else as_typed(config.checkpoint),
        "from_scratch": config.checkpoint is None or config.from_scratch,
        "seed": config.seed,
        "out": str(config.out),
        "seconds": round(time.monotonic() - started, 2),
    }


class LabeledTask:
    """Labeled clouds as a task of the loop: points are drawn again and augmented in every step.

    Args:
        objective: gives the loss.
        clouds: to train on.
        training: the network.
        score, metrics: see `Task`; few-shot runs choose nothing.
    """

    losses: tuple[str, ...] = ("loss",)

    def __init__(
        self,
        objective: Objective,
        clouds: Clouds,
        training: Training[Any],
        score: str | None = None,
        metrics: Callable[[int], Row] = lambda _epoch: {},
    ) -> None:
        self.n_shapes = len(clouds.labels)
        self.score = score
        self.metrics = metrics
        self._objective = objective
        self._clouds = clouds
        self._device = training.device
        self._seed = step_seed(objective.config.seed, *training.counters)

    def batches(self, size: int, epoch: int, start: int, part: Part) -> Iterator[Batch]:
        """See `Task`."""
        for batch in self._clouds.batches(
            size, seed=self._seed, epoch=epoch, start=start, part=part
        ):
            yield batch.to(self._device)

    def losses_of(self, network: nn.Module, batch: Batch, generator: Generator) -> Tensor:
        """See `Task`."""
        config = self._objective.config
        draw = draw_spread_points if config.sampling == "spread" else draw_points
        drawn = draw(batch, config.points, generator)
        points = augment(drawn.points, **dict(config.augment), generator=generator)
        return self._objective.loss(network, drawn._replace(points=points))[None]

    def ids(self, epoch: int, first: int, n: int) -> list[str]:
        """See `Task`."""
        names = self._clouds.ids
        order = epoch_order(np.arange(self.n_shapes), self._seed, epoch)
        return [names[place] for place in order[first : first + n].tolist()]


def load_pretrained(config: FinetuneConfig) -> tuple[FinetuneConfig, Checkpoint | None]:
    """The checkpoint to start from, if there is one, and the settings with its encoder's sizes.

    Raises:
        CheckpointError: if it cannot be read.
        ConfigError: if the settings do not fit its sizes.
    """
    pretrained = None
    if config.checkpoint is not None:
        pretrained = checkpoint.load(config.checkpoint)
        axes = [] if config.data is None else checkpoint.notes_on_axes(pretrained.up, config.up)
        for message in (*pretrained.notes, *axes):
            note(message)
        sizes = encoder_config_of(pretrained)
        taken = (*TAKEN, *(GROUPS if config.groups == "checkpoint" else ()))
        encoder = _with_sizes(config.encoder, {name: getattr(sizes, name) for name in taken})
        config = config.model_copy(update={"encoder": encoder})
    config.encoder.require_points(config.points)
    return config, pretrained


def _with_sizes(encoder: EncoderConfig, sizes: dict[str, object]) -> EncoderConfig:
    """The recipe's encoder with a checkpoint's sizes."""
    try:
        return EncoderConfig.model_validate({**to_plain(encoder), **sizes})
    except ValidationError as error:
        reasons = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
        raise ConfigError(
            f"the checkpoint's encoder and these settings do not fit: {reasons}; set what differs, "
            "such as encoder.group_sizes and encoder.radii"
        ) from None


def begin(
    objective: Objective,
    config: FinetuneConfig,
    process_group: ProcessGroup,
    pretrained: Checkpoint | None,
    counters: tuple[int, ...] = (),
    batch_size: int = 0,
    *,
    fit_on: Clouds | None = None,
) -> Training[Any]:
    """A network with the pre-trained encoder, ready for its first epoch.

    Args:
        objective: makes it.
        config: settings, with the sizes of `pretrained`.
        process_group: those that share the batches.
        pretrained: gives the encoder's weights, unless the run is from scratch.
        counters: tell runs of the same seed apart.
        batch_size: of a step; 0: the settings'.
        fit_on: shapes that a probe's head on a pre-trained encoder is fitted to; None: it starts
            with random weights.

    Raises:
        CheckpointError: if the checkpoint holds no encoder that fits.
    """
    torch.manual_seed(step_seed(config.seed, *counters))
    model: nn.Module = objective.build(config.encoder)
    report = "random weights"
    if pretrained is not None and not config.from_scratch:
        report = str(checkpoint.load_encoder_weights(model, pretrained))
    if not counters:
        note(report)
    device = pick_device(config.device)
    model.to(device)
    is_probe = False
    if isinstance(model, Classifier) and pretrained is not None and not config.from_scratch:
        is_probe = config.head.kind == "probe"
        if is_probe:
            load_norm(model.norm, pretrained)
            model.freeze_embeddings()
            if fit_on is not None:
                fit_head(
                    model,
                    fit_on,
                    config,
                    objective.weights if isinstance(objective, Classification) else None,
                    pick_dtype(config.precision, device),
                )
    return Training(
        objective.kind,
        model,
        config,
        process_group,
        objective.extra,
        counters,
        batch_size,
        starts_fitted=is_probe,
    )


def fit_head_again(
    training: Training[Any], clouds: Clouds, objective: Objective, folder: RunFolder
) -> None:
    """Fit a probe's head to all shapes whose labels are used, once no epoch is chosen any more."""
    assert isinstance(objective, Classification)
    fit_head(training.model, clouds, objective.config, objective.weights, training.dtype)
    training.save(folder.to_save(BEST), with_optimizer=False, epoch=0)


def divide(clouds: Clouds, config: FinetuneConfig) -> tuple[Clouds, Clouds, Clouds]:
    """All clouds of `open_labeled`, those to train on, those to choose the best epoch with.

    Raises:
        DataError: if there are too few.
        ConfigError: if those to train on do not fill a batch.
    """
    fit, held_out = validation_split(clouds.labels, share=config.validation, seed=config.seed)
    if len(fit) < config.batch_size:
        raise ConfigError(
            f"{config.shapes} holds {len(fit)} training shapes after validation, fewer than "
            f"batch_size={config.batch_size}; lower it with --batch-size"
        )
    return clouds, clouds.select(fit), clouds.select(held_out)
