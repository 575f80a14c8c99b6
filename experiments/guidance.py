"""Does 2D guidance help? Every arm of the results pages, trained, scored and summed up.

A run is one arm with one seed: pre-training with the recipe `guidance.toml` beside this script and
the arm's changes, one thread each, then a linear SVM and smaller probes on frozen features. The
`finetune-` arms start from a pre-trained network, with the settings of `guidance-finetune.toml` and
of the arm. No choice uses the test split: the SVM's C is cross-validated on training shapes. Each
finished run is a JSON file under `--results`; runs that exist are not done again, one that the
budget or Ctrl-C stopped is resumed. Runs come in the order of `ARMS` (`guidance_arms.py`), those
of the main arms seed by seed.

Rerun it until it says that nothing is left:

    python experiments/guidance.py modelnet10_vox24 --vit vit_small.safetensors --budget 2h
    python experiments/guidance.py kicad_parts --set kicad --vit vit_small.safetensors --seeds 3
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from guidance_arms import ARMS, CHOSEN, MAIN, SETS, STORES, VIT, Chosen, set_of
from numpy.typing import NDArray

from i2pmae.atomic_write import atomic_write
from i2pmae.interrupts import Terminated, raise_terminated

FOLDER = Path(__file__).parent
RECIPE, FINETUNE_RECIPE = FOLDER / "guidance.toml", FOLDER / "guidance-finetune.toml"
OF_THIS_MACHINE = ("cache", "out", "data", "checkpoint")  # settings that results leave out
METRICS = {  # the first score of an arm
    "svm": "linear SVM, test accuracy in percent",
    "finetuned": "fine-tuned, test accuracy of the last epoch in percent",
}
FEW_LABELS, DRAWS = (1, 5, 10), 20  # shapes of a class, and how often they are drawn
CONFUSABLE = ("table", "desk", "dresser", "night_stand")
POINTS, POOLING = 1024, "levels"  # of frozen features
VALIDATION = 0.25  # share of the training shapes that choices are made by
PATIENCE = 60  # seconds that a stopped run is given to save itself

Array = NDArray[np.float32]


def main() -> None:
    """Do what is left, within the budget, and sum up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the data set")
    parser.add_argument("--set", choices=SETS, default="modelnet10", help="which one it is")
    parser.add_argument("--furniture", type=Path, help="labeled meshes, to transfer to")
    parser.add_argument("--vit", type=Path, help="weights of the ViT-S/14; default: the hub's")
    parser.add_argument("--work", type=Path, default=Path("runs/guidance"), help="stores and runs")
    parser.add_argument("--results", type=Path, default=FOLDER.parent / "docs" / "results")
    parser.add_argument("--budget", type=seconds_of, default="2h", help="such as 90s, 45m or 2h")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="some of the set's; default: all")
    parser.add_argument("--seeds", type=int, default=5, help="most seeds of an arm")
    parser.add_argument("--rescore", action="store_true", help="score finished runs again")
    parser.add_argument("--json", action="store_true", help="print the summary only")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [arm for arm in ARMS if set_of(arm) is SETS[options.set]]
    if unknown := [arm for arm in options.arms or () if arm not in names]:
        parser.error(f"--arms {unknown[0]}: set {options.set} has {', '.join(names)}")
    options.arms = options.arms or names
    if options.one:
        arm, seed = options.one
        do_run(arm, int(seed), options)
        return
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        left = work_through(options)
    except (KeyboardInterrupt, Terminated) as stop:
        print("guidance.py: stopped; rerun the command to resume", file=sys.stderr)
        raise SystemExit(143 if isinstance(stop, Terminated) else 130) from None
    summary = summarize(options.results)
    if options.json:
        print(json.dumps(summary))
        return
    if (table := file_of(options.results, options.set, "tables.md")).exists():
        print(table.read_text())
    print(f"{left} runs are left; run this again." if left else "Nothing is left to do.")


