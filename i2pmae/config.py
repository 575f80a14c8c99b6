"""Settings of every command: frozen pydantic models in which each field has its sentence.

Defaults are the paper's settings; unknown keys are errors. Recipes fill these models
(`i2pmae.recipes`); the command line's options and the keywords of the Python API are made from
their fields (`i2pmae.commands`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from i2pmae.errors import ConfigError
from i2pmae.urls import as_typed


class Config(BaseModel):
    """Base of all settings: cannot be changed once built, refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Option:
    """How the command line shows a setting, where the field's name and type do not say it.

    Every setting of a command is an option under its own name. A setting of a table, such as
    `views.draw`, is one only where this gives it a name.
    """

    name: str | None = None
    metavar: str | None = None


def _split_at_commas(value: Any) -> Any:
    """Several values as the command line gives them: `0,1,2`."""
    return value.split(",") if isinstance(value, str) else value


CommaSeparated = BeforeValidator(_split_at_commas)

# A path that may be a name as well; see i2pmae.checkpoints.names.
CHECKPOINT = PlainSerializer(lambda path: path and as_typed(path), when_used="json")
SHIPPED_DEFAULT = "i2pmae-small"  # where no checkpoint is given

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]
Pooling = Literal["max", "sum", "max-mean", "levels"]

_DATA = (
    "Folder of shapes: meshes, ModelNet, ShapeNet-55, ScanObjectNN, point clouds; a store; or "
    "'procedural', or 'procedural-random:30000'."
)
DataField = Annotated[Path, Field(description=_DATA)]
EncoderField = Annotated[
    Path,
    CHECKPOINT,
    Field(description="File, name that 'i2pmae models' lists, or hf://OWNER/NAME[@REVISION]."),
]
StoreField = Annotated[Path, Field(description="Store, or a folder that holds exactly one.")]
LimitField = Annotated[
    int | None,
    Field(gt=0, description="Use only the first N shapes; of each split, if two are used."),
]
SeedField = Annotated[int, Field(ge=0, description="Random seed.")]
DeviceField = Annotated[Device, Field(description="Where to compute.")]
PrecisionField = Annotated[
    Precision, Field(description="Precision; auto uses bf16 where the device is fast at it.")
]
OnErrorField = Annotated[
    Literal["stop", "skip"], Field(description="What to do with a shape that cannot be used.")
]
PoolingField = Annotated[
    Pooling,
    Field(
        description="Pooling of tokens into one feature: maximum of the coarsest level, maximum "
        "and mean summed (Point-M2AE) or side by side, or both of all levels."
    ),
]
TrackField = Annotated[
    tuple[Literal["tensorboard", "wandb"], ...],
    Field(description="Log metrics there as well; repeatable."),
]
UpField = Annotated[Literal["y", "z"], Field(description="Axis that points up in the pictures.")]
RunField = Annotated[Path, Field(description="Folder of this run.")]
FirstPointsField = Annotated[
    int | None,
    Field(gt=0, description="Use the first N points of each shape; default: by layout."),
]


