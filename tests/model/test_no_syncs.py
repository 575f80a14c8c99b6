"""On a GPU the pre-training step never waits for an answer, and compiles into one graph.

No GPU is needed: tensors without values (`meta`, and fake `cuda` ones) take the GPU's path, and
every operation passes through a watcher. Fake `cuda` tensors take the path of a GPU to the last
branch, yet autograd wants a real one for its backward pass; that is what `meta` is for, where in
turn there is no autocast.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
import torch._dynamo  # lists torch's functions by identity, so before `meta` replaces one
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from i2pmae.config import EncoderConfig, MaskingConfig, OptimConfig, PretrainConfig, TargetConfig
from i2pmae.model.packing import pack
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.training.optim import make_optimizer
from i2pmae.training.pretraining import pretraining_step

# Their result's size or value has to come back from the GPU before the next line can run.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
CONFIG = PretrainConfig(out="unused", points=48)


class WaitError(AssertionError):
    """An operation makes the host wait for the device."""


class Watcher(TorchDispatchMode):
    """Raises at every operation that would wait; counts the others."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in WAITING:
            raise WaitError(name)
        if name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1])
        ):
            raise WaitError(f"{name} by a mask")
        found = func(*args, **(kwargs or {}))
        if name in ("aten::_to_copy", "aten::copy_"):
            devices = {x.device.type for x in [*given, found]}
            if len(devices) > 1:
                raise WaitError(f"{name} between {' and '.join(sorted(devices))}")
        self.count += 1
        return found


@contextmanager
def meta() -> Iterator[None]:
    """Code that asks for autocast is told that it is off, not that `meta` has none."""
    with (
        mock.patch("torch.is_autocast_enabled", return_value=False),
        mock.patch("torch.autocast", return_value=nullcontext()),
    ):
        yield


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors made here have no values and need no GPU; bfloat16 as in training."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    half = torch.get_autocast_dtype("cuda")
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)  # `torch.autocast` would ask for a GPU
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", half)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def small_model(embed: str = "all", masking: str = "2d-guided") -> PretrainingModel:
    encoder = EncoderConfig(
        n_centers=(8, 4, 4),
        group_sizes=(4, 4, 4),
        widths=(12, 24, 48),
        depths=(1, 1, 1),
        embedding_width=8,
    )
    masks = MaskingConfig(strategy=masking)
    return PretrainingModel(encoder, masks, TargetConfig(), image_channels=16, embed=embed).train()


def stored_batch(device: str, batch: int = 3, views: int = 3) -> dict[str, Tensor]:
    """What the store's reader gives, without values."""
    return {
        "points": torch.empty(batch, 64, 3, device=device),
        "features": torch.empty(batch, views, 14, 14, 16, dtype=torch.int8, device=device),
        "feature_scale": torch.empty(batch, 16, device=device),
        "saliency": torch.empty(batch, views, 14, 14, device=device),
        "pixel_origin": torch.empty(batch, views, 2, device=device),
        "pixel_size": torch.empty(batch, views, device=device),
        "pixel_shift": torch.empty(batch, views, 2, dtype=torch.int16, device=device),
    }


def loss_of(model: PretrainingModel, batch: dict[str, Tensor]) -> Tensor:
    """The step's loss; randomness from the default generator, as a compiled step needs it."""
    axes = torch.zeros(3, 3, 3, device=batch["points"].device)
    return pretraining_step(model, batch, CONFIG, axes, None).loss


@pytest.mark.parametrize("masking", ["2d-guided", "random"])
@pytest.mark.parametrize("embed", ["all", "visible"])
def test_forward_and_backward_never_wait(embed, masking):
    model = small_model(embed, masking).to("meta")
    with meta(), Watcher() as watcher:
        loss_of(model, stored_batch("meta")).backward()
    assert watcher.count > 500
    # Of its outputs, the finest level's is not used in pre-training.
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused == {"encoder.norms.0.weight", "encoder.norms.0.bias"}


@pytest.mark.parametrize("embed", ["all", "visible"])
def test_on_cuda_forward_and_optimizer_never_wait(embed):
    model = small_model(embed).to("meta")
    with fake_cuda():
        model.to_empty(device="cuda")
        optimizer = make_optimizer(model, OptimConfig())
        batch = stored_batch("cuda")
        with Watcher() as watcher:
            assert loss_of(model, batch).device.type == "cuda"
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
            for _ in range(2):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    assert watcher.count > 300


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("embed", ["all", "visible"])
def test_on_a_real_gpu_the_step_never_waits(embed):
    model = small_model(embed).cuda()
    optimizer = make_optimizer(model, OptimConfig())
    batch = {name: torch.ones_like(x) for name, x in stored_batch("cuda").items()}
    batch["points"].normal_()
    try:
        for mode in ("default", "error"):  # the first step compiles the sampling kernel
            torch.cuda.set_sync_debug_mode(mode)
            with torch.autocast("cuda", torch.bfloat16):
                loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("embed", ["all", "visible"])
def test_step_compiles_into_one_graph(embed):
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(loss_of, backend=backend, fullgraph=True)
    model = small_model(embed).to("meta")
    with fake_cuda():
        model.to_empty(device="cuda")
        batch = stored_batch("cuda")
        for _ in range(2):
            compiled(model, batch)
    assert len(graphs) == 1


CULPRITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "int": lambda x: int(x.argmax()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "from cpu": lambda x: x + torch.ones(4).to(x.device),
    "copy": lambda x: torch.ones(4).copy_(x),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "repeat": lambda x: x.repeat_interleave(x.long()),
}


@pytest.mark.parametrize("culprit", CULPRITS)
def test_watcher_notices(culprit):
    with fake_cuda():
        x = torch.empty(4, device="cuda")
        with pytest.raises(WaitError), Watcher():
            CULPRITS[culprit](x)


def test_watcher_notices_the_sizes_that_a_cpu_may_look_up():
    masks = [torch.empty(2, n, dtype=torch.bool, device="meta") for n in (16, 8)]
    with Watcher():
        pack(masks, (8, 4), 2)
    with fake_cuda():
        masks = [torch.empty(2, n, dtype=torch.bool) for n in (16, 8)]
        with pytest.raises(WaitError), Watcher():
            pack(masks, (8, 4), 2)
