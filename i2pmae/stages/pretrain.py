"""Stage two: a finished store in, a pre-trained 3D encoder out (section 3 of the paper)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2pmae.config import PretrainConfig, to_plain
from i2pmae.device import out_of_memory_explained, pick_device, pick_dtype
from i2pmae.errors import CheckpointError, ConfigError, TrainingError
from i2pmae.geometry.grouping import gather_rows
from i2pmae.geometry.projection import PixelMap, pixels
from i2pmae.geometry.transforms import augment, normalize_to_unit_sphere, random_subset
from i2pmae.interrupts import StopRequest, delayed_stop
from i2pmae.model.official import official_name
from i2pmae.model.pretraining import PretrainingModel, PretrainingOutput
from i2pmae.progress import Progress, note
from i2pmae.stages import svm
from i2pmae.stages.run_folder import BAD_BATCH, LAST, RunFolder, alone
from i2pmae.store import StoreReader, resolve_store
from i2pmae.store.reader import epoch_order
from i2pmae.training import checkpoint, distributed
from i2pmae.training.distributed import Network, Team, plain
from i2pmae.training.optim import make_optimizer, set_learning_rate
from i2pmae.training.seeding import step_seed
from i2pmae.training.target_statistics import channel_statistics

_CHECK_EVERY = 25  # steps between looks at the losses; each look waits for the device
_LOSSES = ("loss", "loss_2d", "loss_3d")
_ADVICE = "lower --batch-size, or --set accumulate=2 to work on a step's shapes in two parts"


def run(config: PretrainConfig, *, resume: bool = False) -> dict[str, Any]:
    """Pre-train an encoder from a store.

    Args:
        config: settings; `out` receives `config.json`, `metrics.jsonl` and checkpoints.
        resume: continue the run in `out`, to the numbers of a run that was never interrupted.

    Returns:
        Summary: `out`, `checkpoint`, the metrics of the last epoch with its `epoch` and `step`,
        `seconds`.

    Raises:
        ConfigError: if settings do not fit the store or the folder.
        TrainingError: if a loss is not finite; the last good checkpoint stays.
    """
    with ExitStack() as stack:
        stack.enter_context(out_of_memory_explained(_ADVICE))
        team = stack.enter_context(distributed.team(pick_device(config.device)))
        if team.is_first:
            stack.enter_context(alone(config.out))
        return _run(config, team, resume)


def _run(config: PretrainConfig, team: Team, resume: bool) -> dict[str, Any]:
    started = time.monotonic()
    device = pick_device(config.device)
    reader = StoreReader(resolve_store(config.cache))
    indices = reader.indices(config.split)
    _check_fits(config, reader, len(indices))
    team.check_batch(config)
    n_steps = len(indices) // config.batch_size

    folder = RunFolder(config.out)
    if team.is_first:
        if config.svm.data is not None:
            svm.require_fits(config.svm, config.encoder)
        folder.start(config, resume=resume, may_change=("cache", "svm", "accumulate"))
    team.wait()
    torch.manual_seed(step_seed(config.seed))
    model = build_model(config, reader).to(device)
    optimizer = make_optimizer(model, config.optim, partial(official_name, "pretraining"))
    run_state = _State(model, optimizer, pick_dtype(config.precision, device), team)
    if resume:
        run_state.restore(folder, reader, device)
        if team.is_first:
            folder.go_on(run_state.epoch)
        note(f"resuming {config.out} after {run_state.epoch} epochs and {run_state.step} steps")
    run_state.network = team.wrap(model, synchronize_norms=config.synchronize_norms)

    with delayed_stop() as stop, _bar(config, n_steps, run_state) as progress:
        while run_state.epoch < config.epochs:
            row = _train_epoch(run_state, config, reader, indices, folder, progress, stop)
            if team.is_first:
                try:
                    if config.svm.data is not None and run_state.epoch % config.svm.every == 0:
                        row["svm_accuracy"] = svm.check(model, config.svm, device)
                finally:  # the epoch is done, whatever becomes of its check
                    _keep_epoch(run_state, folder, config, reader, row)
            team.wait()
            stop.obey()
    if not team.is_first:
        return {}
    result = {
        **folder.row(run_state.epoch),
        "out": str(config.out),
        "checkpoint": str(folder.last),
        "seconds": round(time.monotonic() - started, 2),
    }
    folder.write_result(result)
    note(f"{run_state.epoch} epochs done, loss {result['loss']:.4f}; checkpoint {folder.last}")
    return result


def _keep_epoch(
    state: _State,
    folder: RunFolder,
    config: PretrainConfig,
    reader: StoreReader,
    row: dict[str, Any],
) -> None:
    """Write down a finished epoch, then what goes on from it."""
    folder.log(row)
    if state.epoch % config.checkpoint_every == 0 and state.epoch < config.epochs:
        state.save(folder, f"epoch-{state.epoch:04d}.pt", config, reader)
    state.save(folder, LAST, config, reader)


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


def pretraining_step(
    model: Network,
    batch: dict[str, Tensor],
    config: PretrainConfig,
    axes: Tensor,
    generator: torch.Generator | None,
) -> PretrainingOutput:
    """Losses of one batch of a store.

    Pixels belong to the canonical coordinates that were rendered; sampling, centering and
    augmentation touch only what the 3D network sees.

    Args:
        model: the network, perhaps as `Team.wrap` returns it.
        batch: arrays of the store on the model's device, shapes first.
        config: number of points and augmentation.
        axes: (V, 3, 3) directions of the store's views.
        generator: on the model's device; draws points, augmentation and masks. None: torch's
            own, the only one that a compiled step can draw from without breaking its graph.

    Source: section 3.2 of the paper; ShapeNet's sampling in the official recipe.
    """
    chosen = random_subset(batch["points"], config.points, generator)
    canonical = gather_rows(batch["points"], chosen)
    points = augment(
        normalize_to_unit_sphere(canonical),
        scale=config.augment.scale,
        scale_per_axis=config.augment.scale_per_axis,
        shift=config.augment.shift,
        rotation=config.augment.rotation,
        generator=generator,
    )
    pixel_map = PixelMap(batch["pixel_origin"], batch["pixel_size"], batch["pixel_shift"].long())
    output: PretrainingOutput = model(
        points,
        batch["features"],
        batch["saliency"],
        pixels(canonical, pixel_map, axes, plain(model).image_size),
        generator=generator,
        feature_scale=batch.get("feature_scale"),
    )
    return output


@dataclass
class _State:
    """All that changes while a run trains."""

    model: PretrainingModel
    optimizer: torch.optim.Optimizer
    dtype: torch.dtype
    team: Team
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the next one
    losses: Tensor = field(default_factory=lambda: torch.zeros(0, len(_LOSSES)))  # of those steps
    network: Network = field(init=False)  # what is called; its weights are the model's

    def __post_init__(self) -> None:
        self.network = self.model

    def save(
        self, folder: RunFolder, name: str, config: PretrainConfig, reader: StoreReader
    ) -> None:
        """Write a checkpoint, in the first process only."""
        if not self.team.is_first:
            return
        checkpoint.save(
            folder.to_save(name),
            kind="pretraining",
            config=to_plain(config),
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            epoch=self.epoch,
            step=self.step,
            metrics={"losses": self.losses.tolist()},
            extra={
                "store": reader.info.settings,
                "contents": _contents(reader),
                "data": Path(reader.info.provenance["source"]).name,
                "network": network_sizes(reader),
            },
        )

    def restore(self, folder: RunFolder, reader: StoreReader, device: torch.device) -> None:
        if not folder.last.exists():
            return
        saved = checkpoint.load(folder.last, map_location=device)
        if saved.kind != "pretraining" or saved.optimizer is None:
            raise CheckpointError(f"{folder.last} is no checkpoint of an interrupted pre-training")
        contents = saved.extra.get("contents", _contents(reader))  # older ones do not say
        if saved.extra.get("store") != reader.info.settings or contents != _contents(reader):
            raise ConfigError(
                f"--resume: {folder.path} was trained from another store than --cache, or it has "
                "changed since; give the store it began with, or choose another --out"
            )
        checkpoint.restore(folder.last, saved, self.model, self.optimizer)
        try:
            self.losses = torch.tensor(saved.metrics["losses"]).reshape(-1, len(_LOSSES))
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder.last} is damaged: it holds no losses of its epoch; restore it from a "
                "copy, or start again in another --out"
            ) from error
        self.epoch, self.step = saved.epoch, saved.step
        for message in checkpoint.other_versions(saved):
            note(message)


def _status(state: _State, waiting: float) -> str:
    """The last losses and the share of time spent waiting for data, in a few words."""
    loss, loss_2d, loss_3d = state.losses[-1].tolist()
    return f"loss {loss:.4f} (2D {loss_2d:.4f}, 3D {loss_3d:.4f}), waiting {waiting:.1%}"


def _contents(reader: StoreReader) -> dict[str, Any]:
    """What of a store's contents must be the same on resume, beyond its settings."""
    sizes = {key: n for key, n in reader.info.spec.to_json().items() if key != "shard_size"}
    return {"sizes": sizes, "counts": reader.info.counts}


