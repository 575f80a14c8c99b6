"""Steps that launch fewer kernels: replayed from a CUDA graph, or compiled by `torch.compile`.

A pre-training step launches 2,800 kernels, most of them short: a GPU waits for the host that
launches them. A CUDA graph holds the launches of a whole step, forward and backward, and is one
launch for the host. The optimizer is not part of it: its few launches take place while the graph
still runs, and learning rates, clipping and checkpoints stay as they are.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from i2pmae.errors import ConfigError
from i2pmae.progress import note, warn

Batch = Mapping[str, Tensor]
Losses = Callable[[Batch], Tensor]  # forward pass: losses (n,), the first is minimized
Step = Callable[[Sequence[Batch]], Tensor]  # adds up gradients; losses (n,) without gradient
Mode = Literal["default", "reduce-overhead", "cuda-graph"]

WARM_UP = 3  # steps before a graph is captured: they load kernels and choose algorithms


def pick_mode(
    setting: str,
    device: torch.device,
    *,
    together: bool,
    accumulate: int = 1,
    begun: str | None = None,
) -> str:
    """How steps are taken: a `Mode`, or `off` for one operation after the other.

    Args:
        setting: `compile`; `auto` replays a CUDA graph wherever it can.
        device: to train on.
        together: whether several processes train one network.
        accumulate: parts of a step.
        begun: the mode of the run that is resumed, which `auto` keeps, because compiled steps draw
            other random numbers; without a graph where none is possible. None: a new run.

    Raises:
        ConfigError: if a mode that was asked for cannot work.
    """
    can_replay = device.type == "cuda" and not together
    if setting == "auto":
        is_known = begun not in (None, "auto")
        setting = str(begun) if is_known else "cuda-graph" if can_replay else "off"
    if setting == begun == "cuda-graph" and not can_replay:
        note(
            "this run began with a CUDA graph, which needs a single process on a CUDA device; it "
            "continues without the graph, with other random numbers"
        )
        return "off"
    if setting == "cuda-graph" and device.type != "cuda":
        raise ConfigError(
            f"--compile cuda-graph: only on CUDA devices, this run is on {device.type}; "
            "leave it out, or use --compile default"
        )
    if setting == "reduce-overhead" and accumulate > 1:
        # torch keeps gradients in the graph's own memory, which the next part would overwrite
        raise ConfigError(
            f"--compile reduce-overhead works on whole steps, found accumulate={accumulate}; "
            "use --compile default, or cuda-graph"
        )
    if setting != "off" and together:
        raise ConfigError(
            f"--compile {setting}: only in one process, torchrun started several; leave it out"
        )
    return setting


class CompiledStep:
    """Forward and backward passes of a step, from a graph.

    All draws come from torch's own generator, seeded for each step: the same numbers whether a
    step is replayed, compiled or neither. What does not work on this machine is given up in the
    first steps, with a warning, and training continues without it.

    Args:
        losses: forward pass of one batch; may draw from torch's own generator only.
        parameters: what gets gradients.
        mode: `cuda-graph`: launches are recorded as they are, after 3 steps that take place as
            usual. `default`: kernels are fused by `torch.compile`. `reduce-overhead`: fused and
            recorded by `torch.compile`.
    """

    def __init__(self, losses: Losses, parameters: Iterable[nn.Parameter], mode: Mode) -> None:
        self._mode, self._parameters = mode, list(parameters)
        self._plain: Step = partial(forward_backward, losses)
        self._fast: Step | None
        if mode == "cuda-graph":
            self._fast = _Recorded(self._plain, self._parameters)
        else:
            compiled = compile_losses(losses, cuda_graphs=mode == "reduce-overhead")
            self._fast = partial(forward_backward, compiled)
        self._steps = 0  # that went well

    def __call__(self, batches: Sequence[Batch], seed: int) -> Tensor:
        """Set the gradients of one step.

        Args:
            batches: parts of the step's shapes, always as many and of the same shapes; on the
                parameters' device.
            seed: of the step.

        Returns:
            Losses (n,) without gradient, sums over the parts.
        """
        torch.manual_seed(seed)
        if self._fast is None:
            return self._plain(batches)
        try:
            losses = self._fast(batches)
        except RuntimeError as error:
            if self._steps > WARM_UP:  # it has worked: this is something else
                raise
            reason = str(error).strip().partition("\n")[0]
        else:
            self._steps += 1
            return losses
        self._give_up(reason)  # here nothing holds on to what the failed pass has in memory
        torch.manual_seed(seed)
        return self._plain(batches)

    def _give_up(self, reason: str) -> None:
        """Leave everything as before the step."""
        warn(f"--compile {self._mode} does not work here; training continues without it: {reason}")
        self._fast = None
        for parameter in self._parameters:
            parameter.grad = None
        gc.collect()
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use


def forward_backward(losses: Losses, batches: Sequence[Batch]) -> Tensor:
    """A step, operation by operation or as `losses` was compiled; see `Step`."""
    found = []
    for batch in batches:
        value = losses(batch)
        value[0].backward()
        found.append(value.detach().clone())
    return torch.stack(found).sum(dim=0)


class _Recorded:
    """A step replayed from a CUDA graph that was captured after a few steps."""

    def __init__(self, step: Step, parameters: Sequence[nn.Parameter]) -> None:
        self._step, self._parameters = step, parameters
        # What is captured must have run before, aside from the stream that all streams wait for.
        self._stream = torch.cuda.Stream()
        self._taken = 0
        self._replay: Callable[[], None] | None = None
        self._batches: list[dict[str, Tensor]] = []  # what the graph reads
        self._losses = torch.zeros(0)  # what it writes
        self._gradients: list[Tensor | None] = []

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        if self._taken < WARM_UP:
            self._taken += 1
            return _aside(self._stream, partial(self._step, batches))
        if self._replay is None:
            self._batches = [{name: x.clone() for name, x in part.items()} for part in batches]
            self._replay, self._losses = _record(self._stream, partial(self._step, self._batches))
            self._gradients = [parameter.grad for parameter in self._parameters]
        for own, given in zip(self._batches, batches, strict=True):
            for name, tensor in given.items():
                own[name].copy_(tensor, non_blocking=True)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._losses.clone()


def _aside(stream: torch.cuda.Stream, work: Callable[[], Tensor]) -> Tensor:
    """Do work on another stream, between what comes before and after it on the current one."""
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        found = work()
    current.wait_stream(stream)
    return found


def _record(
    stream: torch.cuda.Stream, work: Callable[[], Tensor]
) -> tuple[Callable[[], None], Tensor]:
    """Capture work without doing it; what replays it, and the tensor that it then fills."""
    current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            found = work()
    except RuntimeError:
        # Where a capture breaks off, torch leaves its stream current, and its generator in a state
        # that allows draws only while capturing.
        torch.cuda.set_stream(current)
        generator = torch.cuda.default_generators[current.device_index]
        generator.graphsafe_set_state(torch.Generator(generator.device).graphsafe_get_state())
        raise
    return graph.replay, found


def compile_losses(
    losses: Callable[..., Tensor], *, cuda_graphs: bool = False
) -> Callable[..., Tensor]:
    """A forward pass by `torch.compile`, which compiles its backward pass as well.

    Args:
        losses: the pass; may draw from torch's own generator only.
        cuda_graphs: replay what was compiled.
    """
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "fallback_random": True,  # torch's own generator, as without compiling
        "triton.cudagraphs": cuda_graphs,
    }
    compiled: Callable[..., Tensor] = torch.compile(
        losses, fullgraph=True, dynamic=False, options=options
    )
    return compiled
