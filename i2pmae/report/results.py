"""Tables of results: of one run, of one run over several seeds, of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from i2pmae.errors import ConfigError, reason
from i2pmae.evaluation.metrics import mean_std
from i2pmae.progress import print_class_table, print_lines, print_table
from i2pmae.recipes import recipe_about
from i2pmae.training.result import FinetuneResult
from i2pmae.training.run_folder import RunFolder

Rows = list[list[str]]

_PUBLISHED = "published"
_BASELINES = {
    "linear_probe": "the linear probe of its encoder",
    "majority": "the most frequent class",
    "chance": "chance",
}


@dataclass(frozen=True)
class Layout:
    """How the results of a task are laid out.

    Attributes:
        title: name of the task.
        columns: heading and name of each figure.
        rows: heading of each row, and what its figures' names end in.
        group: key of the figures per class or category, and what to call one.
    """

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str], ...] = (("best on validation", ""), ("last epoch", "_last"))
    group: tuple[str, str] | None = None


_LAYOUTS = {
    "classification": Layout(
        "Classification",
        (
            ("validation %", "validation_accuracy"),
            ("test %", "accuracy"),
            ("mean over classes %", "mean_class_accuracy"),
            ("test % by vote", "accuracy_vote"),
        ),
        group=("per_class", "class"),
    ),
    "segmentation": Layout(
        "Part segmentation",
        (
            ("validation mIoU %", "validation_instance_miou"),
            ("instance mIoU %", "instance_miou"),
            ("category mIoU %", "category_miou"),
        ),
        group=("per_category", "category"),
    ),
}


def layout_of(result: FinetuneResult) -> Layout:
    """Layout of a fine-tuning result."""
    if result["task"] == "few-shot":
        columns = tuple(
            (name.replace("way_", "-way ").replace("shot", "-shot %"), name)
            for name in result["settings"]
        )
        return Layout("Few-shot classification", columns, (("last epoch", ""),))
    layout = _LAYOUTS[result["task"]]
    present = tuple(column for column in layout.columns if column[1] in result)
    return Layout(layout.title, present, layout.rows, layout.group)


def figures_of(result: FinetuneResult) -> list[str]:
    """Names of the figures that a result holds."""
    layout = layout_of(result)
    return [figure + ending for _, figure in layout.columns for _, ending in layout.rows]


def figure_of(result: Mapping[str, object], figure: str) -> float:
    """A figure of a result by its name."""
    return cast(Mapping[str, float], result)[figure]


def figure_text(result: Mapping[str, Any], figure: str) -> str:
    """A figure as `93.40 ± 0.20`, or without standard deviation where it is of one run."""
    if figure not in result:
        return ""
    std = result.get("std", {}).get(figure)
    text = f"{result[figure]:.2f}"
    return text if std is None else f"{text} ± {std:.2f}"


def published_text(result: FinetuneResult, figure: str) -> str:
    """The published value of a figure, or nothing."""
    value = result.get("published", {}).get(figure)
    return "" if value is None else f"{value:.2f}"


def _published_on(recipe: str) -> str:
    """The task that the published figures are of, which need not be that of the run's data."""
    try:
        return str(recipe_about(recipe).get("title", recipe))
    except ConfigError:
        return recipe


def summary_table(result: FinetuneResult) -> tuple[list[str], Rows]:
    """Columns and rows of a result, the published figures in the last row."""
    layout = layout_of(result)
    rows = [
        [heading, *(figure_text(result, figure + ending) for _, figure in layout.columns)]
        for heading, ending in layout.rows
    ]
    known = result.get("baselines", {})
    for name in [name for name in _BASELINES if name in known]:
        texts = (f"{known[name]:.2f}" if key == "accuracy" else "" for _, key in layout.columns)
        rows.append([_BASELINES[name].removeprefix("the "), *texts])
    if result.get("published"):
        rows.append([_PUBLISHED, *(published_text(result, figure) for _, figure in layout.columns)])
    return ["weights", *(heading for heading, _ in layout.columns)], rows


def verdict(result: FinetuneResult) -> str | None:
    """Whether fine-tuning was worth it, beside what needs none; None where that is not known."""
    known = result.get("baselines")
    if not known:
        return None
    name = max(known, key=lambda other: float(known[other]))
    reached = figure_of(result, "accuracy")
    share = reached / 100
    lead = round(reached - known[name], 1)
    error = 100 * (share * (1 - share) / result["n_test"]) ** 0.5
    which = "better than" if lead > 0 else "worse than" if lead < 0 else "as good as"
    by = f" by {abs(lead):.1f} points" if lead else ""
    text = (
        f"Fine-tuned, the network is {which} {_BASELINES[name]}{by}: {reached:.1f}% and "
        f"{known[name]:.1f}% of {result['n_test']} test shapes, with a standard error of "
        f"{error:.1f}."
    )
    if lead < 0 and name == "linear_probe":
        text += " Use the encoder with a linear classifier, or add shapes."
    elif lead <= 2 * error and name != "linear_probe":
        text += " It learned nothing that can be told from a guess: add shapes or epochs."
    return text


