"""Every command: its settings, the stage that it runs, its help.

The command line, the Python API and the reference page are made from this table and from the fields
of the settings. Reading it imports nothing heavy, so `i2pmae --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from i2pmae.config import Config

_RESUME = "Resume the run in --out, with its settings."


@dataclass(frozen=True)
class Command:
    """One command of `i2pmae`."""

    name: str
    about: str  # one sentence, for the list of commands
    settings: str  # class in `i2pmae.config`
    example: str  # what follows the command's name
    arguments: tuple[str, ...] = ()  # settings that are given by position
    more: str = ""  # what else its help says
    stage: str = ""  # module:function; empty: `run` of the module of this name in `stages/`
    flags: Mapping[str, str] = field(default_factory=dict)  # keywords of the stage: their help
    instead: Mapping[str, str] = field(default_factory=dict)  # flags that run another stage
    by_keyword: bool = False  # the stage takes its settings as keywords, not as one object
    takes_recipe: bool = False
    data_alone: bool = False  # a single argument is DATA, and the checkpoint the shipped one
    takes_processes: bool = False  # torchrun may start several
    verdict: str = ""  # key of the result that says whether the command succeeded
    function: str = ""  # its name in Python, where it is not the command's

    @property
    def kind(self) -> type[Config]:
        """Class of its settings."""
        import i2pmae.config

        kind: type[Config] = getattr(i2pmae.config, self.settings)
        return kind

    def options(self) -> list[Setting]:
        """Settings that are options or arguments; arguments first, in their order."""
        named = {setting.name: setting for setting in settings_of(self.kind) if setting.name}
        if self.takes_recipe:  # `--recipe` fills it
            named.pop("recipe", None)
        return [*(named.pop(name) for name in self.arguments), *named.values()]

    @property
    def n_required(self) -> int:
        """How many arguments must be given: all up to the last that has no default."""
        if self.data_alone:
            return 0
        fields = self.kind.model_fields
        required = [
            place for place, name in enumerate(self.arguments) if fields[name].is_required()
        ]
        return 1 + max(required, default=-1)

    @property
    def python_name(self) -> str:
        """Name of its function in Python."""
        return self.function or self.name.replace("-", "_")

    def run(self, config: Config, **flags: bool) -> dict[str, Any]:
        """Run the stage."""
        from importlib import import_module

        given = [name for name, value in flags.items() if value]
        default = f"i2pmae.stages.{self.name.replace('-', '_')}:run"
        other = next((self.instead[name] for name in given if name in self.instead), None)
        module, _, function = (other or self.stage or default).partition(":")
        stage = getattr(import_module(module), function)
        result: dict[str, Any]
        if self.by_keyword:
            result = stage(**{name: getattr(config, name) for name in type(config).model_fields})
        else:
            result = stage(config, **{name: True for name in given if name not in self.instead})
        return result


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "extract-2d",
            "Stage one: render every shape and cache the features of a frozen 2D model.",
            "ExtractConfig",
            "shapes/ --cache cache/shapes.zarr",
            arguments=("data",),
            more="Rerun the command to resume after an interruption.",
            flags={"dry_run": "Only estimate the number of shapes, bytes and minutes."},
            instead={"dry_run": "i2pmae.stages.dry_run:run"},
            takes_recipe=True,
        ),
        Command(
            "pretrain",
            "Stage two: pre-train the 3D encoder from a store.",
            "PretrainConfig",
            "--cache cache/ --out runs/first",
            flags={"resume": _RESUME},
            takes_recipe=True,
            takes_processes=True,
        ),
        Command(
            "svm",
            "Accuracy of a linear SVM on frozen features.",
            "SvmConfig",
            "runs/first/last.pt modelnet40_ply_hdf5_2048/",
            arguments=("checkpoint", "data"),
            takes_recipe=True,
        ),
        Command(
            "evaluate",
            "Is the encoder any good on DATA? Compared with an untrained one, 2D features, chance.",
            "EvaluateConfig",
            "runs/first/last.pt shapes/ --cache cache/shapes.zarr",
            arguments=("checkpoint", "data"),
            more="Linear SVM, nearest neighbors, few labels and retrieval of frozen features, with "
            "95% intervals. Without a test split by cross-validation; without classes by "
            "identification of shapes. With one argument, DATA, the encoder is the shipped one.",
            takes_recipe=True,
            data_alone=True,
        ),
        Command(
            "finetune",
            "Fine-tune for classification, part segmentation or few-shot classification.",
            "FinetuneConfig",
            "runs/first/last.pt shapes/ --out runs/shapes",
            arguments=("checkpoint", "data"),
            more="The default recipe is the one for DATA's layout. The best epoch is chosen on a "
            "validation part of the training split; the test split is evaluated once.",
            flags={"resume": _RESUME},
            takes_recipe=True,
            takes_processes=True,
        ),
        Command(
            "predict",
            "Name the classes of new shapes, or the parts of their points, by a trained network.",
            "PredictConfig",
            "runs/shapes/best.pt new/ --out predictions.csv",
            arguments=("checkpoint", "shapes"),
            more="Shapes that cannot be read are named, and the others predicted. Rerun the "
            "command to resume after an interruption. If shapes have classes that the network "
            "knows, accuracy and confusion are shown.",
            takes_recipe=True,
        ),
        Command(
            "fewshot-split",
            "Draw few-shot episodes of a data set and write them as index files.",
            "FewShotSplitConfig",
            "modelnet40_normal_resampled/ --out fewshot/",
            arguments=("data",),
            stage="i2pmae.training.few_shot:split",
        ),
        Command(
            "compare",
            "Results of several runs side by side, with the published figures.",
            "CompareConfig",
            "runs/pretrained runs/scratch",
            arguments=("runs",),
            by_keyword=True,
        ),
        Command(
            "check-data",
            "What a data set holds, and what looks wrong: duplicates, outliers, missing parts.",
            "CheckDataConfig",
            "shapes/",
            arguments=("data",),
        ),
        Command(
            "embed",
            "Write the frozen feature of every shape, with its id, class and split, to one file.",
            "EmbedConfig",
            "runs/first/last.pt shapes/ --out vectors.npz",
            arguments=("checkpoint", "data"),
            more="With one argument, DATA, the encoder is the shipped one.",
            takes_recipe=True,
            data_alone=True,
        ),
        Command(
            "similar",
            "The shapes most similar to a shape or a file: nearest vectors by cosine.",
            "SimilarConfig",
            "vectors.npz chair/train/chair_00 --picture similar.png",
            arguments=("vectors", "query"),
        ),
        Command(
            "zero-shot",
            "Classify stored shapes by words alone, with the text tower of the store's CLIP model.",
            "ZeroShotConfig",
            'cache/shapes.zarr --classes "chair,table,lamp"',
            arguments=("cache",),
            more="CLIP's pooled feature is approximated by the mean of the stored patch features.",
            takes_recipe=True,
        ),
        Command(
            "show",
            "Draw what the network sees of shapes: depth maps, saliency, features, masks.",
            "ShowConfig",
            "cache/shapes.zarr chair_0001 --checkpoint runs/first/last.pt",
            arguments=("cache", "ids"),
        ),
        Command(
            "report",
            "Write an HTML page about a run, a store or several runs: curves, shapes in 3D, a map.",
            "ReportConfig",
            "runs/first --out report.html",
            arguments=("subjects",),
            function="write_report",  # `i2pmae.report` is a package
            more="The page needs no network and no other file.",
        ),
        Command(
            "inspect",
            "What a store holds: arrays, sizes, provenance, classes; how to open it in Python.",
            "InspectConfig",
            "cache/ --histograms",
            arguments=("cache",),
            by_keyword=True,
        ),
        Command(
            "verify",
            "Check a store completely: checksums, missing data, values.",
            "VerifyConfig",
            "cache/shapes.zarr --recompute 10 --data shapes/",
            arguments=("cache",),
            more="Exits with 1 if anything is wrong.",
            by_keyword=True,
            verdict="ok",
        ),
        Command(
            "copy",
            "Copy a store between folders and buckets, and verify the copy.",
            "CopyConfig",
            "cache/shapes.zarr s3://bucket/shapes.zarr",
            arguments=("source", "target"),
            more="Rerun the command to resume after an interruption.",
            by_keyword=True,
        ),
        Command(
            "convert",
            "Convert an official checkpoint to our format, or ours to the official one.",
            "ConvertConfig",
            "i2p-mae.pth i2p-mae.pt",
            arguments=("source", "target"),
            by_keyword=True,
        ),
        Command(
            "export",
            "Export a trained network for other programs, and check the file's outputs.",
            "ExportConfig",
            "runs/first/last.pt --out encoder/model.safetensors",
            arguments=("source",),
            by_keyword=True,
        ),
        Command(
            "models",
            "Encoders that ship with the package: size, license, training data, scores.",
            "ModelsConfig",
            "",
            arguments=("name",),
            by_keyword=True,
        ),
        Command(
            "demo",
            "The whole pipeline on generated shapes: a few minutes on a laptop.",
            "DemoConfig",
            "",
            by_keyword=True,
        ),
        Command(
            "doctor",
            "Check Python, torch, device, precision, disk and weights; estimate time and disk.",
            "DoctorConfig",
            "--data shapes/ --recipe pretrain-small",
            by_keyword=True,
            verdict="ready",
        ),
    )
}


class Setting(NamedTuple):
    """One value of a command's settings."""

    key: str  # `image_model.image_size`, as in a recipe and in `--set`
    name: str | None  # `image_size`, the option `--image-size`; None: there is no option
    field: FieldInfo
    default: Any  # of this command; None where there is none
    metavar: str | None

    @property
    def types(self) -> tuple[Any, ...]:
        """What it may be, apart from None: `(int,)` for `int | None`."""
        from types import UnionType
        from typing import Union, get_origin

        kind = self.field.annotation
        parts = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
        return tuple(part for part in parts if part is not type(None))


