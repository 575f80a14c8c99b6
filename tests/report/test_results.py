import pytest

from i2pmae.report.results import (
    aggregate,
    figure_text,
    markdown,
    markdown_table,
    summary_table,
    verdict,
)


def result(**changes):
    values = {
        "command": "finetune",
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


BASELINES = {"linear_probe": 93.0, "majority": 20.0, "chance": 10.0}


def test_baselines_stand_in_the_table_and_are_averaged():
    runs = [result(baselines=BASELINES), result(baselines=BASELINES | {"majority": 30.0}, seed=1)]
    found = aggregate(runs, "out")
    assert found["baselines"] == BASELINES | {"majority": 25.0}
    assert ["linear probe of its encoder", "", "93.00"] in summary_table(found)[1]
    assert "linear probe of its encoder by 3.0 points" in markdown(found)


@pytest.mark.parametrize(
    ("accuracy", "baselines", "expected"),
    [
        (90.0, BASELINES, ("worse than the linear probe of its encoder by 3.0", "error of 6.7")),
        (95.0, BASELINES, ("better than the linear probe of its encoder by 2.0 points",)),
        (93.0, BASELINES, ("as good as the linear probe of its encoder: 93.0% and 93.0%",)),
        (12.0, {"majority": 11.0, "chance": 10.0}, ("most frequent class", "learned nothing")),
    ],
)
def test_the_verdict_says_plainly_what_is_better(accuracy, baselines, expected):
    text = verdict(result(accuracy=accuracy, baselines=baselines))
    assert all(part in text for part in expected)


def test_without_baselines_there_is_no_verdict():
    assert verdict(result()) is None
