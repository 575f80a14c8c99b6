"""Settings of every stage: frozen pydantic models, and recipes that fill them.

Precedence: default, then recipe (`--recipe`), then `--set key.sub=value`, then a command's own
options. Defaults are the paper's settings. Unknown keys are errors.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from i2pmae.errors import ConfigError
from i2pmae.suggest import suggestion

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]
Pooling = Literal["max", "max-mean", "levels"]


class Config(BaseModel):
    """Base of all settings: cannot be changed once built, refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderConfig(Config):
    """The hierarchical encoder (Point-M2AE's), section 3.1 of the paper."""

    n_centers: tuple[int, ...] = (512, 256, 64)  # tokens per level, fine to coarse
    group_sizes: tuple[int, ...] = (16, 8, 8)  # neighbors per token
    widths: tuple[int, ...] = (96, 192, 384)  # channels per level
    depths: tuple[int, ...] = (5, 5, 5)  # transformer blocks per level
    embedding_width: int = Field(128, gt=0)  # first width of the level-0 mini-PointNet
    n_heads: int = Field(6, gt=0)
    drop_path: float = Field(0.1, ge=0, lt=1)  # of the last block; grows linearly from 0
    init: Literal["paper", "torch"] = "paper"  # weights before training; see docs/results.md
    radii: tuple[float, ...] | None = None  # attend only to centers closer than this, per level

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

    def require_points(self, n_points: int, name: str = "--points") -> None:
        """Raise a ConfigError if clouds of `n_points` are too small; `name` is the option's."""
        least = max(self.n_centers[0], self.group_sizes[0])
        if n_points < least:
            raise ConfigError(
                f"{name} {n_points}: the encoder needs {least} points or more "
                f"({self.n_centers[0]} centers at its finest level, {self.group_sizes[0]} "
                f"neighbors each); raise {name}, or lower encoder.n_centers where it is trained"
            )


class MaskingConfig(Config):
    """2D-guided masking, section 3.3 of the paper."""

    strategy: Literal["2d-guided", "random"] = "2d-guided"
    ratio: float = Field(0.8, gt=0, lt=1)  # share of coarsest-level tokens hidden from the encoder
    standardize: bool = False  # saliency to zero mean and unit deviation per shape first
    temperature: float = Field(1.0, gt=0)  # of the softmax over centers; small = greedy


class TargetConfig(Config):
    """What the decoder reconstructs, sections 3.2 and 3.4 of the paper."""

    kind: Literal["both", "2d", "3d"] = "both"
    tokens_2d: Literal["visible", "masked", "all"] = "visible"  # that 2D features are asked of
    standardize: bool = False  # 2D targets to mean 0 and deviation 1, channel by channel
    remove_shape_mean: bool = False  # 2D targets less their mean over the shape, view by view
    weight_2d: float = Field(1.0, ge=0)
    weight_3d: float = Field(1.0, ge=0)


class AugmentConfig(Config):
    """Random change of a cloud; each step is skipped at its neutral value."""

    scale: tuple[float, float] = (1.0, 1.0)  # range of the factor
    scale_per_axis: bool = True  # one factor per axis, or one per cloud
    shift: float = Field(0.0, ge=0)  # largest translation per axis
    rotation: float = Field(0.0, ge=0, le=180)  # largest angle about the y axis, degrees


class OptimConfig(Config):
    """AdamW with a cosine schedule."""

    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup_epochs: float = Field(10, ge=0)  # may be a part of one
    cosine_epochs: int = Field(300, gt=0)  # epoch at which the cosine reaches min_lr
    min_lr: float = Field(1e-6, ge=0)
    schedule: Literal["epoch", "step"] = "epoch"  # how often the rate is set
    clip_norm: float | None = Field(None, gt=0)
    decay_rule: Literal["norms-and-tokens", "official"] = "norms-and-tokens"


class ImageModelConfig(Config):
    """The frozen 2D network."""

    name: str = "ViT-B-16-quickgelu"
    pretrained: str | None = None  # a tag, a local weights file or 'random'; None: the usual tag
    image_size: int | None = None  # None: the network's own resolution
    normalization: Literal["own", "imagenet"] = "own"
    block: int | None = Field(None, gt=0)  # of a transformer, that features are of; None: the last


class ViewConfig(Config):
    """Depth maps, section 3.2 of the paper."""

    n_views: int = Field(3, gt=0, le=64)
    depth: Literal["sum", "nearest"] = "sum"
    sum_points: int = Field(2048, gt=0)  # points that `sum` renders; `nearest` renders all


