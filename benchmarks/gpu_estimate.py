"""Where an H100 would be limited in a pre-training step: an estimate, no measurement.

Counts what a step asks of the machine, on the path that a GPU takes but with tensors that have no
values, so no GPU is needed: arithmetic, traffic to and from GPU memory, kernels, bytes to deliver.
Divides each by what an H100 and its host are assumed to do. docs/performance.md explains the rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from i2pmae.config import PretrainConfig
from i2pmae.geometry.grouping_triton import nearest_neighbors_triton
from i2pmae.geometry.sampling_triton import farthest_points_triton
from i2pmae.model.pretraining import PretrainingModel
from i2pmae.training.pretraining import pretraining_step

STORED_POINTS = 8192
CHANNELS = 512
SAMPLE = 16  # shapes whose true numbers of visible tokens are looked up

# H100 SXM5, data sheet: dense bfloat16 989 TFLOP/s, HBM3 3.35 TB/s, PCIe 5 x16 64 GB/s.
# The factors and the two times are assumptions.
FLOPS = 989e12 * 0.4  # matrix products as narrow as these
BANDWIDTH = 3.35e12 * 0.8
PCIE = 64e9 * 0.8  # from pinned memory
HOST_SECONDS = 8e-6  # Python and PyTorch per operation, autograd included
SAMPLING_SECONDS = 1e-6  # per chosen point: a reduction over the cloud, then a dependent read

UNCOUNTED = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "lift_fresh"}
UNFUSED = (  # starts of names: products, sorts, reads and writes by index
    *("mm", "addmm", "bmm", "topk", "sort", "gather", "scatter", "index", "_embedding_bag"),
    *("farthest_points", "_scaled_dot_product"),
)


def main() -> None:
    """Count, divide, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--batch", type=int, default=64, help="shapes per step")
    parser.add_argument(
        "--reader", type=float, default=4000, help="shapes/s of the reader (see reader.py)"
    )
    options = parser.parse_args()
    found = {way: estimate(way, options.batch, options.reader) for way in ("all", "visible")}
    if options.json:
        print(json.dumps({"estimate": True, "batch": options.batch, **found}))
        return
    print(f"ESTIMATE, nothing measured: one H100, batch {options.batch}, bfloat16")
    print(f"{'groups embedded':40}{'all':>12}{'visible':>12}")
    for key in found["all"]:
        print(f"{key:40}", *(f"{row[key]:>11,.1f}" for row in found.values()))


def estimate(embed: str, batch: int, reader: float) -> dict[str, float]:
    """Demands of a step, and the milliseconds each would take alone.

    Args:
        embed: which groups are embedded, as in the settings.
        batch: shapes per step.
        reader: shapes per second that the reader delivers.
    """
    torch.manual_seed(0)  # masks
    config = PretrainConfig.model_validate({"out": "unused", "embed": embed})
    model = PretrainingModel(config.encoder, config.masking, config.targets, embed=config.embed)
    n_parameters = sum(parameter.numel() for parameter in model.train().parameters())
    with FlopCounterMode(display=False) as known:
        step(model, sample(SAMPLE), config).backward()

    model = model.to("meta")
    stored = {name: x.to("meta") for name, x in stored_batch(batch).items()}
    with without_autocast(), FlopCounterMode(display=False) as bounded:
        with Traffic() as forward:
            loss = step(model, stored, config)
        with Traffic() as backward:
            loss.backward()
    with fake_cuda(model), Traffic() as half:
        step(model, {name: x.to("cuda") for name, x in stored.items()}, config)

    # Fake `cuda` has no backward and `meta` no autocast: the ratio comes from float32.
    weights = 7 * 4 * n_parameters  # AdamW reads four float32 numbers and writes three
    traffic = half.bytes * (1 + backward.bytes / forward.bytes) + weights
    unfused = half.unfused * (1 + backward.unfused / forward.unfused) + weights
    kernels = half.kernels * (1 + backward.kernels / forward.kernels)
    delivered = sum(x.nbytes for x in stored.values())
    flops = bounded.get_total_flops()
    seconds = {
        "arithmetic": flops / FLOPS,
        "memory, operation by operation": traffic / BANDWIDTH,
        "memory, all fused that can be": unfused / BANDWIDTH,
        "host, operation by operation": kernels * HOST_SECONDS,
        "farthest-point sampling": config.encoder.n_centers[0] * SAMPLING_SECONDS,
        "copy to the GPU": delivered / PCIE,
        "reader": batch / reader,
    }
    return {
        "arithmetic, GFLOP": flops / 1e9,
        "the same at true sizes, GFLOP": known.get_total_flops() * batch / SAMPLE / 1e9,
        "memory, operation by operation, GB": traffic / 1e9,
        "memory, all fused that can be, GB": unfused / 1e9,
        "kernels": kernels,
        "delivered, MB": delivered / 1e6,
        "reader, GB/s decoded": reader * delivered / batch / 1e9,
        **{f"{name}, ms": 1e3 * value for name, value in seconds.items()},
    }


