import csv
import json
import sys

import pytest

from i2pmae.errors import DataError
from i2pmae.evaluation.tables import METADATA, TABLES, check_target, write_table

COLUMNS = {"id": "text", "p": "number", "n": "count"}
ROWS = [{"id": "a,b\nc", "p": 0.25, "n": 3}, {"id": "d"}]


def test_rows_are_read_back_from_every_format(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for ending in TABLES:
        write_table(tmp_path / f"t{ending}", COLUMNS, iter(ROWS), {"about": 1})
    whole = [{"id": None, "p": None, "n": None, **row} for row in ROWS]
    found = json.loads((tmp_path / "t.json").read_text())
    assert found == {"about": {"about": 1}, "shapes": whole}
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"id": "a,b\nc", "p": "0.25", "n": "3"},
            {"id": "d", "p": "", "n": ""},
        ]
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.to_pylist() == whole
    assert json.loads(table.schema.metadata[METADATA]) == {"about": 1}


def test_bad_targets_are_said_early(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"rows are written as \.csv, \.parquet or \.json, not ''"):
        check_target(tmp_path / "t", TABLES, "rows")
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        check_target(tmp_path / "t.csv", TABLES, "rows")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install 'i2pmae"):
        check_target(tmp_path / "t.parquet", TABLES, "rows")
