"""Check a store: read all of it, compare shapes with their source, repair what is damaged."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

import numpy as np

from i2pmae.config import ExtractConfig
from i2pmae.datasets import ShapeSource
from i2pmae.device import pick_device
from i2pmae.errors import ConfigError, DataError
from i2pmae.extraction.encoding import Encoder, load_encoder
from i2pmae.extraction.growth import in_store_order
from i2pmae.extraction.loading import open_data
from i2pmae.extraction.recomputed import differences_from
from i2pmae.extraction.recorded import recorded_config
from i2pmae.extraction.shards import encode_shape
from i2pmae.geometry.projection import view_axes
from i2pmae.progress import Progress, note, print_lines
from i2pmae.stages import extract_2d
from i2pmae.store.location import resolve_store
from i2pmae.store.metadata import StoreInfo
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import DONE
from i2pmae.store.verify import Finding, check_store, confirmed
from i2pmae.store.writer import demand_again, rewrite_view_axes


class Result(TypedDict):
    """What a check of a store has found."""

    store: str
    ok: bool
    shards: int
    findings: list[dict[str, object]]  # fields of each `Finding`
    repaired: list[int]  # shards
    recomputed: list[str]  # ids


def run(
    cache: str | Path,
    *,
    repair: bool = False,
    recompute: int = 0,
    data: Path | None = None,
    pretrained: str | None = None,
) -> Result:
    """Check a store; with `repair`, have its damaged shards extracted again and check once more.

    Only what is proven to be damaged or missing is extracted again, after a second look at it: not
    what the system did not let be read, nor values that no extraction writes.

    Args:
        cache: a store, or a folder that holds exactly one.
        repair: extract again what is damaged or missing, as the store was made.
        recompute: shapes, drawn at random, to render and encode again and compare.
        data: the shapes, for both; the built-in ones need not be named. The path that the store
            records is shown but never opened, because the store may be untrusted.
        pretrained: the image model's weights, if they are a file.

    Returns:
        See `Result`.

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
        damaged = confirmed(path, found)
        if damaged or not info.complete:
            repaired = _repair(path, info, damaged, recorded_config(path, info, data, pretrained))
        else:
            note(f"{path}: nothing is proven to be damaged, so nothing is extracted again")
        info, found = _check(path)
    recomputed: list[str] = []
    if recompute and not found:
        config = recorded_config(path, info, data, pretrained)
        recomputed, found = _recompute(path, info, recompute, config)
    print_lines(map(str, found))
    what = _count(len(found), "finding") if found else "no damage found"
    again = f", {_count(len(repaired), 'shard')} extracted again" if repaired else ""
    same = f", {_count(len(recomputed), 'shape')} computed again" if recomputed else ""
    note(f"{path}: {_count(info.spec.n_shards, 'shard')} read{again}{same}; {what}")
    return {
        "store": str(path),
        "ok": not found,
        "shards": info.spec.n_shards,
        "findings": [asdict(finding) for finding in found],
        "repaired": repaired,
        "recomputed": recomputed,
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _check(path: str | Path) -> tuple[StoreInfo, list[Finding]]:
    with Progress("verify") as progress:
        return check_store(path, progress.advance)


def _repair(
    path: str | Path, info: StoreInfo, damaged: list[Finding], config: ExtractConfig
) -> list[int]:
    """Extract again exactly the damaged shards, and those not yet extracted."""
    _open(path, info, config)  # before anything is removed
    shards = sorted({finding.shard for finding in damaged if finding.shard is not None})
    if any(finding.array == "view_axes" for finding in damaged):
        axes = view_axes(config.views.n_views, config.views.pose)
        rewrite_view_axes(path, axes.numpy())
    demand_again(path, shards)
    extract_2d.run(config)
    return shards


def _open(path: str | Path, info: StoreInfo, config: ExtractConfig) -> tuple[ShapeSource, Encoder]:
    """The source and the image model that made a store.

    Raises:
        DataError, ConfigError, WeightsError: if they are not there, or no longer what they were.
    """
    source = in_store_order(open_data(config), path)
    if source.fingerprint() != info.recorded("source_fingerprint"):
        raise DataError(
            f"{config.data} is not what {path} was made of: files have changed. Pass the right "
            "one with --data, or extract it into another store."
        )
    if config.views.of_surfaces:
        extract_2d.require_surfaces(source, config)
    encoder = load_encoder(config, pick_device(config.device))
    model = encoder.image_model.info
    if model.weights_hash != info.recorded("image_model.weights_sha256"):
        raise ConfigError(
            f"{path} was made with other weights than {model.pretrained}; pass the right "
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
            values = encode_shape(source, info.spec, encoder, index)
            stored = reader.read([index], [*values])
            shard = index // info.spec.shard_size
            for name, what in differences_from(values, stored, config.store.int8_step):
                found.append(Finding(name, shard, f"{source.ids[index]}: {what}", "values"))
            progress.advance()
    return [source.ids[index] for index in chosen.tolist()], found
