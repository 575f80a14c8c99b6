"""What a network computes from images: patch features and saliency."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from i2pmae.errors import WeightsError
from i2pmae.geometry.shapes import require_shape
from i2pmae.progress import warn

SaliencyKind = Literal["class-attention", "pool-attention", "activation"]


@dataclass(frozen=True)
class ImageModelInfo:
    """What there is to know about an image model without its weights.

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
        precision: name of the type of the weights and the arithmetic.
        device: kind of the device on which the network runs.
        compiled: whether its kernels are those of `torch.compile`.
    """

    name: str
    pretrained: str
    weights_hash: str
    image_size: int
    grid: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    saliency_kind: SaliencyKind
    block: int | None
    precision: str
    device: str
    compiled: bool = False


class ImageModel:
    """A frozen 2D network with its preparation of the input; `info` describes it."""

    def __init__(
        self, name: str, loaded: "Loaded", device: torch.device, dtype: torch.dtype
    ) -> None:
        # bfloat16 weights rather than autocast: a quarter faster on a CPU, and just as close to
        # float32 (cosine of the features 0.9999 with a ViT-S, 0.998 with an EfficientNet-Lite0).
        tower = loaded.tower.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self._tower = tower.to(memory_format=tower.memory_format)
        self._run: Callable[[Tower, Tensor], tuple[Tensor, Tensor]] = _run
        self._name, self._image_size = name, loaded.image_size
        self._device, self._dtype = device, dtype
        self._mean = torch.tensor(loaded.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(loaded.std, device=device).view(1, 3, 1, 1)
        features, saliency = self(torch.zeros(1, loaded.image_size, loaded.image_size))
        if not (features.isfinite().all() and saliency.isfinite().all()):
            raise self.not_finite()
        self.info = ImageModelInfo(
            name=name,
            pretrained=loaded.pretrained,
            weights_hash=loaded.weights_hash,
            image_size=loaded.image_size,
            grid=(features.shape[1], features.shape[2]),
            channels=features.shape[3],
            mean=tuple(loaded.mean),
            std=tuple(loaded.std),
            saliency_kind=tower.saliency_kind,
            block=tower.block,
            precision=str(dtype).removeprefix("torch."),
            device=device.type,
        )

    def __repr__(self) -> str:
        size, (h, w) = self._image_size, self.info.grid
        return (
            f"ImageModel({self.info.name}, {self.info.pretrained}: (B, {size}, {size}) -> features "
            f"(B, {h}, {w}, {self.info.channels}), saliency (B, {h}, {w}) by "
            f"{self.info.saliency_kind}; {self.info.precision} on {self.info.device})"
        )

    @torch.no_grad()
    def __call__(self, depth_maps: Tensor) -> tuple[Tensor, Tensor]:
        """Features and saliency of depth maps.

        An image's result does not depend on the others in the batch, except in the last digits
        where a kernel adds in another order for another batch size.

        Args:
            depth_maps: (B, H, W) float in [0, 1], or (B, H, W, 3) of red, green and blue;
                H = W = `info.image_size`, on any device.

        Returns:
            (B, h, w, C) float32 features and (B, h, w) float32 saliency.

        Raises:
            ValueError: if the images have another size.
        """
        colors = (3,) if depth_maps.ndim == 4 else ()
        require_shape("depth maps", depth_maps, "B", self._image_size, self._image_size, *colors)
        pictures = depth_maps.to(self._device, torch.float32)
        pictures = pictures.movedim(3, 1) if colors else pictures[:, None]
        images = ((pictures - self._mean) / self._std).to(self._dtype)
        features, saliency = self._run(self._tower, images)
        return features.float().contiguous(), saliency.float().contiguous()

    @torch.inference_mode()  # as stage one runs it; in another mode it would be compiled again
    def compile(self, n_images: int) -> None:
        """Compile the network by `torch.compile`; features change in their last digits.

        Where that does not work a warning says so, and the network stays as it is.

        Args:
            n_images: of a call. Fewer are filled up with zeros, more are split, so that the
                network is compiled once.
        """
        size = self._image_size
        eager, self._run = self._run, _compiled(n_images)
        try:
            self(torch.zeros(n_images, size, size, device=self._device))
        except RuntimeError as error:
            self._run = eager
            reason = str(error).strip().partition("\n")[0]
            warn(
                f"image_model.compile does not work here; the image model runs without it: {reason}"
            )
        else:
            self.info = replace(self.info, compiled=True)

    def not_finite(self) -> WeightsError:
        """The error to raise where results are NaN or infinite, with the reason."""
        bad = {
            name: int((~values.isfinite()).sum())
            for name, values in self._tower.state_dict().items()
            if not values.isfinite().all()
        }
        reason = f"all of its weights are finite, so values overflow in {self._dtype}"
        remedy = "Try --precision fp32, or other weights with --pretrained."
        if bad:
            first, n_bad = next(iter(bad.items()))
            reason = f"{n_bad} values of {first} are not, of {len(bad)} such tensors in its weights"
            remedy = "Pass other weights with --pretrained."
        return WeightsError(
            f"the features of image model {self._name} are not finite (NaN or infinite): "
            f"{reason}. {remedy}"
        )


class Tower(nn.Module):
    """A network that gives features (B, h, w, C) and saliency (B, h, w) of images (B, 3, H, W)."""

    is_transformer: bool
    saliency_kind: SaliencyKind
    n_blocks: int = 0  # of a transformer whose blocks all give patch tokens
    block: int | None = None  # whose tokens are the features, from 1; None: the last

    @property
    def memory_format(self) -> torch.memory_format:
        """In which its kernels are fastest."""
        return torch.contiguous_format if self.is_transformer else torch.channels_last

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and saliency, in the network's own type."""
        raise NotImplementedError


def _run(tower: Tower, images: Tensor) -> tuple[Tensor, Tensor]:
    features, saliency = tower(images.contiguous(memory_format=tower.memory_format))
    return features, saliency


def _compiled(n_images: int) -> Callable[[Tower, Tensor], tuple[Tensor, Tensor]]:
    """`_run` by `torch.compile`, always on as many images."""
    # Copies of a network share what was compiled for one; each thread has its share of the cores.
    compiled = torch.compile(_run, dynamic=False, options={"cpp.dynamic_threads": True})

    def run(tower: Tower, images: Tensor) -> tuple[Tensor, Tensor]:
        n_missing = -len(images) % n_images
        filled = nn.functional.pad(images, (0, 0) * 3 + (0, n_missing))
        found = [compiled(tower, part) for part in filled.split(n_images)]
        features, saliency = (torch.cat(parts)[: len(images)] for parts in zip(*found, strict=True))
        return features, saliency

    return run


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
        found: list[Tensor] = []
        with _FirstTokenAttention(found):
            result = self.block(*args, **kwargs)
        self.attention = found[0] if found else None
        return result


class _FirstTokenAttention(TorchFunctionMode):
    """Reads the first query's attention off the block's own fused attention.

    Whatever a network does to queries and keys beforehand (normalization, rotary or relative
    positions) is therefore included, and the fused kernel runs as it would without us.
    """

    def __init__(self, found: list[Tensor]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention and not self._found:
            query, key = args[0], args[1]
            if query.ndim == 4 and query.shape[2] == key.shape[2]:
                self._found.append(_attention(query[:, :, :1], key, kwargs.get("attn_mask")))
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