def settings_of(kind: type[Config]) -> Iterator[Setting]:
    """Every single setting, also those of tables: a class's own first, then inherited ones."""
    yield from _settings_of(kind, {}, ())


def _settings_of(
    kind: type[Config], defaults: Mapping[str, Any], parents: tuple[str, ...]
) -> Iterator[Setting]:
    from i2pmae.config import Option

    tables = tables_of(kind)
    for name, info in sorted(
        kind.model_fields.items(), key=lambda f: f[0] not in kind.__annotations__
    ):
        default = defaults.get(name, None if info.is_required() else info.default)
        if table := tables.get(name):
            inner = (
                {}
                if default is None
                else {key: getattr(default, key) for key in table.model_fields}
            )
            yield from _settings_of(table, inner, (*parents, name))
            continue
        shown = next((extra for extra in info.metadata if isinstance(extra, Option)), Option())
        option = shown.name or (None if parents else name)
        yield Setting(".".join((*parents, name)), option, info, default, shown.metavar)


def tables_of(kind: type[Config]) -> dict[str, type[Config]]:
    """Settings that hold settings, such as `optim`."""
    from i2pmae.config import Config

    tables = {name: info.annotation for name, info in kind.model_fields.items()}
    return {
        name: table
        for name, table in tables.items()
        if isinstance(table, type) and issubclass(table, Config)
    }