class EncoderConfig(Config):
    """The hierarchical encoder (Point-M2AE's), section 3.1 of the paper."""

    n_centers: tuple[int, ...] = Field(
        (512, 256, 64), description="Tokens per level, fine to coarse."
    )
    group_sizes: tuple[int, ...] = Field((16, 8, 8), description="Neighbors per token, per level.")
    widths: tuple[int, ...] = Field((96, 192, 384), description="Channels per level.")
    depths: tuple[int, ...] = Field((5, 5, 5), description="Transformer blocks per level.")
    embedding_width: int = Field(
        128, gt=0, description="First width of the mini-PointNet that embeds level 0."
    )
    n_heads: int = Field(6, gt=0, description="Attention heads.")
    drop_path: float = Field(
        0.1, ge=0, lt=1, description="Drop-path rate of the last block; grows linearly from 0."
    )
    init: Literal["paper", "torch"] = Field(
        "paper", description="Initialization of the weights; see the results page."
    )
    radii: tuple[float, ...] | None = Field(
        None, description="Attend only to centers closer than this, per level; none: to all."
    )

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        n_levels = len(self.n_centers)
        per_level = {
            "group_sizes": self.group_sizes,
            "widths": self.widths,
            "depths": self.depths,
            "radii": self.radii if self.radii is not None else self.widths,
        }
        for name, values in per_level.items():
            if len(values) != n_levels:
                raise ValueError(f"{name} has {len(values)} entries, n_centers has {n_levels}")
            if not all(0 < value < 2**20 for value in values):
                raise ValueError(f"{name} {values}: expected numbers from 1 to a million")
        if n_levels < 2:
            raise ValueError("n_centers needs at least two levels")
        if any(width % self.n_heads for width in self.widths):
            raise ValueError(f"widths {self.widths} must be multiples of n_heads={self.n_heads}")
        if list(self.n_centers) != sorted(self.n_centers, reverse=True):
            raise ValueError(f"n_centers {self.n_centers} must not grow from fine to coarse")
        for size, n_finer in zip(self.group_sizes[1:], self.n_centers, strict=False):
            if size > n_finer:
                raise ValueError(
                    f"group_sizes {self.group_sizes}: {size} neighbors are more than the "
                    f"{n_finer} centers of the finer level, of n_centers {self.n_centers}"
                )
        return self

    @property
    def least_points(self) -> int:
        """Points that a cloud must have."""
        return max(self.n_centers[0], self.group_sizes[0])

    def require_points(self, n_points: int, name: str = "--points") -> None:
        """Raise a ConfigError if clouds of `n_points` are too small; `name` is the option's."""
        least = self.least_points
        if n_points < least:
            raise ConfigError(
                f"{name} {n_points}: the encoder needs {least} points or more "
                f"({self.n_centers[0]} centers at its finest level, {self.group_sizes[0]} "
                f"neighbors each); raise {name}, or lower encoder.n_centers where it is trained"
            )


class MaskingConfig(Config):
    """2D-guided masking, section 3.3 of the paper."""

    strategy: Annotated[Literal["2d-guided", "random"], Option("masking")] = Field(
        "2d-guided", description="How the visible tokens are chosen: by 2D saliency or at random."
    )
    ratio: float = Field(
        0.8, gt=0, lt=1, description="Share of coarsest-level tokens hidden from the encoder."
    )
    standardize: bool = Field(
        False, description="Standardize the saliency of each shape (zero mean, unit variance)."
    )
    temperature: Annotated[float, Option("temperature")] = Field(
        1.0, gt=0, description="Temperature of the masking's softmax over centers; small is greedy."
    )


class TargetConfig(Config):
    """What the decoder reconstructs, sections 3.2 and 3.4 of the paper."""

    kind: Annotated[Literal["both", "2d", "3d"], Option("targets")] = Field(
        "both", description="Reconstruction targets: 2D features, 3D coordinates, or both."
    )
    tokens_2d: Literal["visible", "masked", "all"] = Field(
        "visible", description="Tokens that predict 2D features."
    )
    standardize: bool = Field(
        False, description="Standardize 2D targets channel by channel (zero mean, unit variance)."
    )
    remove_shape_mean: bool = Field(
        False, description="Subtract from 2D targets their mean over the shape, view by view."
    )
    weight_2d: float = Field(1.0, ge=0, description="Weight of the 2D loss.")
    weight_3d: float = Field(1.0, ge=0, description="Weight of the 3D loss.")


class AugmentConfig(Config):
    """Augmentation of a cloud; each step is skipped at its neutral value."""

    scale: tuple[float, float] = Field((1.0, 1.0), description="Range of the scaling factor.")
    scale_per_axis: bool = Field(
        True, description="Draw one scaling factor per axis instead of one per cloud."
    )
    shift: float = Field(0.0, ge=0, description="Largest translation along each axis.")
    rotation: float = Field(
        0.0, ge=0, le=180, description="Largest rotation about the y axis, in degrees."
    )


class OptimConfig(Config):
    """AdamW with a cosine schedule."""

    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay.")
    warmup_epochs: float = Field(
        10,
        ge=0,
        description="Epochs of linear warm-up; may be a fraction. Where cosine_epochs is 0, a "
        "tenth of the run at most.",
    )
    cosine_epochs: int = Field(
        300,
        ge=0,
        description="Epoch at which the cosine reaches the minimum learning rate; 0: the last.",
    )
    min_lr: float = Field(1e-6, ge=0, description="Minimum learning rate.")
    schedule: Literal["epoch", "step"] = Field(
        "epoch", description="When the learning rate is updated."
    )
    clip_norm: float | None = Field(
        None, gt=0, description="Clip gradients to this norm; none: no clipping."
    )
    decay_rule: Literal["norms-and-tokens", "official"] = Field(
        "norms-and-tokens", description="Which parameters are exempt from weight decay."
    )

    def of_run(self, epochs: int) -> OptimConfig:
        """The same for a run of so many epochs: a schedule that is to end with it does so."""
        if self.cosine_epochs:
            return self
        warmup = min(self.warmup_epochs, epochs / 10)
        return self.model_copy(update={"warmup_epochs": warmup, "cosine_epochs": epochs})


