"""A text table that can't be read without guessing is refused with file, row, column and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batch_jobs.errors import FileRefused
from batch_jobs.intake.dialect import CHUNK_BYTES, MAX_RECORD_CHARS
from batch_jobs.intake.text import open_text
from batch_jobs.table import IntakeLimits

LIMITS = IntakeLimits(max_bytes=10**9, max_rows=5_000, max_columns=30, max_cell_chars=1_000)


def refusal(folder: Path, content: str | bytes, limits: IntakeLimits = LIMITS) -> FileRefused:
    path = folder / "upload"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(FileRefused) as caught:
        list(open_text(path, filename="losses.csv", limits=limits).rows())
    assert caught.value.message.startswith("losses.csv")
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("content", ["id,text\n", "id,text", "id,text\n\n,\n", "sep=,\nid,text\n"])
def test_a_header_without_rows(tmp_path: Path, content: str) -> None:
    assert "has a header but no rows" in refusal(tmp_path, content).message


@pytest.mark.parametrize("content", ["\n\n", "\ufeff", ",,\n,,\n"])
def test_nothing_but_blank_records(tmp_path: Path, content: str) -> None:
    assert "has no header and no rows" in refusal(tmp_path, content).message


def test_doubled_column_names_are_listed(tmp_path: Path) -> None:
    error = refusal(tmp_path, "id,text , text,n,id,N\n1,2,3,4,5,6\n")
    assert '"id", "text"' in error.message
    assert '"n"' not in error.message
    assert error.rows == (1,)


def test_empty_column_names_are_shown_by_letter(tmp_path: Path) -> None:
    assert "no name in column B, D" in refusal(tmp_path, "id, ,text,\n1,2,3,4\n").message


def test_ragged_rows_are_collected(tmp_path: Path) -> None:
    content = "id,text\n1,a\n2\n\n3,b,c\n" + "4,d,e\n" * 6 + '5,"ok"\n'
    error = refusal(tmp_path, content)
    assert error.rows == (3, 5, 6, 7, 8, 9, 10, 11)
    assert "rows 3, 5, 6, 7, 8 and 3 more: expected 2 cells as in the header, found 1 or 3" in error.message


def test_good_rows_come_before_the_refusal_of_the_ragged(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_text("id,text\n1,a\n2\n3,c\n")
    rows = open_text(path, filename="losses.csv", limits=LIMITS).rows()
    assert [next(rows).number, next(rows).number] == [2, 4]
    with pytest.raises(FileRefused, match="row 3"):
        next(rows)


def test_reading_stops_at_a_thousand_ragged_rows(tmp_path: Path) -> None:
    error = refusal(tmp_path, "id,text\n1,a\n" + "2\n" * 3_000)
    assert len(error.rows) == 1_000
    assert "reading stopped at 1,000 such rows" in error.message


def test_a_title_above_the_header(tmp_path: Path) -> None:
    error = refusal(tmp_path, "Incidents of 2024\n\nid,text\n1,a\n")
    assert error.rows == (3, 4)
    assert "The first row must hold the names of all columns" in error.message


@pytest.mark.parametrize("content", ['id,text\n1,a\n2,"b\n3,c\n', 'id,text\n1,a\n2,"b'])
def test_a_quote_that_is_never_closed(tmp_path: Path, content: str) -> None:
    error = refusal(tmp_path, content)
    assert "never closed" in error.message
    assert error.rows == (3,)


def test_an_open_quote_is_not_read_to_the_end_of_a_large_file(tmp_path: Path) -> None:
    error = refusal(tmp_path, 'id,text\n1,a\n2,"b\n' + "3,c\n" * 1_000)
    assert "more than 1,000 characters" in error.message
    assert "a quote is opened there and not closed" in error.message
    assert (error.rows, error.column) == ((3,), "text")


def test_text_after_a_closing_quote(tmp_path: Path) -> None:
    error = refusal(tmp_path, 'id,text\n1,"a\nb"\n2,"b" c\n')
    assert "between a closing quote and the next delimiter" in error.message
    assert error.rows == (3,)


def test_too_many_rows(tmp_path: Path) -> None:
    assert "has more than 5,000 rows" in refusal(tmp_path, "id,text\n" + "1,a\n" * 5_001).message


def test_too_many_columns(tmp_path: Path) -> None:
    line = ",".join(f"c{n}" for n in range(31)) + "\n"
    assert "has 31 columns, more than 30" in refusal(tmp_path, line + line).message


@pytest.mark.parametrize("cell", ["x" * 1_001, '"' + "x\n" * 501 + '"', '"' + '""' * 500_000 + '"'])
def test_a_cell_that_is_too_long(tmp_path: Path, cell: str) -> None:
    error = refusal(tmp_path, f"id,text\n1,a\n2,{cell}\n")
    assert 'row 3, column "text": the cell has more than 1,000 characters' in error.message


def test_a_header_cell_that_is_too_long(tmp_path: Path) -> None:
    assert 'row 1, column "B"' in refusal(tmp_path, f"id,{'x' * 1_001}\n1,a\n").message


def test_a_record_over_the_bound_is_not_loaded(tmp_path: Path) -> None:
    content = b"id,text\n1,a\n2," + b"x" * (MAX_RECORD_CHARS + 10) + b"\n"
    error = refusal(tmp_path, content)
    assert "the row has more than 16,777,216 characters" in error.message
    assert error.rows == (3,)


def test_nul_characters(tmp_path: Path) -> None:
    error = refusal(tmp_path, 'id,text\n1,"a\nb"\n2,c\0d\n3,e\n')
    assert "NUL" in error.message
    assert error.rows == (3,)


def test_a_file_that_a_crash_filled_with_nuls(tmp_path: Path) -> None:
    assert "NUL" in refusal(tmp_path, "id,text\n1,a\n2," + "\0" * 5_000).message


def test_bytes_that_no_encoding_has(tmp_path: Path) -> None:
    error = refusal(tmp_path, b'id,text\n1,"a\nb"\n2,\xe9 and \x81\n3,c\n')
    assert "byte 0x81 at position 24 is not valid Windows-1252 or UTF-8" in error.message
    assert error.rows == (3,)


@pytest.mark.parametrize("broken", ["2,Gr\xf6\xdfe und mehr\n".encode("latin-1"), "2,Grö".encode()[:-1]])
def test_damaged_utf8_is_not_taken_for_windows_1252(tmp_path: Path, broken: bytes) -> None:
    error = refusal(tmp_path, 'id,text\n1,"Größe\nÄrger, Öl"\n'.encode() + broken)
    assert "breaks a file that is otherwise UTF-8" in error.message
    assert error.rows == (3,)


def test_the_position_is_right_after_a_character_on_the_edge_of_a_chunk(tmp_path: Path) -> None:
    start = b"id,text\n" + b"1,a\n" * ((CHUNK_BYTES - 12) // 4) + b"22,"
    content = start + "é".encode() + b"\n3,\xff\n"
    assert len(start) == CHUNK_BYTES - 1
    error = refusal(tmp_path, content)
    assert f"byte 0xFF at position {content.index(0xFF):,} breaks" in error.message
    assert error.rows == (content.count(b"\n"),)


def test_a_bom_is_a_promise(tmp_path: Path) -> None:
    error = refusal(tmp_path, b"\xef\xbb\xbf" + b'"id, a";text\n1;\xe9 x\n')
    assert "is not valid UTF-8" in error.message
    assert error.rows == (2,)


def test_utf16_that_was_cut(tmp_path: Path) -> None:
    assert "is not valid UTF-16-LE" in refusal(tmp_path, "\ufeffid,text\n1,a\n".encode("utf-16-le")[:-1]).message


@pytest.mark.parametrize("codec", ["utf-32", "utf-32-le", "utf-32-be"])
def test_utf32(tmp_path: Path, codec: str) -> None:
    assert "UTF-32" in refusal(tmp_path, "id,text\n1,a\n".encode(codec)).message


def test_a_sep_line_with_another_delimiter(tmp_path: Path) -> None:
    assert 'says "sep=^"' in refusal(tmp_path, "sep=^\nid^text\n1^a\n").message


def test_numbers_in_messages_can_be_read(tmp_path: Path) -> None:
    error = refusal(tmp_path, "id,text\n" + "1,a\n" * 1_200 + "2\n")
    assert re.search(r"row 1,202: expected 2 cells", error.message)
