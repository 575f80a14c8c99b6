"""The command line: parse, build a config, call a stage.

Stages are imported inside their command, so `--help` answers at once.
"""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from i2pmae import __version__
from i2pmae.allocator import keep_freed_memory
from i2pmae.errors import ConfigError, I2PMAEError
from i2pmae.interrupts import Terminated, forget_saved, raise_terminated, what_is_saved
from i2pmae.launch import is_first, launched

app = typer.Typer(
    name="i2pmae",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "I2P-MAE: 3D encoders from 2D pre-trained models.\n\n"
        "Three commands make the pipeline: [bold]extract-2d[/] renders shapes and caches what a "
        "frozen 2D model sees, [bold]pretrain[/] trains a 3D encoder from that cache, "
        "[bold]finetune[/] (or [bold]svm[/]) uses it. Start with [bold]i2pmae demo[/]."
    ),
)

Recipe = Annotated[
    str | None, typer.Option("--recipe", help="TOML file, or name of a packed recipe.")
]
Override = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.SUB=VALUE", help="Set any key of the recipe; repeatable."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[
    str | None, typer.Option(help="auto, fp32 or bf16; auto takes bf16 where it is fast.")
]
Layout = Annotated[str | None, typer.Option(help="Layout of DATA, where detection is not enough.")]
Limit = Annotated[
    int | None, typer.Option(help="Use only the first N shapes; of each split, where two are used.")
]


def _json_mode(value: bool) -> bool:
    """Keep stdout for the JSON object."""
    if value:
        from i2pmae.progress import results_to_stderr

        results_to_stderr()
    return value


def _quiet_mode(value: bool) -> None:
    if value:
        from i2pmae.progress import be_quiet

        be_quiet()


def _log_mode(value: Path | None) -> None:
    if value is not None and is_first():
        from i2pmae.progress import log_events

        log_events(value)


Quiet = Annotated[bool, typer.Option("--quiet", callback=_quiet_mode, help="No bars and no notes.")]
LogJson = Annotated[
    Path | None,
    typer.Option(
        "--log-json",
        metavar="FILE",
        callback=_log_mode,
        help="Append notes, progress and metrics as lines of JSON.",
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", help="tensorboard or wandb: metrics go there as well; repeatable."),
]


AsJson = Annotated[
    bool,
    typer.Option("--json", callback=_json_mode, help="One JSON object on stdout, nothing else."),
]
DATA_HELP = (
    "Folder of shapes: meshes, ModelNet, ShapeNet-55, ScanObjectNN, point clouds; or 'procedural'."
)


@app.command("extract-2d")
def extract_2d(
    data: Annotated[Path, typer.Argument(help=DATA_HELP)],
    cache: Annotated[
        Path | None, typer.Option(help="Store to write, or a folder for NAME.zarr.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, test or all.")] = None,
    limit: Limit = None,
    points: Annotated[int | None, typer.Option(help="Points stored per shape.")] = None,
    image_model: Annotated[
        str | None, typer.Option(help="open_clip name, timm:NAME or efficientnet-lite0-packaged.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Tag of the weights, a local file, or 'random'.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels per side of a depth map.")] = None,
    views: Annotated[int | None, typer.Option(help="Depth maps per shape: 1, 3, 6 or N.")] = None,
    depth: Annotated[str | None, typer.Option(help="sum (official) or nearest (z-buffer).")] = None,
    dtype: Annotated[str | None, typer.Option(help="int8, float16 or float32 features.")] = None,
    on_error: Annotated[
        str | None, typer.Option(help="stop or skip at shapes that cannot be used.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Shapes per batch.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the work, one image model each.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Running dask scheduler whose workers do it: tcp://HOST:8786")
    ] = None,
    slurm: Annotated[
        Path | None, typer.Option(help="TOML for dask-jobqueue: --workers are Slurm jobs.")
    ] = None,
    layout: Layout = None,
    recipe: Recipe = None,
    override: Override = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many shapes, bytes and minutes.")
    ] = False,
    _quiet: Quiet = False,
    _log_json: LogJson = None,
    as_json: AsJson = False,
) -> None:
    """Stage one: render every shape and cache what a frozen 2D model sees.

    Run it again to continue after an interruption.

    Example: i2pmae extract-2d shapes/ --cache cache/shapes.zarr
    """
    from i2pmae.config import ExtractConfig, load_config

    config = load_config(
        ExtractConfig,
        "extract-2d",
        recipe=recipe,
        overrides=override or [],
        options={
            "data": data,
            "cache": cache,
            "split": split,
            "limit": limit,
            "points": points,
            "image_model.name": image_model,
            "image_model.pretrained": pretrained,
            "image_model.image_size": image_size,
            "views.n_views": views,
            "views.depth": depth,
            "store.dtype": dtype,
            "on_error": on_error,
            "batch_size": batch_size,
            "workers.count": workers,
            "workers.scheduler": scheduler,
            "workers.slurm": slurm,
            "layout": layout,
            "seed": seed,
            "device": device,
            "precision": precision,
        },
    )
    if dry_run:
        from i2pmae.stages import plan

        _finish(plan.run(config), as_json)
        return
    from i2pmae.stages import extract_2d as stage

    _finish(stage.run(config), as_json)


