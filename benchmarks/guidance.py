"""Does the 2D guidance teach? Every arm of `docs/results.md`, trained, scored and summed up.

A run is one arm with one seed: pre-training with the recipe `guidance.toml` beside this script and
the arm's changes, one thread each, then a linear SVM and smaller probes on frozen features. The
`finetune-` arms go on from a pre-trained network as `guidance-finetune.toml` and the arm say. No
choice uses the test split: the SVM's C comes from cross-validation on training shapes. Each
finished run is a JSON file under `--results`; runs that exist are not done again, one that the
budget or Ctrl-C stopped goes on where it was. Runs come in the order of `ARMS`, seed by seed.

Run it again until it says that nothing is left:

    python benchmarks/guidance.py modelnet10_vox24 --vit vit_small.safetensors --budget 2h
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from i2pmae.interrupts import Terminated, raise_terminated

FOLDER = Path(__file__).parent
RECIPE, FINETUNE_RECIPE = FOLDER / "guidance.toml", FOLDER / "guidance-finetune.toml"
FINETUNINGS = {  # with all labels, and with a tenth of them for half as many steps
    "finetuned": (),
    "finetuned_tenth": ("labels=0.1", "epochs=20", "optim.cosine_epochs=20"),
}
OF_THIS_MACHINE = ("cache", "out", "data", "checkpoint")  # settings that results leave out
METRICS = {  # the first score of an arm
    "svm": "linear SVM, test accuracy in percent",
    "finetuned": "fine-tuned, test accuracy of the last epoch in percent",
}
FEW_LABELS, DRAWS = (1, 5, 10), 20  # shapes of a class, and how often they are drawn
CONFUSABLE = ("table", "desk", "dresser", "night_stand")
POINTS, POOLING = 1024, "levels"  # of frozen features
PATIENCE = 60  # seconds that a stopped run is given to save itself

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Arm:
    """One way to pre-train.

    Attributes:
        what: for the tables.
        settings: what it changes in the recipe, as `--set` takes it.
        seeds: how many.
        store: a key of `STORES`.
        features: of a trained network, of one with random weights, or the pooled 2D features
            themselves.
        start: another arm, whose networks are fine-tuned.
        against: arms that the tables compare it with, seed by seed.
    """

    what: str
    settings: tuple[str, ...] = ()
    seeds: int = 3
    store: str = "vit"
    features: Literal["trained", "random", "2d"] = "trained"
    start: str | None = None
    against: tuple[str, ...] = ("i2p-mae",)


VIT = ("--image-model", "timm:vit_small_patch14_dinov2", "--image-size", "224")
BLOCK_6 = ("--set", "image_model.block=6")
LITE0 = ("--image-model", "efficientnet-lite0-packaged")
STORES: dict[str, tuple[str, ...]] = {
    "vit": VIT,
    "vit-test": (*VIT, "--split", "test"),  # for the features themselves
    "vit-random": (*VIT, "--pretrained", "random"),
    "vit-block-6": (*VIT, *BLOCK_6),
    "vit-random-block-6": (*VIT, *BLOCK_6, "--pretrained", "random"),
    "lite0": LITE0,
    "lite0-random": (*LITE0, "--pretrained", "random"),
    "lite0-copies": LITE0,
    "vit-nearest": (*VIT, "--set", "views.depth=nearest"),
    "vit-sparse": (*VIT, "--set", "views.sum_points=512"),
    "vit-1-view": (*VIT, "--set", "views.n_views=1"),
    "vit-6-views": (*VIT, "--set", "views.n_views=6"),
    "vit-float16": (*VIT, "--set", "store.dtype=float16"),
    "vit-coarse": (*VIT, "--set", "store.int8_step=0.3"),
    "vit-half": VIT,
    "vit-quarter": VIT,
}


@dataclass(frozen=True)
class Chosen:
    """Training shapes that a store is made of.

    Attributes:
        every: second, fourth or so-manyth shape.
        copies: of each, stretched along the axes as augmentation does, the same for all seeds; 0:
            the shape as it is.
    """

    every: int = 1
    copies: int = 0


# One pass over four copies stands in for rendering clouds anew in each epoch. What it leaves out:
# shift and size, which change the values of a `sum` depth map a little.
CHOSEN = {
    "lite0-copies": Chosen(copies=4),
    "vit-half": Chosen(every=2),
    "vit-quarter": Chosen(every=4),
}


def as_many_steps(epochs: int) -> tuple[str, ...]:
    """Settings for the steps of the recipe's four epochs in another number of epochs."""
    return (
        f"epochs={epochs}",
        f"optim.cosine_epochs={epochs}",
        f"optim.warmup_epochs={epochs / 4}",
    )


