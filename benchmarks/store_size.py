"""Bytes per shape of a store with 3 x 14 x 14 x 512 features, and what they keep of the features.

Shapes are rendered at 224 pixels and encoded by a real image model; a store is written as stage
one writes it and read back as training reads it. `*_vs_fp32`: size of the files over that of
dense float32 features. `cosine`: between the semantic targets (features back-projected to points)
of the store and those of the float32 features, mean over shapes, views and points;
`cosine_lowest_1_percent`: what 1% of them stay below; `cosine_standardized`: the mean where both
are standardized channel by channel first, as `targets.standardize` does.

Networks whose weights come without a download have another grid and fewer channels. Their grid is
brought to 14 x 14 by nearest neighbors, their channels to 512 by a fixed random matrix with
orthonormal rows: it keeps all lengths and angles, but the features stay in a space of as many
dimensions as the network has channels. With `--image-model ViT-B-16-quickgelu` and CLIP's weights
nothing is changed.

`--options` also measures smaller encodings: larger steps, which `store.int8_step` sets, and others
that the store does not offer. What they learn from data they learn from the first half of the
shapes; all figures are of the second half. Features brought to 512 channels are redundant, which
favors principal components: `--own-channels` leaves them as they are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numcodecs import Zstd
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from i2pmae.config import ViewConfig
from i2pmae.datasets import open_source
from i2pmae.device import pick_device, pick_dtype
from i2pmae.geometry.projection import (
    PixelMap,
    back_project,
    fit_pixels,
    patches_read,
    pixels,
    render,
    view_axes,
)
from i2pmae.geometry.transforms import normalize_to_unit_sphere
from i2pmae.image_model import ImageModel, load_image_model
from i2pmae.store.quantize import LARGEST_CODE, dequantize, encode, quantize, round_points
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import DONE, StoreSpec
from i2pmae.store.writer import open_writer

IMAGE_SIZE, GRID, CHANNELS = 224, (14, 14), 512
VIEWS = ViewConfig()  # the paper's
AXES = view_axes(VIEWS.n_views)
COMPARED = 512  # points per shape
BATCH = 8
CODEBOOK = 256  # entries, one byte
SUBVECTOR = 8  # channels that share a byte

Array = NDArray[Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--quick", action="store_true", help="does it run: few shapes")
    parser.add_argument("--options", action="store_true", help="measure smaller encodings too")
    parser.add_argument("--data", type=Path, default=Path("procedural"), help="shapes to render")
    parser.add_argument("--shapes", type=int, default=64, help="a full shard, or several")
    parser.add_argument("--points", type=int, default=8192, help="stored per shape")
    parser.add_argument("--image-model", default="efficientnet-lite0-packaged")
    parser.add_argument("--pretrained", help="a tag or file of weights")
    parser.add_argument(
        "--image-size", type=int, help="pixels; default: the network's own, 448 for the Lite0"
    )
    parser.add_argument(
        "--own-channels", action="store_true", help="keep the network's instead of 512"
    )
    parser.add_argument("--folder", type=Path, help="where to put the store; default: temporary")
    options = parser.parse_args()
    if options.quick:
        options.shapes, options.points = 4, 512
    if options.image_model == "efficientnet-lite0-packaged" and options.image_size is None:
        options.image_size = 448  # 14 x 14 patches
    device = pick_device("auto")
    image_model = load_image_model(
        options.image_model,
        options.pretrained,
        options.image_size,
        device=device,
        dtype=pick_dtype("auto", device),
    )
    points = load_points(options.data, options.shapes, options.points)
    n_channels = image_model.info.channels if options.own_channels else CHANNELS
    features, others = encode_shapes(points, image_model, n_channels)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        path = Path(name) / "real.zarr"
        write_store(path, features, others)
        result = measure(path, features)
    smaller = dict(measure_options(features, others)) if options.options else {}
    if options.json:
        print(json.dumps({**result, **({"options": smaller} if smaller else {})}))
        return
    print(f"{len(features)} shapes of {options.data}, {image_model.info.name}")
    for key, value in result.items():
        print(f"{key:30} {value:12.5f}")
    for key, found in smaller.items():
        print(
            f"{key:56} 1/{1 / found['features_vs_fp32']:5.1f}  cosine {found['cosine']:.5f} "
            f"standardized {found['cosine_standardized']:.5f}"
        )


def load_points(data: Path, n_shapes: int, n_points: int) -> Tensor:
    """Shapes from all over a source, (S, N, 3) float32, as stage one stores them."""
    source = open_source(data, split="all", points=n_points)
    chosen = np.random.default_rng(0).permutation(len(source))[:n_shapes]
    clouds = [source.load(index).points for index in chosen]
    n_points = min(map(len, clouds))
    canonical = normalize_to_unit_sphere(
        torch.from_numpy(np.stack([cloud[:n_points] for cloud in clouds]))
    )
    return torch.from_numpy(round_points(canonical.numpy()))


def encode_shapes(
    points: Tensor, image_model: ImageModel, n_channels: int
) -> tuple[Array, dict[str, Array]]:
    """Features (S, V, h, w, C) of the wanted size, zero where no point reads, and the rest."""
    batches = [encode_batch(batch, image_model, n_channels) for batch in points.split(BATCH)]
    whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return whole.pop("features"), {**whole, "points": points.numpy()}


def encode_batch(points: Tensor, image_model: ImageModel, n_channels: int) -> dict[str, Array]:
    """As stage one does, but with grid and channels brought to size."""
    drawn = points[:, : VIEWS.sum_points]
    size = image_model.info.image_size
    seen = render(drawn, fit_pixels(points, AXES, size), AXES, size, VIEWS.draw)
    features, saliency = image_model(seen.flatten(0, 1))
    rows, columns = (
        ((torch.arange(wanted) + 0.5) * found / wanted).long()
        for wanted, found in zip(GRID, image_model.info.grid, strict=True)
    )
    saliency = saliency[:, rows][:, :, columns].unflatten(0, seen.shape[:2])
    features = features[:, rows][:, :, columns].unflatten(0, seen.shape[:2])
    if image_model.info.channels != n_channels:
        features = features @ orthonormal(image_model.info.channels, n_channels)
    pixel_map = fit_pixels(points, AXES, IMAGE_SIZE)
    read = patches_read(pixels(points, pixel_map, AXES, IMAGE_SIZE), GRID, IMAGE_SIZE)
    depth = render(drawn, pixel_map, AXES, IMAGE_SIZE, VIEWS.draw)
    return {
        "features": (features.cpu() * read[..., None]).numpy(),
        "saliency": saliency.cpu().numpy(),
        "depth": (depth * 255).round().to(torch.uint8).numpy(),
        "pixel_origin": pixel_map.origin.numpy(),
        "pixel_size": pixel_map.size.numpy(),
        "pixel_shift": pixel_map.shift.to(torch.int16).numpy(),
    }


def orthonormal(n_found: int, n_wanted: int) -> Tensor:
    """The fixed matrix from a network's channels to the wanted ones."""
    generator = torch.Generator().manual_seed(0)
    empty = torch.empty(n_found, n_wanted)
    return torch.nn.init.orthogonal_(empty, generator=generator)


