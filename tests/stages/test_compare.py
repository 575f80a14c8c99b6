import json
import sys

import pytest

from i2pmae.cli import main
from i2pmae.errors import DataError
from i2pmae.stages import compare

from ..report.test_results import result


@pytest.fixture
def write(tmp_path):
    """Make a run's folder."""

    def write(name, values, config=None, file="results.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps(values))
        if config is not None:
            (tmp_path / name / "config.json").write_text(json.dumps(config))
        return tmp_path / name

    return write


def test_runs_of_every_kind_stand_side_by_side(write, tmp_path, capsys):
    deviations = {"std": {"accuracy": 0.5}, "seeds": [0, 1]}
    paths = [
        write("tuned", result(**deviations)),
        write("scratch", result(accuracy=80.0, from_scratch=True, published={})),
        write("pretrained", {"loss": 0.25, "svm_accuracy": 88.0}, file="result.json"),
    ]
    svm = tmp_path / "svm.json"
    svm.write_text(json.dumps({"accuracy": 87.5, "C": 0.01, "checkpoint": "a.pt"}))
    table = tmp_path / "docs" / "table.md"
    found = compare.run([*paths, svm], table)
    assert list(found["runs"]) == [str(path) for path in (*paths, svm)]
    header, _, *rows = [
        [cell.strip() for cell in line.strip("| \n").split(" |")]
        for line in table.read_text().splitlines()
    ]
    cells = {row[0]: dict(zip(header, row, strict=False)) for row in rows}
    tuned, scratch, pretrained = (cells[str(path)] for path in paths)
    assert (tuned["test %"], tuned["seeds"], tuned["encoder"]) == (
        "90.00 ± 0.50",
        "0, 1",
        "runs/a/last.pt",
    )
    assert (tuned["test %, last epoch"], tuned["what"]) == ("89.50", "classification")
    assert (scratch["test %"], scratch["encoder"]) == ("80.00", "random weights")
    assert (pretrained["loss"], pretrained["linear SVM %"]) == ("0.25", "88.00")
    assert cells[str(svm)]["linear SVM %"] == "87.50"
    assert cells["published, finetune-modelnet40"]["test %"] == "93.67"
    assert "90.00 ± 0.50" in capsys.readouterr().out


def test_arms_that_were_treated_differently_are_pointed_out(write, capsys):
    shared = {"epochs": 10, "augment": {"rotation": 0.0}, "out": "a", "checkpoint": "x.pt"}
    other = shared | {"augment": {"rotation": 180.0}, "out": "b", "checkpoint": None}
    paths = [
        write("a", result(), shared),
        write("b", result(), other),
        write("other-data", result(data="others"), shared | {"epochs": 99}),
    ]
    assert compare.run(paths)["differences"] == ["augment.rotation"]
    assert "the runs differ in augment.rotation" in capsys.readouterr().err.replace("\n", " ")
    assert compare.run([paths[0], paths[2]])["differences"] == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [("{", "not JSON"), ("[]", "no result of"), ('{"a": 1}', "no result of")],
)
def test_files_that_are_no_results_are_named(tmp_path, content, expected):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DataError, match=f"results.json: {expected}"):
        compare.run([path])


def test_the_command_takes_several_runs(write, monkeypatch, capsys):
    paths = [str(write("a", result())), str(write("b", result(accuracy=70.0)))]
    monkeypatch.setattr(sys, "argv", ["i2pmae", "compare", *paths, "--json"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [found["runs"][path]["accuracy"] for path in paths] == [90.0, 70.0]


def test_a_run_that_has_not_finished_says_so(tmp_path):
    with pytest.raises(DataError, match="holds no finished run"):
        compare.run([tmp_path])
