"""Weights by the golden vectors' filling rule, and a slow, plain version of the network."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from i2pmae.geometry.grouping import Grouping

Weights = dict[str, Tensor]


def filled(key: str, shape: list[int], kind: str) -> Tensor:
    """One tensor by filling rule B."""
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    match kind:
        case "normal" if len(shape) >= 2 and shape[0] != 1:
            value = np.sqrt(2 / np.prod(shape[1:])) * noise
        case "normal":
            value = 0.1 * noise
        case "norm_weight":
            value = 1 + 0.1 * noise
        case "running_mean":
            value = 0.1 * noise
        case "running_var":
            value = 0.25 + abs(0.1 * noise)
        case "counter":
            return torch.tensor(0)
    return torch.from_numpy(np.asarray(value).astype(np.float32))


@pytest.fixture(scope="session")
def official_weights(parity: Path) -> Callable[[str], Weights]:
    """State dict of a released network, filled by the rule; names and shapes are official."""

    def load(name: str) -> Weights:
        entries = json.loads((parity / f"{name}_state_dict.json").read_text())["entries"]
        return {e["key"]: filled(e["key"], e["shape"], e["kind"]) for e in entries}

    return load


class PlainNetwork:
    """The pre-training network in training mode, written layer by layer, cloud by cloud.

    Works on official names, in the dtype of the weights. No stochastic depth.
    """

    def __init__(self, weights: Weights):
        self.w = weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.linear(x, weight.flatten(1), self.w.get(f"{name}.bias"))

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        mean = x.flatten(0, -2).mean(dim=0)
        variance = x.flatten(0, -2).var(dim=0, correction=0)
        x = (x - mean) / (variance + 1e-5).sqrt()
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def embed(self, level: int, groups: Tensor) -> Tensor:
        name = f"h_encoder.token_embed.{level}"
        x = self.linear(f"{name}.first_conv.0", groups)
        x = self.batch_norm(f"{name}.first_conv.1", x).relu()
        x = self.linear(f"{name}.first_conv.3", x)
        largest = x.max(dim=-2, keepdim=True)[0].expand_as(x)
        x = self.linear(f"{name}.second_conv.0", torch.cat([largest, x], dim=-1))
        x = self.batch_norm(f"{name}.second_conv.1", x).relu()
        return self.linear(f"{name}.second_conv.3", x).max(dim=-2)[0]

    def position(self, name: str, centers: Tensor) -> Tensor:
        return self.linear(f"{name}.2", F.gelu(self.linear(f"{name}.0", centers)))

    def block(self, name: str, x: Tensor, forbidden: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        qkv = self.linear(f"{name}.attn.qkv", self.layer_norm(f"{name}.norm1", x))
        q, k, v = qkv.view(batch, length, 3, 6, width // 6).permute(2, 0, 3, 1, 4)
        scores = q * (width // 6) ** -0.5 @ k.transpose(-1, -2)
        if forbidden is not None:
            scores = scores - 1e5 * forbidden[:, None]
        found = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.linear(f"{name}.attn.proj", found)
        inner = self.linear(f"{name}.mlp.fc1", self.layer_norm(f"{name}.norm2", x))
        return x + self.linear(f"{name}.mlp.fc2", F.gelu(inner))

    def encode(self, grouping: Grouping, masks: list[Tensor]) -> list[Tensor]:
        """Layer-normed tokens of every level, (B, G, C), zero where hidden."""
        outputs, finer = [], None
        for level, masked in enumerate(masks):
            groups = grouping.neighborhoods[0].to(self.w["mask_token"].dtype)
            if finer is not None:
                neighbors = grouping.neighbor_indices[level]
                groups = torch.stack([f[i] for f, i in zip(finer, neighbors, strict=True)])
            tokens = self.embed(level, groups)
            centers = grouping.centers[level].to(tokens.dtype)
            position = self.position(f"h_encoder.encoder_pos_embeds.{level}", centers)
            # Hidden tokens take part in no attention, which equals leaving them out.
            forbidden = (masked[:, None] | masked[:, :, None]).to(tokens.dtype)
            x = tokens
            for i in range(5):
                name = f"h_encoder.encoder_blocks.{level}.blocks.{i}"
                x = self.block(name, x + position, forbidden)
            finer = torch.where(masked[..., None], tokens, x)
            x = self.layer_norm(f"h_encoder.encoder_norms.{level}", x)
            outputs.append(torch.where(masked[..., None], 0.0, x))
        return outputs

    def decode(self, encoded: list[Tensor], grouping: Grouping, masks: list[Tensor]) -> Tensor:
        masked = masks[2][..., None]
        tokens = torch.where(masked, self.w["mask_token"], encoded[2])
        coarse, centers = grouping.centers[2].to(tokens.dtype), grouping.centers[1].to(tokens.dtype)
        tokens = tokens + self.position("decoder_pos_embeds.0", coarse)
        tokens = self.block("h_decoder.0.blocks.0", tokens)
        squared = ((centers[:, :, None] - coarse[:, None]) ** 2).sum(dim=-1)
        nearest = squared.argsort(dim=-1)[..., :3]
        weights = 1 / (squared.gather(-1, nearest) + 1e-8)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        found = torch.stack([t[i] for t, i in zip(tokens, nearest, strict=True)])
        x = torch.cat([encoded[1], (found * weights[..., None]).sum(dim=2)], dim=-1)
        fuse, operation = "token_prop.0.fuse.net", "token_prop.0.extraction.operation.0"
        x = F.gelu(self.batch_norm(f"{fuse}.1", self.linear(f"{fuse}.0", x)))
        inner = self.batch_norm(f"{operation}.net1.1", self.linear(f"{operation}.net1.0", x))
        inner = self.linear(f"{operation}.net2.0", F.gelu(inner))
        x = F.gelu(self.batch_norm(f"{operation}.net2.1", inner) + x)
        x = self.block("h_decoder.1.blocks.0", x + self.position("decoder_pos_embeds.1", centers))
        return self.layer_norm("decoder_norm", x)

    def losses(
        self, decoded: Tensor, grouping: Grouping, masks: list[Tensor], targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """2D and 3D loss; `targets` (M, K V C) of the visible level-1 tokens."""
        masked = masks[1]
        a = self.linear("rec_head_3d", decoded[masked]).view(-1, 8, 1, 3)
        b = grouping.neighborhoods[1][masked][:, None].to(a.dtype)
        squared = ((a - b) ** 2).sum(dim=-1)
        loss_3d = squared.min(dim=1)[0].mean() + squared.min(dim=2)[0].mean()
        predicted = self.linear("rec_head_2d", decoded[~masked])
        return F.mse_loss(predicted, targets.to(predicted.dtype)), loss_3d


@pytest.fixture(scope="session")
def plain_network() -> type[PlainNetwork]:
    """The slow version of the network."""
    return PlainNetwork