def write_store(path: Path, features: Array, others: dict[str, Array]) -> None:
    """A store of these shapes."""
    n_shapes, n_points = others["points"].shape[:2]
    spec = StoreSpec(
        n_shapes=n_shapes,
        n_points=n_points,
        n_views=VIEWS.n_views,
        image_size=IMAGE_SIZE,
        grid=GRID,
        channels=features.shape[-1],
    )
    whole = {
        **others,
        **encode(features, spec.dtype),
        "label": np.zeros(n_shapes, np.int64),
        "id": np.array([f"shape/{i:06}" for i in range(n_shapes)]),
        "split": np.full(n_shapes, "train"),
        "status": np.full(n_shapes, DONE, np.uint8),
    }
    with open_writer(
        path, spec, view_axes=AXES.numpy(), settings={}, provenance={}, class_names=("shape",)
    ) as writer:
        for k in writer.pending:
            writer.write_shard(k, {name: array[spec.shard(k)] for name, array in whole.items()})
        writer.finish()


def measure(path: Path, features: Array) -> dict[str, float]:
    """Sizes on disk, and the fidelity of what a pre-training step gets."""
    n_shapes = len(features)
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in sorted(path.iterdir())
        if folder.is_dir()
    }
    stored = StoreReader(path).read(np.arange(n_shapes))
    decoded = dequantize(stored["features"], stored["feature_scale"])
    found = similarities(features, decoded, stored)
    of_features = sizes["features"] + sizes["feature_scale"]
    dense = features.nbytes
    return {
        "features_vs_fp32": of_features / dense,
        "all_vs_fp32": sum(sizes.values()) / dense,
        "cosine": float(found.mean()),
        "cosine_lowest_1_percent": float(np.quantile(found, 0.01)),
        "cosine_standardized": standardized_cosine(features, decoded, stored),
        "read_share": float(features.any(axis=-1).mean()),
        "bytes_per_shape": sum(sizes.values()) / n_shapes,
        **{f"bytes_{name}": size / n_shapes for name, size in sizes.items()},
    }


def similarities(features: Array, decoded: Array, others: dict[str, Array]) -> Array:
    """Cosines (S, V, M) between the targets of two feature maps."""
    pixel_map = PixelMap(
        torch.from_numpy(others["pixel_origin"]),
        torch.from_numpy(others["pixel_size"]),
        torch.from_numpy(others["pixel_shift"]),
    )
    at = pixels(torch.from_numpy(others["points"][:, :COMPARED]), pixel_map, AXES, IMAGE_SIZE)
    cosines = [
        F.cosine_similarity(
            back_project(torch.from_numpy(features[i : i + 1]), at[i : i + 1], IMAGE_SIZE),
            back_project(torch.from_numpy(decoded[i : i + 1]), at[i : i + 1], IMAGE_SIZE),
            dim=-1,
        )
        for i in range(len(features))
    ]
    return torch.cat(cosines).numpy()