@app.command()
def pretrain(
    cache: Annotated[
        Path | None, typer.Option(help="Store, or a folder that holds exactly one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of this run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the store.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Shapes per step.")] = None,
    points: Annotated[int | None, typer.Option(help="Points per shape the network sees.")] = None,
    masking: Annotated[str | None, typer.Option(help="2d-guided or random.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the masking's softmax.")] = None,
    targets: Annotated[str | None, typer.Option(help="both, 2d or 3d.")] = None,
    svm_data: Annotated[
        Path | None, typer.Option(help="Labelled set for a linear SVM while training.")
    ] = None,
    recipe: Recipe = None,
    override: Override = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    track: Track = None,
    _quiet: Quiet = False,
    _log_json: LogJson = None,
    as_json: AsJson = False,
) -> None:
    """Stage two: pre-train the 3D encoder from a store.

    Example: i2pmae pretrain --cache cache/ --out runs/first
    """
    from i2pmae.config import PretrainConfig, load_config

    config = load_config(
        PretrainConfig,
        "pretrain",
        recipe=recipe,
        overrides=override or [],
        options={
            "cache": cache,
            "out": out,
            "epochs": epochs,
            "batch_size": batch_size,
            "points": points,
            "masking.strategy": masking,
            "masking.temperature": temperature,
            "targets.kind": targets,
            "svm.data": svm_data,
            "seed": seed,
            "device": device,
            "track": track or None,
            "precision": precision,
        },
        defaults={"out": Path("runs/pretrain")},
    )
    from i2pmae.stages import pretrain as stage

    _finish(stage.run(config, resume=resume), as_json)


