"""Reading a whole store, comparing shapes with their source, and mending what is damaged."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from i2pmae.config import ExtractConfig
from i2pmae.datasets import ShapeSource
from i2pmae.datasets.procedural import ProceduralShapes
from i2pmae.device import pick_device
from i2pmae.errors import ConfigError, DataError, StoreError
from i2pmae.geometry.projection import view_axes
from i2pmae.progress import Progress, note, print_lines
from i2pmae.stages import extract_2d
from i2pmae.store.location import resolve_store
from i2pmae.store.metadata import StoreInfo
from i2pmae.store.quantize import dequantize
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import DONE
from i2pmae.store.verify import Finding, check_store
from i2pmae.store.writer import demand_again, rewrite_view_axes

_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
_CLOSEST = 0.999  # cosine of features that another machine computes, in bfloat16 too
_EXACT = ("points", "parts", "pixel_shift")
_FAR_PIXELS = 0.001  # share of a depth map's pixels that may differ by more than rounding


def run(
    cache: str | Path,
    *,
    repair: bool = False,
    recompute: int = 0,
    data: Path | None = None,
    pretrained: str | None = None,
) -> dict[str, Any]:
    """Check a store; with `repair`, have its damaged shards extracted again and check once more.

    Args:
        cache: a store, or a folder that holds exactly one.
        repair: extract again what is damaged or missing, with the recorded settings.
        recompute: shapes, drawn at random, to render and encode again and compare.
        data: the shapes, if they lie elsewhere than when the store was made.
        pretrained: the image model's weights, likewise.

    Returns:
        `store`, `ok`, `shards`, `findings` (each `array`, `shard`, `what`), `repaired` (shards)
        and `recomputed` (ids).

    Raises:
        StoreError: if there is no store, or its metadata is damaged.
        DataError, WeightsError: if shapes are to be computed again, and their source or the image
            model is no longer what it was.
    """
    path = resolve_store(cache)
    info, found = _check(path)
    repaired: list[int] = []
    if found and repair:
        for finding in found:
            note(f"{path}: {finding}")
        repaired = _repair(path, info, found, _recorded_config(path, info, data, pretrained))
        info, found = _check(path)
    recomputed: list[str] = []
    if recompute and not found:
        config = _recorded_config(path, info, data, pretrained)
        recomputed, found = _recompute(path, info, recompute, config)
    print_lines(map(str, found))
    what = f"{len(found)} findings" if found else "no damage found"
    mended = f", {len(repaired)} shards extracted again" if repaired else ""
    same = f", {len(recomputed)} shapes computed again" if recomputed else ""
    note(f"{path}: {info.spec.n_shards} shards read{mended}{same}; {what}")
    return {
        "store": str(path),
        "ok": not found,
        "shards": info.spec.n_shards,
        "findings": [asdict(finding) for finding in found],
        "repaired": repaired,
        "recomputed": recomputed,
    }


def _check(path: str | Path) -> tuple[StoreInfo, list[Finding]]:
    with Progress("verify") as progress:
        return check_store(path, progress.advance)


def _repair(
    path: str | Path, info: StoreInfo, found: list[Finding], config: ExtractConfig
) -> list[int]:
    """Extract again exactly the shards with findings, and those not yet extracted."""
    _open(path, info, config)  # before anything is removed
    shards = sorted({finding.shard for finding in found if finding.shard is not None})
    if any(finding.array == "view_axes" for finding in found):
        rewrite_view_axes(path, view_axes(info.spec.n_views).numpy())
    demand_again(path, shards)
    extract_2d.run(config)
    return shards


def _recorded_config(
    path: str | Path, info: StoreInfo, data: Path | None, pretrained: str | None
) -> ExtractConfig:
    """The settings that made a store, for a run that computes the same again."""
    recorded: dict[str, Any] = {
        **info.provenance.get("config", {}),
        "cache": Path(path),
        "precision": _PRECISIONS.get(info.settings["image_model"]["precision"]),
        "data": data or info.provenance.get("source"),
    }
    if data is None and info.settings.get("layout") == ProceduralShapes.layout:
        recorded["data"] = ProceduralShapes.layout  # older stores record a path
    if pretrained is not None:
        recorded["image_model"] = {**recorded.get("image_model", {}), "pretrained": pretrained}
    try:
        return ExtractConfig.model_validate(recorded)
    except ValidationError as error:
        raise StoreError(
            f"{path} does not record the settings that made it ({error.error_count()} are "
            "missing or unknown): run the extract-2d command that made it again."
        ) from error


def _open(
    path: str | Path, info: StoreInfo, config: ExtractConfig
) -> tuple[ShapeSource, extract_2d.Encoder]:
    """The source and the image model that made a store.

    Raises:
        DataError, ConfigError, WeightsError: if they are not there, or no longer what they were.
    """
    source = extract_2d.open_data(config)
    if source.fingerprint() != info.settings["source_fingerprint"]:
        raise DataError(
            f"{config.data} is not what {path} was made of: files have changed. Pass the right "
            "one with --data, or extract it into another store."
        )
    encoder = extract_2d.load_encoder(config, pick_device(config.device))
    if encoder.facts.weights_hash != info.settings["image_model"]["weights_sha256"]:
        raise ConfigError(
            f"{path} was made with other weights than {encoder.facts.pretrained}; pass the right "
            "ones with --pretrained"
        )
    return source, encoder


def _recompute(
    path: str | Path, info: StoreInfo, n_shapes: int, config: ExtractConfig
) -> tuple[list[str], list[Finding]]:
    """Render and encode some shapes again, and compare them with what is stored."""
    source, encoder = _open(path, info, config)
    reader = StoreReader(path)
    done = np.flatnonzero(reader.read_all("status") == DONE)
    chosen = np.sort(np.random.default_rng().choice(done, min(n_shapes, len(done)), replace=False))
    found: list[Finding] = []
    with Progress("recompute", total=len(chosen)) as progress:
        for index in chosen.tolist():
            values = extract_2d.encode_shape(config, source, encoder, info.spec, index)
            stored = reader.read([index], [*values])
            shard = index // info.spec.shard_size
            for name, what in _differences(values, stored, config.store.int8_step):
                found.append(Finding(name, shard, f"{source.ids[index]}: {what}"))
            progress.advance()
    return [source.ids[index] for index in chosen.tolist()], found


def _differences(
    values: dict[str, NDArray[Any]], stored: dict[str, NDArray[Any]], int8_step: float
) -> list[tuple[str, str]]:
    """Arrays of one shape that differ by more than the arithmetic of another machine would.

    A little difference changes how int8 codes are rounded, at worst all of them: then both sides
    have rounding noise of `int8_step` over sqrt(12) of its own.
    """
    exact = [name for name in values if name in _EXACT]
    found = [
        (name, "differs from the source")
        for name in exact
        if not np.array_equal(values[name], stored[name])
    ]
    depth = np.abs(values["depth"].astype(int) - stored["depth"].astype(int))
    if (depth > 1).mean() > _FAR_PIXELS:
        found.append(("depth", f"{(depth > 1).mean():.1%} of the pixels differ from the source"))
    rounding = int8_step**2 / 12 if "feature_scale" in values else 0
    for name, closest in (("features", _CLOSEST / (1 + rounding)), ("saliency", _CLOSEST)):
        cosine = _cosine(_values_of(name, values), _values_of(name, stored))
        if not cosine >= closest:
            found.append((name, f"cosine {cosine:.4f} with what is computed now"))
    return found


def _values_of(name: str, arrays: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    if name == "features" and "feature_scale" in arrays:
        return dequantize(arrays["features"], arrays["feature_scale"]).astype(np.float64)
    return arrays[name].astype(np.float64)


def _cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / norms if norms else float(first.any() == second.any())
