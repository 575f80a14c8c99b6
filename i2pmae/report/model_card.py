"""The page that belongs to an exported network: a model card as the Hugging Face Hub shows it.

It says what the checkpoint and its run's folder record, and where they record nothing, that.
The front matter names no license: i2pmae's is the code's, and of the weights none is recorded.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from i2pmae.atomic_write import atomic_write
from i2pmae.checkpoints.checkpoint import Checkpoint
from i2pmae.checkpoints.networks import encoder_config_of, head_config_of
from i2pmae.checkpoints.official import Kind
from i2pmae.checkpoints.on_hub import LIBRARY, front_matter
from i2pmae.config import (
    Config,
    FinetuneConfig,
    PretrainConfig,
    to_plain,
)
from i2pmae.errors import CheckpointError
from i2pmae.hub import HubName
from i2pmae.image_model.weights import file_hash
from i2pmae.recipes import load_config, recipe_names
from i2pmae.report.results import markdown_table, results_of, summary_table
from i2pmae.settings import differences
from i2pmae.training.run_folder import CONFIG, MAY_CHANGE, RunFolder
from i2pmae.training.supervised import TAKEN
from i2pmae.urls import as_typed
from i2pmae.version import __version__

_WHAT: dict[Kind, str] = {
    "encoder": "An encoder of 3D point clouds",
    "classifier": "A classifier of 3D point clouds",
    "segmenter": "A part segmenter of 3D point clouds",
}
_OUTPUTS: dict[Kind, str] = {
    "encoder": "features (B, {width}) float32",
    "classifier": "logits (B, {classes}) float32",
    "segmenter": "log-probabilities (B, N, {parts}) float32",
}
_PAPER = "[I2P-MAE](https://arxiv.org/abs/2212.06785)"


def check_target(page: Path) -> None:
    """Refuse to replace a page that i2pmae has not written.

    Raises:
        CheckpointError: if there is one.
    """
    if page.exists() and LIBRARY not in page.read_text(encoding="utf-8", errors="replace"):
        raise CheckpointError(
            f"{page} is there and no model card of i2pmae; export into a folder of its own, or "
            "add --no-card"
        )


def write(page: Path, text: str, exported: Path) -> None:
    """Write the card of an exported file.

    Raises:
        CheckpointError: if the page cannot be written.
    """
    try:
        with atomic_write(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{exported} is written, but not its card {page} ({error.strerror}); make room, then "
            "run the same command again"
        ) from error


def card(
    source: Path,
    saved: Checkpoint,
    kind: Kind,
    model: nn.Module,
    exported: Path,
    hub: HubName | None = None,
) -> str:
    """Text of the card of an exported network.

    Args:
        source: the checkpoint; losses and figures are taken from the run's folder around it.
        saved: what it holds.
        kind: of what is exported.
        model: the network.
        exported: the file beside the card.
        hub: the repository that both are for.

    Raises:
        ConfigError: if the results in the run's folder are damaged.
    """
    run = _run_of(source, saved)
    sections = {
        "Use": _use(saved, kind, exported, str(hub or exported.name)),
        "Network": _network(saved, kind, model),
        "Training": _training(saved, run),
        "Results": _results(saved, run),
        "Reproduce": _reproduce(saved),
        "Limits": _limits(saved, run),
        "License": (
            "The code, i2pmae, is under the MIT license. None is recorded for these weights; the "
            "data set and the image model have terms of their own.\n"
        ),
    }
    body = "".join(f"\n## {title}\n\n{text}" for title, text in sections.items() if text)
    title = exported.stem if hub is None else hub.repo.partition("/")[2]
    return f"{front_matter()}\n# {title}\n\n{_about(source, saved, kind)}{body}"


def _about(source: Path, saved: Checkpoint, kind: Kind) -> str:
    origin = {
        "pretraining": f"pre-trained by {_PAPER}: masked autoencoding, guided by a frozen 2D model",
        "point-m2ae": "pre-trained by Point-M2AE",
        "classifier": f"with the encoder of {_PAPER}",
        "segmenter": f"with the encoder of {_PAPER}",
        "encoder": f"of {_PAPER}",
    }[saved.kind]
    return (
        f"{_WHAT[kind]}, {origin}. Exported by i2pmae {__version__} from `{source.name}` (SHA-256 "
        f"`{file_hash(source)}`)"
        + (", a checkpoint of the official release.\n" if saved.official else ".\n")
    )


def _use(saved: Checkpoint, kind: Kind, exported: Path, named: str) -> str:
    sizes = {
        "width": encoder_config_of(saved).widths[-1],
        "classes": len(saved.extra.get("class_names", ())) or "classes",
        "parts": len(saved.extra.get("part_names", ())) or "parts",
    }
    load = f'import i2pmae\n\n{kind} = i2pmae.load_{kind}("{named}")'
    if exported.suffix == ".pt2":
        load = f'import torch\n\n{kind} = torch.export.load("{exported.name}").module()'
    inputs = "points, category" if kind == "segmenter" else "points"
    also = "; category: (B,) int64 of the objects" if kind == "segmenter" else ""
    return (
        f"```python\n{load}\n# points: (B, N, 3) float32 in the unit sphere{also}\n"
        f"output = {kind}({inputs})  # {_OUTPUTS[kind].format(**sizes)}\n```\n"
    )


def _network(saved: Checkpoint, kind: Kind, model: nn.Module) -> str:
    config = encoder_config_of(saved)
    rows = [
        [str(level), *map(str, row)]
        for level, row in enumerate(
            zip(config.n_centers, config.group_sizes, config.widths, config.depths, strict=True)
        )
    ]
    facts: dict[str, Any] = {
        "parameters": f"{sum(weight.numel() for weight in model.parameters()):,}",
        "attention heads": config.n_heads,
        "attention radii": config.radii,
        "pooling": head_config_of(saved).pooling if kind == "classifier" else None,
        "classes": saved.extra.get("class_names"),
        "parts": saved.extra.get("part_names"),
    }
    columns = ["level", "centers", "neighbors", "channels", "blocks"]
    return markdown_table(columns, rows) + "\n" + _listed(facts)


def _training(saved: Checkpoint, run: RunFolder | None) -> str:
    config = saved.config
    if "optim" not in config:
        return "The checkpoint does not say how it was trained.\n"
    facts: dict[str, Any] = {
        "data": saved.extra.get("data", config.get("data") or config.get("cache")),
        "epochs": f"{saved.epoch} of {config['epochs']}"
        + (", the best on validation" if _is_selected(saved) else ""),
        "batch size": config["batch_size"],
        "points per shape": config["points"],
        "seed": config["seed"],
        "learning rate": config["optim"]["lr"],
        "precision": config["precision"],
        "augmentation": _pairs(config["augment"]),
        "masking": _pairs(config.get("masking", {})),
        "targets": _pairs(config.get("targets", {})),
        "from scratch": config.get("from_scratch"),
        "pre-trained encoder": config.get("checkpoint"),
        "written by": _pairs(saved.versions),
        **_store(saved.extra),
    }
    rows = [] if run is None else [row for row in run.rows() if row.get("epoch", 0) <= saved.epoch]
    for name, value in (rows[-1] if rows else {}).items():
        if name.startswith("loss"):
            facts[f"{name.replace('_', ' ')}, epoch {rows[-1]['epoch']}"] = f"{value:.4f}"
    return _listed(facts)


def _store(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What stage one made of the data set."""
    if "store" not in extra:
        return {}
    settings, contents = extra["store"], extra.get("contents", {})
    image_model = dict(settings["image_model"])
    return {
        "layout of the data": settings["layout"],
        "fingerprint of the data": settings["source_fingerprint"],
        "shapes": ", ".join(
            f"{counts['done']} {split or 'without split'} ({counts['skipped']} skipped)"
            for split, counts in (contents.get("counts") or {}).items()
        ),
        "image model": image_model.pop("name"),
        "image model's settings": _pairs(image_model),
        "views": _pairs(settings["views"]),
        "store": _pairs(contents.get("sizes", {})),
    }