def _train_epoch(
    state: _State,
    config: PretrainConfig,
    reader: StoreReader,
    indices: Any,
    folder: RunFolder,
    progress: Progress,
    stop: StopRequest,
) -> dict[str, Any]:
    """Train the rest of an epoch and return its row of metrics."""
    device = next(state.model.parameters()).device
    axes = torch.from_numpy(reader.read_all("view_axes")).to(device)
    n_steps = len(indices) // config.batch_size
    state.model.train()
    epoch, first_step = state.epoch, state.step
    rate = 0.0
    started = saved_at = time.monotonic()
    waited = reader.wait_seconds
    recent: list[Tensor] = []
    batches = _batches(reader, config, indices, epoch, first_step, state.team, device)
    while state.step < n_steps:
        rate = set_learning_rate(state.optimizer, config.optim, epoch, state.step / n_steps)
        losses = _gradients(state, config, batches, axes)
        if config.optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip_norm)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        progress.advance(1)
        recent.append(losses)
        due = state.team.agree(stop, late=time.monotonic() - saved_at > 60 * config.save_minutes)
        if len(recent) == _CHECK_EVERY or state.step == n_steps or due:
            checked = _finite(recent, state, config, reader, indices, folder)
            state.losses, recent = torch.cat([state.losses, checked]), []
            waiting = (reader.wait_seconds - waited) / max(time.monotonic() - started, 1e-9)
            progress.describe(f"epoch {epoch + 1}/{config.epochs}, {_status(state, waiting)}")
        if due and state.step < n_steps:
            state.save(folder, LAST, config, reader)
            saved_at = time.monotonic()
            state.team.wait()
            stop.obey()
    seconds = time.monotonic() - started
    row = {
        "epoch": epoch + 1,
        "step": (epoch + 1) * n_steps,
        **dict(zip(_LOSSES, state.losses.mean(dim=0).tolist(), strict=True)),
        "lr": rate,
        "shapes_per_s": round((n_steps - first_step) * config.batch_size / seconds, 2),
        "wait_share": round((reader.wait_seconds - waited) / seconds, 4),
    }
    state.epoch, state.step = epoch + 1, 0
    state.losses = torch.zeros(0, len(_LOSSES))
    return row


