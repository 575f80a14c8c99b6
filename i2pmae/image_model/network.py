"""What a network computes from images: patch features and saliency."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SaliencyKind = Literal["class-attention", "pool-attention", "activation"]


class ImageModel:
    """A frozen 2D network with its preparation of the input.

    Attributes:
        name: as given to `load_image_model`.
        pretrained: where the weights come from.
        weights_hash: SHA-256, hexadecimal: of the weights file, or of the tensors where the
            weights did not come from a file of the user's.
        image_size: side of the input, pixels.
        grid: (h, w) of the output.
        channels: C of the output.
        mean, std: of the input, per color channel.
        saliency_kind: what `saliency` means, see the package.
        block: whose tokens the features are, counted from 1; None: the last.
    """

    def __init__(
        self, name: str, loaded: "Loaded", device: torch.device, dtype: torch.dtype
    ) -> None:
        # bfloat16 weights rather than autocast: a quarter faster on a CPU, and just as close to
        # float32 (cosine of the features .9999 with a ViT-S, .998 with an EfficientNet-Lite0).
        tower = loaded.tower.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self._memory_format = (
            torch.contiguous_format if tower.is_transformer else torch.channels_last
        )
        self._tower = tower.to(memory_format=self._memory_format)
        self._device, self._dtype = device, dtype
        self._mean = torch.tensor(loaded.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(loaded.std, device=device).view(1, 3, 1, 1)
        self.name, self.pretrained, self.weights_hash = name, loaded.pretrained, loaded.weights_hash
        self.image_size = loaded.image_size
        self.mean, self.std = tuple(loaded.mean), tuple(loaded.std)
        features, _ = self(torch.zeros(1, self.image_size, self.image_size))
        self.grid = (features.shape[1], features.shape[2])
        self.channels = features.shape[3]
        self.saliency_kind: SaliencyKind = tower.saliency_kind
        self.block = tower.block

    @torch.no_grad()
    def __call__(self, depth_maps: Tensor) -> tuple[Tensor, Tensor]:
        """Features and saliency of depth maps.

        An image's result does not depend on the others in the batch, except in the last digits
        where a kernel adds in another order for another batch size.

        Args:
            depth_maps: (B, H, W) float in [0, 1], H = W = `image_size`, on any device.

        Returns:
            (B, h, w, C) float32 features and (B, h, w) float32 saliency.

        Raises:
            ValueError: if the images have another size.
        """
        expected = (self.image_size, self.image_size)
        if tuple(depth_maps.shape[1:]) != expected:
            raise ValueError(
                f"depth maps of {tuple(depth_maps.shape)}; {self.name} takes (B, {expected})"
            )
        gray = depth_maps.to(self._device, torch.float32)[:, None]
        images = ((gray - self._mean) / self._std).to(self._dtype)
        features, saliency = self._tower(images.contiguous(memory_format=self._memory_format))
        return features.float().contiguous(), saliency.float().contiguous()


class Tower(nn.Module):
    """A network that gives features (B, h, w, C) and saliency (B, h, w) of images (B, 3, H, W)."""

    is_transformer: bool
    saliency_kind: SaliencyKind
    n_blocks: int = 0  # of a transformer whose blocks all give patch tokens
    block: int | None = None  # whose tokens are the features, from 1; None: the last

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and saliency, in the network's own type."""
        raise NotImplementedError


class Loaded(NamedTuple):
    """A network with weights, and what its input must be."""

    tower: Tower
    pretrained: str
    weights_hash: str
    image_size: int
    patch_size: int | None  # None: any size will do
    mean: Sequence[float]
    std: Sequence[float]


