"""The workbook that comes back is the user's, byte for byte but for our columns: same rows, same order, same cells."""

from __future__ import annotations

import datetime as dt
import io
import re
import tracemalloc
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import xlsxwriter
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.formatting.rule import Rule
from openpyxl.styles import Font, PatternFill
from openpyxl.workbook.defined_name import DefinedName
from python_calamine import CalamineWorkbook

from batch_jobs.output.xlsx import write_xlsx
from batch_jobs.output.xlsx_cells import CUT_MARK, MAX_CELL_UNITS, escaped, fitted
from batch_jobs.table import FileKind, TableFormat
from tests.contract.tables.test_xlsx_books import (
    MAIN,
    book_parts,
    header_row,
    opened,
    read,
    save,
    save_sheet,
    sheet_xml,
)

SHEET = "xl/worksheets/sheet1.xml"
FORMAT = TableFormat(kind=FileKind.XLSX, sheet="Sheet1")


def written(upload: Path, cells: Iterable[Sequence[str]], columns: Sequence[str] = ("summary",)) -> Path:
    target = upload.with_name("out.xlsx")
    write_xlsx(upload, opened(upload).format, target, columns, cells)
    return target


def part(path: Path, name: str = SHEET) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode()


def values(path: Path, sheet: int = 0) -> list[list[Any]]:
    return [[cell.value for cell in row] for row in openpyxl.load_workbook(path).worksheets[sheet].iter_rows()]


def rich_workbook(path: Path) -> Path:
    """A table with blank rows between, beside all that people put into workbooks."""
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.title = "Losses"
    sheet.append(["id", "when", "amount", "text", "twice"])
    for cell in sheet[1]:
        cell.font, cell.fill = Font(bold=True, color="FFFFFF"), PatternFill("solid", fgColor="224466")
    for at in (2, 3, 4, 7, 8, 9, 10, 11):
        sheet.cell(at, 1, f"00{at}")
        sheet.cell(at, 2, dt.date(2026, 3, at))
        sheet.cell(at, 3, at * 1.5).number_format = "#,##0.00 €"
        sheet.cell(at, 4, f"Pump {at} failed")
        sheet.cell(at, 5, at)
    sheet.merge_cells("A5:B6")
    sheet.auto_filter.ref = "A1:E11"
    sheet.freeze_panes = "A2"
    sheet.conditional_formatting.add("C2:C11", Rule("cellIs", operator="greaterThan", formula=["10"]))
    for at in range(2, 30):
        sheet.cell(at, 7).fill = PatternFill("solid", fgColor="EEEEEE")  # formatted, empty, right of the table
    other = book.create_sheet("Other")
    other.append(["x", 1, dt.date(2026, 1, 1)])
    book.defined_names["Total"] = DefinedName("Total", attr_text="Losses!$C$2:$C$11")
    book.save(path)
    return path


def test_other_parts_are_identical_and_in_the_same_order(tmp_path: Path) -> None:
    upload = rich_workbook(tmp_path / "book.xlsx")
    target = written(upload, [[f"answer {at}"] for at in range(8)])
    with zipfile.ZipFile(upload) as before, zipfile.ZipFile(target) as after:
        assert after.testzip() is None
        assert after.namelist() == before.namelist()
        for name in before.namelist():
            if name != SHEET:
                assert after.read(name) == before.read(name), name
            assert after.getinfo(name).date_time == before.getinfo(name).date_time


def test_every_original_cell_is_the_same_to_openpyxl(tmp_path: Path) -> None:
    upload = rich_workbook(tmp_path / "book.xlsx")
    target = written(upload, [[f"answer {at}"] for at in range(8)])
    before, after = (openpyxl.load_workbook(path) for path in (upload, target))
    assert after.sheetnames == before.sheetnames
    for name in before.sheetnames:
        for row in before[name].iter_rows():
            for cell in row:
                there = after[name][cell.coordinate]
                if name == "Losses" and cell.column == 6:
                    continue
                assert (there.value, there.data_type, there.number_format) == (
                    cell.value,
                    cell.data_type,
                    cell.number_format,
                )
                assert (repr(there.font), repr(there.fill), there.style_id) == (
                    repr(cell.font),
                    repr(cell.fill),
                    cell.style_id,
                )
    sheet = after["Losses"]
    assert sheet.merged_cells.ranges == before["Losses"].merged_cells.ranges
    assert sheet.auto_filter.ref == "A1:E11"
    assert len(sheet.conditional_formatting) == 1
    assert after.defined_names["Total"].attr_text == "Losses!$C$2:$C$11"


