"""The training loop of every objective; a `Task` defines the objective.

What is random depends on the seed, the counters, the epoch and the step alone, so a run that is
resumed goes through the same numbers as one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Generator, Tensor, nn

from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.checkpoint import Checkpoint
from i2pmae.checkpoints.official import Kind, official_name
from i2pmae.config import FinetuneConfig, PretrainConfig, to_plain
from i2pmae.device import out_of_memory_explained, pick_device, pick_dtype
from i2pmae.errors import CheckpointError, ConfigError, TrainingError
from i2pmae.geometry.draws import Part
from i2pmae.interrupts import StopRequest, delayed_stop
from i2pmae.model.fine_tuned import FineTuned
from i2pmae.progress import Progress, format_seconds, note
from i2pmae.training import distributed
from i2pmae.training.distributed import ProcessGroup
from i2pmae.training.optim import make_optimizer, set_learning_rate
from i2pmae.training.run_folder import BAD_BATCH, BEST, LAST, Row, RunFolder, run_lock
from i2pmae.training.seeding import step_seed

ModelT = TypeVar("ModelT", bound=nn.Module)
BatchT = TypeVar("BatchT")

_CHECK_EVERY = 25  # steps between looks at the losses; each look waits for the device
_TIMED = 4  # first steps of a run that its time is estimated from, all but the very first
_SOON = 10.0  # seconds that need no estimate


class Task(Protocol[BatchT]):
    """What a network is trained for: batch -> losses, epoch -> metrics.

    Attributes:
        losses: names of the losses; the first is minimized.
        score: metric that decides which epoch is best; None: the last one counts.
        n_shapes: shapes of an epoch.
    """

    losses: tuple[str, ...]
    score: str | None
    n_shapes: int

    def batches(self, size: int, epoch: int, start: int, part: Part) -> Iterator[BatchT]:
        """One epoch's full batches in random order, on the device.

        Args:
            size: shapes of a batch, of all processes together.
            epoch: decides the order.
            start: batches to leave out at the beginning.
            part: rows of every batch that this process gets.
        """
        ...

    def losses_of(self, network: nn.Module, batch: BatchT, generator: Generator) -> Tensor:
        """Losses (n,) float32, whose means over processes are those of the whole batch."""
        ...

    def ids(self, epoch: int, first: int, n: int) -> list[str]:
        """Names of `n` shapes in the order of an epoch."""
        ...

    def metrics(self, epoch: int) -> Row:
        """Figures of the network after an epoch; only rank 0 asks for them."""
        ...


@dataclass
class Training(Generic[ModelT]):
    """A network in training, and all that changes with it.

    Attributes:
        kind: of the network.
        model: on its device, the same in every process.
        config: settings.
        process_group: those that share the batches.
        extra: plain values to keep in checkpoints.
        counters: tell runs of the same seed apart.
        batch_size: shapes per step, all processes together; 0: the settings'.
        compiled: gradients and losses of a step, from its parts and its seed, by a `CompiledStep`.
    """

    kind: Kind
    model: ModelT
    config: PretrainConfig | FinetuneConfig
    process_group: ProcessGroup
    extra: dict[str, Any] = field(default_factory=dict)
    counters: tuple[int, ...] = ()
    batch_size: int = 0
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the next one
    losses: list[list[float]] = field(default_factory=list)  # of those steps
    best_score: float = -1.0
    best_epoch: int = 0
    compiled: Callable[[list[Any], int], Tensor] | None = None
    starts_fitted: bool = False  # epoch 0, the fitted head, may be the best epoch
    margin: float = 0.0  # by how much more than this an epoch must beat what started fitted

    def __post_init__(self) -> None:
        config = self.config
        self.batch_size = self.batch_size or config.batch_size
        self.process_group.check_batch(self.batch_size, config.accumulate)
        if isinstance(self.model, FineTuned) and self.model.normalizes_shapes:
            self.process_group.check_norms(
                self.batch_size, config.accumulate, synchronize_norms=config.synchronize_norms
            )
        self.device = next(self.model.parameters()).device
        self.dtype = pick_dtype(config.precision, self.device)
        self.optimizer = make_optimizer(self.model, config.optim, partial(official_name, self.kind))
        self.network = self.process_group.wrap(
            self.model, synchronize_norms=config.synchronize_norms
        )

    def is_over(self) -> bool:
        """Whether no epoch of late was the best; the first process decides."""
        patience = getattr(self.config, "patience", None)
        is_first = self.process_group.is_first
        late = patience is not None and self.epoch - self.best_epoch >= patience and is_first
        return self.process_group.any(late)

    def autocast(self) -> torch.autocast:
        """Context of a forward pass."""
        reduced = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=reduced)

    @property
    def is_fitted_best(self) -> bool:
        """Whether no epoch has beaten the head that was fitted before the first one."""
        return self.starts_fitted and self.best_score >= 0 and self.best_epoch == 0

    def save(self, path: Path, *, with_optimizer: bool = True, epoch: int | None = None) -> None:
        """Write a checkpoint, in the first process only; `epoch`: of another one's weights."""
        if not self.process_group.is_first:
            return
        best = {"best_score": self.best_score, "best_epoch": self.best_epoch}
        is_scored = self.best_score >= 0
        checkpoint.save(
            path,
            kind=self.kind,
            config=to_plain(self.config),
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict() if with_optimizer else None,
            epoch=self.epoch if epoch is None else epoch,
            step=self.step,
            metrics={"losses": self.losses, **(best if is_scored else {})},
            extra=self.extra,
        )

    def read(self, folder: RunFolder) -> Checkpoint | None:
        """The checkpoint that a resumed run continues from; None where none was saved yet.

        Raises:
            CheckpointError: if it is of another network, or cannot be read.
        """
        if not folder.last.exists():
            return None
        saved = checkpoint.load(folder.last)
        if saved.kind != self.kind or saved.optimizer is None:
            raise CheckpointError(f"{folder.last} is no checkpoint of an interrupted run like this")
        return saved

    def restore(self, folder: RunFolder, saved: Checkpoint | None, task: Task[Any]) -> None:
        """Go on where a checkpoint of `read` was saved.

        Raises:
            CheckpointError: if it is damaged.
            ConfigError: if fewer epochs are asked than it has finished.
        """
        if saved is not None:
            if saved.epoch > self.config.epochs:
                raise ConfigError(
                    f"--resume: the run in {folder.path} has finished {saved.epoch} epochs, more "
                    f"than the {self.config.epochs} that are asked; give as many or more"
                )
            checkpoint.restore(folder.last, saved, self.model, self.optimizer)
            try:
                losses = torch.tensor(saved.metrics["losses"] if saved.step else [])
                self.losses = losses.reshape(saved.step, len(task.losses)).tolist()
                if task.score is not None and (saved.epoch or "best_score" in saved.metrics):
                    self.best_score = float(saved.metrics["best_score"])
                    self.best_epoch = int(saved.metrics["best_epoch"])
            except (LookupError, TypeError, ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"{folder.last} is damaged: it lacks losses of its epoch or the best one; "
                    "restore it from a copy, or start again in another --out"
                ) from error
            self.epoch, self.step = saved.epoch, saved.step
            for message in checkpoint.other_versions(saved):
                note(message)
        if self.process_group.is_first:
            folder.go_on(self.epoch)
        self.process_group.wait()
        note(f"resuming {folder.path} after {self.epoch} epochs and {self.step} steps")