class StoreConfig(Config):
    """How the store is written."""

    dtype: Literal["int8", "float16", "float32"] = "int8"
    int8_step: float = Field(0.1, gt=0, le=1)  # rounding, in root mean squares of a channel
    shard_size: int = Field(64, gt=0)  # shapes per shard


class WorkersConfig(Config):
    """Who does stage one: this process, or workers of dask."""

    count: int | None = Field(None, gt=0)  # processes of this machine, or with `slurm` of jobs
    threads: int | None = Field(None, gt=0)  # of each local process; None: they share the cores
    scheduler: str | None = None  # address of a running dask scheduler
    slurm: Path | None = None  # TOML file with the arguments of dask-jobqueue's SLURMCluster

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


class ExtractConfig(Config):
    """Settings of `i2pmae extract-2d`."""

    data: Path
    cache: Path = Path("cache")
    layout: str = "auto"
    split: str = "train"
    limit: int | None = Field(None, gt=0)
    points: int = Field(8192, gt=0)  # stored per shape
    on_error: Literal["stop", "skip"] = "stop"
    batch_size: int = Field(8, gt=0)  # shapes per call of the image model
    seed: int = Field(0, ge=0)
    device: Device = "auto"
    precision: Precision = "auto"
    image_model: ImageModelConfig = ImageModelConfig()
    views: ViewConfig = ViewConfig()
    store: StoreConfig = StoreConfig()
    workers: WorkersConfig = WorkersConfig()


class SvmCheckConfig(Config):
    """Linear SVM on frozen features while pre-training runs."""

    data: Path | None = None
    every: int = Field(10, gt=0)  # epochs
    C: float = Field(0.01, gt=0)
    points: int = Field(1024, gt=0)


class PretrainConfig(Config):
    """Settings of `i2pmae pretrain`."""

    cache: Path = Path("cache")
    out: Path
    split: str = "train"
    epochs: int = Field(300, gt=0)
    batch_size: int = Field(64, gt=0)  # shapes per step, all processes together
    accumulate: int = Field(1, gt=0)  # parts that a step's shapes are worked on in, one by one
    synchronize_norms: bool = True  # BatchNorm's statistics over all processes, or each its own
    points: int = Field(2048, gt=0)
    seed: int = Field(0, ge=0)
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()  # where metrics go as well
    device: Device = "auto"
    precision: Precision = "auto"
    checkpoint_every: int = Field(25, gt=0)  # epochs between kept checkpoints
    save_minutes: float = Field(10.0, gt=0)  # minutes between saves of the last checkpoint
    encoder: EncoderConfig = EncoderConfig()
    embed: Literal["all", "visible"] = "all"  # groups embedded in pre-training
    masking: MaskingConfig = MaskingConfig()
    targets: TargetConfig = TargetConfig()
    augment: AugmentConfig = AugmentConfig(scale=(2 / 3, 3 / 2), shift=0.2)
    optim: OptimConfig = OptimConfig(cosine_epochs=400)
    svm: SvmCheckConfig = SvmCheckConfig()


class SvmConfig(Config):
    """Settings of `i2pmae svm`."""

    checkpoint: Path | None = None  # None: the default network with random weights
    random_weights: bool = False  # take only the network's size from the checkpoint
    data: Path
    layout: str = "auto"
    points: int | None = Field(None, gt=0)  # first points of each shape; None: by layout
    C: float | None = Field(None, gt=0)  # None: the published one, else by cross-validation
    draws: int = Field(1, gt=0)  # parts of a shape's points whose features are averaged
    pooling: Pooling = "max"  # of tokens: the coarsest ones' maximum, or with mean, of all levels
    batch_size: int = Field(32, gt=0)
    limit: int | None = Field(None, gt=0)
    seed: int = Field(0, ge=0)
    device: Device = "auto"
    precision: Precision = "fp32"
    encoder: EncoderConfig = EncoderConfig()  # used without a checkpoint


class EmbedConfig(Config):
    """Settings of `i2pmae embed`."""

    checkpoint: Path
    data: Path
    out: Path = Path("vectors.npz")
    layout: str = "auto"
    split: str = "all"
    limit: int | None = Field(None, gt=0)
    points: int | None = Field(None, gt=0)  # first points of each shape; None: by layout
    pooling: Pooling = "max"  # as the linear SVM's
    on_error: Literal["stop", "skip"] = "stop"
    batch_size: int = Field(32, gt=0)
    seed: int = Field(0, ge=0)
    device: Device = "auto"
    precision: Precision = "fp32"


