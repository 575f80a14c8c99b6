"""Stage two: a finished store in, a pre-trained 3D encoder out (section 3 of the paper)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import torch
from torch import Tensor

from i2pmae.checkpoints.checkpoint import Checkpoint
from i2pmae.config import PretrainConfig
from i2pmae.device import pick_device
from i2pmae.errors import ConfigError
from i2pmae.progress import note
from i2pmae.recipes import settings_of_run
from i2pmae.stages import svm
from i2pmae.store import StoreReader, resolve_store
from i2pmae.training.compiled_step import CompiledStep, Mode, pick_mode
from i2pmae.training.distributed import ProcessGroup
from i2pmae.training.loop import Training, begun, say_begin, train
from i2pmae.training.pretraining import PretrainingTask, build_model, network_sizes
from i2pmae.training.run_folder import RunFolder
from i2pmae.training.seeding import step_seed

_ADVICE = "lower --batch-size, or --set accumulate=2 to work on a step's shapes in two parts"


class Result(TypedDict, total=False):
    """Metrics of the last epoch, and what was written; nothing in processes but the first."""

    command: Literal["pretrain"]
    epoch: int
    step: int
    loss: float
    loss_2d: float
    loss_3d: float
    lr: float
    shapes_per_s: float
    wait_share: float
    svm_accuracy: float  # percent, in epochs that measure it
    out: str
    checkpoint: str
    seconds: float


def run(config: PretrainConfig, *, resume: bool = False) -> Result:
    """Pre-train an encoder from a store.

    Args:
        config: settings; `out` receives `config.json`, `metrics.jsonl` and checkpoints.
        resume: continue the run in `out`, to the numbers of a run that was never interrupted.

    Returns:
        See `Result`.

    Raises:
        ConfigError: if settings do not fit the store or the folder.
        TrainingError: if a loss is not finite; the last good checkpoint stays.
    """
    with begun(config, _ADVICE) as process_group:
        return _run(config, process_group, resume)


def _run(config: PretrainConfig, process_group: ProcessGroup, resume: bool) -> Result:
    started = time.monotonic()
    device = pick_device(config.device)
    reader = StoreReader(resolve_store(config.cache))
    indices = reader.indices(config.split)
    _check_fits(config, reader, len(indices))
    process_group.check_batch(config.batch_size, config.accumulate)
    before = settings_of_run(config.out) if resume else None
    taken = None if before is None else before.get("compile", "off")  # version 0.1 had no other
    mode = pick_mode(
        config.compile,
        device,
        together=process_group.together,
        accumulate=config.accumulate,
        begun=taken,
    )
    decided = ("compile",) if config.compile in ("auto", taken) else ()
    config = config.model_copy(update={"compile": mode})

    folder = RunFolder(config.out)
    check = None
    if process_group.is_first:
        if config.svm.data is not None:
            check = svm.Check(config.svm, config.encoder)
        folder.start(config, resume=resume, may_change=("cache", "svm", "accumulate", *decided))
    process_group.wait()
    torch.manual_seed(step_seed(config.seed))
    model = build_model(config, reader).to(device)
    say_begin("pretrain", model, config, process_group, len(indices))
    extra = {
        "store": reader.info.settings,
        "contents": _contents(reader),
        "data": Path(reader.info.recorded("source")).name,
        "network": network_sizes(reader),
    }
    training = Training("pretraining", model, config, process_group, extra)

    def metrics(epoch: int) -> dict[str, float]:
        if check is None or (epoch % config.svm.every and epoch != config.epochs):
            return {}
        return {"svm_accuracy": check(model, device)}

    def losses(batch: Mapping[str, Tensor]) -> Tensor:
        with training.autocast():
            return task.losses_of(model, batch, None) / config.accumulate

    task = PretrainingTask(config, reader, indices, process_group, device, metrics)
    if resume:
        saved = training.read(folder)
        if saved is not None:
            _require_same_store(saved, folder, reader)
        training.restore(folder, saved, task)
    if mode != "off":
        training.compiled = CompiledStep(losses, model.parameters(), cast(Mode, mode))
    try:
        train(training, task, folder, "pretrain", config.checkpoint_every)
    finally:
        training.compiled = None  # a graph's memory is free at once
    if not process_group.is_first:
        return Result()
    found = {
        "command": "pretrain",
        **folder.row(training.epoch),
        "out": str(config.out),
        "checkpoint": str(folder.last),
        "seconds": round(time.monotonic() - started, 2),
    }
    folder.write_result(found)
    result = cast(Result, found)
    note(f"{training.epoch} epochs done, loss {result['loss']:.4f}; checkpoint {folder.last}")
    return result


def _contents(reader: StoreReader) -> dict[str, dict[str, Any]]:
    """What of a store's contents must be the same on resume, beyond its settings."""
    sizes = {key: n for key, n in reader.info.spec.to_json().items() if key != "shard_size"}
    return {"sizes": sizes, "counts": reader.info.counts}


def _require_same_store(saved: Checkpoint, folder: RunFolder, reader: StoreReader) -> None:
    """Refuse to resume with other shapes or features than those of the beginning."""
    contents = saved.extra.get("contents", _contents(reader))  # older ones do not say
    if saved.extra.get("store") != reader.info.settings or contents != _contents(reader):
        raise ConfigError(
            f"--resume: {folder.path} was trained from another store than --cache, or it has "
            "changed since; give the store it began with, or choose another --out"
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