RANDOM_MASKS = "masking.strategy=random"
ONLY_3D = ("targets.kind=3d", RANDOM_MASKS)
LONG = ("epochs=16", "optim.cosine_epochs=16")
# Over four copies, which the network still sees in other sizes and places.
ONE_PASS = (*as_many_steps(1), "augment.scale_per_axis=false")
AS_THEY_LIE = ("augment.scale=[1.0,1.0]", "augment.shift=0")
GENTLE = (*AS_THEY_LIE, "optim.lr=1e-3")  # fine-tuning
MAIN = ("i2p-mae", "3d-only", "targets-only", "masking-only", "random")
PRETRAINED_LONG, BLOCK_6_LONG = "16-epochs-as-they-lie", "block-6-16-epochs-as-they-lie"
ONLY_3D_LONG, SCRATCH = "3d-only-equal-time", "finetune-scratch"
ARMS: dict[str, Arm] = {
    "2d-features": Arm(
        "2D features, mean over patches, no 3D network", seeds=1, features="2d", against=()
    ),
    "i2p-mae": Arm(
        "2D-guided masking and 2D targets",
        seeds=5,
        against=("3d-only", "targets-only", "masking-only", "random", "random-vit"),
    ),
    "3d-only": Arm("random masking, 3D target only (Point-M2AE)", ONLY_3D, 5, against=("random",)),
    "targets-only": Arm(
        "random masking, 2D targets", (RANDOM_MASKS,), 5, against=("3d-only", "random")
    ),
    "masking-only": Arm(
        "2D-guided masking, 3D target only", ("targets.kind=3d",), 5, against=("3d-only",)
    ),
    "random": Arm("random weights, not trained", (), 5, features="random", against=()),
    "random-vit": Arm(
        "2D network with random weights", (), 5, "vit-random", against=("3d-only", "random")
    ),
    PRETRAINED_LONG: Arm(
        "16 epochs, no augmentation",
        (*LONG, *AS_THEY_LIE),
        5,
        against=(
            "i2p-mae",
            "random",
            "16-epochs",
            "3d-only-16-epochs-as-they-lie",
            ONLY_3D_LONG,
            "random-vit-16-epochs-as-they-lie",
        ),
    ),
    "block-6": Arm(
        "features of the ViT's sixth block of twelve",
        (),
        5,
        "vit-block-6",
        against=("i2p-mae", "3d-only", "random", "random-vit-block-6", "random-vit"),
    ),
    "random-vit-block-6": Arm(
        "sixth block of the 2D network with random weights",
        (),
        5,
        "vit-random-block-6",
        against=("random-vit",),
    ),
    BLOCK_6_LONG: Arm(
        "features of the sixth block, 16 epochs, no augmentation",
        (*LONG, *AS_THEY_LIE),
        5,
        "vit-block-6",
        against=(
            PRETRAINED_LONG,
            "random",
            f"targets-only-{BLOCK_6_LONG}",
            "3d-only-16-epochs-as-they-lie",
            ONLY_3D_LONG,
            "random-vit-16-epochs-as-they-lie",
        ),
    ),
    f"targets-only-{BLOCK_6_LONG}": Arm(
        "random masking, features of the sixth block, 16 epochs, no augmentation",
        (RANDOM_MASKS, *LONG, *AS_THEY_LIE),
        5,
        "vit-block-6",
        against=("random",),
    ),
    "3d-only-16-epochs-as-they-lie": Arm(
        "3D only, 16 epochs, no augmentation", (*ONLY_3D, *LONG, *AS_THEY_LIE), against=("3d-only",)
    ),
    "random-vit-16-epochs-as-they-lie": Arm(
        "2D network with random weights, 16 epochs, no augmentation",
        (*LONG, *AS_THEY_LIE),
        5,
        "vit-random",
        against=("random-vit", "random", "3d-only-16-epochs-as-they-lie", ONLY_3D_LONG),
    ),
    ONLY_3D_LONG: Arm(  # more epochs than fit into the time of 16 and of the features
        f"3D only, as long as `{PRETRAINED_LONG}` with its features",
        (*ONLY_3D, *AS_THEY_LIE, "epochs=30", "optim.cosine_epochs=30"),
        5,
        against=("3d-only", "random"),
    ),
    "lite0": Arm(
        "EfficientNet-Lite0 instead of the ViT",
        store="lite0",
        against=("i2p-mae", "3d-only", "random-lite0"),
    ),
    "random-lite0": Arm("Lite0 with random weights", store="lite0-random", against=("3d-only",)),
    "lite0-copies": Arm(
        "Lite0, one pass over four stretched copies",
        ONE_PASS,
        store="lite0-copies",
        against=("lite0",),
    ),
    "16-epochs": Arm("2D-guided masking and 2D targets, 16 epochs", LONG),
    "paper-init": Arm("initial weights as in the paper", ("encoder.init=paper",)),
    "epoch-schedule": Arm("learning rate set once an epoch", ("optim.schedule=epoch",)),
    "raw-targets": Arm("2D targets not standardized", ("targets.standardize=false",)),
    "shape-mean-removed": Arm(
        "2D targets less each shape's mean", ("targets.remove_shape_mean=true",)
    ),
    "flat-softmax": Arm(
        "saliency not standardized, as released",
        ("masking.standardize=false",),
        against=("i2p-mae", "targets-only"),
    ),
    "embed-all": Arm("all groups embedded", ("embed=all",)),
    "targets-on-all": Arm("2D targets on all tokens", ("targets.tokens_2d=all",)),
    "targets-on-masked": Arm("2D targets on masked tokens", ("targets.tokens_2d=masked",)),
    **{
        f"temperature-{temperature}": Arm(
            f"saliency of temperature {temperature}",
            (f"masking.temperature={temperature}",),
            against=("i2p-mae", "targets-only"),
        )
        for temperature in (0.25, 0.5, 2)
    },
    "nearest": Arm("depth of the nearest point", store="vit-nearest"),
    "sparse": Arm("depth maps of 512 points", store="vit-sparse"),
    "1-view": Arm("one view", store="vit-1-view"),
    "6-views": Arm("six views", store="vit-6-views"),
    "float16": Arm("float16 store", store="vit-float16"),
    "coarse": Arm("int8 store, steps three times as large", store="vit-coarse"),
    "half": Arm("half of the shapes, as many steps", as_many_steps(8), store="vit-half"),
    "quarter": Arm(
        "a quarter of the shapes, as many steps", as_many_steps(16), store="vit-quarter"
    ),
    "finetune-i2p-mae": Arm("fine-tuned from I2P-MAE", start="i2p-mae", against=(SCRATCH,)),
    SCRATCH: Arm(
        "fine-tuned from random weights", ("from_scratch=true",), start="i2p-mae", against=()
    ),
    f"finetune-{PRETRAINED_LONG}": Arm(
        f"fine-tuned from `{PRETRAINED_LONG}`, no augmentation, half the rate",
        GENTLE,
        4,
        start=PRETRAINED_LONG,
        against=(f"{SCRATCH}-as-they-lie", f"finetune-{ONLY_3D_LONG}"),
    ),
    f"finetune-{ONLY_3D_LONG}": Arm(
        f"fine-tuned from `{ONLY_3D_LONG}`, no augmentation, half the rate",
        GENTLE,
        4,
        start=ONLY_3D_LONG,
        against=(f"{SCRATCH}-as-they-lie",),
    ),
    f"finetune-{BLOCK_6_LONG}": Arm(
        f"fine-tuned from `{BLOCK_6_LONG}`, no augmentation, half the rate",
        GENTLE,
        4,
        start=BLOCK_6_LONG,
        against=(f"{SCRATCH}-as-they-lie", f"finetune-{ONLY_3D_LONG}"),
    ),
    f"{SCRATCH}-as-they-lie": Arm(
        "fine-tuned from random weights, no augmentation, half the rate",
        (*GENTLE, "from_scratch=true"),
        4,
        start=PRETRAINED_LONG,
        against=(),
    ),
}