class ImageModelConfig(Config):
    """The frozen 2D network."""

    name: Annotated[str, Option("image_model", "NAME")] = Field(
        "ViT-B-16-quickgelu",
        description="2D network: open_clip name, timm:NAME or efficientnet-lite0-packaged.",
    )
    pretrained: Annotated[str | None, Option("pretrained", "TAG|FILE")] = Field(
        None, description="Tag of the weights, a local file, or 'random'; default: the usual tag."
    )
    image_size: Annotated[int | None, Option("image_size")] = Field(
        None, description="Pixels per side of a depth map; default: the network's own resolution."
    )
    normalization: Literal["own", "imagenet"] = Field(
        "own", description="Mean and standard deviation of the images: the network's or ImageNet's."
    )
    block: int | None = Field(
        None,
        gt=0,
        description="Transformer block whose features are used, counted from 1; none: the last.",
    )
    compile: bool = Field(
        False,
        description="Compile the network by torch.compile: a minute at the start, then faster on a "
        "GPU; features change in their last digits.",
    )


Pose = Literal["axis", "upright", "oblique"]
Draw = Literal["sum", "nearest", "surface-depth", "surface-normals", "surface-shaded"]

RENAMED = {"views.depth": "views.draw"}  # settings of earlier versions, whose recipes still work


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which those of earlier versions have their present names."""
    found = dict(values)
    for old, new in RENAMED.items():
        (table, name), (_, present) = old.split("."), new.split(".")
        held = found.get(table)
        if isinstance(held, Mapping) and name in held and present not in held:
            found[table] = {present if key == name else key: held[key] for key in held}
    return found


class ViewConfig(Config):
    """Pictures of a shape, section 3.2 of the paper."""

    n_views: Annotated[int, Option("views")] = Field(
        3, gt=0, le=64, description="Pictures per shape: 1, 3, 6 or any other number."
    )
    pose: Annotated[Pose, Option("pose")] = Field(
        "axis",
        description="Directions of the views: along the axes (official), along the axes with y up "
        "in the picture, or from around and above.",
    )
    draw: Annotated[Draw, Option("draw")] = Field(
        "sum",
        description="What a pixel shows: the summed depths of its points (official), the nearest "
        "point's (z-buffer), or depth, normals or gray shading of the mesh itself.",
    )
    sum_points: int = Field(2048, gt=0, description="Points that `sum` draws; `nearest` draws all.")
    visible_only: bool = Field(
        False,
        description="Leave points out of the target and the saliency of views that do not see "
        "them.",
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        return with_new_names({"views": values})["views"]

    @property
    def of_surfaces(self) -> bool:
        """Whether meshes are drawn, not points."""
        return self.draw.startswith("surface-")


class StoreConfig(Config):
    """How the store is written."""

    dtype: Annotated[Literal["int8", "float16", "float32"], Option("dtype")] = Field(
        "int8", description="Data type of the stored features."
    )
    int8_step: float = Field(
        0.1, gt=0, le=1, description="Quantization step of int8, in root mean squares of a channel."
    )
    shard_size: int = Field(64, gt=0, description="Shapes per shard.")


class WorkersConfig(Config):
    """Where extraction runs: in this process or on dask workers."""

    count: Annotated[int | None, Option("workers")] = Field(
        None, gt=0, description="Processes that share the work, one image model each."
    )
    threads: int | None = Field(
        None, gt=0, description="Threads per local process; none: the cores are shared equally."
    )
    scheduler: Annotated[str | None, Option("scheduler", "ADDRESS")] = Field(
        None,
        description="Address of a running dask scheduler whose workers extract: tcp://HOST:8786",
    )
    slurm: Annotated[Path | None, Option("slurm", "FILE")] = Field(
        None, description="TOML for dask-jobqueue: --workers are Slurm jobs."
    )

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        if self.scheduler is not None and (self.count is not None or self.slurm is not None):
            raise ValueError(
                "a scheduler has workers of its own: leave out the number of workers and slurm"
            )
        return self

    @property
    def wanted(self) -> bool:
        """Whether there are to be any."""
        return any(value is not None for value in (self.count, self.scheduler, self.slurm))


class ReadingConfig(Config):
    """How the files of a data set are read, in every command."""

    layout: str = Field("auto", description="Layout of DATA, if detection is not enough.")
    prefer: str | None = Field(
        None, description="File type to read if one name has several, as obj or stl."
    )
    classes: Literal["auto", "folders", "none", "1", "2", "3", "4"] = Field(
        "auto",
        description="Which folders of DATA are classes: told from their names (auto), the first "
        "that differ (folders), none, or those of a level, not counting folders of splits.",
    )
    up: Literal["x", "y", "z"] = Field(
        "y", description="Axis of the files that points up; shapes are turned so that it is y."
    )

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `open_source`."""
        return {
            "layout": self.layout,
            "prefer": self.prefer,
            "classes": self.classes,
            "up": self.up,
        }


