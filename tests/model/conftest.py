"""A slow, plain version of the network, and a small network to compare it with."""

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2pmae.checkpoints.official import from_official, official_name, to_official
from i2pmae.config import EncoderConfig, MaskingConfig, TargetConfig
from i2pmae.geometry import projection
from i2pmae.geometry.grouping import Grouping
from i2pmae.model.packing import Packing, member_rows
from i2pmae.model.pretraining import PretrainingModel, PretrainingOutput

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
        dtype = self.w["h_encoder.encoder_norms.0.weight"].dtype
        for level, masked in enumerate(masks):
            groups = grouping.neighborhoods[0].to(dtype)
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


class Twin:
    """A part of the pre-training network, and the plain version with the same weights.

    Args:
        module: the part, in the mode to be compared.
        prefix: of its names within the network, with a dot at the end.
        settings: of the plain version.
    """

    def __init__(self, module: nn.Module, prefix: str = "", **settings: Any):
        state = {f"{prefix}{k}": v.detach().clone() for k, v in module.state_dict().items()}
        self.plain = PlainNetwork(
            to_official("pretraining", state), training=module.training, **settings
        )
        self.parameters = {
            official_name("pretraining", prefix + k): p for k, p in module.named_parameters()
        }
        for name in self.parameters:
            self.plain.w[name].requires_grad_()
        self.statistics = {
            official_name("pretraining", prefix + k): b
            for k, b in module.named_buffers()
            if "running" in k
        }

    def compare_gradients(self) -> None:
        """Of every weight, once both have been through a backward pass."""
        for name, parameter in self.parameters.items():
            ours, theirs = parameter.grad, self.plain.w[name].grad
            assert (ours is None) == (theirs is None), name
            if ours is not None:
                torch.testing.assert_close(
                    ours, theirs.view_as(ours), rtol=1e-7, atol=1e-8, msg=name
                )

    def compare_statistics(self) -> None:
        """Running ones, once both have been through a single forward pass in training mode."""
        assert self.plain.moments.keys() == self.statistics.keys()
        for name, ours in self.statistics.items():
            expected = 0.9 * self.plain.w[name] + 0.1 * self.plain.moments[name]
            torch.testing.assert_close(ours, expected, msg=name)


@pytest.fixture(scope="session")
def twin() -> type[Twin]:
    """Compares with the slow version of the network."""
    return Twin


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
    """Gives a module weights of unit gain and norms that change something, drawn by name."""

    def fill(module: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name, value in module.state_dict().items():
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                if name.endswith("running_var"):
                    value.copy_(0.5 + noise.abs())
                elif value.is_floating_point() and value.ndim > 1:
                    value.copy_(noise * (2 / value.shape[1]) ** 0.5)
                elif value.is_floating_point():
                    value.copy_(0.3 * noise + ("norm" in name and name.endswith("weight")))
        return module

    return fill


class GoldenStep(NamedTuple):
    """What the released network makes of the golden clouds with a given mask."""

    output: PretrainingOutput
    encoded: list[Tensor]  # (B, L, C) packed, per level
    packings: list[Packing]
    targets: Tensor  # (M, K, V C) of the visible level-1 tokens


@pytest.fixture(scope="session")
def released(official_weights: Callable[[str], Weights]) -> PretrainingModel:
    """The released pre-training network in evaluation mode."""
    model = PretrainingModel(EncoderConfig(), MaskingConfig(), TargetConfig())
    model.load_state_dict(from_official(official_weights("i2p_mae"))[1])
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def golden_inputs(parity: Path) -> tuple[Tensor, ...]:
    """Points, image features, saliency maps and pixels of the golden pre-training steps."""
    golden = np.load(parity / "pretrain_forward.npz")
    points = torch.from_numpy(golden["points"])
    axes = projection.view_axes(3)
    pixels = projection.pixels(points, projection.fit_pixels(points, axes), axes)
    noise = np.random.default_rng(2).standard_normal((12, 512, 14, 14)).astype(np.float32)
    features = torch.from_numpy(noise).view(3, 4, 512, 14, 14).permute(1, 0, 3, 4, 2)
    saliency = torch.from_numpy(golden["img_sal_row0"]).view(3, 4, 14, 14).transpose(0, 1)
    return points, features, saliency, pixels


@pytest.fixture(scope="session")
def golden_step(
    parity: Path, released: PretrainingModel, golden_inputs: tuple[Tensor, ...]
) -> Callable[[str], GoldenStep]:
    """Step with mask A or B."""
    golden = np.load(parity / "pretrain_forward.npz")
    points, features, saliency, pixels = golden_inputs

    @cache
    def step(mask: str) -> GoldenStep:
        encoded: list[list[Tensor]] = []
        hook = released.encoder.register_forward_hook(lambda *call: encoded.append(call[2]))
        masked = torch.from_numpy(golden[f"top{mask}"])
        output = released(points, features, saliency, pixels, masked=masked)
        hook.remove()
        packings = output.packings
        found = released.semantic_targets(output.grouping, packings, features, pixels)
        members = member_rows(output.grouping.neighbor_indices[1], *packings[:2])
        targets = found.flatten(2).flatten(0, 1)[members[packings[1].counted]]
        return GoldenStep(output, encoded[0], packings, targets)

    return step
