"""Few-shot classification: small tasks of a few classes, a network per task, mean over folds."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, cast, get_args

import numpy as np
from numpy.typing import NDArray

from i2pmae.atomic_write import written
from i2pmae.checkpoints.checkpoint import Checkpoint
from i2pmae.config import FewShotConfig, FewShotSplitConfig, FinetuneConfig, to_plain
from i2pmae.datasets import ShapeSource, few_shot_episode, open_source
from i2pmae.datasets.few_shot import FewShotEpisode, setting_folders, setting_of
from i2pmae.errors import ConfigError, DataError
from i2pmae.evaluation.clouds import source_points
from i2pmae.evaluation.few_shot import Episode, sample_episodes
from i2pmae.evaluation.metrics import mean_std
from i2pmae.geometry.coordinates import Up
from i2pmae.interrupts import StopRequest, delayed_stop
from i2pmae.progress import Progress, note, print_table
from i2pmae.recipes import settings_of_run
from i2pmae.settings import command_of, differences, told
from i2pmae.store import StoreReader, resolve_store
from i2pmae.training.classify import Classification
from i2pmae.training.distributed import ProcessGroup
from i2pmae.training.labeled import Clouds, Indices, SourceClouds, StoreClouds
from i2pmae.training.loop import train_epoch
from i2pmae.training.prediction import predict
from i2pmae.training.result import FinetuneResult
from i2pmae.training.run_folder import RunFolder
from i2pmae.training.supervised import LabeledTask, begin, may_change, origin
from i2pmae.urls import absolute_path

_FORMAT = "i2pmae-few-shot-fold"
_SETTINGS = "fewshot-split.json"  # of the command that wrote the folds
_KINDS = (".pkl", ".json")  # published episodes, and ours


@dataclass(frozen=True)
class Fold:
    """One episode, not yet read."""

    ways: int
    shots: int
    number: int
    load: Callable[[], tuple[Clouds, Clouds]]  # to train on and to test on, labels from 0

    @property
    def setting(self) -> str:
        """Name of the folds that belong together."""
        return f"{self.ways}way_{self.shots}shot"

    def n_steps(self, config: FinetuneConfig) -> int:
        """Training steps that the fold takes."""
        n_shapes = self.ways * self.shots
        return config.epochs * (n_shapes // min(config.batch_size, n_shapes))


def run(
    config: FinetuneConfig,
    process_group: ProcessGroup,
    pretrained: Checkpoint | None,
    *,
    resume: bool = False,
) -> FinetuneResult:
    """Fine-tune a classifier for every fold of every setting.

    An episode has no validation shapes, so nothing is chosen: the figure is the last epoch's.

    Args:
        config: settings; `data` holds published pickles, folds of `i2pmae fewshot-split`, or any
            labeled shapes, of which episodes are then drawn. `out` receives `config.json` and
            one row per fold in `metrics.jsonl`.
        process_group: those that share the batches.
        pretrained: the checkpoint that the settings name.
        resume: continue after the last finished fold of the run in `out`.

    Returns:
        Mean accuracy in percent by setting (`5way_10shot`), `std` by setting over its folds,
        `settings`, `folds` with every fold's accuracy, and where they come from. Processes but
        the first: nothing.

    Raises:
        DataError: if there are no episodes, or too few shapes to draw them from.
        CheckpointError: if the checkpoint holds no encoder that fits.

    Source: section 4.2 of the paper. Differs: published figures are of each fold's best epoch on
        its test shapes.
    """
    started = time.monotonic()
    folds = _folds(config)
    folder = RunFolder(config.out)
    if process_group.is_first:
        folder.start(config, resume=resume, must_stay=("epochs",), may_change=may_change(config))
        if resume:
            folder.go_on()
    process_group.wait()
    done = {(row["setting"], row["fold"]) for row in folder.folds()}
    process_group.wait()  # the first process writes rows from here on
    left = [fold for fold in folds if (fold.setting, fold.number) not in done]
    if done:
        note(f"resuming {config.out}: {len(done)} of {len(folds)} folds are finished")
    total, left_steps = (sum(fold.n_steps(config) for fold in some) for some in (folds, left))
    with (
        delayed_stop() as stop,
        Progress("few-shot", total, done=total - left_steps) as progress,
    ):
        for fold in left:
            figure = _train_fold(fold, config, process_group, pretrained, folder, progress, stop)
            if process_group.is_first:
                folder.log({"setting": fold.setting, "fold": fold.number, "accuracy": figure})
                progress.describe(f"{fold.setting} fold {fold.number + 1}: {figure:.2f}%")
            process_group.wait()
            stop.obey()
    if not process_group.is_first:
        return {}
    accuracies: dict[str, list[float]] = {}
    for row in folder.folds():
        accuracies.setdefault(row["setting"], []).append(row["accuracy"])
    spread = {setting: mean_std(values) for setting, values in accuracies.items()}
    result = {
        "command": "finetune",
        "task": config.task,
        "settings": list(spread),
        **{setting: found.mean for setting, found in spread.items()},
        "std": {setting: found.std for setting, found in spread.items() if found.n > 1},
        "folds": accuracies,
        "epochs": config.epochs,
        **origin(config, _published_recipe(config), started),
    }
    return cast(FinetuneResult, result)


class Split(TypedDict):
    """Episodes that were written."""

    out: str
    settings: list[str]
    folds: int  # per setting


def split(config: FewShotSplitConfig) -> Split:
    """Draw episodes of a data set and write them as index files, one per fold.

    A file names shapes by id, so it holds for any copy of the data set.

    Args:
        config: settings; `out` receives `<ways>way_<shots>shot/<fold>.json`, and the settings as
            `fewshot-split.json`.

    Returns:
        See `Split`.

    Raises:
        DataError: if there are too few shapes, or a file cannot be written.
        ConfigError: if `out` holds a run or other folds.
    """
    source = open_source(config.data, split="all", **config.reading)
    drawn = _episodes(
        np.asarray(source.labels), np.asarray(source.splits), config.few_shot, config.seed
    )
    folds = {
        config.out / f"{ways}way_{shots}shot" / f"{number}.json": _content(config, source, episode)
        for (ways, shots), episodes in drawn.items()
        for number, episode in enumerate(episodes)
    }
    _require_no_others(config.out, folds)
    for file, content in folds.items():
        _write_json(file, content)
    _write_json(config.out / _SETTINGS, to_plain(config))
    settings = [f"{ways}way_{shots}shot" for ways, shots in drawn]
    n_folds = config.few_shot.folds
    print_table("Few-shot folds", ["setting", "folds"], [[name, n_folds] for name in settings])
    folder = shlex.quote(str(config.out))
    note(f"next: i2pmae finetune CHECKPOINT {folder} --recipe fewshot-modelnet40")
    return {"out": str(config.out), "settings": settings, "folds": n_folds}


def with_up_of_folds(config: FinetuneConfig) -> FinetuneConfig:
    """The settings, with the axis that written folds say points up unless they give one.

    Raises:
        DataError: if a fold is damaged.
    """
    if config.data is None or "up" in config.model_fields_set:
        return config
    written = (file for files in _fold_files(config.data).values() for file in files)
    first = next((file for file in written if file.suffix == ".json"), None)
    up = config.up if first is None else _read_index(first).get("up", config.up)
    return config.model_copy(update={"up": up})


def _train_fold(
    fold: Fold,
    config: FinetuneConfig,
    process_group: ProcessGroup,
    pretrained: Checkpoint | None,
    folder: RunFolder,
    progress: Progress,
    stop: StopRequest,
) -> float:
    """Accuracy of a fold after the last epoch."""
    fit, test = fold.load()
    for clouds in (fit, test) if process_group.is_first else (fit,):
        clouds.prepare()
    objective = Classification(config, tuple(map(str, range(fold.ways))))
    counters = (fold.ways, fold.shots, fold.number)
    batch_size = min(config.batch_size, len(fit.labels))
    training = begin(objective, config, process_group, pretrained, counters, batch_size, fit_on=fit)
    task = LabeledTask(objective, fit, training)
    while training.epoch < config.epochs:
        train_epoch(training, task, folder, progress, stop, saves=False)
        process_group.agree(stop, late=False)
        stop.obey()
    if not process_group.is_first:
        return 0.0
    seen = predict(
        training.model, test.in_order(config.batch_size), config.points, dtype=training.dtype
    )
    return float(objective.measure(seen)["accuracy"])


def _folds(config: FinetuneConfig) -> list[Fold]:
    """All episodes of a run, in order."""
    if config.cache is not None:
        reader = StoreReader(resolve_store(config.cache))
        chosen = reader.indices("all")[: config.limit]
        splits = reader.read_all("split")[chosen]
        return _draw_folds(StoreClouds(reader, config, chosen), splits, config)
    assert config.data is not None  # FinetuneConfig
    files = _fold_files(config.data)
    if files:
        if config.limit is not None:
            raise ConfigError(
                f"--limit: the folds in {config.data} say which shapes they take; leave it out, "
                "or --set few_shot.folds to do fewer of them"
            )
        return _written_folds(files, config)
    options = {"split": "all", "points": source_points(config.points), **config.reading}
    source = open_source(config.data, limit=config.limit, **options)
    return _draw_folds(SourceClouds(source, config), np.asarray(source.splits), config)


def _published_recipe(config: FinetuneConfig) -> str | None:
    """The recipe of the published episodes, if the run is of these."""
    files = {} if config.data is None else _fold_files(config.data)
    is_published = any(file.suffix == ".pkl" for some in files.values() for file in some)
    return FewShotEpisode.recipe if is_published else None


def _episodes(
    labels: Indices, splits: NDArray[np.str_], config: FewShotConfig, seed: int
) -> dict[tuple[int, int], list[Episode]]:
    """Episodes of every setting, by ways and shots."""
    return {
        (ways, shots): sample_episodes(
            labels, ways, shots, folds=config.folds, tests=config.tests, seed=seed, splits=splits
        )
        for ways in config.ways
        for shots in config.shots
    }


def _draw_folds(pool: Clouds, splits: NDArray[np.str_], config: FinetuneConfig) -> list[Fold]:
    """Episodes of any labeled shapes."""

    def load(episode: Episode) -> tuple[Clouds, Clouds]:
        return (
            pool.select(episode.train, episode.train_labels),
            pool.select(episode.test, episode.test_labels),
        )

    drawn = _episodes(pool.labels, splits, config.few_shot, config.seed)
    return [
        Fold(ways, shots, number, partial(load, episode))
        for (ways, shots), episodes in drawn.items()
        for number, episode in enumerate(episodes)
    ]


@dataclass(frozen=True)
class _Pool:
    """A data set that index files name."""

    clouds: SourceClouds
    places: dict[str, int]  # index of each shape, by id


def _fold_files(data: Path) -> dict[tuple[int, int], list[Path]]:
    """Files of episodes that a path holds, by ways and shots; none if it is no such folder."""
    if data.is_file() and data.suffix in _KINDS:
        named = setting_of(data.absolute().parent)
        if named is None:
            raise DataError(
                f"{data}: the folder of an episode says its setting, as 5way_10shot does; move it "
                "into one"
            )
        return {named: [data]}
    found: dict[tuple[int, int], list[Path]] = {}
    for setting, folder in setting_folders(data).items():
        files = [file for kind in _KINDS for file in folder.glob(f"[!.]*{kind}")]
        if files:
            files.sort(key=lambda file: (len(file.stem), file.stem))
            found[setting] = files
    return found


def _written_folds(
    by_setting: dict[tuple[int, int], list[Path]], config: FinetuneConfig
) -> list[Fold]:
    """Published pickles, or index files, of the settings that the recipe asks for."""
    asked = {(ways, shots) for ways in config.few_shot.ways for shots in config.few_shot.shots}
    chosen = {setting: files for setting, files in sorted(by_setting.items()) if setting in asked}
    if not chosen:
        names = ", ".join(f"{ways}way_{shots}shot" for ways, shots in sorted(by_setting))
        raise DataError(
            f"{config.shapes} holds episodes of {names}, none of the settings asked for; set "
            "few_shot.ways and few_shot.shots to some of them"
        )
    pools: dict[tuple[str, str, str], _Pool] = {}
    return [
        Fold(ways, shots, number, partial(_load_written, file, ways, config, pools))
        for (ways, shots), files in chosen.items()
        for number, file in enumerate(files[: config.few_shot.folds])
    ]


def _load_written(
    file: Path,
    ways: int,
    config: FinetuneConfig,
    pools: dict[tuple[str, str, str], _Pool],
) -> tuple[Clouds, Clouds]:
    """Shapes of one episode; `pools` keeps the data sets that index files name."""
    if file.suffix == ".json":
        return _load_index(file, ways, config, pools)
    source = few_shot_episode(file)
    pool, splits = SourceClouds(source, config), np.asarray(source.splits)
    return pool.select(np.flatnonzero(splits == "train")), pool.select(
        np.flatnonzero(splits == "test")
    )


def _require_no_others(out: Path, folds: Mapping[Path, Mapping[str, object]]) -> None:
    """Raise a ConfigError if a folder holds a run, or folds other than these."""
    if RunFolder(out).holds_run or command_of(settings_of_run(out) or {}):
        raise ConfigError(f"--out {out} holds a run; choose another folder")
    for file in (file for files in _fold_files(out).values() for file in files):
        reason = "this command does not write it"
        if file in folds:
            content = folds[file]
            found = {"up": content["up"], **_read_index(file)}  # which older ones do not say
            if found == content:
                continue
            other = differences(found, content, ("fingerprint", "classes", "train", "test"))
            reason = told(other, "the fold") or "it names other shapes"
        raise ConfigError(
            f"--out {out} holds other folds, such as {file.relative_to(out)} ({reason}); delete "
            "them, or choose another folder"
        )


def _content(
    config: FewShotSplitConfig, source: ShapeSource, episode: Episode
) -> dict[str, object]:
    """One episode as an index file holds it."""
    is_path = config.data.exists()
    return {
        "format": _FORMAT,
        "data": str(absolute_path(config.data) if is_path else config.data),
        "layout": source.layout,
        "up": config.up,
        "fingerprint": source.fingerprint(),
        "seed": config.seed,
        "classes": [source.class_names[label] for label in episode.classes],
        "train": _by_id(source, episode.train, episode.train_labels),
        "test": _by_id(source, episode.test, episode.test_labels),
    }


def _write_json(file: Path, content: Mapping[str, object]) -> None:
    """Write a file atomically."""
    with written(file, remedy="Choose another --out.") as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _by_id(source: ShapeSource, shapes: Indices, labels: Indices) -> dict[str, int]:
    return {
        source.ids[shape]: int(label)
        for shape, label in zip(shapes.tolist(), labels.tolist(), strict=True)
    }


def _load_index(
    file: Path,
    ways: int,
    config: FinetuneConfig,
    pools: dict[tuple[str, str, str], _Pool],
) -> tuple[Clouds, Clouds]:
    """Shapes that an index file names.

    Raises:
        DataError: if the file is damaged, or the data set has changed since.
        ConfigError: if it says that another axis points up.
    """
    content = _read_index(file)
    up = content.get("up", config.up)
    if up != config.up:
        raise ConfigError(
            f"--up {config.up}: {file} was drawn from shapes with {up} up; leave --up out, or run "
            "i2pmae fewshot-split with another --out"
        )
    data = content["data"] if config.few_shot.data is None else str(config.few_shot.data)
    key = (data, content["layout"], content["fingerprint"])
    if key not in pools:
        options = {"split": "all", "points": source_points(config.points), **config.reading}
        source = open_source(data, **{**options, "layout": content["layout"]})
        if source.fingerprint() != content["fingerprint"]:
            raise DataError(
                f"{data} is not, or no longer, the data set that {file} was drawn from; run "
                "i2pmae fewshot-split with another --out, or say where that is with few_shot.data"
            )
        places = {name: place for place, name in enumerate(source.ids)}
        pools[key] = _Pool(SourceClouds(source, config), places)
    pool = pools[key]
    clouds = []
    for part in ("train", "test"):
        shapes = content[part]
        unknown = [name for name in shapes if name not in pool.places]
        if unknown:
            raise _damaged(file, f"shape {unknown[0]!r} is not in {data}")
        if not 0 <= min(shapes.values()) <= max(shapes.values()) < ways:
            raise _damaged(file, f"labels are not 0 to {ways - 1}")
        chosen = np.array([pool.places[name] for name in shapes])
        clouds.append(pool.clouds.select(chosen, np.array(list(shapes.values()))))
    return clouds[0], clouds[1]


def _read_index(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, f"{error}") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise _damaged(file, f"its format is not {_FORMAT}")
    for name, kind in (("data", str), ("layout", str), ("fingerprint", str)):
        if not isinstance(content.get(name), kind):
            raise _damaged(file, f"'{name}' is missing")
    if content.get("up", "y") not in get_args(Up):
        raise _damaged(file, "'up' is no axis")
    for name in ("train", "test"):
        shapes = content.get(name)
        if (
            not isinstance(shapes, dict)
            or not shapes
            or not all(type(label) is int for label in shapes.values())
        ):
            raise _damaged(file, f"'{name}' is no object of shape ids and labels")
    return content


def _damaged(file: Path, what: str) -> DataError:
    return DataError(
        f"{file} is no usable fold ({what}); delete it and run i2pmae fewshot-split again"
    )