class SimilarConfig(Config):
    """Settings of `i2pmae similar`."""

    vectors: Path
    query: str  # id of a shape in `vectors`, or a file that holds one shape
    checkpoint: Path | None = None  # None: the one that made `vectors`
    top: int = Field(5, gt=0)
    picture: Path | None = None
    data: Path | None = None  # None: where the shapes lay when `vectors` was made
    up: Literal["y", "z"] = "y"  # in the picture
    device: Device = "auto"


class ShowConfig(Config):
    """Settings of `i2pmae show`."""

    cache: Path
    ids: tuple[str, ...] = ()  # of shapes; none: one of each of the first classes
    out: Path = Path("pictures")
    checkpoint: Path | None = None  # of pre-training; adds what it reconstructs
    format: Literal["png", "svg", "pdf"] = "png"
    points: int | None = Field(None, gt=0)  # per shape
    up: Literal["y", "z"] = "y"
    seed: int = Field(0, ge=0)  # of the points and masks


class ReportConfig(Config):
    """Settings of `i2pmae report`."""

    subject: Path  # folder of a run, or a store
    out: Path = Path("report.html")
    cache: Path | None = None  # the run's store, where it lies elsewhere now
    data: Path | None = None  # the run's labelled shapes, likewise
    shapes: int = Field(48, ge=0, le=120)  # that turn on the page
    map: int = Field(500, ge=0, le=1000)  # shapes on the map
    up: Literal["y", "z"] = "y"
    seed: int = Field(0, ge=0)  # of the choice of shapes, points and masks
    device: Device = "auto"


class ZeroShotConfig(Config):
    """Settings of `i2pmae zero-shot`."""

    cache: Path
    classes: tuple[str, ...] = ()  # names of classes; none: the store's
    templates: tuple[str, ...] = (  # prompts; averaged
        "a depth map of a {}",
        "a grayscale depth map of a {}",
        "a point cloud depth map of a {}",
        "a 3D model of a {}",
        "a silhouette of a {}",
    )
    split: str = "all"
    pretrained: str | None = None  # the store's weights, if they lie elsewhere now
    batch_size: int = Field(32, gt=0)

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

    pooling: Literal["sum", "concat"] = "sum"  # of the mean and maximum over tokens
    width: int = Field(256, gt=0)
    dropout: float = Field(0.5, ge=0, lt=1)


class SegmentHeadConfig(Config):
    """Head per point of part segmentation."""

    level_widths: tuple[int, int] = (1536, 1024)  # layers that bring a level to the points
    widths: tuple[int, int, int] = (1024, 512, 256)  # layers over all levels
    dropout: float = Field(0.5, ge=0, lt=1)


