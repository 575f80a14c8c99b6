"""What fine-tuning reached, as `results.json` holds it."""

from __future__ import annotations

from typing import Literal, TypedDict


class FinetuneResult(TypedDict, total=False):
    """Result of one run, or of one run per seed.

    Its figures, in percent, have keys of their own: `accuracy`, `instance_miou` and others of the
    best epoch on validation, the same of the last epoch under `*_last`, or the settings of few-shot
    runs such as `5way_10shot`. `report.results.figure_of` reads them.
    """

    command: Literal["finetune"]
    task: str
    per_class: dict[str, float]
    per_category: dict[str, float]
    std: dict[str, float]  # of figures over seeds or folds
    settings: list[str]  # of few-shot runs
    folds: dict[str, list[float]]  # accuracies of each setting
    best_epoch: int | list[int]  # of each seed
    epochs: int  # trained ones
    stopped_early: bool  # by `patience`, before all epochs
    n_train: int
    n_validation: int
    n_test: int
    checkpoint: str
    picture: str
    published: dict[str, float]
    baselines: dict[str, float]  # percent, of what needs no fine-tuning
    data: str
    recipe: str | None
    pretrained: str | None  # checkpoint of the encoder
    from_scratch: bool
    seed: int
    seeds: list[int]
    runs: list[FinetuneResult]  # of each seed
    out: str
    seconds: float
