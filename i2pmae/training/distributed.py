"""Several processes that train one network, started by torchrun.

A batch belongs to all of them: each reads its own part, losses and BatchNorm's statistics are those
of the whole batch, gradients are averaged. So the numbers of a run do not depend on how many
processes there are, to rounding. Without torchrun everything here does nothing.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from i2pmae.errors import ConfigError, TrainingError
from i2pmae.geometry.draws import WHOLE, Part, PartGenerator
from i2pmae.interrupts import StopRequest
from i2pmae.launch import Launch, launched
from i2pmae.model.layers import Dropout, DropPath
from i2pmae.model.row_norm import RowNorm
from i2pmae.progress import configure

_PATIENCE = timedelta(hours=1)  # the others wait while the first checks, say, a linear SVM
_LOST = re.compile(r"closed by peer|reset by peer|connection refused|broken pipe|timed out", re.I)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, and this one's part of every batch."""

    part: Part = WHOLE
    together: bool = False  # whether torchrun started them

    @property
    def is_first(self) -> bool:
        """Whether this process is rank 0: only rank 0 writes and logs."""
        return self.part.index == 0

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """Raise a ConfigError if a step cannot be divided evenly."""
        if batch_size % (self.part.count * accumulate):
            raise ConfigError(
                f"batch_size={batch_size} cannot be divided evenly among "
                f"{self.part.count} processes in {accumulate} parts (accumulate); "
                f"set --batch-size to a multiple of {self.part.count * accumulate}"
            )

    def check_norms(self, batch_size: int, accumulate: int, *, synchronize_norms: bool) -> None:
        """Raise a ConfigError if a BatchNorm over shapes would see one at a time."""
        if batch_size // accumulate // (1 if synchronize_norms else self.part.count) < 2:
            lower = "lower accumulate" if accumulate > 1 else "set synchronize_norms=true"
            raise ConfigError(
                f"batch_size={batch_size} in {accumulate} parts (accumulate) leaves one shape at a "
                f"time to BatchNorm, which needs two; {lower}, or "
                f"set --batch-size to {2 * batch_size}"
            )

    def wrap(self, model: nn.Module, *, synchronize_norms: bool) -> nn.Module:
        """The network to call in training; weights stay those of `model`.

        Args:
            model: on its device, the same in every process.
            synchronize_norms: BatchNorm over the whole batch, or over this process's part.
        """
        if not self.together:
            return model
        for module in model.modules():
            if isinstance(module, DropPath | Dropout):
                module.part = self.part
            if isinstance(module, RowNorm) and synchronize_norms:
                module.total = _Total.apply
        # The LayerNorms of the encoder's finer levels do not feed every network.
        return DistributedDataParallel(model, find_unused_parameters=True)

    def generator(self, seed: int, device: torch.device) -> torch.Generator:
        """Source of this process's rows of what is drawn for the whole batch."""
        generator = PartGenerator(device)
        generator.part = self.part
        return generator.manual_seed(seed)

    def exchange(self, network: nn.Module, *, now: bool) -> AbstractContextManager[None]:
        """Context of a forward and backward pass; gradients are averaged in it if `now`."""
        if isinstance(network, DistributedDataParallel) and not now:
            waiting: AbstractContextManager[None] = network.no_sync()
            return waiting
        return nullcontext()

    def shares(self, counts: Tensor) -> Tensor:
        """Weights (n,) of this process's means over `counts` (n,) items each.

        The mean over processes of the weighted means is the mean over all items.
        """
        total = counts.clone()
        dist.all_reduce(total)
        return counts / total.clamp(min=1) * self.part.count

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes, on the CPU."""
        values = values.float().cpu()
        if self.together:
            dist.all_reduce(values)
        return values / self.part.count

    def agree(self, stop: StopRequest, late: bool) -> bool:
        """Whether a checkpoint is due, because any process got a signal or finds it late.

        All processes stop in the same step, whichever of them got the signal.
        """
        if self.together:
            wish = torch.tensor(max(stop.number, int(late)))
            dist.all_reduce(wish, dist.ReduceOp.MAX)
            if wish > 1:
                stop.adopt(int(wish))
            late = bool(wish)
        return bool(stop) or late

    def any(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        if self.together:
            wishes = torch.tensor(int(wish))
            dist.all_reduce(wishes, dist.ReduceOp.MAX)
            wish = bool(wishes)
        return wish

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.together:
            dist.all_reduce(torch.zeros(1))  # a barrier would pick a device of its own


def plain(network: nn.Module) -> nn.Module:
    """The model whose weights a network uses."""
    return network.module if isinstance(network, DistributedDataParallel) else network


class _Total(torch.autograd.Function):
    """Sum over processes; each one's addend has a part in the losses of all."""

    @staticmethod
    def forward(_ctx: Any, addend: Tensor) -> Tensor:
        total = addend.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the other processes of torchrun for the block.

    Args:
        device: kind of device; with CUDA every process of a machine gets its own.

    Raises:
        ConfigError: if there are fewer devices than processes, or the kind has no backend.
        TrainingError: if another process was lost.
    """
    launch = launched()
    if launch is None:
        yield ProcessGroup()
        return
    backend = _take_device(device, launch)
    if launch.rank > 0:
        configure(quiet=True)
    try:
        dist.init_process_group(
            backend,
            store=_store(),
            rank=launch.rank,
            world_size=launch.n_processes,
            timeout=_PATIENCE,
        )
        yield ProcessGroup(Part(launch.rank, launch.n_processes), together=True)
        dist.destroy_process_group()
    except BaseException as error:
        # The first process that ends makes torchrun stop the others, which end by themselves.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if isinstance(error, dist.DistError) or (
            isinstance(error, RuntimeError) and _LOST.search(str(error))
        ):
            raise TrainingError(
                "another process of this run has ended without an error message (killed, or out "
                "of memory?); start all of them again with --resume"
            ) from error
        raise


def speaks_first() -> bool:
    """Whether this process is the first of its run to report why it ends."""
    return launched() is None or _store().add("reported", 1) == 1


@cache
def _store() -> Store:
    """What torchrun's processes tell each other by before they have joined."""
    store: Store = next(rendezvous("env://"))[0]
    return store


def _take_device(device: torch.device, launch: Launch) -> str:
    """Make this process's own GPU the current one; name the backend."""
    if device.type == "cpu":
        return "gloo"
    if device.type != "cuda":
        raise ConfigError(f"--device {device.type}: torchrun needs cpu or cuda")
    if launch.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started more processes on this machine than its "
            f"{torch.cuda.device_count()} GPUs; lower --nproc-per-node"
        )
    torch.cuda.set_device(launch.local_rank)
    return "cpu:gloo,cuda:nccl"  # small agreements between hosts must not wait for a GPU