class EncodingConfig(ReadingConfig):
    """How a frozen encoder is applied to a data set."""

    data: DataField
    limit: LimitField = None
    points: FirstPointsField = None
    pooling: PoolingField = "max"
    batch_size: int = Field(32, gt=0, description="Shapes per batch.")
    seed: SeedField = 0
    device: DeviceField = "auto"
    precision: PrecisionField = "fp32"


class TrainingConfig(Config):
    """Settings of the training loop, for every task."""

    accumulate: int = Field(
        1, gt=0, description="Parts into which a step's shapes are split, to save memory."
    )
    synchronize_norms: bool = Field(
        True, description="Share BatchNorm statistics among all processes."
    )
    seed: SeedField = 0
    track: TrackField = ()
    device: DeviceField = "auto"
    precision: PrecisionField = "auto"
    save_minutes: float = Field(
        10.0, gt=0, description="Minutes between updates of the last checkpoint."
    )

    @model_validator(mode="after")
    def _schedule_is_of_the_run(self) -> Self:
        values = vars(self)
        values["optim"] = values["optim"].of_run(values["epochs"])
        return self


class ExtractConfig(ReadingConfig):
    """Settings of `i2pmae extract-2d`."""

    data: DataField
    cache: Path = Field(Path("cache"), description="Store to write, or a folder for NAME.zarr.")
    split: str = Field("train", description="Split to extract: train, test or all.")
    limit: LimitField = None
    part: Annotated[str | None, Option("part", "N/OF")] = Field(
        None,
        description="Write only one part of the store, as 3/16; others may run meanwhile.",
    )
    points: int = Field(8192, gt=0, description="Points stored per shape.")
    on_error: OnErrorField = "stop"
    batch_size: int = Field(8, gt=0, description="Shapes per batch of the image model.")
    loaders: int | None = Field(
        None,
        ge=0,
        description="Processes that read shapes; 0: threads; default: as many as pay off.",
    )
    seed: SeedField = 0
    device: DeviceField = "auto"
    precision: PrecisionField = "auto"
    image_model: ImageModelConfig = ImageModelConfig()
    views: ViewConfig = ViewConfig()
    store: StoreConfig = StoreConfig()
    workers: WorkersConfig = WorkersConfig()

    @field_validator("part")
    @classmethod
    def _part_of_a_whole(cls, part: str | None) -> str | None:
        numbers = re.fullmatch(r"0*([1-9]\d{0,5})/0*([1-9]\d{0,5})", part or "1/1")
        if numbers is None or int(numbers[1]) > int(numbers[2]):
            raise ValueError("expected a number and how many parts there are: from 1/16 to 16/16")
        return part and f"{numbers[1]}/{numbers[2]}"


class SvmCheckConfig(ReadingConfig):
    """Linear SVM on frozen features while pre-training runs."""

    data: Annotated[Path | None, Option("svm_data")] = Field(
        None, description="Labeled data set for a linear SVM while training."
    )
    every: int = Field(
        10, gt=0, description="Epochs between evaluations; the last epoch is always evaluated."
    )
    C: float = Field(0.01, gt=0, description="Regularization of the SVM.")
    points: int = Field(1024, gt=0, description="Use the first N points of each shape.")