def test_each_row_gets_its_own_answer_with_blank_rows_between(tmp_path: Path) -> None:
    upload = rich_workbook(tmp_path / "book.xlsx")
    rows = read(upload)
    assert [number for number, _ in rows] == [2, 3, 4, 7, 8, 9, 10, 11]
    target = written(upload, [[f"for {cells[0]}", cells[3]] for _, cells in rows], ("summary", "copy"))
    sheet = openpyxl.load_workbook(target)["Losses"]
    assert [sheet.cell(1, column).value for column in (5, 6, 7, 8)] == ["twice", "summary", "copy", None]
    for number, cells in rows:
        assert sheet.cell(number, 6).value == f"for {cells[0]}" == f"for 00{number}"
        assert sheet.cell(number, 7).value == cells[3]
    assert sheet.cell(5, 6).value is sheet.cell(6, 7).value is sheet.cell(12, 6).value is None
    assert sheet.cell(2, 7).fill.fgColor.rgb == "00EEEEEE"  # the format that stood there
    assert sheet.cell(1, 6).font.bold
    assert sheet.cell(1, 6).fill.fgColor.rgb == "00224466"
    assert re.search(r'<dimension ref="A1:[G-H]\d+"', part(target))


def test_charts_images_tables_and_cached_formulas_survive(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet("Data")
        sheet.add_table(0, 0, 4, 2, {"columns": [{"header": "id"}, {"header": "n"}, {"header": "double"}]})
        for at in range(1, 5):
            sheet.write_row(at, 0, [f"r{at}", at])
            sheet.write_formula(at, 2, f"=B{at + 1}*2", None, at * 2)
        chart = book.add_chart({"type": "line"})
        chart.add_series({"values": "=Data!$B$2:$B$5"})
        sheet.insert_chart("H2", chart)
        sheet.insert_image("H20", "dot.png", {"image_data": io.BytesIO(PNG)})
        sheet.data_validation("B2:B5", {"validate": "integer", "criteria": ">", "value": 0})
    assert [cells[2] for _, cells in read(path)] == ["2", "4", "6", "8"]
    target = written(path, [["a"], ["b"], ["c"], ["d"]])
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(target) as after:
        changed = [name for name in before.namelist() if before.read(name) != after.read(name)]
        assert changed == [SHEET]
        assert {"xl/charts/chart1.xml", "xl/media/image1.png", "xl/tables/table1.xml"} <= set(after.namelist())
    book_after = openpyxl.load_workbook(target)
    after_sheet = book_after["Data"]
    assert [row[2].value for row in after_sheet.iter_rows(min_row=2)] == [f"=B{at}*2" for at in range(2, 6)]
    cached = openpyxl.load_workbook(target, data_only=True)["Data"]
    assert [[cell.value for cell in row[2:]] for row in cached.iter_rows(min_row=2)] == [
        [2, "a"],
        [4, "b"],
        [6, "c"],
        [8, "d"],
    ]
    assert after_sheet.tables["Table1"].ref == "A1:C5"


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc0000000030001c9fe92ef0000000049454e44ae426082"
)

EXCEL_SHEET = (
    '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\r\n'
    f'<worksheet xmlns="{MAIN}" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'mc:Ignorable="x14ac" xmlns:x14ac="http://schemas.microsoft.com/office/spreadsheetml/2009/9/ac">'
    '<dimension ref="A1:B4"/><sheetViews><sheetView workbookViewId="0"/></sheetViews>'
    '<sheetFormatPr defaultRowHeight="15" x14ac:dyDescent="0.25"/><sheetData>'
    '<row r="1" spans="1:2" ht="30" x14ac:dyDescent="0.25"><c r="A1" s="1" t="s"><v>0</v></c>'
    '<c r="B1" s="2" t="s"><v>1</v></c></row>'
    '<row r="2" spans="1:2" x14ac:dyDescent="0.25"><c r="A2"><v>7</v></c><c r="B2" t="s"><v>2</v></c></row>'
    '<row r="3" spans="1:2" x14ac:dyDescent="0.25"/>'
    '<row r="4" spans="1:2" x14ac:dyDescent="0.25"><c r="B4" t="str"><f>A2&amp;"!"</f><v>7!</v></c></row>'
    "</sheetData><!-- <row> --><pageMargins left='0.7' right='0.7' top='0.75' bottom='0.75' header='0.3' footer='0.3'/>"
    "</worksheet>"
)


