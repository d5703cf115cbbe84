"""What an export writes: types where the format has them, nothing that a spreadsheet runs, the same bytes each time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import openpyxl
import pyarrow.parquet as pq
import pytest

from batch_jobs.errors import UserError
from batch_jobs.lifecycle.values import spreadsheet_text
from batch_jobs.output import export_xlsx
from batch_jobs.output.export import Chunk, ExportColumn, ExportFormat, ValueKind, write_export
from batch_jobs.output.xlsx_cells import CUT_MARK

COLUMNS = [
    ExportColumn("row_number", ValueKind.INTEGER),
    ExportColumn('=cmd|"x"!A1', ValueKind.TEXT),
    ExportColumn("share", ValueKind.NUMBER),
    ExportColumn("sure", ValueKind.BOOLEAN),
    ExportColumn("tags", ValueKind.JSON),
]
CHUNKS: list[Chunk] = [
    [[1, 2], ["=1+1", 'é,;\t|"\n'], [0.5, 3], [True, None], [["a", "b"], {"k": [1, None]}]],
    [[3], [None], [None], [False], [None]],
]
TYPED: list[dict[str, Any]] = [
    {"row_number": 1, '=cmd|"x"!A1': "=1+1", "share": 0.5, "sure": True, "tags": ["a", "b"]},
    {"row_number": 2, '=cmd|"x"!A1': 'é,;\t|"\n', "share": 3, "sure": None, "tags": {"k": [1, None]}},
    {"row_number": 3, '=cmd|"x"!A1': None, "share": None, "sure": False, "tags": None},
]
CELLS = [
    ["row_number", '\'=cmd|"x"!A1', "share", "sure", "tags"],
    ["1", "'=1+1", "0.5", "TRUE", "a; b"],
    ["2", 'é,;\t|"\n', "3", "", '{"k":[1,null]}'],
    ["3", "", "", "FALSE", ""],
]


def exported(fmt: ExportFormat, columns: Sequence[ExportColumn] = COLUMNS, chunks: Sequence[Chunk] = CHUNKS) -> bytes:
    target = io.BytesIO()
    assert write_export(fmt, target, columns, chunks, spreadsheet_text) == 0
    return target.getvalue()


@pytest.mark.parametrize("fmt", ExportFormat)
def test_the_same_rows_make_the_same_bytes_however_they_are_cut(fmt: ExportFormat) -> None:
    assert exported(fmt) == exported(fmt)
    if fmt is not ExportFormat.PARQUET:  # there a chunk is a row group
        whole = [[*first, *second] for first, second in zip(*CHUNKS, strict=True)]
        assert exported(fmt, chunks=[whole]) == exported(fmt)


@pytest.mark.parametrize(("fmt", "delimiter"), [("csv", ","), ("tsv", "\t"), ("psv", "|")])
def test_text(fmt: str, delimiter: str) -> None:
    text = exported(ExportFormat(fmt)).decode()
    assert list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)) == CELLS
    assert text.endswith("\r\n")


def test_jsonl() -> None:
    lines = exported(ExportFormat.JSONL).decode().splitlines()
    assert [json.loads(line) for line in lines] == TYPED


def test_parquet() -> None:
    table = pq.read_table(io.BytesIO(exported(ExportFormat.PARQUET)))
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "double", "bool", "string"]
    expected = [{**row, "tags": row["tags"] and json.dumps(row["tags"], separators=(",", ":"))} for row in TYPED]
    assert table.to_pylist() == expected


def test_xlsx() -> None:
    book = openpyxl.load_workbook(io.BytesIO(exported(ExportFormat.XLSX)))
    assert book.sheetnames == ["export"]
    rows = [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]
    assert rows[0] == CELLS[0]
    assert rows[1] == [1, "'=1+1", 0.5, "TRUE", "a; b"]
    assert rows[2] == [2, 'é,;\t|"\n', 3, None, '{"k":[1,null]}']
    assert rows[3] == [3, None, None, "FALSE", None]


def test_what_a_worksheet_can_not_hold() -> None:
    text = [ExportColumn("text", ValueKind.TEXT), ExportColumn("id", ValueKind.INTEGER)]
    target = io.BytesIO()
    assert write_export(ExportFormat.XLSX, target, text, [[["x" * 40_000], [2**60]]], spreadsheet_text) == 1
    (_, (long, whole)) = openpyxl.load_workbook(target).worksheets[0].iter_rows(values_only=True)
    assert str(long).endswith(CUT_MARK)
    assert whole == str(2**60)
    wide = [ExportColumn(f"c{number}", ValueKind.TEXT) for number in range(16_385)]
    with pytest.raises(UserError, match=r"16,384 columns.*Export as parquet"):
        exported(ExportFormat.XLSX, wide, [])


def test_more_rows_than_a_worksheet_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_xlsx, "MAX_ROWS", 3)
    with pytest.raises(UserError, match=r"holds 2 rows, and the job has more. Export as parquet or csv"):
        exported(ExportFormat.XLSX)


def test_a_number_that_parquet_has_not() -> None:
    with pytest.raises(UserError, match=r'column "row_number".*Export it as jsonl'):
        exported(ExportFormat.PARQUET, COLUMNS[:1], [[[2**63]]])
