import pytest

from i2pmae.stages.results import (
    aggregate,
    figure_text,
    markdown,
    markdown_table,
    published_figures,
    summary_table,
)


def result(**changes):
    values = {
        "task": "classification",
        "validation_accuracy": 92.0,
        "validation_accuracy_last": 91.0,
        "accuracy": 90.0,
        "accuracy_last": 89.5,
        "per_class": {"chair": 80.0, "table": 100.0},
        "published": {"accuracy": 93.67},
        "best_epoch": 7,
        "epochs": 10,
        "n_train": 90,
        "n_validation": 10,
        "n_test": 20,
        "data": "shapes",
        "recipe": "finetune-modelnet40",
        "pretrained": "runs/a/last.pt",
        "from_scratch": False,
        "seed": 0,
        "seconds": 1.5,
    }
    return values | changes


def test_one_run_has_no_deviation():
    columns, rows = summary_table(result())
    assert columns == ["weights", "validation %", "test %"]
    assert rows == [
        ["best on validation", "92.00", "90.00"],
        ["last epoch", "91.00", "89.50"],
        ["published", "", "93.67"],
    ]


def test_several_runs_are_their_mean_and_sample_deviation():
    runs = [
        result(accuracy=90.0),
        result(accuracy=92.0, seed=1, best_epoch=9, per_class={"chair": 90.0, "table": 100.0}),
        result(accuracy=97.0, seed=2, per_class={"chair": 100.0, "table": 100.0}),
    ]
    found = aggregate(runs, "out")
    assert found["accuracy"] == 93.0
    assert found["std"]["accuracy"] == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    assert found["std"]["accuracy_last"] == 0
    assert found["per_class"] == {"chair": 90.0, "table": 100.0}
    assert (found["seeds"], found["best_epoch"]) == ([0, 1, 2], [7, 9, 7])
    assert (found["seconds"], found["runs"]) == (4.5, runs)
    assert summary_table(found)[1][0] == ["best on validation", "92.00 ± 0.00", "93.00 ± 3.61"]


def test_aggregating_one_run_shows_no_deviation():
    found = aggregate([result()], "out")
    assert found["std"] == {}
    assert figure_text(found, "accuracy") == "90.00"


def test_the_page_says_where_figures_come_from():
    assert markdown(aggregate([result(), result(seed=4)], "out")) == (
        "# Classification\n"
        "\n"
        "- data: shapes\n"
        "- recipe: finetune-modelnet40\n"
        "- encoder: runs/a/last.pt\n"
        "- seeds: 0, 4\n"
        "- epochs: 10\n"
        "- shapes: 90 train, 10 validation, 20 test\n"
        "\n"
        "| weights | validation % | test % |\n"
        "| --- | ---: | ---: |\n"
        "| best on validation | 92.00 ± 0.00 | 90.00 ± 0.00 |\n"
        "| last epoch | 91.00 ± 0.00 | 89.50 ± 0.00 |\n"
        "| published |  | 93.67 |\n"
        "\n"
        "Published figures: ModelNet40 classification, 1024 points, the epoch that is best on the "
        "test split; ours never are.\n"
        "\n"
        "| class | % |\n"
        "| --- | ---: |\n"
        "| chair | 80.00 |\n"
        "| table | 100.00 |\n"
    )


def test_bars_in_names_do_not_break_a_table():
    assert markdown_table(["a|b"], [["c|d"]]).splitlines() == ["| a/b |", "| --- |", "| c/d |"]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("finetune-modelnet40", {"accuracy": 93.67, "accuracy_vote": 94.06}),
        ("segment-shapenetpart", {"instance_miou": 86.76, "category_miou": 85.15}),
        (
            "fewshot-modelnet40",
            {
                "5way_10shot": 97.0,
                "5way_20shot": 98.3,
                "10way_10shot": 92.6,
                "10way_20shot": 95.5,
            },
        ),
        ("finetune-own-data", {}),
        ("a-recipe-that-is-gone", {}),
        (None, {}),
    ],
)
def test_published_figures_are_those_of_the_recipe(recipe, expected):
    assert published_figures(recipe) == expected