def test_the_sheet_is_the_original_but_for_the_inserted_bytes(tmp_path: Path) -> None:
    shared = "<si><t>id</t></si><si><t>text</t></si><si><t>seven</t></si>"
    target = written(save_sheet(tmp_path, EXCEL_SHEET, shared=shared), [["one"], [""]])
    new = part(target)
    assert '<c r="C1" s="2" t="inlineStr"><is><t xml:space="preserve">summary</t></is></c></row>' in new
    assert '<c r="C2" t="inlineStr"><is><t xml:space="preserve">one</t></is></c></row>' in new
    assert '<dimension ref="A1:C4"/>' in new
    back = re.sub(r'<c r="C\d".*?</c>', "", new).replace("A1:C4", "A1:B4")
    assert back == EXCEL_SHEET.replace(' spans="1:2"', "")


def test_a_prefixed_sheet_gets_prefixed_cells(tmp_path: Path) -> None:
    rows = header_row("id") + '<row r="2"><c r="A2"><v>1</v></c><c r="B2" s="1"></c></row>'
    xml = re.sub(r"<(/?)(\w)", r"<\1x:\2", sheet_xml(rows, head='<dimension ref="A1"></dimension>'))
    target = written(save_sheet(tmp_path, xml.replace("xmlns=", "xmlns:x=")), [["one"]])
    assert '<x:c r="B2" s="1" t="inlineStr"><x:is><x:t xml:space="preserve">one</x:t></x:is></x:c></x:row>' in part(
        target
    )
    assert '<x:dimension ref="A1:B1"></x:dimension>' in part(target)
    assert values(target) == [["id", "summary"], [1, "one"]]


def test_rows_without_references_get_cells_with_one(tmp_path: Path) -> None:
    rows = (
        '<row><c t="inlineStr"><is><t>id</t></is></c><c t="inlineStr"><is><t>n</t></is></c></row><row/><row></row>'
        "<row><c><v>1</v></c></row>"
    )
    target = written(save_sheet(tmp_path, sheet_xml(rows)), [["one"]])
    assert values(target)[0] == ["id", "n", "summary"]
    assert values(target)[3] == [1, None, "one"]


def test_formatted_empty_cells_make_way_and_those_further_right_stay(tmp_path: Path) -> None:
    spare = '<c r="B2" s="3"/> <c r="C2" s="4"></c><c r="D2" s="5"/>'
    rows = (
        header_row("id") + f'<row r="2"><c r="A2"><v>1</v></c>{spare}</row><row r="3">{spare.replace("2", "3")}</row>'
    )
    target = written(save_sheet(tmp_path, sheet_xml(rows)), [["one", ""]], ("a", "b"))
    assert part(target).endswith(
        '<row r="2"><c r="A2"><v>1</v></c><c r="B2" s="3" t="inlineStr"><is><t xml:space="preserve">one</t></is></c>'
        f'<c r="C2" s="4"/><c r="D2" s="5"/></row><row r="3">{spare.replace("2", "3")}</row></sheetData></worksheet>'
    )


def test_our_columns_are_read_back_and_can_be_extended_again(tmp_path: Path) -> None:
    upload = save_sheet(tmp_path, EXCEL_SHEET, shared="<si><t>id</t></si><si><t>text</t></si><si><t>seven</t></si>")
    once = written(upload, [["one"], ["two"]])
    again = once.rename(tmp_path / "again.xlsx")
    assert read(written(again, [["1"], ["2"]], ("more",))) == [
        (2, ("7", "seven", "one", "1")),
        (4, ("", "7!", "two", "2")),
    ]


