"""Cells and tables, against means and deviations worked by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmet.ablate.experiments import Table, TableRow
from mmet.ablate.tables import Cell, collect_table, format_table, save_tables

TABLE = Table(
    9,
    "Toy",
    ("market1501", "cuhk_pedes"),
    ("mAP",),
    (
        TableRow("first", (), (), paper={"market1501": {"mAP": 20.0}}),
        TableRow("second", (), ()),
    ),
)
MEASURED = {
    ("first", 1): {"market1501": {"mAP": 0.10}, "cuhk_pedes": {"mAP": 0.5}},
    ("first", 2): {"market1501": {"mAP": 0.14}},
    ("second", 2): {"market1501": {"mAP": 0.333}},
}


def test_cell__mean_deviation_and_paper():
    assert str(Cell((10.0, 14.0), 20.0)) == "12.0 ± 2.8 (paper 20.0)"  # sqrt((4 + 4) / 1)
    assert str(Cell((10.0,))) == "10.0"
    assert str(Cell((), 3.0)) == "— (paper 3.0)"
    assert str(Cell()) == "—"


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6))
def test_cell__as_numpy_has_it(values):
    cell = Cell(tuple(values))
    assert cell.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert cell.std == pytest.approx(np.std(values, ddof=1), abs=1e-6)


def test_collect_table__values_by_seed_in_percent_and_empty_cells():
    result = collect_table(TABLE, MEASURED, seeds=(1, 2))
    assert result.cells["first"]["market1501"]["mAP"].values == pytest.approx((10, 14))
    assert result.cells["first"]["cuhk_pedes"]["mAP"].values == (50,)
    assert result.cells["second"]["cuhk_pedes"]["mAP"].values == ()
    assert result.notes == ("first: 1 or 2 of 2 seeds so far", "second: 1 of 2 seeds so far")
    assert collect_table(TABLE, MEASURED, seeds=(2,)).notes == ()


def test_format_table__rows_columns_and_notes():
    text = format_table(collect_table(TABLE, MEASURED, (1, 2), notes=["something is missing"]))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert lines[0] == ["", "Market-1501 mAP", "CUHK-PEDES mAP"]
    assert lines[2] == ["first", "12.0 ± 2.8 (paper 20.0)", "50.0"]
    assert lines[3] == ["second", "33.3", "—"]
    assert text.startswith("## Table 9: Toy")
    assert "- something is missing" in text


def test_save_tables__markdown_and_json_and_nothing_half(tmp_path):
    result = collect_table(TABLE, MEASURED, (1, 2))
    markdown, content = save_tables([result], tmp_path / "out", about=["One line."], facts={"size": "small"})
    assert "One line." in markdown.read_text(encoding="utf-8")
    tables = json.loads(content.read_text(encoding="utf-8"))
    assert tables["size"] == "small"
    cell = tables["tables"][0]["rows"][0]["results"]["market1501"]["mAP"]
    assert cell["values"] == pytest.approx([10, 14])
    assert (cell["mean"], cell["paper"]) == (pytest.approx(12), 20.0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tables.md", "tables.json"}