def main() -> None:
    """Do what is left, within the budget, and sum up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="ModelNet10 (24^3 voxels)")
    parser.add_argument("--furniture", type=Path, help="labelled meshes, to transfer to")
    parser.add_argument("--vit", type=Path, help="weights of the ViT-S/14; default: the hub's")
    parser.add_argument("--work", type=Path, default=Path("runs/guidance"), help="stores and runs")
    parser.add_argument("--results", type=Path, default=FOLDER.parent / "docs" / "results")
    parser.add_argument("--budget", type=seconds_of, default="2h", help="such as 90s, 45m or 2h")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--rescore", action="store_true", help="score finished runs again")
    parser.add_argument("--json", action="store_true", help="print the summary only")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        arm, seed = options.one
        do_run(arm, int(seed), options)
        return
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        left = work_through(options)
    except (KeyboardInterrupt, Terminated) as stop:
        print("guidance.py: stopped; run it again to go on", file=sys.stderr)
        raise SystemExit(143 if isinstance(stop, Terminated) else 130) from None
    summary = summarize(options.results)
    if options.json:
        print(json.dumps(summary))
        return
    print((options.results / "tables.md").read_text())
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
    todo = [run for run in runs(options.arms) if options.rescore or not is_done(options, run)]
    for store in dict.fromkeys(["vit", "vit-test", *(ARMS[arm].store for arm, _ in todo)]):
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
        print(f"{arm}, seed {seed}: failed, see {options.work}/{arm}-{seed}.log", file=sys.stderr)
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


def runs(arms: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Arm and seed, the main arms' seeds in turn: after each there is something to compare."""
    first = [arm for arm in arms if arm in MAIN]
    for group in (first, *([arm] for arm in arms if arm not in MAIN)):
        for seed in range(max((ARMS[arm].seeds for arm in group), default=0)):
            yield from ((arm, seed) for arm in group if seed < ARMS[arm].seeds)