def seconds_of(text: str) -> float:
    """Seconds of `90s`, `45m` or `2h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: expected a number and s, m or h, such as 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def work_through(options: argparse.Namespace) -> int:
    """Start runs while there is time; how many are left."""
    end = time.monotonic() + options.budget
    todo = [
        run
        for run in runs(options.arms, options.seeds)
        if options.rescore or not is_done(options, run)
    ]
    needed = [*(ARMS[arm].store for arm, _ in todo), *SETS[options.set].pooled]
    for store in dict.fromkeys(needed):
        if not extract(store, options, end):
            return len(todo)
    running: dict[tuple[str, int], subprocess.Popen[str]] = {}
    waiting = list(todo)
    finished: list[tuple[str, int]] = []
    failed: list[tuple[str, int]] = []
    try:
        while (waiting or running) and time.monotonic() < end:
            busy = {network_of(run) for run in running}
            free = [run for run in waiting if network_of(run) not in busy]
            if free and len(running) < options.jobs:
                waiting.remove(free[0])
                running[free[0]] = start(free[0], options)
                continue
            time.sleep(1)
            for run in [run for run, process in running.items() if process.poll() is not None]:
                (failed if running.pop(run).returncode else finished).append(run)
    finally:
        stop(running.values())
    for arm, seed in failed:
        log = log_of((arm, seed), options)
        print(f"{arm}, seed {seed}: failed, see {log}", file=sys.stderr)
    return len(todo) - len(finished)


def stop(processes: Collection[subprocess.Popen[str]]) -> None:
    """Let processes save themselves and end; does nothing to those that have."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


def network_of(run: tuple[str, int]) -> tuple[str, int]:
    """The run that trains what a run works with: itself, or the one it fine-tunes."""
    arm, seed = run
    return ARMS[arm].start or arm, seed


def runs(arms: Sequence[str], most_seeds: int = 5) -> Iterator[tuple[str, int]]:
    """Arm and seed, the main arms' seeds in turn: after each there is something to compare."""
    first = [arm for arm in arms if arm in MAIN]
    for group in (first, *([arm] for arm in arms if arm not in MAIN)):
        for seed in range(most_seeds):
            yield from ((arm, seed) for arm in group if seed < ARMS[arm].seeds)


def is_done(options: argparse.Namespace, run: tuple[str, int]) -> bool:
    """Whether a run's figures are there."""
    return result_file(options.results, *run).exists()


def result_file(results: Path, arm: str, seed: int) -> Path:
    """Where a run's figures are kept."""
    return results / "runs" / arm / f"{seed}.json"


def log_of(run: tuple[str, int], options: argparse.Namespace) -> Path:
    """Where a run's messages go."""
    arm, seed = run
    return Path(options.work) / f"{arm}-{seed}.log"


