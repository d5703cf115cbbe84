"""The output is the upload, byte for byte, with our cells at the end of each record."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from batch_jobs.intake.text import TextTable, open_text
from batch_jobs.output.neutral import neutralise
from batch_jobs.output.text import write_text
from batch_jobs.table import Addition, IntakeLimits
from tests.contract.tables.lines import additions_to

LIMITS = IntakeLimits(max_bytes=10**9, max_rows=1_000_000, max_columns=100, max_cell_chars=200_000)


def opened(folder: Path, content: bytes) -> TextTable:
    path = folder / "upload.csv"
    path.write_bytes(content)
    return open_text(path, filename="upload.csv", limits=LIMITS)


def written(folder: Path, content: bytes, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> bytes:
    table = opened(folder, content)
    write_text(folder / "upload.csv", table.format, folder / "out.csv", columns, additions_to(table, cells))
    return (folder / "out.csv").read_bytes()


def test_records_keep_their_own_text_and_line_ends(tmp_path: Path) -> None:
    content = b'id, text ,"n"\r\n1,"a\nb, ""c""",  x\n\n2,5" pipe,\r\n,,\r\n3,"",9'
    expected = b'id, text ,"n",summary\r\n1,"a\nb, ""c""",  x,A\n\n2,5" pipe,,B\r\n,,\r\n3,"",9,C'
    assert written(tmp_path, content, ["summary"], [["A"], ["B"], ["C"]]) == expected


def test_our_cells_are_quoted_where_needed(tmp_path: Path) -> None:
    cells = [['say "hi"', "a\nb"], ["a;b", "a,b"], ["a\rb", " x "], ["", ""]]
    output = written(tmp_path, b"id;n\r\n1;2\r\n3;4\r\n5;6\r\n7;8\r\n", ["s", "t;u"], cells)
    assert output == (b'id;n;s;"t;u"\r\n1;2;"say ""hi""";"a\nb"\r\n3;4;"a;b";a,b\r\n5;6;"a\rb"; x \r\n7;8;;\r\n')


def test_a_file_that_quotes_all_gets_quotes_for_ours(tmp_path: Path) -> None:
    output = written(tmp_path, b'"id","n"\n"1","2"\n"3","4"\n', ["s"], [["a"], [""]])
    assert output == b'"id","n","s"\n"1","2","a"\n"3","4",""\n'


def test_the_sep_line_and_blank_lines_above_the_header_pass_through(tmp_path: Path) -> None:
    content = codecs.BOM_UTF8 + b"sep=;\r\n\r\nid;n\r\n1;2\r\n"
    assert written(tmp_path, content, ["s"], [["a"]]) == codecs.BOM_UTF8 + b"sep=;\r\n\r\nid;n;s\r\n1;2;a\r\n"


@pytest.mark.parametrize("bom", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_utf16_stays_utf16(tmp_path: Path, bom: bytes) -> None:
    codec = "utf-16-le" if bom == codecs.BOM_UTF16_LE else "utf-16-be"
    output = written(tmp_path, bom + "id\tn\r\n1\té\r\n".encode(codec), ["s"], [["🙂"]])
    assert output == bom + "id\tn\ts\r\n1\té\t🙂\r\n".encode(codec)


@pytest.mark.parametrize("cells", [[], [["a"]], [["a"], ["b"], ["c"]], [["a"], []], [["a"], ["b", "c"]]])
def test_each_row_needs_exactly_one_entry(tmp_path: Path, cells: list[list[str]]) -> None:
    with pytest.raises(ValueError, match=r"data row 1|data row 2|more entries"):
        written(tmp_path, b"id,n\n1,2\n3,4\n", ["s"], cells)


def test_characters_the_encoding_lacks_become_plain(tmp_path: Path) -> None:
    table = opened(tmp_path, "id,n\n1,é\n2,x\n3,y\n4,z\n5,z\n".encode("cp1252"))
    cells = [["Größe – 5 €"], ["ő ﬁ ł 事 🙂"], ["non\u2011stop"], ["\u207c1+1"], ["plain"]]
    additions = map(Addition, cells)
    changed = write_text(tmp_path / "upload.csv", table.format, tmp_path / "out.csv", ["s"], additions)
    lines = (tmp_path / "out.csv").read_bytes().decode("cp1252").splitlines()
    assert lines[1:] == ["1,é,Größe – 5 €", "2,x,o fi ? ? ?", "3,y,non-stop", "4,z,'=1+1", "5,z,plain"]
    assert changed == 3


def test_a_cell_left_raw_on_purpose_stays_raw(tmp_path: Path) -> None:
    assert neutralise("=事") != "=事"
    assert written(tmp_path, "id,n\n1,é\n".encode("cp1252"), ["s"], [["=事"]]).endswith(b",=?\n")


def test_a_lone_surrogate_of_an_answer_does_not_break_the_file(tmp_path: Path) -> None:
    assert written(tmp_path, b"id,n\n1,2\n", ["s"], [["a\ud800b"]]) == b"id,n,s\n1,2,a?b\n"


def test_cells_are_taken_one_at_a_time(tmp_path: Path) -> None:
    table = opened(tmp_path, b"id,n\n" + b"1,2\n" * 1_000)
    taken = 0

    def additions() -> Iterator[Addition]:
        nonlocal taken
        for taken in range(1, 1_001):
            yield Addition((str(taken),))

    assert write_text(tmp_path / "upload.csv", table.format, tmp_path / "out.csv", ["s"], additions()) == 0
    assert taken == 1_000
    assert (tmp_path / "out.csv").read_bytes().endswith(b"1,2,1000\n")