class Traffic(TorchDispatchMode):
    """Counts operations that launch a kernel, and the bytes of their arguments and results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = 0
        self.bytes = 0
        self.unfused = 0  # of these bytes, those that no compiler can keep out of memory

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        space, name = func._schema.name.split("::")
        if space in ("aten", "i2pmae") and not func.is_view and name not in UNCOUNTED:
            tensors = [x for x in tree_leaves((args, kwargs, found)) if isinstance(x, Tensor)]
            moved = sum(min(x.nbytes, x.untyped_storage().nbytes()) for x in tensors)
            self.kernels += 1
            self.bytes += moved
            self.unfused += moved if name.startswith(UNFUSED) else 0
        return found


@contextmanager
def without_autocast() -> Iterator[None]:
    """Code that asks for autocast is told that it is off, not that `meta` has none."""
    with (
        mock.patch("torch.is_autocast_enabled", return_value=False),
        mock.patch("torch.autocast", return_value=nullcontext()),
    ):
        yield


@contextmanager
def fake_cuda(model: PretrainingModel) -> Iterator[None]:
    """A GPU that computes nothing, the model on it, bfloat16 where autocast says so."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cuda")
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)
        yield
        torch.set_autocast_enabled("cuda", False)


def step(model: PretrainingModel, stored: dict[str, Tensor], config: PretrainConfig) -> Tensor:
    """Loss of a step; without values too, with the kernels that a GPU would take."""
    axes = torch.eye(3, device=stored["points"].device).expand(3, 3, 3)
    if axes.device.type == "cpu":
        return pretraining_step(model, stored, config, axes, None).loss
    with (
        mock.patch("i2pmae.geometry.grouping.farthest_points", farthest_points_triton),
        mock.patch("i2pmae.geometry.grouping.nearest_neighbors", nearest_neighbors_triton),
        mock.patch("i2pmae.model.decoder.nearest_neighbors", nearest_neighbors_triton),
        mock.patch("torch.nn.functional.scaled_dot_product_attention", fused_attention),
    ):
        return pretraining_step(model, stored, config, axes, None).loss


def fused_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """torch's attention by the kernel that a GPU takes where there is a mask."""
    mask = None if attn_mask is None else attn_mask.expand(*q.shape[:3], k.shape[2])
    found: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, mask, True)[0]
    return found


def stored_batch(batch: int) -> dict[str, Tensor]:
    """What the reader delivers for a step, all zero."""
    return {
        "points": torch.zeros(batch, STORED_POINTS, 3),
        "features": torch.zeros(batch, 3, 14, 14, CHANNELS, dtype=torch.int8),
        "feature_scale": torch.zeros(batch, CHANNELS),
        "saliency": torch.zeros(batch, 3, 14, 14),
        "pixel_origin": torch.zeros(batch, 3, 2),
        "pixel_size": torch.ones(batch, 3),
        "pixel_shift": torch.zeros(batch, 3, 2, dtype=torch.int16),
    }


def sample(batch: int) -> dict[str, Tensor]:
    """The same with points on spheres."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(batch, STORED_POINTS, 3, generator=generator)
    return {**stored_batch(batch), "points": F.normalize(points, dim=2)}


if __name__ == "__main__":
    main()