HOSTILE = [
    *("=1+1", '=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "＝1", "12", "TRUE", "2026-03-01", "#N/A"),
    *("</t></is></c><c><f>1+1</f></c>", "]]>", "&amp;", "<!-- -->", '"', "_x0041_", "_x0041_x0042_", "a\rb\nc\td"),
]


def test_hostile_answers_are_text_and_never_formulas(tmp_path: Path) -> None:
    rows = header_row("id") + "".join(
        f'<row r="{at}"><c r="A{at}"><v>{at}</v></c></row>' for at in range(2, 2 + len(HOSTILE))
    )
    target = written(save_sheet(tmp_path, sheet_xml(rows)), [[text] for text in HOSTILE])
    cells = [row[1] for row in openpyxl.load_workbook(target).worksheets[0].iter_rows(min_row=2)]
    assert "<f>" not in part(target)
    assert {cell.data_type for cell in cells if not str(cell.value).startswith(("=", "#"))} == {"s"}
    assert [cells[1] for _, cells in read(target)] == HOSTILE


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffe\uffff"), min_size=1, max_size=40))
def test_any_text_comes_back_exactly(text: str) -> None:
    xml = sheet_xml(
        f'<row r="1"><c r="A1" t="inlineStr"><is><t xml:space="preserve">{escaped(text)}</t></is></c></row>'
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, content in book_parts([xml]).items():
            out.writestr(name, content)
    buffer.seek(0)
    (row,) = CalamineWorkbook.from_filelike(buffer).get_sheet_by_index(0).to_python()
    assert row == [text]


def test_characters_that_xml_lacks_are_escaped_as_excel_does() -> None:
    assert escaped("a\x0bb\x00\uffff\ud800") == "a_x000B_b_x0000__xFFFF__xD800_"
    assert escaped("_x0041_ _X0041_ _x004_") == "_x005F_x0041_ _X0041_ _x004_"


@pytest.mark.parametrize("char", ["x", "𝄞"])
def test_a_cell_that_is_too_long_is_cut_with_a_mark_and_counted(tmp_path: Path, char: str) -> None:
    upload = save_sheet(tmp_path, sheet_xml(header_row("id") + '<row r="2"><c r="A2"><v>1</v></c></row>'))
    target = tmp_path / "out.xlsx"
    assert write_xlsx(upload, FORMAT, target, ["a", "b"], [["fits", char * 40_000]]) == 1
    ((_, cells),) = read(target)
    assert cells[2].endswith(CUT_MARK)
    assert MAX_CELL_UNITS - 1 <= len(cells[2].encode("utf-16-le")) // 2 <= MAX_CELL_UNITS
    assert fitted("x" * MAX_CELL_UNITS) == "x" * MAX_CELL_UNITS


@pytest.mark.parametrize("cells", [[], [["1"]], [["1"], ["2"], ["3"]], [["1"], ["2", "3"]], [["1"], []]])
def test_too_few_or_too_many_cells_are_an_error(tmp_path: Path, cells: list[list[str]]) -> None:
    rows = header_row("id") + '<row r="2"><c r="A2"><v>1</v></c></row><row r="4"><c r="A4"><v>1</v></c></row>'
    with pytest.raises(ValueError, match=r"expected 1 cells to append|more entries"):
        written(save_sheet(tmp_path, sheet_xml(rows)), cells)


def test_the_named_sheet_is_the_one_that_is_changed(tmp_path: Path) -> None:
    table = sheet_xml(header_row("id") + '<row r="2"><c r="A2"><v>1</v></c></row>')
    upload = save(tmp_path / "book.xlsx", book_parts([table, table], names=["One", "Two"]))
    target = tmp_path / "out.xlsx"
    write_xlsx(upload, TableFormat(kind=FileKind.XLSX, sheet="Two"), target, ["x"], [["y"]])
    assert values(target, 0) == [["id"], [1]]
    assert values(target, 1) == [["id", "x"], [1, "y"]]


@pytest.mark.parametrize("size", range(1, 40))
def test_places_are_right_wherever_a_chunk_ends(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spare = '<c r="B{0}" s="3"/><c r="C{0}" s="4"></c>'
    rows = header_row("id") + "".join(
        f'<row r="{at}" spans="1:1"><c r="A{at}"><v>{at}</v></c>{spare.format(at) if at % 2 else ""}</row>'
        f'<row r="{at + 1}"/>'
        for at in range(2, 20, 3)
    )
    upload = save_sheet(tmp_path, sheet_xml(rows, head='<dimension ref="A1:A18"></dimension>'))
    monkeypatch.setattr("batch_jobs.intake.xlsx_package.CHUNK_BYTES", size)
    table = read(written(upload, [[f"answer {at}"] for at in range(2, 20, 3)]))
    assert table == [(at, (str(at), f"answer {at}")) for at in range(2, 20, 3)]


def test_writing_takes_constant_memory(tmp_path: Path) -> None:
    rows = "".join(f'<row r="{at}"><c r="A{at}"><v>{at}</v></c></row>' for at in range(2, 60_002))
    upload = save_sheet(tmp_path, sheet_xml(header_row("id") + rows))
    tracemalloc.start()
    try:
        write_xlsx(
            upload, FORMAT, tmp_path / "out.xlsx", ["a"], ([f"a fairly long answer {at}" * 5] for at in range(60_000))
        )
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()