def _results(saved: Checkpoint, run: RunFolder | None) -> str:
    """Figures of the run, if its folder lies around the checkpoint."""
    if run is None:
        return "The checkpoint lay alone: no losses or figures of its run are known.\n"
    result = results_of(run)
    if result is not None:
        return (
            f"These weights are those after epoch {saved.epoch}; the best epoch on validation is "
            f"{result['best_epoch']}. Shapes: {result['n_train']} train, "
            f"{result['n_validation']} validation, {result['n_test']} test.\n\n"
            + markdown_table(*summary_table(result))
        )
    scores = [
        [str(row["epoch"]), f"{row['svm_accuracy']:.2f}"]
        for row in run.rows()
        if "svm_accuracy" in row and row["epoch"] <= saved.epoch
    ]
    if not scores:
        return "None were measured while it was trained.\n"
    return (
        f"Linear SVM on frozen features of {saved.config['svm']['data']}, test split.\n\n"
        + markdown_table(["epoch", "accuracy %"], scores[-1:])
    )


def _reproduce(saved: Checkpoint) -> str:
    command = reproduce(saved)
    return f"```bash\n{command}\n```\n" if command else ""


def reproduce(saved: Checkpoint) -> str:
    """The command that trains such a network again; empty where the checkpoint does not say."""
    if "optim" not in saved.config:
        return ""
    if saved.kind == "pretraining":
        config = PretrainConfig.model_validate(saved.config)
        words = ["pretrain", "--cache", str(config.cache)]
        return _command(words, config, PretrainConfig(cache=config.cache, out=config.out))
    tuned = FinetuneConfig.model_validate(saved.config)
    words = ["finetune", *([] if tuned.checkpoint is None else [as_typed(tuned.checkpoint)])]
    words += [str(tuned.data)] if tuned.data is not None else ["--cache", str(tuned.cache)]
    words += ["--from-scratch"] if tuned.checkpoint is None or tuned.from_scratch else []
    words += [] if tuned.recipe is None else ["--recipe", tuned.recipe]
    given = {
        name: getattr(tuned, name)
        for name in ("recipe", "checkpoint", "from_scratch", "data", "cache", "out")
    }
    # Never a file: the checkpoint may be untrusted.
    recipe = tuned.recipe if tuned.recipe in recipe_names() else None
    base = load_config(FinetuneConfig, "finetune", recipe=recipe, options=given)
    return _command(words, tuned, base, () if tuned.checkpoint is None else TAKEN)


