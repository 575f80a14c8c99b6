"""Tables of results: of one run, of one run over several seeds, of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from i2pmae.config import recipe_about
from i2pmae.errors import ConfigError
from i2pmae.evaluation.metrics import mean_std
from i2pmae.progress import print_table
from i2pmae.stages.run_folder import RunFolder

Rows = list[list[str]]

_PUBLISHED = "published"


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


def layout_of(result: Mapping[str, Any]) -> Layout:
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


def figures_of(result: Mapping[str, Any]) -> list[str]:
    """Names of the figures that a result holds."""
    layout = layout_of(result)
    return [figure + ending for _, figure in layout.columns for _, ending in layout.rows]


def figure_text(result: Mapping[str, Any], figure: str) -> str:
    """A figure as `93.40 ± 0.20`, or without deviation where it is of one run."""
    if figure not in result:
        return ""
    deviation = result.get("std", {}).get(figure)
    text = f"{result[figure]:.2f}"
    return text if deviation is None else f"{text} ± {deviation:.2f}"


def published_text(result: Mapping[str, Any], figure: str) -> str:
    """The published value of a figure, or nothing."""
    value = result.get(_PUBLISHED, {}).get(figure)
    return "" if value is None else f"{value:.2f}"


def published_figures(recipe: str | None) -> dict[str, float]:
    """Published figures that a recipe states, by the name of ours; empty without a recipe."""
    if recipe is None:
        return {}
    try:
        stated = recipe_about(recipe).get("figures", {})
    except ConfigError:  # a recipe that was used once and has gone since
        return {}
    if not isinstance(stated, dict):
        return {}
    return {name: float(value) for name, value in stated.items() if isinstance(value, int | float)}


def _published_on(recipe: str) -> str:
    """The task that the published figures are of, which need not be that of the run's data."""
    try:
        return str(recipe_about(recipe).get("title", recipe))
    except ConfigError:
        return recipe


def summary_table(result: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Columns and rows of a result, the published figures in the last row."""
    layout = layout_of(result)
    rows = [
        [heading, *(figure_text(result, figure + ending) for _, figure in layout.columns)]
        for heading, ending in layout.rows
    ]
    if result.get(_PUBLISHED):
        rows.append([_PUBLISHED, *(published_text(result, figure) for _, figure in layout.columns)])
    return ["weights", *(heading for heading, _ in layout.columns)], rows


def group_table(result: Mapping[str, Any]) -> tuple[list[str], Rows] | None:
    """Columns and rows of the figures per class or category, if there are any."""
    group = layout_of(result).group
    if group is None:
        return None
    key, name = group
    return [name, "%"], [[label, f"{value:.2f}"] for label, value in result[key].items()]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first align right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = [columns, rule, *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def markdown(result: Mapping[str, Any]) -> str:
    """A result as a page in Markdown."""
    told = {
        "data": result["data"],
        "recipe": result["recipe"],
        "encoder": "random weights" if result["from_scratch"] else result["pretrained"],
        "seeds" if "seeds" in result else "seed": result.get("seeds", result.get("seed")),
        "epochs": result["epochs"],
        "shapes": ", ".join(
            f"{result[f'n_{part}']} {part}"
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
    if result.get(_PUBLISHED):
        lines.append(
            f"\nPublished figures: {_published_on(result['recipe'])}, the epoch that is best on "
            "the test split; ours never are.\n"
        )
    grouped = group_table(result)
    if grouped is not None:
        lines += ["\n", markdown_table(*grouped)]
    return "".join(lines)


def keep(folder: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    """Write a result into its folder and return it."""
    folder.write_results(result, markdown(result))
    return result


def show(result: Mapping[str, Any]) -> None:
    """Print a result."""
    print_table(f"{layout_of(result).title}, {result['data']}", *summary_table(result))
    grouped = group_table(result)
    if grouped is not None:
        print_table("Best on validation", *grouped)


def aggregate(runs: Sequence[dict[str, Any]], out: str) -> dict[str, Any]:
    """Mean and deviation of runs that differ in their seed alone.

    Args:
        runs: results, at least one.
        out: folder of them all.

    Returns:
        A result whose figures are means; `std` holds their deviations (n - 1; none for one run),
        `seeds` the seeds, `runs` the single results.
    """
    first = runs[0]
    spread = {name: mean_std(run[name] for run in runs) for name in figures_of(first)}
    deviations = {name: found.std for name, found in spread.items() if found.n > 1}
    shared = ("task", _PUBLISHED, "data", "recipe", "pretrained", "from_scratch", "epochs")
    result = {
        **{name: first[name] for name in shared},
        **{name: first[name] for name in ("n_train", "n_validation", "n_test")},
        **{name: found.mean for name, found in spread.items()},
        "std": deviations,
        "seeds": [run["seed"] for run in runs],
        "best_epoch": [run["best_epoch"] for run in runs],
        "runs": list(runs),
        "out": out,
        "seconds": round(sum(run["seconds"] for run in runs), 2),
    }
    group = layout_of(first).group
    if group is not None:
        key = group[0]
        result[key] = {name: mean_std(run[key][name] for run in runs).mean for name in first[key]}
    return result