class PretrainConfig(TrainingConfig):
    """Settings of `i2pmae pretrain`."""

    cache: StoreField = Path("cache")
    out: RunField = Path("runs/pretrain")
    split: str = Field("train", description="Split of the store to train on.")
    epochs: int = Field(300, gt=0, description="Passes over the store.")
    batch_size: int = Field(64, gt=0, description="Shapes per step, over all processes.")
    points: int = Field(2048, gt=0, description="Points per shape that the network sees.")
    compile: Literal["auto", "off", "default", "reduce-overhead", "cuda-graph"] = Field(
        "auto",
        description="Run each step from a graph: captured as it is (cuda-graph), or compiled by "
        "torch.compile, with (reduce-overhead) or without a CUDA graph; auto: cuda-graph where one "
        "process trains on a CUDA device, else off.",
    )
    checkpoint_every: int = Field(25, gt=0, description="Epochs between checkpoints that are kept.")
    encoder: EncoderConfig = EncoderConfig()
    embed: Literal["all", "visible"] = Field(
        "all", description="Groups that are embedded: all, or the visible ones only."
    )
    masking: MaskingConfig = MaskingConfig()
    targets: TargetConfig = TargetConfig()
    augment: AugmentConfig = AugmentConfig(scale=(2 / 3, 3 / 2), shift=0.2)
    optim: OptimConfig = OptimConfig(cosine_epochs=400)
    svm: SvmCheckConfig = SvmCheckConfig()


class SvmConfig(EncodingConfig):
    """Settings of `i2pmae svm`."""

    checkpoint: Annotated[
        Path | None,
        CHECKPOINT,
        BeforeValidator(lambda value: None if str(value) == "random" else value),
    ] = Field(
        None,
        description="File, name that 'i2pmae models' lists, hf://OWNER/NAME, or 'random' for "
        "random weights.",
    )
    random_weights: bool = Field(
        False, description="Use the checkpoint's architecture with random weights."
    )
    C: float | None = Field(
        None,
        gt=0,
        description="Regularization of the SVM; default: the published value of this data set, "
        "else by cross-validation.",
    )
    draws: int = Field(
        1, gt=0, description="Subsets of a shape's points whose features are averaged."
    )
    encoder: EncoderConfig = EncoderConfig()  # used without a checkpoint


class EmbedConfig(EncodingConfig):
    """Settings of `i2pmae embed`."""

    checkpoint: EncoderField = Path(SHIPPED_DEFAULT)
    out: Path = Field(
        Path("vectors.npz"), description="File to write: .npz, or .parquet for data frames."
    )
    split: str = Field("all", description="Split to embed: train, val, test or all.")
    dense: bool = Field(
        False, description="Also write features of every point, a file per shape, and a picture."
    )
    on_error: OnErrorField = "stop"


class PredictConfig(ReadingConfig):
    """Settings of `i2pmae predict`."""

    checkpoint: Annotated[Path, CHECKPOINT] = Field(
        description="Fine-tuned: file of a classifier or a segmenter, or hf://OWNER/NAME."
    )
    shapes: Annotated[tuple[Path, ...], Option(metavar="SHAPES...")] = Field(
        min_length=1, description="Files of shapes, or one folder, data set or store."
    )
    out: Path = Field(
        Path("predictions.csv"), description="Table to write: .csv, .parquet or .json."
    )
    top: int = Field(3, gt=0, description="Likeliest classes that are written per shape.")
    vote: int = Field(
        0, ge=0, description="Random draws of points whose logits are averaged; 0: no voting."
    )
    split: str = Field("all", description="Split to predict: train, val, test or all.")
    limit: LimitField = None
    points: int | None = Field(
        None, gt=0, description="Points per shape; default: as the checkpoint was trained."
    )
    category: str | None = Field(
        None, description="Segmenters: category of all shapes, if their classes are not categories."
    )
    format: Literal["ply", "npz"] = Field(
        "ply", description="Segmenters: file format of points with their parts."
    )
    variant: Literal["obj", "pb-t50-rs"] = Field(
        "obj",
        description="ScanObjectNN variant of an official checkpoint, which does not record it.",
    )
    on_error: OnErrorField = "skip"
    batch_size: int = Field(32, gt=0, description="Shapes per batch.")
    seed: SeedField = 0
    device: DeviceField = "auto"
    precision: PrecisionField = "fp32"


class EvaluateConfig(EncodingConfig):
    """Settings of `i2pmae evaluate`."""

    checkpoint: EncoderField = Path(SHIPPED_DEFAULT)
    cache: Path | None = Field(
        None,
        description="Store with the same shapes: its pooled 2D features are compared too. "
        "Default: DATA, if that is a store.",
    )
    folds: int = Field(5, gt=1, description="Folds of cross-validation, if DATA has no test split.")
    bootstrap: int = Field(
        1000, gt=0, description="Draws of test shapes that give the 95% intervals."
    )
    on_error: OnErrorField = "stop"


