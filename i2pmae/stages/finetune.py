"""Fine-tuning: an encoder and labelled shapes in, a trained network and honest figures out."""

from __future__ import annotations

from typing import Any

from i2pmae.config import FinetuneConfig
from i2pmae.device import out_of_memory_explained
from i2pmae.errors import ConfigError
from i2pmae.progress import note
from i2pmae.stages import classify, few_shot, segment
from i2pmae.stages.results import aggregate, keep, show
from i2pmae.stages.run_folder import RunFolder, alone

_TASKS = {
    "classification": classify.run,
    "segmentation": segment.run,
    "few-shot": few_shot.run,
}


def run(config: FinetuneConfig, *, resume: bool = False) -> dict[str, Any]:
    """Fine-tune for the task that the recipe names, once or once per seed.

    Args:
        config: settings; `out` receives `results.json`, `results.md` and the runs.
        resume: continue what is in `out`, to the numbers of runs that were never interrupted.

    Returns:
        The task's result; with `seeds` the mean over them, deviations under `std`.

    Raises:
        ConfigError: if `out` holds a run and `resume` is off, or one with other settings.
    """
    with out_of_memory_explained("lower --batch-size or --points"), alone(config.out):
        result = _run(config, resume) if config.seeds is None else _run_seeds(config, resume)
    show(result)
    return result


def _run(config: FinetuneConfig, resume: bool) -> dict[str, Any]:
    """One run; a finished one is not repeated, so the test split is evaluated once."""
    folder = RunFolder(config.out)
    finished = folder.results() if resume else None
    if finished is not None and finished["epochs"] == config.epochs:
        folder.start(config, resume=True)
        note(f"{config.out} is finished")
        return finished
    return keep(folder, _TASKS[config.task](config, resume=resume))


def _run_seeds(config: FinetuneConfig, resume: bool) -> dict[str, Any]:
    """One run per seed, in folders of their own."""
    assert config.seeds is not None
    outs = {seed: config.out / f"seed-{seed}" for seed in config.seeds}
    begun = [out for out in outs.values() if RunFolder(out).holds_run]
    if begun and not resume:
        raise ConfigError(
            f"--out {config.out} already holds a run; add --resume to continue it, or choose "
            "another folder"
        )
    folder = RunFolder(config.out)
    folder.start(config, resume=resume)
    runs = []
    for seed, out in outs.items():
        note(f"seed {seed}: {out}")
        single = config.model_copy(update={"seed": seed, "seeds": None, "out": out})
        runs.append(_run(single, resume and (out / "config.json").exists()))
    return keep(folder, aggregate(runs, str(config.out)))
