"""A fine-tuning step against the same network written down plainly.

ScanObjectNN's recipe (PB_T50_RS), 8 clouds of 2048 points, forward, backward, clipping and AdamW.
The plain network has the same weights and gives the same logits (checked first): mini-PointNets of
convolutions on every neighbor, [maximum, feature] concatenated, attention as matrix products with
masks added as float matrices, all in float32. One unit: see `step.py`. The ways and the unit take
turns; `speedup_*`: median seconds of the plain step over those of ours.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from output import show
from step import beside_unit
from torch import Tensor, nn

from i2pmae.allocator import keep_freed_memory
from i2pmae.config import FinetuneConfig
from i2pmae.geometry.grouping import gather_rows, group
from i2pmae.model.classifier import Classifier
from i2pmae.model.layers import FORBIDDEN, Block
from i2pmae.recipes import load_config
from i2pmae.training.losses import smoothed_cross_entropy
from i2pmae.training.optim import make_optimizer

RECIPE = "finetune-scanobjectnn-pb-t50-rs"
BATCH, CLASSES = 8, 15


class PlainClassifier(nn.Module):
    """Our classifier's network, written down plainly."""

    def __init__(self, like: Classifier):
        super().__init__()
        self.like = copy.deepcopy(like)

    def forward(self, points: Tensor) -> Tensor:
        """(B, N, 3) to logits."""
        config, encoder = self.like.config, self.like.encoder
        grouping = group(points, config.n_centers, config.group_sizes)
        tokens = grouping.neighborhoods[0]
        for level, centers in enumerate(grouping.centers):
            if level:
                tokens = gather_rows(tokens, grouping.neighbor_indices[level])
            tokens = encoder.embeddings[level](tokens.flatten(0, 1)).view(*centers.shape[:2], -1)
            far = torch.cdist(centers, centers) >= encoder.radii[level]
            mask = far.float() * FORBIDDEN
            position = encoder.positions[level](centers)
            for block in encoder.blocks[level]:
                tokens = plain_block(block, tokens + position, mask)
        tokens = self.like.norm(tokens)
        pooled = torch.cat([tokens.mean(dim=1), tokens.amax(dim=1)], dim=1)
        logits: Tensor = self.like.head(pooled)
        return logits


def plain_block(block: Block, x: Tensor, mask: Tensor) -> Tensor:
    """A transformer block with attention as matrix products."""
    layer = block.attention
    qkv = layer.qkv(block.attention_norm(x)).unflatten(2, (3, layer.n_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + mask[:, None]
    attended = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    x = x + block.drop_path(layer.projection(attended))
    added: Tensor = block.drop_path(block.mlp(block.mlp_norm(x)))
    return x + added


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: one turn")
    parser.add_argument("--turns", type=int, default=7, help="measurements of each way")
    options = parser.parse_args()
    keep_freed_memory()
    result = measure(1 if options.quick else options.turns)
    show(result, as_json=options.json)


def measure(turns: int) -> dict[str, float]:
    """Speed-ups and units."""
    settings = {"data": "unused", "out": "unused"}
    config = load_config(FinetuneConfig, "finetune", recipe=RECIPE, options=settings)
    torch.manual_seed(0)
    ours = Classifier(config.encoder, config.head, CLASSES)
    plain = PlainClassifier(ours)
    check_equal(ours, plain)
    steps = {
        "fp32": make_step(copy.deepcopy(ours), config, torch.float32, clouds(1)),
        "bf16": make_step(copy.deepcopy(ours), config, torch.bfloat16, clouds(1)),
        "plain": make_step(plain, config, torch.float32, clouds(1)),
    }
    median = beside_unit(steps, turns)
    return {
        "speedup_fp32": median["plain"] / median["fp32"],
        "speedup_bf16": median["plain"] / median["bf16"],
        **{f"units_{name}": median[name] / median["unit"] for name in steps},
        "unit_seconds": median["unit"],
    }


def check_equal(ours: Classifier, plain: PlainClassifier) -> None:
    """Stop if the two networks differ."""
    points = clouds(0)
    with torch.no_grad():
        expected = plain.eval()(points)
        difference = (ours.eval()(points) - expected).abs().max() / expected.abs().max()
    if difference > 1e-4:
        raise SystemExit(f"the plain network gives other logits ({difference:.1e})")


def clouds(seed: int, batch: int = BATCH, n_points: int = 2048) -> Tensor:
    """Points on a sphere, (batch, n_points, 3)."""
    points = torch.randn(batch, n_points, 3, generator=torch.Generator().manual_seed(seed))
    return points / points.norm(dim=-1, keepdim=True)


def make_step(
    model: Classifier | PlainClassifier, config: FinetuneConfig, dtype: torch.dtype, points: Tensor
) -> Callable[[], float]:
    """A training step on clouds; it returns its seconds, or those until a GPU has its work."""
    kind = points.device.type
    model.to(points.device).train()
    optimizer = make_optimizer(model, config.optim)
    labels = torch.arange(len(points), device=points.device) % CLASSES

    def step() -> float:
        begin = time.perf_counter()
        with torch.autocast(kind, torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(points)
        smoothed_cross_entropy(logits.float(), labels, config.label_smoothing).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm or 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - begin

    return step


if __name__ == "__main__":
    main()