def _grouped(result: FinetuneResult, key: str) -> dict[str, float]:
    return result["per_class"] if key == "per_class" else result["per_category"]


def group_table(result: FinetuneResult) -> tuple[list[str], Rows] | None:
    """Columns and rows of the figures per class or category, if there are any."""
    group = layout_of(result).group
    if group is None:
        return None
    key, name = group
    return [name, "%"], [[label, f"{value:.2f}"] for label, value in _grouped(result, key).items()]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first align right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = [columns, rule, *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def markdown(result: FinetuneResult) -> str:
    """A result as a page in Markdown."""
    told = {
        "data": result["data"],
        "recipe": result["recipe"],
        "encoder": "random weights" if result["from_scratch"] else result["pretrained"],
        "seeds" if "seeds" in result else "seed": result.get("seeds", result.get("seed")),
        "epochs": result["epochs"],
        "shapes": ", ".join(
            f"{figure_of(result, f'n_{part}')} {part}"
            for part in ("train", "validation", "test")
            if f"n_{part}" in result
        ),
    }
    lines = [f"# {layout_of(result).title}\n\n"]
    for name, value in told.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        if text not in (None, ""):
            lines.append(f"- {name}: {text}\n")
    lines += ["\n", markdown_table(*summary_table(result))]
    told_by = verdict(result)
    if told_by is not None:
        lines.append(f"\n{told_by}\n")
    if result.get("published"):
        lines.append(
            f"\nPublished figures: {_published_on(str(result['recipe']))}, the epoch that is best "
            "on the test split; ours never are.\n"
        )
    grouped = group_table(result)
    if grouped is not None:
        lines += ["\n", markdown_table(*grouped)]
    return "".join(lines)


def results_of(folder: RunFolder) -> FinetuneResult | None:
    """The result that a run's folder holds, None if it is not finished.

    Raises:
        ConfigError: if it is damaged: not everything can be shown of it.
    """
    result = folder.results()
    try:
        if result is not None:
            markdown(result)
            if result["task"] != "few-shot" and "seeds" not in result:
                aggregate([result], "")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"the results in {folder.path} are damaged or of another version of i2pmae "
            f"({reason(error)}); delete them, and --resume evaluates the run again"
        ) from error
    return result


def keep(folder: RunFolder, result: FinetuneResult) -> FinetuneResult:
    """Write a result into its folder and return it."""
    folder.write_results(result, markdown(result))
    return result


def show(result: FinetuneResult) -> None:
    """Print a result."""
    print_table(f"{layout_of(result).title}, {result['data']}", *summary_table(result))
    grouped = group_table(result)
    if grouped is not None:
        print_class_table("Best on validation", *grouped)
    print_lines(filter(None, [verdict(result)]))


def aggregate(runs: Sequence[FinetuneResult], out: str) -> FinetuneResult:
    """Mean and standard deviation of runs that differ only in their seed.

    Args:
        runs: results, at least one.
        out: folder of them all.

    Returns:
        A result whose figures are means; `std` holds their standard deviations (n - 1; none
        for one run), `seeds` the seeds, `runs` the single results.
    """
    first = runs[0]
    spread = {name: mean_std(figure_of(run, name) for run in runs) for name in figures_of(first)}
    stds = {name: found.std for name, found in spread.items() if found.n > 1}
    shared = (
        "task",
        _PUBLISHED,
        "data",
        "recipe",
        "pretrained",
        "from_scratch",
        "epochs",
    )
    plain = cast(Mapping[str, object], first)
    result: dict[str, object] = {
        "command": "finetune",
        **{name: plain[name] for name in shared},
        **{name: plain[name] for name in ("n_train", "n_validation", "n_test")},
        **{name: found.mean for name, found in spread.items()},
        "std": stds,
        "seeds": [run["seed"] for run in runs],
        "best_epoch": [run["best_epoch"] for run in runs],
        "runs": list(runs),
        "out": out,
        "seconds": round(sum(run["seconds"] for run in runs), 2),
    }
    if "baselines" in first:
        result["baselines"] = {
            name: mean_std(run["baselines"][name] for run in runs).mean
            for name in first["baselines"]
        }
    group = layout_of(first).group
    if group is not None:
        key = group[0]
        result[key] = {
            name: mean_std(_grouped(run, key)[name] for run in runs).mean
            for name in _grouped(first, key)
        }
    return cast(FinetuneResult, result)
