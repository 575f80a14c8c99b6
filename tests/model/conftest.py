"""A slow, plain version of the network, and a small network to compare it with."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2pmae.config import EncoderConfig
from i2pmae.geometry.grouping import Grouping

Weights = dict[str, Tensor]


class PlainNetwork:
    """The pre-training network, written layer by layer, cloud by cloud.

    Works on official names, in the dtype of the weights, with three levels. No stochastic depth.
    """

    def __init__(
        self,
        weights: Weights,
        n_heads: int = 6,
        embed: str = "all",
        radii: tuple[float, ...] | None = None,
        training: bool = True,
    ):
        self.w = weights
        self.n_heads = n_heads
        self.embeds_all = embed == "all" or not training
        self.radii = radii
        self.training = training
        self.moments: Weights = {}  # what the running statistics take note of

    def linear(self, name: str, x: Tensor) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.linear(x, weight.flatten(1), self.w.get(f"{name}.bias"))

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        mean, variance = rows.mean(dim=0), rows.var(dim=0, correction=0)
        self.moments[f"{name}.running_mean"] = mean.detach()
        self.moments[f"{name}.running_var"] = rows.var(dim=0).detach()
        if not self.training:
            mean, variance = self.w[f"{name}.running_mean"], self.w[f"{name}.running_var"]
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
        head = width // self.n_heads
        qkv = self.linear(f"{name}.attn.qkv", self.layer_norm(f"{name}.norm1", x))
        q, k, v = qkv.view(batch, length, 3, self.n_heads, head).permute(2, 0, 3, 1, 4)
        scores = q * head**-0.5 @ k.transpose(-1, -2)
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
            if self.embeds_all:
                tokens = self.embed(level, groups)
            else:
                found = self.embed(level, groups[~masked])
                tokens = found.new_zeros(*masked.shape, found.shape[-1])
                tokens[~masked] = found
            centers = grouping.centers[level].to(tokens.dtype)
            position = self.position(f"h_encoder.encoder_pos_embeds.{level}", centers)
            # Hidden tokens take part in no attention, which equals leaving them out.
            forbidden = masked[:, None] | masked[:, :, None]
            if self.radii is not None:
                forbidden = forbidden | (torch.cdist(centers, centers) >= self.radii[level])
            x, i = tokens, 0
            while f"h_encoder.encoder_blocks.{level}.blocks.{i}.norm1.weight" in self.w:
                name = f"h_encoder.encoder_blocks.{level}.blocks.{i}"
                x, i = self.block(name, x + position, forbidden.to(tokens.dtype)), i + 1
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
        a = self.linear("rec_head_3d", decoded[masked]).unflatten(-1, (-1, 1, 3))
        b = grouping.neighborhoods[1][masked][:, None].to(a.dtype)
        squared = ((a - b) ** 2).sum(dim=-1)
        loss_3d = squared.min(dim=1)[0].mean() + squared.min(dim=2)[0].mean()
        predicted = self.linear("rec_head_2d", decoded[~masked])
        return F.mse_loss(predicted, targets.to(predicted.dtype)), loss_3d


@pytest.fixture(scope="session")
def plain_network() -> type[PlainNetwork]:
    """The slow version of the network."""
    return PlainNetwork


@pytest.fixture(scope="session")
def tiny() -> EncoderConfig:
    """Settings of a network small enough for a slow twin."""
    return EncoderConfig(
        n_centers=(24, 14, 8),
        group_sizes=(5, 4, 3),
        widths=(6, 12, 18),
        depths=(1, 2, 1),
        embedding_width=4,
        n_heads=2,
        drop_path=0.0,
    )


@pytest.fixture
def clouds() -> Tensor:
    """Three clouds of 60 points, (3, 60, 3), within the unit cube about the origin."""
    return torch.rand(3, 60, 3, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.fixture
def seeded() -> Callable[[nn.Module], nn.Module]:
    """Gives a module weights of unit gain and norms that change something, all drawn anew."""

    def fill(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for name, value in module.state_dict().items():
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                if name.endswith("running_var"):
                    value.copy_(0.5 + noise.abs())
                elif value.is_floating_point() and value.ndim > 1:
                    value.copy_(noise * (2 / value.shape[1]) ** 0.5)
                elif value.is_floating_point():
                    value.copy_(0.3 * noise + ("norm" in name and name.endswith("weight")))
        return module

    return fill
