"""Text tables are read cell by cell as written, whatever their encoding, delimiter and line ends."""

from __future__ import annotations

import codecs
import csv
import tracemalloc
from pathlib import Path

import pytest

from batch_jobs.intake.text import TextTable, column_letter, open_text
from batch_jobs.table import FileKind, IntakeLimits, Row

LIMITS = IntakeLimits(max_bytes=10**9, max_rows=1_000_000, max_columns=100, max_cell_chars=200_000)


def opened(folder: Path, content: str | bytes, name: str = "losses.csv") -> TextTable:
    path = folder / "upload"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return open_text(path, filename=name, limits=LIMITS)


def cells_of(table: TextTable) -> list[tuple[str, ...]]:
    return [row.cells for row in table.rows()]


def test_cells_are_text_exactly_as_written(tmp_path: Path) -> None:
    written = ["007", "NA", "1e5", "-5", "", " x ", "TRUE", "null", "2024-01-02", "1,000.00"]
    line = ";".join(written)
    table = opened(tmp_path, ";".join(f"c{n}" for n in range(10)) + f"\n{line}\n")
    assert cells_of(table) == [tuple(written)]


def test_quoted_newlines_delimiters_and_quotes(tmp_path: Path) -> None:
    table = opened(tmp_path, 'id,text\n1,"a\nb, ""c"""\n2,"d\r\ne"\n3,5" pipe\n')
    assert cells_of(table) == [("1", 'a\nb, "c"'), ("2", "d\r\ne"), ("3", '5" pipe')]


def test_rows_are_numbered_by_record_and_blank_ones_counted(tmp_path: Path) -> None:
    table = opened(tmp_path, 'id,text\n1,"a\nb"\n\n2,c\n,\n"",""\n3,d')
    assert list(table.rows()) == [Row(2, ("1", "a\nb")), Row(4, ("2", "c")), Row(7, ("3", "d"))]


def test_a_blank_line_above_the_header_is_counted_too(tmp_path: Path) -> None:
    table = opened(tmp_path, "\nid,text\n1,a\n")
    assert table.columns == ("id", "text")
    assert list(table.rows()) == [Row(3, ("1", "a"))]


def test_a_second_pass_gives_the_same_rows(tmp_path: Path) -> None:
    table = opened(tmp_path, "id,text\n1,a\n2,b\n")
    begun = table.rows()
    next(begun)
    assert list(table.rows()) == list(table.rows()) == [Row(2, ("1", "a")), Row(3, ("2", "b"))]
    assert next(begun) == Row(3, ("2", "b"))


@pytest.mark.parametrize(
    ("codec", "bom"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
    ],
)
def test_unicode_encodings(tmp_path: Path, codec: str, bom: bytes) -> None:
    text = "id,text\r\n1,Größe 事故 一\r\n2,Утечка данных 🙂\r\n"
    table = opened(tmp_path, bom + text.encode(codec))
    assert (table.format.encoding, table.format.bom) == (codec, bool(bom))
    assert table.columns == ("id", "text")
    assert cells_of(table) == [("1", "Größe 事故 一"), ("2", "Утечка данных 🙂")]


def test_windows_1252(tmp_path: Path) -> None:
    table = opened(tmp_path, "id,text\n1,Größe – 5 € “quoted”\n".encode("cp1252"))
    assert table.format.encoding == "cp1252"
    assert cells_of(table) == [("1", "Größe – 5 € “quoted”")]


def test_a_character_on_the_edge_of_a_chunk(tmp_path: Path) -> None:
    text = "id,text\n" + "".join(f"{n},{'é' * 999}\n" for n in range(1200))
    table = opened(tmp_path, text)
    assert table.format.encoding == "utf-8"
    assert sum(1 for row in table.rows() if row.cells[1] == "é" * 999) == 1200


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_told_from_the_content(tmp_path: Path, delimiter: str) -> None:
    lines = [["id", "what, where; or who", "n"], ["1", "a; b, c", "2"], ["2", "d|e\tf", "3"]]
    path = tmp_path / "upload"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    table = open_text(path, filename="losses.csv", limits=LIMITS)
    assert table.format.delimiter == delimiter
    assert cells_of(table) == [tuple(line) for line in lines[1:]]