class SimilarConfig(Config):
    """Settings of `i2pmae similar`."""

    vectors: Path = Field(description="File that 'i2pmae embed' wrote.")
    query: Annotated[str, Option(metavar="QUERY_ID|FILE")] = Field(
        description="Id of a shape in VECTORS, or a file that holds one shape."
    )
    checkpoint: Annotated[Path | None, CHECKPOINT] = Field(
        None, description="The checkpoint that made VECTORS, if it has moved."
    )
    top: int = Field(5, gt=0, description="Number of neighbors.")
    picture: Path | None = Field(
        None, description="Draw the query and its neighbors: .png, .pdf or .svg."
    )
    data: Path | None = Field(None, description="The shapes to draw, if they have moved.")
    up: UpField = "y"
    device: DeviceField = "auto"


class ShowConfig(Config):
    """Settings of `i2pmae show`."""

    cache: StoreField
    ids: Annotated[tuple[str, ...], Option(metavar="ID...")] = Field(
        (), description="Ids of shapes; default: one of each of the first classes."
    )
    out: Path = Field(Path("pictures"), description="Folder for the pictures.")
    checkpoint: Annotated[Path | None, CHECKPOINT] = Field(
        None, description="Pre-trained checkpoint: adds what it reconstructs and predicts."
    )
    format: Literal["png", "svg", "pdf"] = Field("png", description="File format.")
    points: int | None = Field(None, gt=0, description="Points per shape.")
    up: UpField = "y"
    seed: SeedField = 0


class ReportConfig(Config):
    """Settings of `i2pmae report`."""

    subjects: Annotated[tuple[Path, ...], Option(metavar="RUN|CACHE...")] = Field(
        min_length=1,
        max_length=16,
        description="Folder of a run, or a store; several runs are compared on one page.",
    )
    out: Path = Field(Path("report.html"), description="Page to write.")
    title: str | None = Field(None, description="Title of the page; default: the subject's name.")
    cache: Path | None = Field(None, description="The store of the run, if it has moved.")
    data: Path | None = Field(
        None, description="The labeled shapes of the run, if they have moved."
    )
    shapes: int = Field(48, ge=0, le=120, description="Shapes in 3D on the page.")
    map: int = Field(500, ge=0, le=1000, description="Shapes on the map.")
    up: UpField = "y"
    seed: SeedField = 0
    device: DeviceField = "auto"

    @field_validator("subjects", mode="before")
    @classmethod
    def _one_or_several(cls, subjects: Any) -> Any:
        return (subjects,) if isinstance(subjects, str | Path) else subjects

    @property
    def subject(self) -> Path:
        """The only one, or the first."""
        return self.subjects[0]


class ZeroShotConfig(Config):
    """Settings of `i2pmae zero-shot`."""

    cache: StoreField
    classes: Annotated[tuple[str, ...], CommaSeparated, Option(metavar="NAME,NAME...")] = Field(
        (), description="Class names to choose from; default: those of the store."
    )
    templates: Annotated[tuple[str, ...], Option("template")] = Field(
        (
            "a depth map of a {}",
            "a grayscale depth map of a {}",
            "a point cloud depth map of a {}",
            "a 3D model of a {}",
            "a silhouette of a {}",
        ),
        description="Prompt with {} for the class; repeatable, the features are averaged.",
    )
    split: str = Field("all", description="Split to classify: train, test or all.")
    pretrained: str | None = Field(
        None, description="The CLIP weights of the store, if they have moved."
    )
    batch_size: int = Field(32, gt=0, description="Shapes per batch.")

    @model_validator(mode="after")
    def _templates_have_a_place(self) -> Self:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} needs one {{}} for the class")
        if not self.templates:
            raise ValueError("templates is empty")
        return self


class HeadConfig(Config):
    """Classification head."""

    pooling: Literal["sum", "concat"] = Field(
        "sum", description="How the mean and the maximum over tokens are combined."
    )
    kind: Literal["mlp", "probe"] = Field(
        "mlp",
        description="The paper's three layers, or two that are fitted to a pre-trained encoder's "
        "features before anything is trained; embeddings of groups then stay as they are.",
    )
    width: int = Field(256, gt=0, description="Width of the hidden layers.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout rate.")