class FewShotConfig(Config):
    """Episodes of few-shot classification; every pair of ways and shots is a setting."""

    ways: tuple[int, ...] = Field((5, 10), min_length=1)  # classes per episode
    shots: tuple[int, ...] = Field((10, 20), min_length=1)  # training shapes per class
    folds: int = Field(10, gt=0)  # episodes per setting
    tests: int = Field(20, gt=0)  # test shapes per class
    data: Path | None = None  # data set of written folds, where it has moved since

    @field_validator("ways", "shots", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _numbers(value)

    @model_validator(mode="after")
    def _sizes_make_sense(self) -> Self:
        if min(self.ways) < 2 or min(self.shots) < 1:
            raise ValueError(f"ways {self.ways} must be 2 or more, shots {self.shots} 1 or more")
        return self


class FewShotSplitConfig(Config):
    """Settings of `i2pmae fewshot-split`."""

    data: Path
    out: Path
    layout: str = "auto"
    seed: int = Field(0, ge=0)
    few_shot: FewShotConfig = FewShotConfig()


class FinetuneConfig(Config):
    """Settings of `i2pmae finetune`."""

    task: Literal["classification", "segmentation", "few-shot"] = "classification"
    recipe: str | None = None  # where the settings come from; its published figures are shown
    checkpoint: Path | None = None  # None: from scratch
    from_scratch: bool = False  # take only the network's size from the checkpoint
    data: Path | None = None  # labelled shapes on disk, or
    cache: Path | None = None  # a store that holds them
    out: Path
    layout: str = "auto"
    epochs: int = Field(300, gt=0)
    batch_size: int = Field(32, gt=1)  # BatchNorm in the head needs two
    points: int = Field(1024, gt=0)
    sampling: Literal["fps", "first", "random"] = "fps"  # which points of a shape are used
    limit: int | None = Field(None, gt=0)
    seed: int = Field(0, ge=0)
    seeds: tuple[int, ...] | None = None  # one run each, in a folder of its own
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()  # where metrics go as well
    device: Device = "auto"
    precision: Precision = "auto"
    labels: float = Field(1.0, gt=0, le=1)  # share of the training split that is used
    validation: float = Field(0.1, gt=0, lt=1)  # share of those shapes
    label_smoothing: float = Field(0.2, ge=0, lt=1)
    vote: int = Field(10, ge=0)  # draws whose logits are averaged; 0: none
    encoder: EncoderConfig = EncoderConfig(group_sizes=(48, 24, 24), radii=(0.24, 0.48, 0.96))
    head: HeadConfig = HeadConfig()
    segment_head: SegmentHeadConfig = SegmentHeadConfig()
    few_shot: FewShotConfig = FewShotConfig()
    augment: AugmentConfig = AugmentConfig(scale=(2 / 3, 3 / 2), shift=0.2)
    optim: OptimConfig = OptimConfig(lr=5e-4, clip_norm=10.0)

    @field_validator("seeds", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _numbers(value)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.data is None) == (self.cache is None):
            raise ValueError("give labelled shapes, either as DATA or as a store with --cache")
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
        """Where the labelled shapes are, as the user named it."""
        path = self.data or self.cache
        assert path is not None  # _fits_together
        return path


def _numbers(value: Any) -> Any:
    """Several numbers as the command line gives them: `0,1,2`."""
    return value.split(",") if isinstance(value, str) else value


ConfigT = TypeVar("ConfigT", bound=Config)
COMMANDS = ("extract-2d", "pretrain", "svm", "finetune", "embed", "zero-shot")
_LARGEST_RECIPE = 1 << 14  # bytes
_DEEPEST = 16  # tables in one another
_ABOUT = "about"  # a recipe's table for people: data, command, published figure, cost


def load_config(
    kind: type[ConfigT],
    command: str,
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Build a stage's settings: default, then recipe, then overrides, then options.

    Args:
        kind: the settings' class.
        command: name of the command; a recipe may hold one table per command.
        recipe: file, or name of a recipe that ships with the package.
        overrides: `key.sub=value`, values in TOML (bare words are strings).
        options: dotted key to value; `None` values are left out.
        defaults: dotted key to value, weaker than the recipe.

    Raises:
        ConfigError: if a key is unknown or a value cannot be used; one line.
    """
    values = _nested_defaults(kind)
    for key, value in (defaults or {}).items():
        _assign(values, key, value)
    source = "the options"
    if recipe is not None:
        source = f"recipe {recipe}"
        _merge(values, read_recipe(recipe, command, kind.model_fields))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(
                f"--set {override}: expected key.sub=value, for example --set optim.lr=0.0005"
            )
        _assign(values, key.strip(), _parse_value(text))
    for key, value in (options or {}).items():
        if value is not None:
            _assign(values, key, value)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{command}: {_describe(error, kind)} (from {source})") from None


def _nested_defaults(kind: type[Config]) -> dict[str, Any]:
    """Defaults of a stage's tables; else one key of a table would bring back the table's own."""
    defaults = {name: field.default for name, field in kind.model_fields.items()}
    return {
        name: value.model_dump() for name, value in defaults.items() if isinstance(value, Config)
    }


def read_recipe(recipe: str | Path, command: str, fields: Collection[str] = ()) -> dict[str, Any]:
    """Read a recipe's keys for one command, without its table for people.

    Args:
        recipe: file, or name of one that ships with the package.
        command: whose keys are wanted.
        fields: the command's own; pre-training has a table `svm`, which is a command as well. It
            is pre-training's in a recipe without a table `pretrain`.

    Raises:
        ConfigError: if the file is missing or not TOML, or is for other commands.
    """
    path = find_recipe(recipe)
    values = _read_toml(path)
    about = values.pop(_ABOUT, {})
    meant_for = about.get("commands", list(COMMANDS)) if isinstance(about, dict) else []
    if command not in meant_for:
        raise ConfigError(
            f"recipe {path.stem} is for {', '.join(meant_for)}, not for {command}; "
            "'i2pmae recipes' lists what there is"
        )
    sections = _sections(values, () if command in values else fields)
    _merge(values, sections.get(command, {}))
    return values


def _sections(values: dict[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Take the tables of commands out of a recipe, but those that are `fields` of one."""
    named = [name for name in COMMANDS if isinstance(values.get(name), dict)]
    return {name: values.pop(name) for name in named if name not in fields}


def find_recipe(recipe: str | Path) -> Path:
    """Locate a recipe: a file, or the name of one that ships with the package.

    Raises:
        ConfigError: if there is none; names the nearest.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    named = recipe_folder() / f"{path.name.removesuffix('.toml')}.toml"
    if path.parent == Path() and named.is_file():
        return named
    hint = suggestion(path.stem, recipe_names())
    raise ConfigError(f"recipe {recipe}: no such file and no recipe of this name; {hint}")


def recipe_folder() -> Path:
    """Folder of the recipes that ship with the package (`pipeline/` in a clone)."""
    packed = Path(str(resources.files("i2pmae"))) / "recipes"
    return packed if packed.is_dir() else packed.parents[1] / "pipeline"


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    return sorted(path.stem for path in recipe_folder().glob("*.toml"))


def recipe_about(name: str) -> dict[str, Any]:
    """A recipe's table for people: `title`, `commands`, `data`, `command`, `published`, `cost`."""
    about = _read_toml(find_recipe(name)).get(_ABOUT, {})
    return about if isinstance(about, dict) else {}


def recipe_commands(recipe: str | Path) -> list[str]:
    """Stages that a recipe is for: those it names, has a table for, or whose keys it holds."""
    values = _read_toml(find_recipe(recipe))
    about = values.pop(_ABOUT, {})
    if isinstance(about, dict) and "commands" in about:
        return list(about["commands"])
    stages: dict[str, type[Config]] = {"extract-2d": ExtractConfig, "pretrain": PretrainConfig}
    tables = [stage for stage in stages if isinstance(values.get(stage), dict)]
    if tables:
        return tables
    fitting = {stage: len({*values} & {*kind.model_fields}) for stage, kind in stages.items()}
    return [stage for stage, count in fitting.items() if count == max(fitting.values())]


def to_plain(config: Config) -> dict[str, Any]:
    """Settings as plain Python values that JSON and weights-only loading accept."""
    plain: dict[str, Any] = json.loads(config.model_dump_json())
    return plain


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_RECIPE + 1)
        if len(content) > _LARGEST_RECIPE:
            raise ConfigError(f"recipe {path}: more than {_LARGEST_RECIPE} bytes; is it a recipe?")
        found = tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
        _check_plain(found)
        return found
    except OSError as error:
        raise ConfigError(f"recipe {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"recipe {path}: not valid TOML: {error}") from None


def _check_plain(value: Any, depth: int = 0) -> None:
    """Raise ValueError for what no recipe needs and what would choke others."""
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} tables in one another")
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError("a number of more than 63 bits")
    parts = value.values() if isinstance(value, dict) else value
    for part in parts if isinstance(value, dict | list) else ():
        _check_plain(part, depth + 1)


def _parse_value(text: str) -> Any:
    """A TOML value; anything that is not one is a plain string; `none` is None."""
    text = text.strip()
    if text.lower() in ("none", "null"):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{dotted}: {parent} is a value, not a table")
        values = child
    values[last] = value


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Merge `more` into `values` in place, tables key by key."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _describe(error: ValidationError, kind: type[Config]) -> str:
    """First problem of a validation error in one line, with the nearest known key."""
    first, more = error.errors()[0], error.error_count() - 1
    location = [str(part) for part in first["loc"]]
    where = ".".join(location) or "settings"
    if first["type"] == "extra_forbidden":
        hint = suggestion(location[-1], _keys_at(kind, location[:-1]))
        text = f"unknown key '{where}'; {hint}"
    elif first["type"] == "missing":
        text = f"'{where}' is required"
    else:
        found = f", found {first['input']!r:.80}" if location else ""
        text = f"{where}: {first['msg'].removeprefix('Value error, ')}{found}"
    return text + (f"; and {more} more" if more else "")


def _keys_at(kind: type[Config], parents: Sequence[str]) -> list[str]:
    """Keys that the table at `parents` may hold."""
    from typing import get_args

    for parent in parents:
        field = kind.model_fields.get(parent)
        if field is None:
            return []
        choices = [field.annotation, *get_args(field.annotation)]
        tables = [c for c in choices if isinstance(c, type) and issubclass(c, Config)]
        if not tables:
            return []
        kind = tables[0]
    return list(kind.model_fields)