class ClipTransformer(Tower):
    """open_clip's VisionTransformer."""

    is_transformer = True
    saliency_kind = "class-attention"

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual
        self.n_blocks = len(visual.transformer.resblocks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Projected patch tokens; attention of the class token in the last block.

        Tokens of an earlier block go through the last norm and the projection as well.
        """
        visual = self.visual
        tokens = visual._embeds(images)
        *blocks, last = visual.transformer.resblocks
        for number, block in enumerate(blocks, 1):
            tokens = block(tokens)
            if number == self.block:
                chosen = tokens
        normed = last.ln_1(tokens)
        weight, bias = last.attn.in_proj_weight, last.attn.in_proj_bias
        width = normed.shape[-1]
        query = nn.functional.linear(normed[:, :1], weight[:width], bias[:width])
        key = nn.functional.linear(normed, weight[width : 2 * width], bias[width : 2 * width])
        attention = _attention(_split(query, last.attn.num_heads), _split(key, last.attn.num_heads))
        if self.block is None:
            chosen = last(tokens)
        features = visual.ln_post(chosen)[:, 1:] @ visual.proj
        grid = visual.grid_size
        return features.unflatten(1, grid), attention[:, 1:].unflatten(1, grid)


class ClipResNet(Tower):
    """open_clip's ModifiedResNet: every position as the attention pool would see it alone."""

    is_transformer = False
    saliency_kind = "pool-attention"

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Value-projected positions; attention of the mean feature in the pool."""
        visual, pool = self.visual, self.visual.attnpool
        maps = visual.stem(images)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            maps = layer(maps)
        grid = maps.shape[2:]
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = tokens + pool.positional_embedding
        query, key = pool.q_proj(tokens[:, :1]), pool.k_proj(tokens)
        attention = _attention(_split(query, pool.num_heads), _split(key, pool.num_heads))
        features = pool.c_proj(pool.v_proj(tokens[:, 1:]))
        return features.unflatten(1, grid), attention[:, 1:].unflatten(1, grid)


class TimmNetwork(Tower):
    """Any timm network that gives feature maps."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.is_transformer = hasattr(network, "patch_embed")
        blocks = getattr(network, "blocks", ()) if self.is_transformer else ()
        if len(blocks) == len(getattr(network, "feature_info", ())):  # else these are of stages
            self.n_blocks = len(blocks)
        self.n_prefix = getattr(network, "num_prefix_tokens", None) or 0
        self.saliency_kind: SaliencyKind = "activation"
        if self.n_prefix and getattr(network, "cls_token", None) is not None:
            network.blocks[-1] = _WatchedBlock(network.blocks[-1])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen feature map after the last norm; class attention, or activation."""
        # The last one is asked for as well: saliency needs all blocks.
        indices = 1 if self.block is None else [self.block - 1, self.n_blocks - 1]
        maps = self.network.forward_intermediates(
            images, indices=indices, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        features = self._normed(maps[0])
        attention = self._class_attention(features.shape[1] * features.shape[2])
        if attention is not None:
            self.saliency_kind = "class-attention"
            return features, attention.unflatten(1, features.shape[1:3])
        energy = (
            self._normed(maps[-1]).float().square().mean(dim=-1) + torch.finfo(torch.float32).tiny
        )
        return features, energy / energy.sum(dim=(1, 2), keepdim=True)

    def _normed(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w) as (B, h, w, C), after the last norm."""
        features = maps.permute(0, 2, 3, 1)
        if isinstance(getattr(self.network, "norm", None), nn.Identity):
            # Networks that pool by averaging have their last norm behind the pool.
            normed: Tensor = getattr(self.network, "fc_norm", nn.Identity())(features)
            return normed
        return features

    def _class_attention(self, n_patches: int) -> Tensor | None:
        """Attention (B, patches) of the class token in the last block, if there is one."""
        watched = self.network.blocks[-1] if hasattr(self.network, "blocks") else None
        if not isinstance(watched, _WatchedBlock) or watched.attention is None:
            return None
        attention, watched.attention = watched.attention, None
        matches = attention.shape[1] == self.n_prefix + n_patches
        return attention[:, self.n_prefix :] if matches else None


class _WatchedBlock(nn.Module):
    """A transformer block that keeps the attention of its first token."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.attention: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _FirstTokenAttention() as watch:
            result = self.block(*args, **kwargs)
        self.attention = watch.attention
        return result


class _FirstTokenAttention(TorchFunctionMode):
    """Reads the first query's attention off the block's own fused attention.

    Whatever a network does to queries and keys beforehand (normalization, rotary or relative
    positions) is therefore included, and the fused kernel runs as it would without us.
    """

    attention: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention and self.attention is None:
            query, key = args[0], args[1]
            if query.ndim == 4 and query.shape[2] == key.shape[2]:
                self.attention = _attention(query[:, :, :1], key, kwargs.get("attn_mask"))
        return func(*args, **kwargs)


def _split(tokens: Tensor, n_heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    heads: Tensor = tokens.unflatten(2, (n_heads, -1))
    return heads.transpose(1, 2)


def _attention(query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention (B, N) of one query (B, heads, 1, C), mean over heads."""
    logits = query.float() @ key.float().transpose(2, 3) / query.shape[3] ** 0.5
    if bias is not None:
        logits += bias[..., :1, :]
    attention: Tensor = logits.softmax(dim=3).mean(dim=1).squeeze(1)
    return attention