class SegmentHeadConfig(Config):
    """Head per point of part segmentation."""

    level_widths: tuple[int, int] = Field(
        (1536, 1024), description="Widths of the layers that propagate a level to the points."
    )
    widths: tuple[int, int, int] = Field(
        (1024, 512, 256), description="Widths of the layers over all levels."
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout rate.")


class FewShotConfig(Config):
    """Episodes of few-shot classification; every pair of ways and shots is a setting."""

    ways: Annotated[tuple[int, ...], CommaSeparated, Option("ways", "N,N...")] = Field(
        (5, 10), min_length=1, description="Classes per few-shot episode."
    )
    shots: Annotated[tuple[int, ...], CommaSeparated, Option("shots", "N,N...")] = Field(
        (10, 20), min_length=1, description="Training shapes per class of an episode."
    )
    folds: Annotated[int, Option("folds")] = Field(
        10, gt=0, description="Episodes per pair of ways and shots."
    )
    tests: Annotated[int, Option("tests")] = Field(
        20, gt=0, description="Test shapes per class of an episode."
    )
    data: Path | None = Field(None, description="Data set of the written folds, if it has moved.")

    @model_validator(mode="after")
    def _sizes_make_sense(self) -> Self:
        if min(self.ways) < 2 or min(self.shots) < 1:
            raise ValueError(f"ways {self.ways} must be 2 or more, shots {self.shots} 1 or more")
        return self


class FewShotSplitConfig(ReadingConfig):
    """Settings of `i2pmae fewshot-split`."""

    data: DataField
    out: Path = Field(Path("fewshot"), description="Folder for the folds.")
    seed: SeedField = 0
    few_shot: FewShotConfig = FewShotConfig()


class FinetuneConfig(ReadingConfig, TrainingConfig):
    """Settings of `i2pmae finetune`."""

    task: Literal["classification", "segmentation", "few-shot"] = Field(
        "classification", description="Task to train for."
    )
    recipe: str | None = Field(
        None, description="Recipe of the settings; its published figures are shown."
    )
    checkpoint: Annotated[Path | None, CHECKPOINT] = Field(
        None,
        description="Pre-trained: file, name that 'i2pmae models' lists, or hf://OWNER/NAME; leave "
        "out with --from-scratch.",
    )
    from_scratch: bool = Field(
        False,
        description="Random weights; with CHECKPOINT, its architecture.",
    )
    data: Path | None = Field(None, description=_DATA)
    cache: Path | None = Field(
        None, description="Store to read instead of DATA, made with --split all."
    )
    out: RunField = Path("runs/finetune")
    epochs: int = Field(300, gt=0, description="Passes over the training shapes.")
    batch_size: int = Field(
        32, gt=1, description="Shapes per step, over all processes; BatchNorm needs two."
    )
    points: int = Field(1024, gt=0, description="Points per shape.")
    sampling: Literal["spread", "fps", "first", "random"] = Field(
        "spread",
        description="Which points of a shape are used: well-spread ones, drawn from all at every "
        "step; the farthest ones (as in version 0.1); the first; random ones.",
    )
    limit: LimitField = None
    seeds: Annotated[tuple[int, ...] | None, CommaSeparated, Option(metavar="N,N...")] = Field(
        None, description="Several seeds: one run each, then mean and standard deviation."
    )
    labels: float = Field(1.0, gt=0, le=1, description="Share of the training split that is used.")
    validation: float = Field(
        0.1, gt=0, lt=1, description="Share of those shapes that selects the epoch."
    )
    patience: int | None = Field(
        None,
        gt=0,
        description="Stop after this many epochs without a better validation score; none: never.",
    )
    label_smoothing: float = Field(0.2, ge=0, lt=1, description="Label smoothing of the loss.")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="Weights of classes in the loss: equal, or larger for rarer ones."
    )
    groups: Literal["recipe", "checkpoint"] = Field(
        "recipe", description="Where the group sizes and radii of the encoder come from."
    )
    vote: int = Field(
        10, ge=0, description="Random draws whose logits are averaged in voting; 0: no voting."
    )
    encoder: EncoderConfig = EncoderConfig(group_sizes=(48, 24, 24), radii=(0.24, 0.48, 0.96))
    head: HeadConfig = HeadConfig()
    segment_head: SegmentHeadConfig = SegmentHeadConfig()
    few_shot: FewShotConfig = FewShotConfig()
    augment: AugmentConfig = AugmentConfig(scale=(2 / 3, 3 / 2), shift=0.2)
    optim: OptimConfig = OptimConfig(lr=5e-4, clip_norm=10.0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.data is None) == (self.cache is None):
            raise ValueError("give labeled shapes, either as DATA or as a store with --cache")
        if self.cache is not None and (self.up, self.prefer, self.classes) != ("y", None, "auto"):
            raise ValueError(
                "up, prefer and classes say how DATA is read; a store holds the result"
            )
        if self.seeds is not None:
            if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
                raise ValueError(f"seeds {self.seeds} must be different numbers from 0 on")
            if self.task == "few-shot":
                raise ValueError("few-shot runs repeat over folds: use few_shot.folds, not seeds")
        if self.task == "few-shot" and self.labels < 1:
            raise ValueError("few-shot runs take few labels anyway: use few_shot.shots, not labels")
        return self

    @property
    def shapes(self) -> Path:
        """Where the labeled shapes are, as the user named it."""
        path = self.data or self.cache
        assert path is not None  # _fits_together
        return path


