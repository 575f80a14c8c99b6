"""A store or a run as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from i2pmae.config import ReportConfig
from i2pmae.durable import whole_file
from i2pmae.errors import ConfigError, DataError
from i2pmae.progress import note
from i2pmae.report.page import Page, render
from i2pmae.stages.report_runs import finetuning_page, pretraining_page
from i2pmae.stages.report_stores import store_page
from i2pmae.stages.run_folder import CONFIG
from i2pmae.store.location import Location

MOST_BYTES = 8_000_000
_OF_A_RUN = {"out", "epochs", "encoder"}  # among the settings of each


def run(config: ReportConfig) -> dict[str, Any]:
    """Write a page about a store, a pre-training or a fine-tuning run.

    Large stores are sampled: the page's size and the time it takes do not grow with them.

    Args:
        config: settings.

    Returns:
        `subject`, `page` (the file), `bytes`, `shapes` (that turn on it), `notes` (what is left
        out, and why).

    Raises:
        ConfigError: if the subject is neither a run nor a store, or `out` is a folder.
        StoreError: if a store is not finished or damaged.
        DataError: if the page cannot be written.
    """
    if config.out.is_dir():
        raise ConfigError(
            f"--out {config.out} is a folder; name a file, as {config.out / 'report.html'}"
        )
    page = _page(config)
    text = render(page).encode()
    assert len(text) < MOST_BYTES  # the numbers of shapes and of points are bounded
    _write(config.out, text)
    for message in page.notes:
        note(message)
    note(f"{config.out}: {len(text) / 1e6:.1f} MB; open it in a browser, also offline")
    return {
        "subject": str(config.subject),
        "page": str(config.out),
        "bytes": len(text),
        "shapes": len(page.shapes),
        "notes": page.notes,
    }


def _page(config: ReportConfig) -> Page:
    settings = config.subject / CONFIG
    saved = _settings(settings) if settings.is_file() else {}
    if not saved.keys() >= _OF_A_RUN:
        if config.subject.is_dir() or Location.of(config.subject).folder is None:
            return store_page(config)
        raise ConfigError(
            f"there is no run and no store at {config.subject}; give the folder of a run, as "
            "runs/first, or a store, as cache/shapes.zarr"
        )
    return finetuning_page(config, saved) if "task" in saved else pretraining_page(config, saved)


def _settings(path: Path) -> dict[str, Any]:
    """A run's settings; other things under that name if they are another program's."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); restore it from a copy, or report the store"
        ) from None
    return saved if isinstance(saved, dict) else {}


def _write(path: Path, text: bytes) -> None:
    """Write the page so that it is either there as a whole or not at all."""
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(text)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror}); choose another file with --out"
        ) from None