@contextmanager
def begun(config: PretrainConfig | FinetuneConfig, advice: str) -> Iterator[ProcessGroup]:
    """Join the other processes of a run for the block, and keep its folder from other runs.

    Args:
        config: of the run.
        advice: settings to change where memory runs out.
    """
    with ExitStack() as stack:
        stack.enter_context(out_of_memory_explained(advice))
        group = stack.enter_context(distributed.process_group(pick_device(config.device)))
        if group.is_first:
            stack.enter_context(run_lock(config.out))
        yield group


def say_begin(
    description: str,
    model: nn.Module,
    config: PretrainConfig | FinetuneConfig,
    process_group: ProcessGroup,
    n_shapes: int,
) -> None:
    """Print one line: what is trained, on which device, and for how long.

    Args:
        description: of what is done, in a word.
        model: on its device.
        config, process_group: as of `Training`, which takes a second to make.
        n_shapes: of an epoch.
    """
    parameters = list(model.parameters())
    device, count = parameters[0].device, torch.get_num_threads()
    where = device.type
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        where = f"cpu, {count} thread{'s' * (count > 1)}"
    if process_group.together:
        where += f" in each of {process_group.part.count} processes"
    centers = ", ".join(map(str, config.encoder.n_centers))
    note(
        f"{description} on {where}, "
        f"{str(pick_dtype(config.precision, device)).removeprefix('torch.')}: network of "
        f"{sum(weights.numel() for weights in parameters) / 1e6:.2f} M parameters ({centers} "
        f"centers); {n_shapes:,} shapes of {config.points:,} points, {config.epochs} "
        f"epoch{'s' * (config.epochs > 1)} of {n_shapes // config.batch_size:,} steps of "
        f"{config.batch_size}"
    )