def _command(words: list[str], config: Config, base: Config, taken: tuple[str, ...] = ()) -> str:
    """A command line with every setting that differs; some of the encoder's may be `taken`."""
    ignored = ("out", *(f"encoder.{name}" for name in taken))
    for key, (_, value) in differences(to_plain(base), to_plain(config), ignored).items():
        words += ["--set", f"{key}={'none' if value is None else json.dumps(value)}"]
    out = config.model_dump()["out"]
    return shlex.join(["i2pmae", *words, "--out", str(out)])


def _limits(saved: Checkpoint, run: RunFolder | None) -> str:
    config = encoder_config_of(saved)
    limits = [
        f"A cloud needs {config.n_centers[0]} points or more, centered and scaled into the unit "
        "sphere.",
        "Farthest-point sampling begins at a cloud's first point: another order of the same points "
        "gives slightly different outputs.",
    ]
    augment = saved.config.get("augment")
    if augment is not None and not augment["rotation"]:
        limits.append("It was trained without rotations: shapes must stand as those it saw.")
    n_epochs = saved.config.get("epochs", 0)
    trained: float = saved.epoch
    if _is_selected(saved) and run is not None:  # the best epoch may be any
        is_over = results_of(run) is not None
        trained = n_epochs if is_over else max([trained, *(row["epoch"] for row in run.rows())])
    if _is_selected(saved) and run is None:
        limits.append("Whether its training was finished is not known: it lay outside its run.")
    elif trained < n_epochs:
        limits.append(f"Training was not finished: {trained} of {n_epochs} epochs.")
    return "".join(f"- {limit}\n" for limit in limits)


def _is_selected(saved: Checkpoint) -> bool:
    """Whether these are the weights of the epoch that was best on validation."""
    return saved.optimizer is None and saved.metrics.get("best_epoch") == saved.epoch


def _run_of(source: Path, saved: Checkpoint) -> RunFolder | None:
    """The folder around a checkpoint, if it is that of its run."""
    if "optim" not in saved.config:
        return None
    kind = PretrainConfig if saved.kind == "pretraining" else FinetuneConfig
    try:
        text = (source.parent / CONFIG).read_text(encoding="utf-8")
        # Either may be older than some settings, which have their defaults then.
        there, here = (
            to_plain(kind.model_validate({k: v for k, v in values.items() if k != "command"}))
            for values in (json.loads(text), saved.config)
        )
    except (OSError, ValueError):
        return None
    ignored = {*MAY_CHANGE, "cache", "svm", "accumulate", "compile", "encoder"}
    return None if differences(there, here, ignored) else RunFolder(source.parent)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_text(value)}" for key, value in values.items() if value is not None)


def _listed(facts: Mapping[str, Any]) -> str:
    """A list of what is known."""
    return "".join(
        f"- {name}: {_text(value)}\n"
        for name, value in facts.items()
        if value is not None and value != ""
    )


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