def standardized_cosine(features: Array, decoded: Array, others: dict[str, Array]) -> float:
    """Mean cosine of patches read, channels at mean 0 and standard deviation 1."""
    read = features.any(axis=-1)
    mean, std = features[read].mean(axis=0), features[read].std(axis=0)
    both = [(values - mean) / std * read[..., None] for values in (features, decoded)]
    return float(similarities(*both, others).mean())


def measure_options(
    features: Array, others: dict[str, Array]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Size and fidelity of smaller encodings of the second half of the shapes."""
    half, n_channels = len(features) // 2, features.shape[-1]
    known = features[:half][features[:half].any(axis=-1)]  # (patches, C)
    unseen, rest = features[half:], {name: array[half:] for name, array in others.items()}

    def report(codes: Array, decoded: Array, n_scales: int) -> dict[str, float]:
        compress = Zstd(level=3).encode  # as the store does
        size = np.mean([len(compress(np.ascontiguousarray(code))) for code in codes])
        return {
            "features_vs_fp32": float(size + 4 * n_scales) / unseen[0].nbytes,
            "cosine": float(similarities(unseen, decoded, rest).mean()),
            "cosine_standardized": standardized_cosine(unseen, decoded, rest),
        }

    for step in (0.1, 0.15, 0.2, 0.25, 0.3):
        codes, scale = quantize(unseen, step)
        yield f"int8, step {step}", report(codes, dequantize(codes, scale), n_channels)
    basis = principal_components(known)
    for kept, step in ((n_channels, 0.1), (n_channels, 0.15), (n_channels // 2, 0.1)):
        codes, scale = quantize_components(unseen @ basis[:, :kept], step)
        decoded = dequantize(codes, scale) @ basis[:, :kept].T
        yield f"{kept} principal components, int8, step {step}", report(codes, decoded, kept)
    mean, read = known.mean(axis=0), unseen.any(axis=-1)[..., None]
    basis = principal_components(known - mean)
    for step in (0.1, 0.2):
        codes, scale = quantize_components((unseen - mean) * read @ basis, step)
        decoded = (dequantize(codes, scale) @ basis.T + mean) * read
        name = f"{n_channels} principal components about the mean, int8, step {step}"
        yield name, report(codes, decoded, n_channels)
    books = codebooks(known)
    codes, decoded = nearest_entries(unseen, books)
    name = f"product quantization, {n_channels // SUBVECTOR} bytes a patch"
    yield name, report(codes, decoded, 0)


def principal_components(vectors: Array) -> Array:
    """Orthonormal columns (C, C), strongest first."""
    _, columns = np.linalg.eigh(vectors.T @ vectors)
    return np.ascontiguousarray(columns[:, ::-1])


def quantize_components(components: Array, relative_step: float) -> tuple[Array, Array]:
    """Codes and scales, one step for all components of a shape.

    The step is relative to the root mean square over channels, larger only for components that
    would leave int8: a common step spends no bits on weak components.
    """
    values = components.reshape(len(components), -1, components.shape[-1])
    read = np.maximum(values.any(axis=2).sum(axis=1), 1)
    level = np.sqrt(np.einsum("bpc,bpc->b", values, values) / read / components.shape[-1])
    scale = np.maximum(relative_step * level[:, None], np.abs(values).max(axis=1) / LARGEST_CODE)
    codes = np.rint(values / scale[:, None]).astype(np.int8)
    return codes.reshape(components.shape), scale.astype(np.float32)


def codebooks(vectors: Array, rounds: int = 12) -> Tensor:
    """k-means of every group of channels: (groups, entries, channels)."""
    parts = torch.from_numpy(vectors).unflatten(1, (-1, SUBVECTOR)).transpose(0, 1).contiguous()
    chosen = torch.randperm(parts.shape[1], generator=torch.Generator().manual_seed(0))[:CODEBOOK]
    books = parts[:, chosen]
    for _ in range(rounds):
        entry = torch.cdist(parts, books).argmin(dim=2)
        sums = torch.zeros_like(books).scatter_add_(1, entry[..., None].expand_as(parts), parts)
        counts = torch.zeros(books.shape[:2]).scatter_add_(1, entry, torch.ones(entry.shape))
        books = torch.where(counts[..., None] > 0, sums / counts[..., None].clamp(min=1), books)
    return books


def nearest_entries(features: Array, books: Tensor) -> tuple[Array, Array]:
    """Codes (S, V, h, w, groups) and what they stand for; patches that are not read stay zero."""
    read = features.any(axis=-1)
    parts = torch.from_numpy(features[read]).unflatten(1, (-1, SUBVECTOR)).transpose(0, 1)
    entry = torch.cdist(parts.contiguous(), books).argmin(dim=2)
    found = books.gather(1, entry[..., None].expand(-1, -1, SUBVECTOR))
    codes = np.zeros((*read.shape, len(books)), np.uint8)
    codes[read] = entry.T.numpy().astype(np.uint8)
    decoded = np.zeros_like(features)
    decoded[read] = found.transpose(0, 1).flatten(1).numpy()
    return codes, decoded


if __name__ == "__main__":
    main()