def train(
    training: Training[Any],
    task: Task[Any],
    folder: RunFolder,
    description: str,
    keep_every: int | None = None,
) -> None:
    """Train the epochs that are left.

    The folder gets one row of metrics per epoch, and checkpoints: the last epoch's, the best
    one's weights where the task has a score, and those of every `keep_every`th.

    Raises:
        TrainingError: if a loss or a weight is not finite; the last good checkpoint stays.
    """
    config, n_steps = training.config, task.n_shapes // training.batch_size
    done = training.epoch * n_steps + training.step
    with (
        delayed_stop() as stop,
        Progress(description, total=config.epochs * n_steps, done=done) as progress,
    ):
        if training.starts_fitted and training.best_score < 0:
            if training.process_group.is_first:
                row = {"epoch": 0, "step": 0, **task.metrics(0)}
                if not folder.rows():  # else it was killed before it had saved anything
                    folder.log(row)
                _keep_best(training, task.score, folder, row)
            training.process_group.wait()
        while training.epoch < config.epochs and not training.is_over():
            row = train_epoch(training, task, folder, progress, stop)
            if training.process_group.is_first:
                try:
                    row |= task.metrics(training.epoch)
                finally:  # the epoch is done, whatever becomes of a check that decides nothing
                    if task.score is None or task.score in row:
                        _keep_epoch(training, task.score, folder, row, keep_every)
                if task.score is not None:
                    progress.describe(
                        f"epoch {training.epoch}/{config.epochs}",
                        f"validation {row[task.score]:.2f}%",
                    )
            training.process_group.wait()
            stop.obey()


def _keep_epoch(
    training: Training[Any], score: str | None, folder: RunFolder, row: Row, every: int | None
) -> None:
    """Log a finished epoch, then save what a resumed run continues from."""
    folder.log(row)
    _keep_best(training, score, folder, row)
    if every is not None and not training.epoch % every and training.epoch < training.config.epochs:
        training.save(folder.to_save(f"epoch-{training.epoch:04d}.pt"))
    training.save(folder.to_save(LAST))


def _keep_best(training: Training[Any], score: str | None, folder: RunFolder, row: Row) -> None:
    """Keep the weights if no epoch was as good."""
    margin = training.margin if training.is_fitted_best else 0.0
    if score is not None and row[score] > training.best_score + margin:
        training.best_score, training.best_epoch = row[score], training.epoch
        training.save(folder.to_save(BEST), with_optimizer=False)