def start(run: tuple[str, int], options: argparse.Namespace) -> subprocess.Popen[str]:
    """Begin or continue a run in a process of its own, with one thread."""
    arm, seed = run
    command = [sys.executable, __file__, str(options.data), "--one", arm, str(seed)]
    command += ["--set", options.set, "--work", str(options.work)]
    command += ["--results", str(options.results)]
    if options.furniture:
        command += ["--furniture", str(options.furniture)]
    log_file = log_of(run, options)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches it once, through its parent
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def extract(store: str, options: argparse.Namespace, end: float) -> bool:
    """Make a store, or finish it; False where time ran out."""
    path = options.work / "stores" / f"{store}.zarr"
    timing = path.with_suffix(".json")
    if timing.exists():
        return True
    data = options.data
    if store in CHOSEN:
        data = write_chosen(options, options.work / "shapes" / store, CHOSEN[store])
    command = [sys.executable, "-m", "i2pmae", "extract-2d", str(data)]
    command += ["--cache", str(path), "--json", *STORES[store]]
    if options.vit and VIT[1] in STORES[store] and "random" not in STORES[store]:
        command += ["--pretrained", str(options.vit)]
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a session of its own: Ctrl-C reaches it once, through its parent.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said, _ = process.communicate(timeout=max(end - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        return False
    finally:
        stop([process])
    if process.returncode:
        raise SystemExit(process.returncode)
    write(timing, json.loads(said))
    return True


def write_chosen(options: argparse.Namespace, folder: Path, chosen: Chosen) -> Path:
    """A folder of the training shapes that a store is made of."""
    import torch

    from i2pmae.config import PretrainConfig
    from i2pmae.datasets import open_source
    from i2pmae.geometry.transforms import normalize_to_unit_sphere

    low, high = PretrainConfig(out=folder).augment.scale
    source, rng = open_source(options.data, split="train"), np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(0, len(source), chosen.every):
        points = torch.from_numpy(source.load(index).points)[None]
        points = normalize_to_unit_sphere(points)[0].numpy()
        stretches = [rng.uniform(low, high, 3) for _ in range(chosen.copies)] or [np.ones(3)]
        for copy, stretch in enumerate(stretches):
            np.save(folder / f"{index:05d}-{copy}.npy", points * stretch.astype(np.float32))
    return folder


def do_run(name: str, seed: int, options: argparse.Namespace) -> None:
    """Train, score and write down one run."""
    from i2pmae.allocator import keep_freed_memory

    keep_freed_memory()
    work = fine_tuned if ARMS[name].start else frozen
    found = {"arm": name, "seed": seed, "store": ARMS[name].store, **work(name, seed, options)}
    for key in OF_THIS_MACHINE:
        found["settings"].pop(key, None)
    write(result_file(options.results, name, seed), found)


def frozen(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of frozen features, and how the network was trained."""
    from i2pmae.checkpoints.networks import load_encoder, random_encoder
    from i2pmae.config import to_plain

    config, arm, rows, encoder = settings_of(name, seed, options), ARMS[name], [], None
    if arm.features == "random":
        encoder = random_encoder(config.encoder, seed, POOLING)
    elif arm.features == "trained":
        folder = pretrained(config)
        rows = folder.rows()
        encoder = load_encoder(folder.last, POOLING)
    test, validation = scores(name, encoder, options)
    n_shapes = np.diff([row["step"] for row in rows], prepend=0) * config.batch_size
    return {
        "scores": test,
        "validation": validation,
        "seconds": round(sum(n_shapes / [row["shapes_per_s"] for row in rows]), 1),
        "epochs": rows,
        "settings": to_plain(config),
    }


def settings_of(name: str, seed: int, options: argparse.Namespace) -> Any:
    """Settings of an arm's pre-training."""
    from i2pmae.config import PretrainConfig
    from i2pmae.recipes import load_config

    stores, out = options.work / "stores", options.work / name / str(seed)
    return load_config(
        PretrainConfig,
        "pretrain",
        recipe=RECIPE,
        overrides=ARMS[name].settings,
        options={"cache": stores / f"{ARMS[name].store}.zarr", "out": out, "seed": seed},
    )


def pretrained(config: Any) -> Any:
    """The run folder of a network, pre-trained now unless it was before."""
    from i2pmae.stages import pretrain
    from i2pmae.training.run_folder import RunFolder

    folder = RunFolder(config.out)
    if not (folder.path / "result.json").exists():
        pretrain.run(config, resume=folder.holds_run)
    return folder


def fine_tuned(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Accuracies after fine-tuning, at the last epoch."""
    from i2pmae.checkpoints import checkpoint
    from i2pmae.stages import finetune
    from i2pmae.training.run_folder import RunFolder

    pretrained(settings_of(str(ARMS[name].start), seed, options))
    found: dict[str, Any] = {"scores": {}, "seconds": 0.0, "epochs": [], "settings": {}}
    for kind in set_of(name).finetunings:
        config = finetuning_of(name, kind, seed, options)
        folder = RunFolder(config.out)
        result = finetune.run(config, resume=folder.holds_run)
        found["scores"][kind] = round(result["accuracy_last"], 3)
        # of the process that ended it
        found["seconds"] = round(found["seconds"] + result["seconds"], 1)
        found["epochs"] += [{"run": kind, **row} for row in folder.rows()]
        saved = checkpoint.load(folder.last)
        found["settings"][kind] = {
            key: value for key, value in saved.config.items() if key not in OF_THIS_MACHINE
        }
    return found


def finetuning_of(name: str, kind: str, seed: int, options: argparse.Namespace) -> Any:
    """Settings of one fine-tuning of an arm."""
    from i2pmae.config import FinetuneConfig
    from i2pmae.recipes import load_config

    folder = options.work / name / str(seed)
    return load_config(
        FinetuneConfig,
        "finetune",
        recipe=FINETUNE_RECIPE,
        overrides=(*ARMS[name].settings, *set_of(name).finetunings[kind]),
        options={
            "checkpoint": settings_of(str(ARMS[name].start), seed, options).out / "last.pt",
            "data": options.data,
            "up": set_of(name).up,
            "out": folder / kind,
            "seed": seed,
        },
    )


def scores(
    name: str, encoder: Any, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, float]]:
    """All that is measured of an encoder (None: of 2D features), in percent of shapes.

    Returns:
        Of the test shapes, and of a quarter of the training shapes by the others: choices are made
        by the second.
    """
    from i2pmae.datasets import open_source
    from i2pmae.evaluation.probes import standardized
    from i2pmae.evaluation.split import validation_split
    from i2pmae.evaluation.svm import linear_svm

    data_set = set_of(name)
    train, test = (
        open_source(options.data, split=split, up=data_set.up) for split in ("train", "test")
    )
    labels = [np.asarray(source.labels, dtype=np.int64) for source in (train, test)]
    images = [
        pooled_2d(options.work / "stores" / f"{store}.zarr", source.ids)
        for store, source in zip(data_set.pooled, (train, test), strict=True)
    ]
    drawn = [[part] for part in images]
    if encoder is not None:
        drawn = [encode(encoder, source, draws=2) for source in (train, test)]
    features = [parts[0] for parts in drawn]
    confusable = [k for k, name in enumerate(train.class_names) if name in CONFUSABLE]
    found = probe(features[0], labels[0], features[1], labels[1], confusable)
    kept, held_out = validation_split(labels[0], VALIDATION, seed=0)
    validation = probe(
        features[0][kept], labels[0][kept], features[0][held_out], labels[0][held_out], confusable
    )
    if encoder is not None:
        mean = [np.mean(parts, axis=0) for parts in drawn]
        found["svm_2_draws"] = linear_svm(mean[0], labels[0], mean[1], labels[1], C=None).accuracy
        both = [
            np.hstack(parts)
            for parts in zip(standardized(*features), standardized(*images), strict=True)
        ]
        found["with_2d"] = linear_svm(both[0], labels[0], both[1], labels[1], C=None).accuracy
    if encoder is not None and options.furniture is not None:
        sources = [open_source(options.furniture, split=split) for split in ("train", "test")]
        (train_x, train_y), (test_x, test_y) = (
            (encode(encoder, source)[0], np.asarray(source.labels)) for source in sources
        )
        found["furniture"] = linear_svm(train_x, train_y, test_x, test_y, C=None).accuracy
    test_scores, validation_scores = (
        {key: round(value, 3) for key, value in part.items()} for part in (found, validation)
    )
    return test_scores, validation_scores


def pooled_2d(path: Path, ids: Sequence[str]) -> Array:
    """Image features of shapes, mean over the patches that a store keeps: (S, V C)."""
    from i2pmae.evaluation.image_features import pooled_image_features
    from i2pmae.store import StoreReader

    reader = StoreReader(path)
    place = {str(name): index for index, name in enumerate(reader.read_all("id"))}
    rows = np.array([place[name] for name in ids])
    return pooled_image_features(reader, rows).reshape(len(rows), -1)


def probe(
    train_x: Array,
    train_y: NDArray[np.int64],
    test_x: Array,
    test_y: NDArray[np.int64],
    confusable: Sequence[int],
) -> dict[str, float]:
    """A linear SVM on all labels, with C from training shapes; the nearest class mean on a few."""
    from i2pmae.evaluation.probes import few_labels, retrieval
    from i2pmae.evaluation.svm import linear_svm

    result = linear_svm(train_x, train_y, test_x, test_y, C=None)
    among = np.isin(test_y, confusable)
    found = {"svm": result.accuracy}
    if among.any():
        found["confusable"] = float(100 * (result.predictions == test_y)[among].mean())
    for n_labels in FEW_LABELS:
        reached = few_labels(train_x, train_y, test_x, test_y, n_labels, draws=DRAWS)
        found[f"labels_{n_labels}"] = float(reached.mean())
    found["map"] = float(np.nanmean(retrieval(test_x, test_y)["map"]))
    return found


def encode(encoder: Any, source: Any, draws: int = 1) -> list[Array]:
    """Frozen features of a source's shapes, from as many parts of their points.

    Shapes come in the unit sphere, as pre-training saw them.
    """
    import torch

    from i2pmae.evaluation.clouds import read_points
    from i2pmae.evaluation.features import extract_features, parts_of_points
    from i2pmae.geometry.transforms import normalize_to_unit_sphere

    points = read_points(source, POINTS, spare=True)
    return [
        extract_features(
            encoder, normalize_to_unit_sphere(torch.from_numpy(points[:, part])).numpy()
        )
        for part in parts_of_points(points.shape[1], POINTS, draws)
    ]


def summarize(results: Path) -> dict[str, dict[str, Any]]:
    """Write `summary.json`, and each set's tables and curves, from all runs that are finished."""
    done: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("runs/**/*.json")):
        found = json.loads(path.read_text())
        done.setdefault(found["arm"], []).append(found)
    done = {arm: done[arm] for arm in ARMS if arm in done}
    summary = {
        arm: {
            "metric": METRICS[first_score(found)],
            **spread([run["scores"][first_score(found)] for run in found]),
            "seconds": round(float(np.mean([run["seconds"] for run in found])), 1),
        }
        for arm, found in done.items()
    }
    write(results / "summary.json", summary)
    for name, data_set in SETS.items():
        of_set = {arm: found for arm, found in done.items() if set_of(arm) is data_set}
        if of_set:
            file_of(results, name, "tables.md").write_text("\n\n".join(tables(of_set)) + "\n")
            draw_curves(of_set, file_of(results, name, "curves.png"))
    return summary


def file_of(results: Path, name: str, what: str) -> Path:
    """Where the tables or curves of a data set are kept."""
    return results / f"{'' if name == 'modelnet10' else f'{name}-'}{what}"


def draw_curves(done: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Both losses of the main arms over the epochs, mean over seeds."""
    from matplotlib.figure import Figure

    from i2pmae.pictures.style import PALETTE, save

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    shown = [arm for arm in done if arm in MAIN and done[arm][0]["epochs"]]
    names = {"loss_3d": "3D loss (Chamfer L2)", "loss_2d": "2D loss (MSE)"}
    for axes, (key, name) in zip(figure.subplots(1, 2), names.items(), strict=True):
        for arm, color in zip(shown, PALETTE, strict=False):
            losses = np.mean([[row[key] for row in run["epochs"]] for run in done[arm]], axis=0)
            if losses.any():
                axes.plot(range(1, len(losses) + 1), losses, color=color, label=arm, marker="o")
        axes.set(xlabel="epoch", ylabel=name, yscale="log")
        axes.locator_params(axis="x", integer=True)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
    save(figure, path)


def first_score(found: Sequence[dict[str, Any]]) -> str:
    """The name of the score that an arm stands for."""
    return str(next(iter(found[0]["scores"])))


def tables(done: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Scores of every arm; differences between arms, seed by seed, with their intervals."""
    fine = {arm: found for arm, found in done.items() if ARMS[arm].start}
    first = {arm: found for arm, found in done.items() if arm not in fine}
    for found in (first, fine):
        if found:
            yield from tables_of(found)


def tables_of(done: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Arms that have the same scores, and what each differs by from others."""
    names = list(dict.fromkeys(name for found in done.values() for name in found[0]["scores"]))
    lines = [f"| arm | what | seeds | {' | '.join(names)} | seconds |"]
    lines.append("|---" * (len(names) + 4) + "|")
    for arm, found in done.items():
        cells = []
        for name in names:
            values = [run["scores"][name] for run in found if name in run["scores"]]
            form = "{mean:.1f} ± {std:.1f}" if len(values) > 1 else "{mean:.1f}"
            cells.append(form.format(**spread(values)) if values else "")
        took = np.mean([run["seconds"] for run in found])
        cells = [f"`{arm}`", ARMS[arm].what, str(len(found)), *cells, f"{took:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    yield "\n".join(lines)
    lines = [f"| difference | seeds | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for arm in done:
        for other in ARMS[arm].against:
            pairs = paired(done, arm, other)
            if len(pairs) < 2:
                continue
            both = [
                [(a[name], b[name]) for a, b in pairs if name in a and name in b] for name in names
            ]
            cells = [difference(values) if len(values) > 1 else "" for values in both]
            cells = [f"`{arm}` minus `{other}`", str(len(pairs)), *cells]
            lines.append(f"| {' | '.join(cells)} |")
    if len(lines) > 2:
        yield "\n".join(lines)


def paired(
    done: Mapping[str, list[dict[str, Any]]], arm: str, other: str
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Scores of both arms for the seeds that both have."""
    by_seed = {run["seed"]: run["scores"] for run in done.get(other, [])}
    return [
        (run["scores"], by_seed[run["seed"]]) for run in done.get(arm, []) if run["seed"] in by_seed
    ]


def difference(pairs: Sequence[tuple[float, float]]) -> str:
    """Mean of paired differences and its 95% interval by Student's t."""
    from scipy import stats

    values = np.array([a - b for a, b in pairs])
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.1f} [{values.mean() - half:+.1f}, {values.mean() + half:+.1f}]"


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Mean, sample standard deviation (0 for one value) and number of values."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {
        "mean": round(float(np.mean(values)), 2),
        "std": round(std, 2),
        "n": len(values),
    }


def write(path: Path, values: Any) -> None:
    """Write JSON, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