def is_done(options: argparse.Namespace, run: tuple[str, int]) -> bool:
    """Whether a run's figures are there."""
    return result_file(options.results, *run).exists()


def result_file(results: Path, arm: str, seed: int) -> Path:
    """Where a run's figures are kept."""
    return results / "runs" / arm / f"{seed}.json"


def start(run: tuple[str, int], options: argparse.Namespace) -> subprocess.Popen[str]:
    """Begin or continue a run in a process of its own, with one thread."""
    arm, seed = run
    command = [sys.executable, __file__, str(options.data), "--one", arm, str(seed)]
    command += ["--work", str(options.work), "--results", str(options.results)]
    if options.furniture:
        command += ["--furniture", str(options.furniture)]
    options.work.mkdir(parents=True, exist_ok=True)
    with (options.work / f"{arm}-{seed}.log").open("a") as log:
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
    if options.vit and store.startswith("vit") and "random" not in STORES[store]:
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
    from i2pmae.config import to_plain
    from i2pmae.loading import load_encoder, random_encoder

    config, arm, rows, encoder = settings_of(name, seed, options), ARMS[name], [], None
    if arm.features == "random":
        encoder = random_encoder(config.encoder, seed, POOLING)
    elif arm.features == "trained":
        folder = pretrained(config)
        rows = folder.rows()
        encoder = load_encoder(folder.last, POOLING)
    n_shapes = np.diff([row["step"] for row in rows], prepend=0) * config.batch_size
    return {
        "scores": scores(encoder, options.data, options.work / "stores", options.furniture),
        "seconds": round(sum(n_shapes / [row["shapes_per_s"] for row in rows]), 1),
        "epochs": rows,
        "settings": to_plain(config),
    }


