"""The quick pass gives the very rows of the careful pass, in blocks, or leaves the word to it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_jobs.errors import FileRefused
from batch_jobs.intake import quick
from batch_jobs.intake.dialect import Encoding
from batch_jobs.intake.text import TextTable, open_text
from batch_jobs.models import SHEET_ROW
from batch_jobs.table import IntakeLimits, Row

LIMITS = IntakeLimits(max_bytes=10**7, max_rows=1_000, max_columns=50, max_cell_chars=500)
PIECES = st.sampled_from(
    ["a", "b,", '"', '""', ",", ";", "\n", "\r\n", "\r", " ", "é", "\0", "\u2028", "x" * 600, "\x0b"]
)


def rows_of(table: TextTable, size: int) -> list[Row]:
    blocks = list(table.blocks(size))
    assert all(block.num_rows == size for block in blocks[:-1])
    assert all(block.column_names == [SHEET_ROW, *table.columns] for block in blocks)
    by_column = ([column.to_pylist() for column in block.columns] for block in blocks)
    return [Row(n, tuple(cells)) for columns in by_column for n, *cells in zip(*columns, strict=True)]


def taken(path: Path, size: int | None) -> list[Row] | str:
    """The rows, or the refusal, by either pass."""
    try:
        table = open_text(path, filename="t.csv", limits=LIMITS)
        return list(table.rows()) if size is None else rows_of(table, size)
    except FileRefused as refused:
        return str(refused)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join), st.integers(1, 5))
def test_both_passes_agree_on_any_text(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text(f"one,two\n1,2\n{text}", encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick, "PIECE_BYTES", 7)
        assert taken(path, size) == taken(path, None)


CELLS = st.lists(st.sampled_from(["a", "é", '"', ",", ";", "\n", "\r\n", " ", "\u2028", "\x0b"]), max_size=6).map(
    "".join
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=9), st.sampled_from(["\n", "\r\n"]))
def test_what_a_spreadsheet_writes_is_beyond_doubt(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], line_end: str
) -> None:
    """The careful pass has nothing to do."""
    path = tmp_path_factory.mktemp("t") / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator=line_end).writerows([["one", "two"], ["1", "2"], *rows])
    table = open_text(path, filename="t.csv", limits=LIMITS)
    careful = list(table.rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick, "PIECE_BYTES", 11)
        patch.setattr(TextTable, "rows", None)
        assert rows_of(table, 3) == careful


def test_numbers_count_blank_rows_and_no_sep_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'sep=;\r\n\r\none;two\r\n1;"a\r\nb"\r\n;\r\n\r\n2;c\r\n')
    table = open_text(path, filename="t.csv", limits=LIMITS)
    assert rows_of(table, 1) == list(table.rows()) == [Row(3, ("1", "a\r\nb")), Row(6, ("2", "c"))]


def test_a_quote_that_is_never_closed_is_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "MAX_RECORD_CHARS", 1_000)
    monkeypatch.setattr(quick, "PIECE_BYTES", 100)
    path = tmp_path / "t.csv"
    path.write_text('one,two\n1,2\n3,"' + "four\n" * 10_000)
    read = 0

    def watched(path: Path, encoding: Encoding) -> io.TextIOWrapper:
        return io.TextIOWrapper(Counted(path.open("rb")))

    class Counted(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal read
            read += size or 0
            return super().read(size)

    monkeypatch.setattr(quick, "open_decoded", watched)
    rows = 0
    with pytest.raises(quick.Doubtful):
        for records in quick.quick_records(path, quick.Layout(Encoding("utf-8"), ",", 2, 500)):
            rows += len(records.numbers)
    assert (rows, read < 5_000) == (2, True)


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_what_the_quick_pass_leaves_is_read_with_care_from_there(tmp_path: Path, size: int) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"one,two\n" + b"1,2\n" * 10 + b"3,4\r" * 5)
    table = open_text(path, filename="t.csv", limits=LIMITS)
    assert rows_of(table, size) == list(table.rows())
