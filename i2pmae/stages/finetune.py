"""Fine-tuning: an encoder and labeled shapes in, a trained network and honest figures out."""

from __future__ import annotations

import shlex

from i2pmae.checkpoints.checkpoint import Checkpoint
from i2pmae.config import FinetuneConfig
from i2pmae.errors import ConfigError
from i2pmae.progress import note
from i2pmae.report.results import aggregate, keep, results_of, show
from i2pmae.training import few_shot, supervised
from i2pmae.training.distributed import ProcessGroup
from i2pmae.training.loop import begun
from i2pmae.training.result import FinetuneResult
from i2pmae.training.run_folder import RunFolder

_ADVICE = "lower --batch-size or --points, or --set accumulate=2 to take a step in two parts"


def run(config: FinetuneConfig, *, resume: bool = False) -> FinetuneResult:
    """Fine-tune for the task that the recipe names, once or once per seed.

    Args:
        config: settings; `out` receives `results.json`, `results.md` and the runs.
        resume: continue what is in `out`, to the numbers of runs that were never interrupted.

    Returns:
        The task's result; with `seeds` the mean over them, standard deviations under `std`.

    Raises:
        ConfigError: if `out` holds a run and `resume` is off, or one with other settings.
    """
    with begun(config, _ADVICE) as process_group:
        if config.task == "few-shot":
            config = few_shot.with_up_of_folds(config)
        config, pretrained = supervised.load_pretrained(config)
        run_all = _run if config.seeds is None else _run_seeds
        result = run_all(config, process_group, pretrained, resume)
    if result:
        show(result)
        folder = shlex.quote(str(config.out))
        if "checkpoint" in result:
            network = shlex.quote(str(result["checkpoint"]))
            note(f"to name other shapes: i2pmae predict {network} SHAPES")
        note(f"figures: {config.out / 'results.md'}; next: i2pmae report {folder}")
    return result


def _run(
    config: FinetuneConfig,
    process_group: ProcessGroup,
    pretrained: Checkpoint | None,
    resume: bool,
) -> FinetuneResult:
    """One run; a finished one is not repeated, so the test split is evaluated once."""
    folder = RunFolder(config.out)
    finished = results_of(folder) if resume else None
    process_group.wait()  # results may be written from here on
    if finished is not None and (
        finished["epochs"] == config.epochs or finished.get("stopped_early")
    ):
        if process_group.is_first:
            folder.start(config, resume=True, may_change=supervised.may_change(config))
        note(f"{config.out} is finished")
        return finished
    task = few_shot.run if config.task == "few-shot" else supervised.run
    result = task(config, process_group, pretrained, resume=resume)
    return keep(folder, result) if process_group.is_first else {}


def _run_seeds(
    config: FinetuneConfig,
    process_group: ProcessGroup,
    pretrained: Checkpoint | None,
    resume: bool,
) -> FinetuneResult:
    """One run per seed, in folders of their own."""
    assert config.seeds is not None
    outs = {seed: config.out / f"seed-{seed}" for seed in config.seeds}
    begun_there = {seed: (out / "config.json").exists() for seed, out in outs.items()}
    if any(RunFolder(out).holds_run for out in outs.values()) and not resume:
        raise ConfigError(
            f"--out {config.out} already holds a run; add --resume to continue it, or choose "
            "another folder"
        )
    process_group.wait()  # runs are begun from here on
    folder = RunFolder(config.out)
    if process_group.is_first:
        folder.start(config, resume=resume, may_change=supervised.may_change(config))
    runs = []
    for seed, out in outs.items():
        note(f"seed {seed}: {out}")
        single = config.model_copy(update={"seed": seed, "seeds": None, "out": out})
        runs.append(_run(single, process_group, pretrained, resume and begun_there[seed]))
    return keep(folder, aggregate(runs, str(config.out))) if process_group.is_first else {}