@pytest.mark.parametrize(
    ("name", "content", "delimiter"),
    [
        ("a.csv", "id;amount,eur;text\n1;5,20;a\n2;6,10;b\n", ";"),  # both fit: more columns
        ("a.tsv", "a,b\tc,d\n1,2\t3,4\n", "\t"),  # both fit: the name decides
        ("a.psv", "a,b|c,d\n1,2|3,4\n", "|"),
        ("a.TSV", "a,b\n1,2\n", ","),  # the name is wrong
        ("a.csv", "text\nhello; you\nagain\n", ","),  # one column
        ("a.tsv", "text\nhello, you\nagain\n", "\t"),
        ("a.csv", "id,a;b\n1,x\n2,y;z;w\n", ","),  # only one fits all records
        ("a.csv", "id;a,b\n1;x\n2;y,z,w\n", ";"),
        ("a.csv", 't;n,m\n"a, b";2,3\n', ";"),  # commas would leave text after a closing quote
    ],
)
def test_the_name_is_a_hint(tmp_path: Path, name: str, content: str, delimiter: str) -> None:
    assert opened(tmp_path, content, name).format.delimiter == delimiter


def test_a_sample_that_ends_inside_a_record(tmp_path: Path) -> None:
    row = '1;"' + "a, b, c\n" * 24_000 + 'end"\n'
    table = opened(tmp_path, "id;te,xt\n" + row + row)
    assert table.format.delimiter == ";"
    assert len(cells_of(table)) == 2


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n'])
def test_the_sep_line_is_obeyed_and_is_no_row(tmp_path: Path, first: str) -> None:
    table = opened(tmp_path, first + "id;a,b\n1;2,3\n")
    assert table.format.delimiter == ";"
    assert table.columns == ("id", "a,b")
    assert list(table.rows()) == [Row(2, ("1", "2,3"))]


def test_one_column(tmp_path: Path) -> None:
    table = opened(tmp_path, 'text\na\n\n""\nb\n')
    assert list(table.rows()) == [Row(2, ("a",)), Row(5, ("b",))]


def test_column_names_are_stripped(tmp_path: Path) -> None:
    table = opened(tmp_path, codecs.BOM_UTF8 * 2 + b"id , text\t,\xc2\xa0n\n1,2,3\n")
    assert table.columns == ("id", "text", "n")


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("header", "quote_all"), [('"id","te""xt"', True), ('"id",text', False), ("id,text", False)])
def test_the_format_is_kept(tmp_path: Path, line_end: str, header: str, quote_all: bool) -> None:
    table = opened(tmp_path, f"{header}{line_end}1,a{line_end}")
    assert table.format.kind is FileKind.TEXT
    assert (table.format.line_end, table.format.quote_all) == (line_end, quote_all)
    assert cells_of(table) == [("1", "a")]


def test_line_separators_of_unicode_do_not_end_a_record(tmp_path: Path) -> None:
    table = opened(tmp_path, "id,text\n1,a\u2028b\x0bc\x85d\n")
    assert cells_of(table) == [("1", "a\u2028b\x0bc\x85d")]


def test_a_cell_over_the_csv_modules_own_limit(tmp_path: Path) -> None:
    long = "x" * 150_000
    assert cells_of(opened(tmp_path, f"id,text\n1,{long}\n")) == [("1", long)]


def test_reading_needs_constant_memory(tmp_path: Path) -> None:
    table = opened(tmp_path, "id,text\n" + f"1,{'word ' * 100}\n" * 20_000)
    tracemalloc.start()
    count = sum(1 for _ in table.rows())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak_bytes < 3_000_000


@pytest.mark.parametrize(("position", "letter"), [(0, "A"), (3, "D"), (25, "Z"), (26, "AA"), (701, "ZZ"), (702, "AAA")])
def test_column_letters(position: int, letter: str) -> None:
    assert column_letter(position) == letter