@app.command()
def svm(
    checkpoint: Annotated[
        str, typer.Argument(help="Pre-trained checkpoint, or 'random' for random weights.")
    ],
    data: Annotated[Path, typer.Argument(help=DATA_HELP)],
    points: Annotated[int | None, typer.Option(help="First points of each shape.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="CHECKPOINT only gives the network.")
    ] = False,
    c: Annotated[float | None, typer.Option("--C", help="The SVM's regularisation.")] = None,
    limit: Limit = None,
    layout: Layout = None,
    recipe: Recipe = None,
    override: Override = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    _quiet: Quiet = False,
    _log_json: LogJson = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy of a linear SVM on frozen features.

    Example: i2pmae svm runs/first/last.pt modelnet40_ply_hdf5_2048/
    """
    from i2pmae.config import SvmConfig, load_config

    config = load_config(
        SvmConfig,
        "svm",
        recipe=recipe,
        overrides=override or [],
        options={
            "checkpoint": None if checkpoint == "random" else checkpoint,
            "random_weights": random_weights or None,
            "data": data,
            "points": points,
            "C": c,
            "limit": limit,
            "layout": layout,
            "seed": seed,
            "device": device,
            "precision": precision,
        },
    )
    from i2pmae.stages import svm as stage

    _finish(stage.run(config), as_json)


@app.command()
def finetune(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Pre-trained checkpoint; leave out with --from-scratch.")
    ] = None,
    data: Annotated[Path | None, typer.Argument(help=DATA_HELP)] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Store to read instead of DATA, made with --split all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of this run.")] = None,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Random weights; CHECKPOINT only gives the network."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training shapes.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Shapes per step.")] = None,
    points: Annotated[int | None, typer.Option(help="Points per shape.")] = None,
    limit: Limit = None,
    layout: Layout = None,
    recipe: Recipe = None,
    override: Override = None,
    seed: Seed = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several seeds, as 0,1,2: a run each, then mean and std.")
    ] = None,
    device: Device = None,
    precision: Precision = None,
    track: Track = None,
    _quiet: Quiet = False,
    _log_json: LogJson = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune for classification, part segmentation or few-shot classification.

    The recipe of DATA's layout is the default. The best epoch is chosen on a validation part of
    the training split; the test split is evaluated once.

    Example: i2pmae finetune runs/first/last.pt shapes/ --out runs/shapes
    """
    from i2pmae.config import FinetuneConfig, load_config

    if data is None and cache is None and checkpoint is not None:
        if not from_scratch:
            raise typer.BadParameter("give CHECKPOINT and DATA, or --from-scratch and DATA")
        data, checkpoint = Path(checkpoint), None
    if checkpoint is None and not from_scratch:
        raise typer.BadParameter("give a CHECKPOINT to start from, or --from-scratch")
    if recipe is None and (data is None) != (cache is None):
        from i2pmae.stages.labelled import default_recipe

        recipe = default_recipe(data, cache, layout or "auto")
    config = load_config(
        FinetuneConfig,
        "finetune",
        recipe=recipe,
        overrides=override or [],
        options={
            "checkpoint": checkpoint,
            "recipe": recipe,
            "data": data,
            "cache": cache,
            "from_scratch": from_scratch or None,
            "out": out,
            "epochs": epochs,
            "batch_size": batch_size,
            "points": points,
            "limit": limit,
            "layout": layout,
            "seed": seed,
            "seeds": seeds,
            "device": device,
            "track": track or None,
            "precision": precision,
        },
        defaults={"out": Path("runs/finetune")},
    )
    from i2pmae.stages import finetune as stage

    _finish(stage.run(config, resume=resume), as_json)


@app.command("fewshot-split")
def fewshot_split(
    data: Annotated[Path, typer.Argument(help=DATA_HELP)],
    out: Annotated[Path, typer.Option(help="Folder for the folds.")] = Path("fewshot"),
    ways: Annotated[str | None, typer.Option(help="Classes per episode, as 5,10.")] = None,
    shots: Annotated[str | None, typer.Option(help="Training shapes per class, as 10,20.")] = None,
    folds: Annotated[int | None, typer.Option(help="Episodes per setting.")] = None,
    tests: Annotated[int | None, typer.Option(help="Test shapes per class.")] = None,
    layout: Layout = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Draw few-shot episodes of a data set and write them as index files.

    Example: i2pmae fewshot-split modelnet40_normal_resampled/ --out fewshot/
    """
    from i2pmae.config import FewShotSplitConfig, load_config

    config = load_config(
        FewShotSplitConfig,
        "fewshot-split",
        options={
            "data": data,
            "out": out,
            "few_shot.ways": ways,
            "few_shot.shots": shots,
            "few_shot.folds": folds,
            "few_shot.tests": tests,
            "layout": layout,
            "seed": seed,
        },
    )
    from i2pmae.stages import few_shot as stage

    _finish(stage.split(config), as_json)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or JSON of svm --json.")
    ],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write as well.")] = None,
    as_json: AsJson = False,
) -> None:
    """Results of several runs side by side, published figures beside them.

    Example: i2pmae compare runs/pretrained runs/scratch
    """
    from i2pmae.stages import compare as stage

    _finish(stage.run(runs, out), as_json)


@app.command("check-data")
def check_data(
    data: Annotated[Path, typer.Argument(help=DATA_HELP)],
    layout: Layout = None,
    as_json: AsJson = False,
) -> None:
    """What a data set holds, and what looks wrong with it: duplicates, outliers, missing parts.

    Example: i2pmae check-data shapes/
    """
    from i2pmae.stages import check_data as stage

    _finish(stage.run(data, layout=layout or "auto"), as_json)


@app.command()
def embed(
    checkpoint: Annotated[Path, typer.Argument(help="Pre-trained or fine-tuned checkpoint.")],
    data: Annotated[Path, typer.Argument(help=DATA_HELP)],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .npz, or .parquet for data frames.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all (default).")] = None,
    points: Annotated[int | None, typer.Option(help="First points of each shape.")] = None,
    on_error: Annotated[
        str | None, typer.Option(help="stop or skip at shapes that cannot be used.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Shapes per batch.")] = None,
    limit: Limit = None,
    layout: Layout = None,
    recipe: Recipe = None,
    override: Override = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    _quiet: Quiet = False,
    _log_json: LogJson = None,
    as_json: AsJson = False,
) -> None:
    """Write the frozen feature of every shape, with its id, class and split, to one file.

    Example: i2pmae embed runs/first/last.pt shapes/ --out vectors.npz
    """
    from i2pmae.config import EmbedConfig, load_config

    config = load_config(
        EmbedConfig,
        "embed",
        recipe=recipe,
        overrides=override or [],
        options={
            "checkpoint": checkpoint,
            "data": data,
            "out": out,
            "split": split,
            "points": points,
            "on_error": on_error,
            "batch_size": batch_size,
            "limit": limit,
            "layout": layout,
            "seed": seed,
            "device": device,
            "precision": precision,
        },
    )
    from i2pmae.stages import embed as stage

    _finish(stage.run(config), as_json)


@app.command()
def similar(
    vectors: Annotated[Path, typer.Argument(help="File of 'i2pmae embed'.")],
    query: Annotated[
        str, typer.Argument(metavar="QUERY_ID|FILE", help="Id of a shape, or a mesh or cloud file.")
    ],
    checkpoint: Annotated[
        Path | None, typer.Option(help="The one that made VECTORS, if it lies elsewhere now.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="How many neighbors (default 5).")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw query and neighbors: .png, .pdf or .svg.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The shapes to draw, if they lie elsewhere now.")
    ] = None,
    up: Annotated[str | None, typer.Option(help="Axis that points up in the picture.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """The shapes most similar to one of them, or to a file: nearest vectors by cosine.

    Example: i2pmae similar vectors.npz chair/train/chair_00 --picture similar.png
    """
    from i2pmae.config import SimilarConfig, load_config

    config = load_config(
        SimilarConfig,
        "similar",
        options={
            "vectors": vectors,
            "query": query,
            "checkpoint": checkpoint,
            "top": top,
            "picture": picture,
            "data": data,
            "up": up,
            "device": device,
        },
    )
    from i2pmae.stages import similar as stage

    _finish(stage.run(config), as_json)


@app.command("zero-shot")
def zero_shot(
    cache: Annotated[Path, typer.Argument(help="Store, or a folder that holds exactly one.")],
    classes: Annotated[
        str | None, typer.Option(help="Names to choose from, with commas; default: the store's.")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the class; repeatable.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, test or all (default).")] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="The store's CLIP weights, if they lie elsewhere now.")
    ] = None,
    recipe: Recipe = None,
    override: Override = None,
    as_json: AsJson = False,
) -> None:
    """Classify stored shapes by words alone, with the text tower of the store's CLIP model.

    CLIP's pooled feature is approximated by the mean of the stored patch features.

    Example: i2pmae zero-shot cache/shapes.zarr --classes "chair,table,lamp"
    """
    from i2pmae.config import ZeroShotConfig, load_config

    config = load_config(
        ZeroShotConfig,
        "zero-shot",
        recipe=recipe,
        overrides=override or [],
        options={
            "cache": cache,
            "classes": None if classes is None else classes.split(","),
            "templates": template or None,
            "split": split,
            "pretrained": pretrained,
        },
    )
    from i2pmae.stages import zero_shot as stage

    _finish(stage.run(config), as_json)


@app.command()
def show(
    cache: Annotated[Path, typer.Argument(help="Store, or a folder that holds exactly one.")],
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID...", help="Shapes; default: one of each of the first classes."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Pre-trained checkpoint: adds what it reconstructs and predicts."),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="png (default), svg or pdf.")
    ] = None,
    points: Annotated[int | None, typer.Option(help="Points per shape.")] = None,
    up: Annotated[str | None, typer.Option(help="Axis that points up: y (default) or z.")] = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Draw what the network sees of shapes: depth maps, saliency, features, masks.

    Example: i2pmae show cache/shapes.zarr chair_0001 --checkpoint runs/first/last.pt
    """
    from i2pmae.config import ShowConfig, load_config

    config = load_config(
        ShowConfig,
        "show",
        options={
            "cache": cache,
            "ids": ids or None,
            "out": out,
            "checkpoint": checkpoint,
            "format": format_,
            "points": points,
            "up": up,
            "seed": seed,
        },
    )
    from i2pmae.stages import show as stage

    _finish(stage.run(config), as_json)


@app.command()
def report(
    subject: Annotated[
        Path, typer.Argument(metavar="RUN|CACHE", help="Folder of a run, or a store.")
    ],
    out: Annotated[Path | None, typer.Option(help="Page to write (report.html).")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="The run's store, if it lies elsewhere now.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The run's labelled shapes, if they lie elsewhere now.")
    ] = None,
    shapes: Annotated[int | None, typer.Option(help="Shapes that turn on the page (48).")] = None,
    map_: Annotated[int | None, typer.Option("--map", help="Shapes on the map (500).")] = None,
    up: Annotated[str | None, typer.Option(help="Axis that points up: y (default) or z.")] = None,
    seed: Seed = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page about a run or a store: curves, shapes to turn, mistakes, a map.

    It needs no network and nothing beside it.

    Example: i2pmae report runs/first --out report.html
    """
    from i2pmae.config import ReportConfig, load_config

    config = load_config(
        ReportConfig,
        "report",
        options={
            "subject": subject,
            "out": out,
            "cache": cache,
            "data": data,
            "shapes": shapes,
            "map": map_,
            "up": up,
            "seed": seed,
            "device": device,
        },
    )
    from i2pmae.stages import report as stage

    _finish(stage.run(config), as_json)


@app.command()
def inspect(
    cache: Annotated[Path, typer.Argument(help="Store, or a folder that holds exactly one.")],
    histograms: Annotated[
        bool, typer.Option("--histograms", help="Read everything and count its values.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the choice of the shape shown.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a store holds: arrays, sizes, provenance, classes, a shape; how to open it in Python.

    Example: i2pmae inspect cache/ --histograms
    """
    from i2pmae.stages import inspect as stage

    _finish(stage.run(cache, with_histograms=histograms, seed=seed), as_json)


@app.command()
def verify(
    cache: Annotated[str, typer.Argument(help="Store, or a folder that holds exactly one.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Extract again exactly the damaged shards.")
    ] = False,
    recompute: Annotated[
        int, typer.Option(min=0, metavar="K", help="Shapes to render and encode again and compare.")
    ] = 0,
    data: Annotated[
        Path | None, typer.Option(help="The shapes, if they lie elsewhere now.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="The 2D weights, if they lie elsewhere now.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read all of a store: checksums, completeness, values. Exits with 1 if anything is wrong.

    Example: i2pmae verify cache/shapes.zarr --recompute 10
    """
    from i2pmae.stages import verify as stage

    result = stage.run(cache, repair=repair, recompute=recompute, data=data, pretrained=pretrained)
    _finish(result, as_json)
    if not result["ok"]:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Official .pth or our checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    as_json: AsJson = False,
) -> None:
    """Turn an official checkpoint into ours, or ours into an official one.

    Example: i2pmae convert i2p-mae.pth i2p-mae.pt
    """
    from i2pmae.stages import convert as stage

    _finish(stage.run(source, target), as_json)


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="Checkpoint of any kind, or an official .pth.")
    ],
    out: Annotated[
        Path, typer.Option(help="File: .safetensors for weights, .pt2 for a torch.export program.")
    ],
    card: Annotated[bool, typer.Option(help="Write a model card, README.md, beside it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Write a trained network for other programs, and check that the file gives its outputs.

    Example: i2pmae export runs/first/last.pt --out encoder/model.safetensors
    """
    from i2pmae.stages import export as stage

    _finish(stage.run(checkpoint, out, card=card), as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")
    ] = "auto",
    _quiet: Quiet = False,
    _log_json: LogJson = None,
    as_json: AsJson = False,
) -> None:
    """The whole chain on shapes made on the spot: a few minutes on a laptop.

    Example: i2pmae demo
    """
    from i2pmae.stages import demo as stage

    _finish(stage.run(out, seed=seed, device=device), as_json)


@app.command()
def doctor(
    data: Annotated[
        Path | None, typer.Option(help="Data set to estimate time and disk for.")
    ] = None,
    recipe: Recipe = None,
    cache: Annotated[Path, typer.Option(help="Where stores would go.")] = Path("cache"),
    as_json: AsJson = False,
) -> None:
    """Check python, torch, device, precision, disk and weights; estimate time and disk.

    Example: i2pmae doctor --data shapes/ --recipe pretrain-small
    """
    from i2pmae.stages import doctor as stage

    result = stage.run(data=data, recipe=recipe, cache=cache)
    _finish(result, as_json)
    if not result["ready"]:
        raise typer.Exit(1)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe to print.")] = None,
) -> None:
    """List the packed recipes, or print one.

    Example: i2pmae recipes pretrain
    """
    from i2pmae.config import find_recipe, recipe_about, recipe_names

    if name is not None:
        sys.stdout.write(find_recipe(name).read_text(encoding="utf-8"))
    elif sys.stdout.isatty():
        from i2pmae.progress import print_table

        rows = [[known, str(recipe_about(known).get("title", ""))] for known in recipe_names()]
        print_table("Recipes", ["name", "what it is"], rows)
    else:
        sys.stdout.write("".join(f"{known}\n" for known in recipe_names()))


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"i2pmae {__version__}\n")
        raise typer.Exit


_WELCOME = """\
I2P-MAE: 3D encoders from 2D pre-trained models.

  1. i2pmae extract-2d shapes/ --cache cache/shapes.zarr   what a frozen 2D model sees
  2. i2pmae pretrain --cache cache/ --out runs/first       a 3D encoder from that cache
  3. i2pmae finetune runs/first/last.pt shapes/            a classifier; or: i2pmae svm

Start with one of these:
     i2pmae demo       the whole chain on shapes made on the spot, a few minutes
     i2pmae doctor     whether this machine is ready, and what your data would cost
     i2pmae --help     all commands
"""


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    command = context.invoked_subcommand
    if command is None:
        sys.stdout.write(_WELCOME)
    elif command != "pretrain" and (launch := launched()) is not None and launch.n_processes > 1:
        raise ConfigError(f"{command} is one process; torchrun can start several for pretrain only")


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 an error, 2 wrong usage, 130/143 stopped."""
    signal.signal(signal.SIGTERM, raise_terminated)
    forget_saved()
    keep_freed_memory()
    try:
        _check_words(sys.argv[1:])
        code = app(standalone_mode=False)  # Ctrl-C comes back as 130
    except I2PMAEError as error:
        _complain(str(error))
        code = 1
    except Terminated:
        code = 143
    except typer.Abort:
        code = 130
    except BrokenPipeError:
        code = 141
    except PermissionError as error:  # anything may be looked at on the way
        after = "" if what_is_saved() is None else f"; {_how_to_go_on()}"
        _complain(f"{error.filename}: {error.strerror}; check its permissions{after}")
        code = 1
    except Exception as error:
        # Usage errors of the parser know how to show themselves.
        if not hasattr(error, "show") or not hasattr(error, "exit_code"):
            if what_is_saved() is not None:  # a note is shown below the traceback
                error.add_note(f"i2pmae: after this error: {_how_to_go_on()}")
            raise
        error.show()
        code = error.exit_code
    if code in (130, 143):
        _complain(f"stopped; {_how_to_go_on()}")
    sys.exit(code if isinstance(code, int) else 0)


def _check_words(words: list[str]) -> None:
    """Refuse names that neither JSON nor a terminal could show, and URLs that name a machine."""
    for word in words:
        if "file://" in word and "file:///" not in word:  # pathlib would take it for a folder
            raise ConfigError(
                f"{word}: after file:// comes a path from the root, as in file:///data/NAME.zarr"
            )
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{word!a}: its name is not in UTF-8; rename it") from None


def _how_to_go_on() -> str:
    """What was saved, and the command that continues."""
    saved = what_is_saved()
    if saved is None or launched() is not None:  # a launcher repeats its own command
        return "nothing is half-written, and the run can be continued"
    command = sys.argv[1:]
    if command[:1] in (["pretrain"], ["finetune"]) and "--resume" not in command:
        command = [*command, "--resume"]
    return f"{saved}; to go on: {shlex.join(['i2pmae', *command])}"


def _complain(message: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing is left to unwind
    if launched() is not None:
        from i2pmae.training.distributed import speaks_first

        if not speaks_first():
            return
    one_line = " ".join(message.split())
    sys.stderr.write(f"i2pmae: {one_line}\n")


def _finish(result: dict[str, Any], as_json: bool) -> None:
    if as_json and is_first():
        import json

        sys.stdout.write(json.dumps(result) + "\n")