def _gradients(
    state: _State, config: PretrainConfig, batches: Iterator[dict[str, Tensor]], axes: Tensor
) -> Tensor:
    """Add up the gradients of one step; its losses (3,) without gradient."""
    counters = config.seed, state.epoch, state.step
    torch.manual_seed(step_seed(*counters))  # for stochastic depth
    generator = state.team.generator(step_seed(*counters), axes.device)
    kind, reduced = axes.device.type, state.dtype == torch.bfloat16
    found = []
    for number in range(config.accumulate):
        is_last = number == config.accumulate - 1
        with state.team.exchange(state.network, now=is_last):
            with torch.autocast(kind, torch.bfloat16, enabled=reduced):
                output = pretraining_step(state.network, next(batches), config, axes, generator)
            losses = state.team.losses(output, config.targets) / config.accumulate
            losses[0].backward()
        found.append(losses.detach())
    return torch.stack(found).sum(dim=0)


def _bar(config: PretrainConfig, n_steps: int, state: _State) -> Progress:
    done = state.epoch * n_steps + state.step
    return Progress("pretrain", total=config.epochs * n_steps, done=done)


def _batches(
    reader: StoreReader,
    config: PretrainConfig,
    indices: Any,
    epoch: int,
    first_step: int,
    team: Team,
    device: torch.device,
) -> Iterator[dict[str, Tensor]]:
    """This process's batches of one epoch, `accumulate` of them for a step, on the device.

    Their order depends on (seed, epoch) alone.
    """
    for batch in reader.batches(
        config.batch_size // config.accumulate,
        seed=config.seed,
        epoch=epoch,
        indices=indices,
        start=first_step * config.accumulate,
        part=(team.part.index, team.part.count),
    ):
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        if device.type == "cuda":  # from memory that is not pinned a copy waits for the device
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        yield {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


def _finite(
    recent: list[Tensor],
    state: _State,
    config: PretrainConfig,
    reader: StoreReader,
    indices: Any,
    folder: RunFolder,
) -> Tensor:
    """Losses of recent steps on the CPU, means over processes.

    Raises:
        TrainingError: if one is not finite, or the last step spoiled the weights.
    """
    losses = state.team.mean(torch.stack(recent))
    bad = (~losses.isfinite()).any(dim=1).nonzero()
    if not len(bad) and torch.nn.utils.get_total_norm(state.model.parameters()).isfinite():
        return losses
    what, step = "weights are", state.step - 1  # a loss after that step would be, too
    if len(bad):
        what, step = "loss is", state.step - len(losses) + int(bad[0])
    order = epoch_order(indices, config.seed, state.epoch)
    shapes = order[step * config.batch_size : (step + 1) * config.batch_size]
    names = [str(name) for name in reader.read_all("id")[shapes]]
    where = folder.path / BAD_BATCH
    if state.team.is_first:
        folder.write_bad_batch({"epoch": state.epoch + 1, "step": step + 1, "ids": names})
    kept = "no checkpoint was saved yet"
    if folder.last.exists():
        kept = f"the last good checkpoint is {folder.last}"
    raise TrainingError(
        f"{what} not finite in step {step + 1} of epoch {state.epoch + 1}, with the shapes "
        f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} (all in {where}); {kept}; "
        "lower optim.lr, set optim.clip_norm, or use --precision fp32"
    )


def _check_fits(config: PretrainConfig, reader: StoreReader, n_shapes: int) -> None:
    """Stop before training when settings and store do not fit."""
    if n_shapes < config.batch_size:
        raise ConfigError(
            f"{config.cache} holds {n_shapes} finished shapes of split '{config.split}', "
            f"fewer than batch_size={config.batch_size}; lower it with --batch-size"
        )
    if config.points > reader.info.spec.n_points:
        raise ConfigError(
            f"{config.cache} holds {reader.info.spec.n_points} points per shape, "
            f"{config.points} are asked; set --points {reader.info.spec.n_points} or fewer"
        )
    config.encoder.require_points(config.points)