class CompareConfig(Config):
    """Settings of `i2pmae compare`."""

    runs: Annotated[tuple[Path, ...], Option(metavar="RUN...")] = Field(
        min_length=1, description="Folders of runs, or JSON of 'i2pmae svm --json'."
    )
    out: Path | None = Field(None, description="Markdown file to write as well.")


class CheckDataConfig(ReadingConfig):
    """Settings of `i2pmae check-data`."""

    data: DataField


class InspectConfig(Config):
    """Settings of `i2pmae inspect`."""

    cache: StoreField
    histograms: bool = Field(False, description="Read everything and count its values.")
    seed: int | None = Field(
        None, ge=0, description="Seed of the choice of the shape shown; default: another each time."
    )


class VerifyConfig(Config):
    """Settings of `i2pmae verify`."""

    cache: StoreField
    repair: bool = Field(False, description="Extract again exactly the damaged shards.")
    recompute: Annotated[int, Option(metavar="K")] = Field(
        0, ge=0, description="Shapes to render and encode again and compare."
    )
    data: Path | None = Field(
        None, description="The shapes, for --repair and --recompute; the recorded path is not used."
    )
    pretrained: str | None = Field(None, description="The 2D weights, if they are a file.")


class CopyConfig(Config):
    """Settings of `i2pmae copy`."""

    source: Path = Field(
        description="Store, a folder that holds exactly one, or hf://datasets/OWNER/NAME."
    )
    target: Path = Field(
        description="Folder or URL of the copy: s3://bucket/NAME.zarr, hf://datasets/OWNER/NAME."
    )


class ConvertConfig(Config):
    """Settings of `i2pmae convert`."""

    source: Annotated[Path, CHECKPOINT, Option(metavar="IN")] = Field(
        description="Official .pth, or a checkpoint of ours."
    )
    target: Annotated[Path, Option(metavar="OUT")] = Field(description="File to write.")


class ExportConfig(Config):
    """Settings of `i2pmae export`."""

    source: Annotated[Path, CHECKPOINT, Option(metavar="CHECKPOINT")] = Field(
        description="Checkpoint of any kind, an official .pth, or hf://OWNER/NAME."
    )
    out: Path | None = Field(
        None, description="File: .safetensors for weights, .pt2 for a torch.export program."
    )
    push: Annotated[Path | None, Option(metavar="hf://OWNER/NAME")] = Field(
        None, description="Repository of the Hugging Face Hub to upload weights and card to."
    )
    private: bool = Field(False, description="Create the repository as private, if it is new.")
    card: bool = Field(True, description="Write a model card, README.md, beside it.")
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="Type of the weights; float16 halves the file of weights."
    )


class ModelsConfig(Config):
    """Settings of `i2pmae models`."""

    name: str | None = Field(None, description="One of them; default: all.")


class DemoConfig(Config):
    """Settings of `i2pmae demo`."""

    out: Path = Field(Path("demo"), description="Folder for everything the demo makes.")
    seed: SeedField = 0
    device: DeviceField = "auto"


class DoctorConfig(Config):
    """Settings of `i2pmae doctor`."""

    data: Path | None = Field(None, description="Data set to estimate time and disk for.")
    recipe: str | None = Field(None, description="Recipe of either stage, for the estimate.")
    cache: Path = Field(Path("cache"), description="Where stores would go.")


def to_plain(config: Config) -> dict[str, Any]:
    """Settings as plain Python values that JSON and weights-only loading accept."""
    plain: dict[str, Any] = json.loads(config.model_dump_json())
    return plain
