"""A store or a run as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

from i2pmae.atomic_write import written
from i2pmae.config import ReportConfig
from i2pmae.errors import ConfigError, one_line
from i2pmae.progress import note
from i2pmae.report.gallery import gallery_page
from i2pmae.report.page import Page, render
from i2pmae.report.runs import finetuning_page, pretraining_page
from i2pmae.report.stores import store_page
from i2pmae.settings import command_of
from i2pmae.store.location import Location
from i2pmae.training.run_folder import CONFIG

MOST_BYTES = 8_000_000
# Settings of a run that its page takes as they are.
_USED = {"pretrain": {"epochs": int, "cache": str}, "finetune": {"epochs": int, "task": str}}


class Result(TypedDict):
    """What was written."""

    subjects: list[str]
    page: str  # the file
    bytes: int
    shapes: int  # that turn on it
    notes: list[str]  # what is left out, and why


def run(config: ReportConfig) -> Result:
    """Write a page about a store, a pre-training or a fine-tuning run, or about several runs.

    Large stores are sampled: the page's size and the time it takes do not grow with them.

    Args:
        config: settings.

    Returns:
        See `Result`.

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
    page.title = config.title or page.title
    text = render(page).encode()
    assert len(text) < MOST_BYTES  # the numbers of shapes, of points and of runs are bounded
    with written(config.out, remedy="Choose another file with --out.") as temporary:
        temporary.write_bytes(text)
    for message in page.notes:
        note(message)
    note(f"{config.out}: {len(text) / 1e6:.1f} MB; open it in a browser, also offline")
    return {
        "subjects": [str(subject) for subject in config.subjects],
        "page": str(config.out),
        "bytes": len(text),
        "shapes": len(page.shapes),
        "notes": page.notes,
    }


def _page(config: ReportConfig) -> Page:
    if len(config.subjects) > 1:
        return gallery_page(config, [_run_settings(path) for path in config.subjects])
    settings = config.subject / CONFIG
    saved = _settings(settings) if settings.is_file() else {}
    is_remote = Location.of(config.subject).folder is None
    if command_of(saved) not in _USED and (config.subject.is_dir() or is_remote):
        return store_page(config)
    saved = _run_settings(config.subject, "no run and no store")
    page = finetuning_page if command_of(saved) == "finetune" else pretraining_page
    return page(config, saved)


def _run_settings(path: Path, missing: str = "no run") -> dict[str, Any]:
    """The settings of a run; `missing` says what is not there."""
    settings = path / CONFIG
    saved = _settings(settings) if settings.is_file() else {}
    command = command_of(saved)
    if command not in _USED:
        raise ConfigError(
            f"there is {missing} at {path}; give folders of runs, as runs/first, or one store, as "
            "cache/shapes.zarr"
        )
    for name, kind in _USED[command].items():
        if not isinstance(saved.get(name), kind):
            raise ConfigError(
                f"{settings}: {name!r} is {one_line(saved.get(name), 60)!r}: it is damaged or of "
                "another version of i2pmae; restore it from a copy, or report the store"
            )
    return saved


def _settings(path: Path) -> dict[str, Any]:
    """A run's settings; other things under that name if they are another program's."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); restore it from a copy, or report the store"
        ) from None
    return saved if isinstance(saved, dict) else {}
