"""A worksheet is read cell by cell as stored, whoever wrote the workbook; what is not plain is refused by place."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from pathlib import Path

import openpyxl
import pytest
import xlsxwriter

from batch_jobs.errors import FileRefused, UnknownName
from batch_jobs.table import FileKind
from tests.contract.tables.test_xlsx_books import (
    LIMITS,
    MAIN,
    STRICT,
    book_parts,
    header_row,
    opened,
    read,
    save,
    save_sheet,
    sheet_xml,
    text_cell,
)

ROW_2 = '<row r="2"><c r="A2"><v>1</v></c></row>'
CALCULATED = "never calculated.*save it"


def row_2(*cells: str, names: tuple[str, ...] = ("id",)) -> str:
    return header_row(*names) + f'<row r="2">{"".join(cells)}</row>'


def one_cell(folder: Path, cell: str, *, shared: str | None = None, date1904: bool = False) -> str:
    """The text of cell B2, beside an id in A2."""
    xml = sheet_xml(header_row("id", "value") + f'<row r="2"><c r="A2"><v>1</v></c>{cell}</row>')
    ((_, cells),) = read(save_sheet(folder, xml, shared=shared, date1904=date1904))
    return cells[1]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('<c r="B2"><v>3</v></c>', "3"),
        ('<c r="B2"><v>3.0</v></c>', "3"),
        ('<c r="B2"><v>-5</v></c>', "-5"),
        ('<c r="B2"><v>12345678901234</v></c>', "12345678901234"),
        ('<c r="B2"><v>1.234567890123457E+17</v></c>', "123456789012345700"),
        ('<c r="B2"><v>1E+22</v></c>', "1e+22"),
        ('<c r="B2"><v>0.1</v></c>', "0.1"),
        ('<c r="B2"><v>0.30000000000000004</v></c>', "0.30000000000000004"),
        ('<c r="B2"><v>1E-7</v></c>', "1e-07"),
        ('<c r="B2" s="4"><v>2.5</v></c>', "2.5"),
        ('<c r="B2" t="b"><v>1</v></c>', "TRUE"),
        ('<c r="B2" t="b"><v>0</v></c>', "FALSE"),
        ('<c r="B2" t="e"><v>#N/A</v></c>', "#N/A"),
        ('<c r="B2" t="e"><f>1/0</f><v>#DIV/0!</v></c>', "#DIV/0!"),
        ('<c r="B2" s="1"><v>46082</v></c>', "2026-03-01"),
        ('<c r="B2" s="2"><v>46082</v></c>', "2026-03-01"),
        ('<c r="B2" s="2"><v>46082.572916666664</v></c>', "2026-03-01T13:45:00"),
        ('<c r="B2" s="2"><v>46082.57292245371</v></c>', "2026-03-01T13:45:00.500"),
        ('<c r="B2" s="5"><v>0.5729166666666666</v></c>', "13:45:00"),
        ('<c r="B2" s="3"><v>1.25</v></c>', "30:00:00"),
        ('<c r="B2" t="d"><v>2026-03-01T13:45:00</v></c>', "2026-03-01T13:45:00"),
        ('<c r="B2" t="str"><f>A2&amp;"x"</f><v>1x</v></c>', "1x"),
        ('<c r="B2" t="str"><f>IF(A2,"")</f><v></v></c>', ""),
        ('<c r="B2"><f>1+2</f><v>3</v></c>', "3"),
        (text_cell("B2", "007"), "007"),
        (text_cell("B2", " x "), " x "),
        (text_cell("B2", "a\nb"), "a\nb"),
        (text_cell("B2", "1e5 &lt;&amp;&gt; ü 𝄞"), "1e5 <&> ü 𝄞"),
        (text_cell("B2", "a_x000D_b _x005F_x0041_"), "a\rb _x0041_"),
        ('<c r="B2" t="inlineStr"><is><r><t>ri</t></r><r><rPr><b/></rPr><t>ch</t></r></is></c>', "rich"),
    ],
)
def test_every_kind_of_cell_becomes_its_text(tmp_path: Path, cell: str, text: str) -> None:
    assert one_cell(tmp_path, cell) == text


def test_dates_count_from_1904_where_the_workbook_says_so(tmp_path: Path) -> None:
    assert one_cell(tmp_path, '<c r="B2" s="1"><v>44620</v></c>', date1904=True) == "2026-03-01"


@pytest.mark.parametrize(
    ("string", "text"),
    [
        ('<si><t xml:space="preserve"> 007 </t></si>', " 007 "),
        ("<si><r><t>ri</t></r><r><t>ch</t></r></si>", "rich"),
        ('<si><t>東京</t><rPh sb="0" eb="2"><t>トウキョウ</t></rPh></si>', "東京"),
        ("<si/>", ""),
    ],
)
def test_shared_strings_are_plain_text(tmp_path: Path, string: str, text: str) -> None:
    assert one_cell(tmp_path, '<c r="B2" t="s"><v>0</v></c>', shared=string) == text


@pytest.mark.parametrize(
    ("xml", "why"),
    [
        (f'<x:worksheet xmlns:x="{MAIN}"><x:sheetData>%s</x:sheetData></x:worksheet>', "prefix"),
        (f'<worksheet xmlns="{STRICT}"><sheetData>%s</sheetData></worksheet>', "strict edition"),
        (f'\ufeff<?xml version="1.0" encoding="utf-8"?>\n{sheet_xml("%s")}', "BOM"),
    ],
)
def test_the_dialects_of_sheet_xml_are_read_alike(tmp_path: Path, xml: str, why: str) -> None:
    rows = header_row("id", "text") + f'<row r="2"><c r="A2"><v>1</v></c>{text_cell("B2", "one")}</row>'
    if why == "prefix":
        rows = re.sub(r"<(/?)(\w)", r"<\1x:\2", rows)
    assert read(save_sheet(tmp_path, xml % rows)) == [(2, ("1", "one"))]


def test_cells_and_rows_without_references_are_counted(tmp_path: Path) -> None:
    rows = (
        '<row><c t="inlineStr"><is><t>id</t></is></c><c t="inlineStr"><is><t>n</t></is></c></row><row/>'
        "<row><c><v>1</v></c><c><v>2</v></c></row><row><c/><c><v>4</v></c></row>"
    )
    assert read(save_sheet(tmp_path, sheet_xml(rows))) == [(3, ("1", "2")), (4, ("", "4"))]


def test_blank_rows_are_no_rows_but_are_counted(tmp_path: Path) -> None:
    rows = (
        header_row("id", "text")
        + f'<row r="2"><c r="A2"><v>1</v></c></row><row r="3"><c r="A3" s="1"/>{text_cell("B3", "")}</row>'
        + '<row r="4"><c r="A4" t="str"><f>""</f><v></v></c></row><row r="9"><c r="B9"><v>0</v></c></row>'
        + '<row r="12"><c r="A12" s="1"/></row>'
    )
    assert read(save_sheet(tmp_path, sheet_xml(rows))) == [(2, ("1", "")), (9, ("", "0"))]


def test_columns_that_are_only_formatted_are_none(tmp_path: Path) -> None:
    rows = (
        '<row r="1">' + text_cell("A1", " id ") + '<c r="B1" s="1"/><c r="XFD1" s="1"/></row>'
        f'<row r="2"><c r="A2"><v>1</v></c><c r="D2" s="2"/>{text_cell("E2", "")}</row>'
    )
    table = opened(save_sheet(tmp_path, sheet_xml(rows)))
    assert table.columns == ("id",)
    assert [row.cells for row in table.rows()] == [("1",)]


def test_rows_and_columns_formatted_to_the_sheets_end_cost_nothing(tmp_path: Path) -> None:
    rows = (
        header_row(*"abcdefghijklmnopqrstuvwxyz")
        + ROW_2
        + '<row r="3"><c r="A3" s="1"/><c r="XFD3" s="1"/></row>'
        + '<row r="1048576" s="1" customFormat="1"><c r="A1048576" s="1"/></row>'
    )
    assert [number for number, _ in read(save_sheet(tmp_path, sheet_xml(rows)))] == [2]


def test_rows_can_be_read_again_and_the_format_names_the_sheet(tmp_path: Path) -> None:
    table = opened(save_sheet(tmp_path, sheet_xml(header_row("id") + '<row r="2"><c r="A2"><v>1</v></c></row>')))
    assert list(table.rows()) == list(table.rows())
    assert (table.format.kind, table.format.sheet) == (FileKind.XLSX, "Sheet1")


def test_the_first_visible_worksheet_is_taken_or_the_named_one(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    first = book.worksheets[0]
    first.title, first.sheet_state = "Notes", "hidden"
    first.append(["note"])
    first.append(["hidden"])
    book.create_chartsheet("Chart")
    data = book.create_sheet("Q3 & more")
    data.append(["id"])
    data.append(["shown"])
    path = tmp_path / "book.xlsx"
    book.save(path)
    assert opened(path).format.sheet == "Q3 & more"
    assert read(path, sheet="Notes") == [(2, ("hidden",))]
    with pytest.raises(UnknownName, match=r'no sheet "Q3 & moer"; did you mean "Q3 & more"\?.*"Notes", "Q3 & more"'):
        opened(path, sheet="Q3 & moer")


def test_openpyxl_and_xlsxwriter_workbooks_are_read_alike(tmp_path: Path) -> None:
    values = ["007", 12, 0.1, True, dt.datetime(2026, 3, 1, 13, 45), dt.date(2026, 3, 1), dt.time(13, 45)]  # noqa: DTZ001
    names = [f"c{at}" for at in range(len(values))]
    book = openpyxl.Workbook()
    book.worksheets[0].append(names)
    book.worksheets[0].append(values)
    book.save(tmp_path / "openpyxl.xlsx")
    with xlsxwriter.Workbook(tmp_path / "xlsxwriter.xlsx") as written:
        sheet = written.add_worksheet()
        sheet.write_row(0, 0, names)
        for at, value in enumerate(values):
            code = {dt.date: "yyyy-mm-dd", dt.time: "hh:mm", dt.datetime: "yyyy-mm-dd hh:mm"}.get(type(value))
            sheet.write(1, at, value, written.add_format({"num_format": code}) if code else None)
    expected = ("007", "12", "0.1", "TRUE", "2026-03-01T13:45:00", "2026-03-01", "13:45:00")
    assert read(tmp_path / "openpyxl.xlsx") == [(2, expected)]
    assert read(tmp_path / "xlsxwriter.xlsx") == [(2, expected)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "the sheet is empty"),
        ('<row r="1"><c r="A1" s="1"/></row>', "the sheet is empty"),
        (header_row("id"), "has a header but no rows"),
        (f'<row r="4">{text_cell("A4", "id")}</row>', "first row of the sheet is empty.*from row 4 to row 1"),
        (f'<row r="1">{text_cell("A1", "id")}{text_cell("C1", "x")}</row>{ROW_2}', "row 1: .*no name in column B"),
        ('<row r="1">' + text_cell("B1", "x") + f"</row>{ROW_2}", "no name in column A"),
        (header_row("id", " ", "x") + ROW_2, "no name in column B"),
        (header_row("id", "text", "id") + ROW_2, 'same name more than once: "id"'),
        (row_2('<c r="A2"><v>1</v></c><c r="C2"><v>2</v></c>'), 'row 2, column "C": .*no name'),
        (row_2('<c r="B2" t="str"><f>""</f><v></v></c>'), 'row 2, column "B": .*no name'),
        (row_2('<c r="A2"><f>1+1</f></c>'), f'row 2, column "A": .*{CALCULATED}'),
        (row_2('<c r="A2"><f>1+1</f><v/></c>'), f'row 2, column "A": .*{CALCULATED}'),
        (row_2('<c r="A2" t="str"><f>B1</f></c>'), f'row 2, column "A": .*{CALCULATED}'),
        (header_row("id", "n") + '<row r="7"><c r="B7"><f>1</f></c></row>', f'row 7, column "B": .*{CALCULATED}'),
        (row_2(text_cell("A2", "a_x0000_b")), 'row 2, column "id": .*control character .U.0000'),
        (row_2(text_cell("A2", "x" * 1_001)), 'row 2, column "id": .*more than 1,000 char'),
        (row_2('<c r="A2" t="e"><v>#WHAT!</v></c>'), 'row 2, column "A": .*error that can.t'),
        (row_2('<c r="A2" t="s"><v>5</v></c>'), 'row 2, column "A": .*missing'),
        (row_2('<c r="A2" t="s"><v>-1</v></c>'), 'row 2, column "A": .*missing'),
        (row_2('<c r="A2"><v>1<!-- -->4</v></c>'), 'row 2, column "A": .*without guessing'),
        (row_2('<c r="A2"><v><![CDATA[14]]></v></c>'), 'row 2, column "A": .*without guessing'),
        (row_2('<c r="A2"><v>1</v><v>2</v></c>'), 'row 2, column "A": .*more than one value'),
        (row_2('<c r="A2" t="inlineStr"><v>1</v></c>'), "row 2: .*without guessing"),
        (row_2('<c r="A2"><v>x</v></c><c r="A2"><v>2</v></c>'), "row 2 are out of order"),
        (row_2('<c r="A2"><v>1</v><c r="B2"/></c>'), "row 2 are out of order"),
        (header_row("id") + '<c r="A2"><v>1</v></c>', "row 1 are out of order"),
        (header_row("id") + '<row r="2"><row r="3"/></row>', "out of order after row 2"),
        (header_row("id") + '<row r="2"><v>1</v></row>', "row 2: .*more than one value"),
        (header_row("id") + '<row r="2"><t>1</t></row>', "row 2: .*outside of the cells"),
        (header_row("id") + '<row r="1048577"/>', "out of order after row 1"),
        (row_2('<c r="A3"><v>1</v></c>'), "row 2 are out of order or in a wrong place"),
        (header_row("id") + ROW_2 + ROW_2, "rows are out of order after row 2"),
        (row_2('<c r="A2" t="n"><v>abc</v></c>'), "the sheet can't be read"),
    ],
)
def test_what_can_not_be_read_without_guessing_is_refused_by_place(tmp_path: Path, rows: str, message: str) -> None:
    limits = dataclasses.replace(LIMITS, max_cell_chars=1_000)
    with pytest.raises(FileRefused, match=message) as refused:
        read(save_sheet(tmp_path, sheet_xml(rows)), limits=limits)
    assert str(refused.value).startswith("losses.xlsx")


@pytest.mark.parametrize(("ref", "fine"), [("A1:B1", False), ("B2:C3", False), ("A2:A3", True), ("A9:C9", True)])
def test_merged_cells_that_would_hide_our_columns_are_refused(tmp_path: Path, ref: str, fine: bool) -> None:
    merged = f'<mergeCells count="1"><mergeCell ref="{ref}"/></mergeCells>'
    path = save_sheet(tmp_path, sheet_xml(header_row("id") + ROW_2, tail=merged))
    if fine:
        assert read(path) == [(2, ("1",))]
    else:
        with pytest.raises(FileRefused, match=f"merged cells {ref} reach to the right.*Unmerge them"):
            read(path)


def test_too_many_rows_and_columns_are_refused(tmp_path: Path) -> None:
    rows = header_row("id", "x") + "".join(f'<row r="{at}"><c r="A{at}"><v>1</v></c></row>' for at in range(2, 6))
    path = save_sheet(tmp_path, sheet_xml(rows))
    assert len(read(path, limits=dataclasses.replace(LIMITS, max_rows=4, max_columns=2))) == 4
    with pytest.raises(FileRefused, match=r"more than 3 rows.*Split it into files of 3 rows"):
        opened(path, limits=dataclasses.replace(LIMITS, max_rows=3))
    with pytest.raises(FileRefused, match="has 2 columns, more than 1"):
        opened(path, limits=dataclasses.replace(LIMITS, max_columns=1))


def test_parts_are_found_by_relation_wherever_they_are(tmp_path: Path) -> None:
    parts = book_parts(
        [sheet_xml(header_row("id") + '<row r="2"><c r="A2" t="s"><v>0</v></c></row>')], shared="<si><t>x</t></si>"
    )
    parts["xl/deep/Table.xml"] = parts.pop("xl/worksheets/sheet1.xml")
    parts["xl/words.xml"] = parts.pop("xl/sharedStrings.xml")
    parts["xl/_rels/workbook.xml.rels"] = (
        parts["xl/_rels/workbook.xml.rels"]
        .replace("worksheets/sheet1.xml", "/xl/deep/table.xml")
        .replace("sharedStrings.xml", "../xl/words.xml")
    )
    assert read(save(tmp_path / "book.xlsx", parts)) == [(2, ("x",))]