def settings_of(name: str, seed: int, options: argparse.Namespace) -> Any:
    """Settings of an arm's pre-training."""
    from i2pmae.config import PretrainConfig, load_config

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
    from i2pmae.stages.run_folder import RunFolder

    folder = RunFolder(config.out)
    if not (folder.path / "result.json").exists():
        pretrain.run(config, resume=folder.holds_run)
    return folder


def fine_tuned(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Accuracies after fine-tuning, at the last epoch."""
    from i2pmae.stages import finetune
    from i2pmae.stages.run_folder import RunFolder
    from i2pmae.training import checkpoint

    pretrained(settings_of(str(ARMS[name].start), seed, options))
    found: dict[str, Any] = {"scores": {}, "seconds": 0.0, "epochs": [], "settings": {}}
    for kind in FINETUNINGS:
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
    from i2pmae.config import FinetuneConfig, load_config

    folder = options.work / name / str(seed)
    return load_config(
        FinetuneConfig,
        "finetune",
        recipe=FINETUNE_RECIPE,
        overrides=(*ARMS[name].settings, *FINETUNINGS[kind]),
        options={
            "checkpoint": settings_of(str(ARMS[name].start), seed, options).out / "last.pt",
            "data": options.data,
            "out": folder / kind,
            "seed": seed,
        },
    )


def scores(encoder: Any, data: Path, stores: Path, furniture: Path | None) -> dict[str, float]:
    """All that is measured of an encoder, in percent of test shapes; None: of 2D features."""
    from i2pmae.datasets import open_source

    train, test = (open_source(data, split=split) for split in ("train", "test"))
    labels = [np.asarray(source.labels, dtype=np.int64) for source in (train, test)]
    images = [
        pooled_2d(stores / "vit.zarr", train.ids),
        pooled_2d(stores / "vit-test.zarr", test.ids),
    ]
    confusable = [k for k, name in enumerate(train.class_names) if name in CONFUSABLE]
    if encoder is None:
        return probe(images[0], labels[0], images[1], labels[1], confusable)
    drawn = [encode(encoder, source, draws=2) for source in (train, test)]
    features = [parts[0] for parts in drawn]
    found = probe(features[0], labels[0], features[1], labels[1], confusable)
    mean = [np.mean(parts, axis=0) for parts in drawn]
    found["svm_2_draws"] = svm(mean[0], labels[0], mean[1], labels[1])[0]
    both = [
        np.hstack(parts) for parts in zip(unit_scale(features), unit_scale(images), strict=True)
    ]
    found["with_2d"] = svm(both[0], labels[0], both[1], labels[1])[0]
    if furniture is not None:
        sources = [open_source(furniture, split=split) for split in ("train", "test")]
        (train_x, train_y), (test_x, test_y) = (
            (encode(encoder, source)[0], np.asarray(source.labels)) for source in sources
        )
        found["furniture"] = svm(train_x, train_y, test_x, test_y)[0]
    return {name: round(value, 3) for name, value in found.items()}


def pooled_2d(store: Path, ids: Sequence[str]) -> Array:
    """Image features of shapes, mean over the patches that a store keeps: (S, V C)."""
    from i2pmae.store import StoreReader

    reader = StoreReader(store)
    place = {str(name): index for index, name in enumerate(reader.read_all("id"))}
    rows = np.array([place[name] for name in ids])
    found = []
    for first in range(0, len(rows), 64):
        batch = reader.read(rows[first : first + 64], ["features", "feature_scale"])
        codes = batch["features"].astype(np.float32)
        kept = codes.any(axis=-1).sum(axis=(2, 3))[..., None]
        found.append(
            (codes.sum(axis=(2, 3)) / kept * batch["feature_scale"][:, None]).reshape(
                len(codes), -1
            )
        )
    return np.concatenate(found)


def unit_scale(parts: Sequence[Array]) -> list[Array]:
    """Features of the training and the test shapes, by the training shapes' mean and deviation."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(parts[0])
    return [scaler.transform(part) for part in parts]


def probe(
    train_x: Array,
    train_y: NDArray[np.int64],
    test_x: Array,
    test_y: NDArray[np.int64],
    confusable: Sequence[int],
) -> dict[str, float]:
    """A linear SVM on all labels; the nearest class mean on a few."""
    accuracy, predicted = svm(train_x, train_y, test_x, test_y)
    among = np.isin(test_y, confusable)
    found = {"svm": accuracy}
    if among.any():
        found["confusable"] = float(100 * (predicted == test_y)[among].mean())
    for n_labels in FEW_LABELS:
        found[f"labels_{n_labels}"] = few_labels(train_x, train_y, test_x, test_y, n_labels)
    return found


def svm(
    train_x: Array, train_y: NDArray[np.int64], test_x: Array, test_y: NDArray[np.int64]
) -> tuple[float, NDArray[np.int64]]:
    """Accuracy and predictions of a linear SVM whose C training shapes choose."""
    from i2pmae.evaluation.svm import CANDIDATES, choose_c, linear_svm

    c = choose_c(train_x, train_y) or CANDIDATES[0]
    found = linear_svm(train_x, train_y, test_x, test_y, C=c)
    return found.accuracy, found.predictions


def few_labels(
    train_x: Array,
    train_y: NDArray[np.int64],
    test_x: Array,
    test_y: NDArray[np.int64],
    n_labels: int,
) -> float:
    """Mean accuracy of the nearest class mean of a few labelled shapes, over draws.

    Features are standardized over all training shapes, which takes no labels. The same shapes are
    drawn for every arm.
    """
    from sklearn.neighbors import KNeighborsClassifier

    train_x, test_x = unit_scale([train_x, test_x])
    rng, classes = np.random.default_rng(0), np.unique(train_y)
    reached = []
    for _ in range(DRAWS):
        drawn = [rng.choice(np.flatnonzero(train_y == k), n_labels, replace=False) for k in classes]
        means = np.stack([train_x[some].mean(axis=0) for some in drawn])
        classifier = KNeighborsClassifier(1).fit(means, classes)
        reached.append(100 * classifier.score(test_x, test_y))
    return float(np.mean(reached))


def encode(encoder: Any, source: Any, draws: int = 1) -> list[Array]:
    """Frozen features of a source's shapes, from as many parts of their points.

    Shapes come in the unit sphere, as pre-training saw them.
    """
    import torch

    from i2pmae.evaluation.features import extract_features, parts_of_points
    from i2pmae.geometry.transforms import normalize_to_unit_sphere
    from i2pmae.stages.svm import load_points

    points = load_points(source, POINTS, spare=True)[0]
    return [
        extract_features(
            encoder, normalize_to_unit_sphere(torch.from_numpy(points[:, part])).numpy()
        )
        for part in parts_of_points(points.shape[1], POINTS, draws)
    ]


def summarize(results: Path) -> dict[str, dict[str, Any]]:
    """Write `summary.json` and `tables.md` from all runs that are finished."""
    done: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("runs/*/*.json")):
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
    (results / "tables.md").write_text("\n\n".join(tables(done)) + "\n")
    draw_curves(done, results / "curves.png")
    return summary


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
        axes.set(xlabel="epoch", ylabel=name)
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
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {
        "mean": round(float(np.mean(values)), 2),
        "std": round(deviation, 2),
        "n": len(values),
    }


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(values, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()