def train_epoch(
    training: Training[Any],
    task: Task[Any],
    folder: RunFolder,
    progress: Progress,
    stop: StopRequest,
    *,
    saves: bool = True,
) -> Row:
    """Train the rest of an epoch; shapes that do not fill a batch are left out.

    Args:
        training: the network.
        task: what it is trained for.
        folder: of the run.
        progress: advances by steps.
        stop: obeyed between steps.
        saves: whether a checkpoint is saved in the middle, when it is due or before stopping.

    Returns:
        `epoch`, `step`, mean losses, `lr`, `shapes_per_s`, `wait_share`.
    """
    config, group = training.config, training.process_group
    n_steps, size = task.n_shapes // training.batch_size, training.batch_size // config.accumulate
    training.model.train()
    epoch, first_step, rate = training.epoch, training.step, 0.0
    started = saved_at = began = time.monotonic()
    batches = _Timed(task.batches(size, epoch, first_step * config.accumulate, group.part))
    recent: list[Tensor] = []
    while training.step < n_steps:
        rate = set_learning_rate(training.optimizer, config.optim, epoch, training.step / n_steps)
        recent.append(gradients(training, task, batches))
        if config.optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(training.model.parameters(), config.optim.clip_norm)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        training.step += 1
        progress.advance(1)
        if progress.new == 1:
            began = time.monotonic()
        late = saves and time.monotonic() - saved_at > 60 * config.save_minutes
        due = group.agree(stop, late=late)
        is_timed = progress.new == _TIMED and len(recent) == _TIMED
        if len(recent) == _CHECK_EVERY or training.step == n_steps or due or is_timed:
            checked = _finite(recent, training, task, folder)
            training.losses += checked.tolist()
            if is_timed:
                _say_time(progress, time.monotonic() - began)
            recent = []
            waiting = batches.seconds / max(time.monotonic() - started, 1e-9)
            others = zip(task.losses[1:], checked.mean(dim=0).tolist()[1:], strict=True)
            progress.describe(
                f"epoch {epoch + 1}/{config.epochs}",
                *(f"{name.removeprefix('loss_').upper()} {mean:.4f}" for name, mean in others),
                f"waiting {waiting:.1%}",
                losses=checked[:, 0].tolist(),
            )
        if due and training.step < n_steps:
            if saves:
                training.save(folder.to_save(LAST))
                saved_at = time.monotonic()
            group.wait()
            stop.obey()
    seconds = time.monotonic() - started
    row = {
        "epoch": epoch + 1,
        "step": (epoch + 1) * n_steps,
        **dict(zip(task.losses, torch.tensor(training.losses).mean(dim=0).tolist(), strict=True)),
        "lr": rate,
        "shapes_per_s": round((n_steps - first_step) * training.batch_size / seconds, 2),
        "wait_share": round(batches.seconds / seconds, 4),
    }
    training.epoch, training.step, training.losses = epoch + 1, 0, []
    return row


def _say_time(progress: Progress, seconds: float) -> None:
    """Say what all steps will take, by the first ones without the very first."""
    left = (progress.total or 0) - progress.done
    seconds *= left / (_TIMED - 1)
    if seconds > _SOON:
        note(f"about {format_seconds(seconds)} for the {left:,} steps that are left")


def gradients(training: Training[Any], task: Task[BatchT], batches: Iterator[BatchT]) -> Tensor:
    """Add up the gradients of one step; its losses without gradient."""
    config, group = training.config, training.process_group
    seed = step_seed(config.seed, *training.counters, training.epoch, training.step)
    if training.compiled is not None:
        return training.compiled([next(batches) for _ in range(config.accumulate)], seed)
    torch.manual_seed(seed)  # dropout and stochastic depth draw from the global generator
    generator = group.generator(seed, training.device)
    found = []
    for number in range(config.accumulate):
        is_last = number == config.accumulate - 1
        with group.exchange(training.network, now=is_last):
            with training.autocast():
                losses = task.losses_of(training.network, next(batches), generator)
            losses = losses / config.accumulate
            losses[0].backward()
        found.append(losses.detach())
    return torch.stack(found).sum(dim=0)


def _finite(
    recent: list[Tensor], training: Training[Any], task: Task[Any], folder: RunFolder
) -> Tensor:
    """Losses of recent steps on the CPU, means over processes.

    Raises:
        TrainingError: if one is not finite, or the last step spoiled the weights.
    """
    group = training.process_group
    losses = group.mean(torch.stack(recent))
    bad = (~losses.isfinite()).any(dim=1).nonzero()
    if not len(bad) and torch.nn.utils.get_total_norm(training.model.parameters()).isfinite():
        return losses
    what, step = "weights are", training.step - 1  # a loss after that step would be, too
    if len(bad):
        what, step = "loss is", training.step - len(losses) + int(bad[0])
    size = training.batch_size
    names = task.ids(training.epoch, step * size, size)
    where = folder.path / BAD_BATCH
    if group.is_first:
        folder.write_bad_batch({"epoch": training.epoch + 1, "step": step + 1, "ids": names})
    kept = "no checkpoint was saved yet"
    if folder.last.exists():
        kept = f"the last good checkpoint is {folder.last}"
    raise TrainingError(
        f"{what} not finite in step {step + 1} of epoch {training.epoch + 1}, with the shapes "
        f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} (all in {where}); {kept}; "
        "lower optim.lr, set optim.clip_norm, or use --precision fp32"
    )


class _Timed(Iterator[BatchT]):
    """Batches, and the seconds that were spent waiting for them."""

    def __init__(self, batches: Iterator[BatchT]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __next__(self) -> BatchT:
        begin = time.perf_counter()
        batch = next(self._batches)
        self.seconds += time.perf_counter() - begin
        return batch
