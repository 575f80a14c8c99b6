"""The masked autoencoder with its 2D and 3D targets (section 3 of the paper)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from i2pmae.config import EncoderConfig, MaskingConfig, TargetConfig
from i2pmae.geometry.chamfer import chamfer_l2
from i2pmae.geometry.grouping import Grouping, group, point_indices
from i2pmae.geometry.projection import back_project, mean_over_views
from i2pmae.model.decoder import Decoder
from i2pmae.model.encoder import Encoder
from i2pmae.model.feature_loss import FeatureLoss
from i2pmae.model.frozen import frozen_feature
from i2pmae.model.layers import product_dtype
from i2pmae.model.masking import carry_through, guided_mask, n_visible, random_mask
from i2pmae.model.packing import Packing, member_rows, pack
from i2pmae.model.summary import summary

TARGET_LEVEL = 1  # tokens of this level are decoded; their groups consist of level-0 centers


class PretrainingOutput(NamedTuple):
    """Losses of a step and what pictures of it need."""

    loss: Tensor  # scalar float32, weighted sum
    loss_2d: Tensor  # scalar float32; 0 where not asked for
    loss_3d: Tensor  # scalar float32; 0 where not asked for
    masks: list[Tensor]  # (B, G) bool per level, fine to coarse, True = hidden
    packings: list[Packing]  # of the visible tokens, per level
    grouping: Grouping
    decoded: Tensor  # (B, G_1, C_1) the decoder's tokens
    n_compared: Tensor  # scalar int64, what `loss_2d` is the mean of: neighbors, or views of them


class PretrainingModel(nn.Module):
    """Encoder, decoder and both reconstruction heads.

    With `targets.standardize` the 2D loss compares features of mean 0 and standard deviation 1; the
    buffers `target_mean` and `target_deviation` (C,) say of which: `standardize_targets`.
    Differs from the official code, which compares raw features: a few channels rule its loss.
    With `targets.remove_shape_mean` their mean over the shape is taken off in every view and
    channel, as that of a patch's pixels is in MAE (He et al. 2022), without its division by the
    standard deviation: what remains tells parts of the shape apart. Differs from the official
    code, which has no such option.

    Args:
        encoder: the encoder's settings.
        masking: how tokens are hidden.
        targets: what is reconstructed; heads exist for these targets only.
        n_views: V of the image features.
        image_channels: C of the image features.
        image_size: side of the rendered images in pixels.
        embed: groups embedded in training, as in `Encoder`.
    """

    target_mean: Tensor
    target_deviation: Tensor

    def __init__(
        self,
        encoder: EncoderConfig,
        masking: MaskingConfig,
        targets: TargetConfig,
        n_views: int = 3,
        image_channels: int = 512,
        image_size: int = 224,
        embed: Literal["all", "visible"] = "all",
    ):
        super().__init__()
        self.config = encoder
        self.masking = masking
        self.targets = targets
        self.n_views = n_views
        self.image_size = image_size
        self.embed: Literal["all", "visible"] = embed
        self.encoder = Encoder(encoder, normalized=True)
        self.decoder = Decoder(encoder.widths, encoder.n_heads, encoder.drop_path)
        width, size = encoder.widths[TARGET_LEVEL], encoder.group_sizes[TARGET_LEVEL]
        if targets.kind != "2d":
            self.head_3d = nn.Linear(width, size * 3)
        if targets.kind != "3d":
            self.head_2d = FeatureLoss(width, size, n_views * image_channels)
        self.standardized = targets.standardize and targets.kind != "3d"
        if self.standardized:
            self.register_buffer("target_mean", torch.zeros(image_channels))
            self.register_buffer("target_deviation", torch.ones(image_channels))

    def __repr__(self) -> str:
        return summary(self, self.config, f"losses of targets '{self.targets.kind}'")

    def forward(
        self,
        points: Tensor,
        image_features: Tensor | None = None,
        saliency_maps: Tensor | None = None,
        pixels: Tensor | None = None,
        generator: torch.Generator | None = None,
        feature_scale: Tensor | None = None,
        masked: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> PretrainingOutput:
        """Hide, encode, decode, compare.

        Args:
            points: (B, N, 3) float32 as the encoder sees them, augmented.
            image_features: (B, V, h, w, C) float, or int8 codes with `feature_scale`; not needed
                for targets "3d".
            saliency_maps: (B, V, h, w) float; needed to draw 2D-guided masks only.
            pixels: (B, V, N, 2) int64 row and column of every point; needed with either of them.
            generator: source of the masks.
            feature_scale: (B, C) float.
            masked: (B, G) bool of the coarsest level, True = hidden; None: drawn.
            seen: (B, V, N) bool, views that see a point: the others have no part in its target
                and its saliency. None: all.

        Returns:
            Losses, masks and tokens.

        Raises:
            ValueError: if something needed is missing.
        """
        config = self.config
        grouping = group(points.float(), config.n_centers, config.group_sizes)
        n_kept = n_visible(config.n_centers[-1], self.masking.ratio)
        if masked is None:
            masked = self._draw_mask(grouping, saliency_maps, pixels, seen, generator)
        else:
            n_kept = int((~masked).sum(dim=1).max())
        masks = carry_through(masked, grouping.neighbor_indices, config.n_centers)
        packings = pack(masks, config.group_sizes, n_kept)
        encoded = self.encoder(grouping, packings, self.embed)
        decoded = self.decoder(encoded, grouping, packings)
        loss_2d = loss_3d = points.new_zeros((), dtype=torch.float32)
        n_compared = masks[TARGET_LEVEL].sum()
        if self.targets.kind != "2d":
            loss_3d = self._loss_3d(decoded, grouping, masks)
        if self.targets.kind != "3d":
            needed = _needed(image_features, "image_features"), _needed(pixels, "pixels")
            loss_2d, n_compared = self._loss_2d(
                decoded, grouping, packings, *needed, feature_scale, seen
            )
        loss = self.targets.weight_2d * loss_2d + self.targets.weight_3d * loss_3d
        return PretrainingOutput(
            loss, loss_2d, loss_3d, masks, packings, grouping, decoded, n_compared
        )

    def features(self, points: Tensor) -> Tensor:
        """Frozen feature, (B, N, 3) to (B, C): maximum over the coarsest tokens.

        No coarsest token is hidden; finer tokens that belong to no coarser group are.
        """
        return frozen_feature(self.encoder, self.config, points)

    def standardize_targets(self, mean: Tensor, std: Tensor) -> None:
        """Set what `targets.standardize` subtracts and divides by, both (C,)."""
        self.target_mean.copy_(mean)
        self.target_deviation.copy_(std)

    def reconstruct(self, decoded: Tensor) -> Tensor:
        """Predicted neighbors (B, G_1, K_1, 3) relative to their center, from decoded tokens."""
        predicted: Tensor = self.head_3d(decoded)
        return predicted.view(*decoded.shape[:2], -1, 3)

    def predict_features(self, tokens: Tensor) -> Tensor:
        """Predicted image features (M, K_1, V, C) of the neighbors of tokens (M, C_1).

        With `targets.remove_shape_mean` a shape's own mean is not predicted: they are those of a
        shape with the mean of all shapes where targets are standardized, with mean 0 otherwise.
        """
        size = self.config.group_sizes[TARGET_LEVEL]
        predicted: Tensor = self.head_2d(tokens).view(len(tokens), size, self.n_views, -1)
        return self.unstandardize(predicted)

    def unstandardize(self, values: Tensor) -> Tensor:
        """Image features (..., C) of what the 2D loss compares, in the store's unit."""
        return values * self.target_deviation + self.target_mean if self.standardized else values

    def semantic_targets(
        self,
        grouping: Grouping,
        packings: list[Packing],
        image_features: Tensor,
        pixels: Tensor,
        feature_scale: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """What the 2D loss compares with, (B, L, V, C): features of visible level-0 centers.

        Where masked tokens are asked as well: of all level-0 centers. With
        `targets.remove_shape_mean`: less their mean over these centers, view by view.
        """
        points = self._asked_points(grouping, packings)
        dtype = product_dtype(self.head_2d.weight)
        if dtype == torch.float64:
            dtype = torch.float32
        at = _pixels_of(pixels, points)
        found = back_project(image_features, at, self.image_size, feature_scale, dtype)
        if self.standardized:
            found.sub_(self.target_mean.to(dtype)).div_(self.target_deviation.to(dtype))
        if self.targets.remove_shape_mean:
            asked = packings[0].filled
            if self.targets.tokens_2d != "visible":
                asked = torch.ones_like(packings[0].visible)
            weights = asked[:, None].expand(-1, self.n_views, -1)
            if seen is not None:
                weights = weights * _of_points(seen, points)
            share = weights / weights.sum(dim=2, keepdim=True).clamp(min=1)
            found.sub_(share.to(dtype)[:, :, None] @ found)
        return found.transpose(1, 2)

    def _draw_mask(
        self,
        grouping: Grouping,
        saliency_maps: Tensor | None,
        pixels: Tensor | None,
        seen: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Mask of the coarsest level."""
        masking = self.masking
        batch, n_tokens, _ = grouping.centers[-1].shape
        if masking.strategy == "random":
            device = grouping.centers[-1].device
            return random_mask(batch, n_tokens, masking.ratio, generator, device)
        saliency_maps = _needed(saliency_maps, "saliency_maps")
        saliency = self.saliency(grouping, saliency_maps, _needed(pixels, "pixels"), seen)
        return guided_mask(
            saliency, masking.ratio, masking.temperature, masking.standardize, generator
        )

    def saliency(
        self,
        grouping: Grouping,
        saliency_maps: Tensor,
        pixels: Tensor,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Saliency of the coarsest centers, mean over the views that see them: (B, G)."""
        points = point_indices(grouping, len(grouping.centers) - 1)
        at = _pixels_of(pixels, points)
        found = back_project(saliency_maps.float()[..., None], at, self.image_size)
        return mean_over_views(found, None if seen is None else _of_points(seen, points)).squeeze(
            -1
        )

    def _loss_3d(self, decoded: Tensor, grouping: Grouping, masks: list[Tensor]) -> Tensor:
        """Chamfer distance of hidden tokens' neighborhoods."""
        predicted = self.reconstruct(decoded).flatten(0, 1)
        true = grouping.neighborhoods[TARGET_LEVEL].flatten(0, 1)
        # Every token is predicted, hidden ones count: no size depends on the mask.
        return chamfer_l2(predicted, true, masks[TARGET_LEVEL].flatten())

    def _loss_2d(
        self,
        decoded: Tensor,
        grouping: Grouping,
        packings: list[Packing],
        image_features: Tensor,
        pixels: Tensor,
        feature_scale: Tensor | None,
        seen: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error of the image features of tokens' neighbors, and of how many."""
        # A visible token's neighbors are visible: no other level-0 center needs a target.
        targets = self.semantic_targets(
            grouping, packings, image_features, pixels, feature_scale, seen
        )
        targets = targets.flatten(2).flatten(0, 1)
        if seen is not None:
            asked = self._asked_points(grouping, packings)
            seen = _of_points(seen, asked).transpose(1, 2).flatten(0, 1)
        neighbors = grouping.neighbor_indices[TARGET_LEVEL]
        packing = packings[TARGET_LEVEL]
        tokens = decoded.flatten(0, 1)
        if self.targets.tokens_2d == "visible":
            rows = member_rows(neighbors, packings[TARGET_LEVEL - 1], packing)
            tokens = tokens.index_select(0, packing.chosen)
            return self.head_2d.loss(tokens, targets, rows, packing.counted, seen)
        # Every token is predicted, those that are asked count: no size depends on the mask.
        first = torch.arange(len(neighbors), device=tokens.device) * grouping.centers[0].shape[1]
        rows = (neighbors + first[:, None, None]).flatten(0, 1)
        asked = torch.ones_like(packing.visible)
        if self.targets.tokens_2d == "masked":
            asked = ~packing.visible
        return self.head_2d.loss(tokens, targets, rows, asked.flatten(), seen)

    def _asked_points(self, grouping: Grouping, packings: list[Packing]) -> Tensor:
        """Indices (B, L) of the points whose image features are targets."""
        points = point_indices(grouping, 0)
        if self.targets.tokens_2d == "visible":
            points = points.gather(1, packings[0].kept)
        return points


def _needed(value: Tensor | None, name: str) -> Tensor:
    """The value, which these settings cannot do without."""
    if value is None:
        raise ValueError(f"{name} is None; only random masking with targets '3d' needs none")
    return value


def _of_points(values: Tensor, points: Tensor) -> Tensor:
    """Values (B, V, M) of the points with indices (B, M), of values (B, V, N)."""
    return values.gather(2, points[:, None].expand(-1, values.shape[1], -1))


def _pixels_of(pixels: Tensor, points: Tensor) -> Tensor:
    """Pixels (B, V, M, 2) of the points with indices (B, M)."""
    index = points[:, None, :, None].expand(-1, pixels.shape[1], -1, 2)
    return pixels.gather(2, index)
