"""Workbooks for the xlsx tests, built by hand part by part, and a check of the builder itself."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import openpyxl

from batch_jobs.intake.xlsx import XlsxTable, open_xlsx
from batch_jobs.table import IntakeLimits

LIMITS = IntakeLimits(max_bytes=10**9, max_rows=1_000_000, max_columns=1_000, max_cell_chars=200_000)
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
STRICT = "http://purl.oclc.org/ooxml/spreadsheetml/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
MAIN_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
SHARED_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
STYLES = (
    f'<styleSheet xmlns="{MAIN}"><numFmts count="2"><numFmt numFmtId="170" formatCode="[h]:mm:ss"/>'
    '<numFmt numFmtId="171" formatCode="0.0 &quot;days&quot;"/></numFmts><fonts count="1"><font/></fonts>'
    '<fills count="1"><fill><patternFill/></fill></fills><borders count="1"><border/></borders>'
    '<cellStyleXfs count="1"><xf/></cellStyleXfs>'
    '<cellXfs count="6"><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="22"/><xf numFmtId="170"/>'
    '<xf numFmtId="171"/><xf numFmtId="21"/></cellXfs><cellStyles count="1">'
    '<cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>'
)


def sheet_xml(rows: str, *, head: str = "", tail: str = "") -> str:
    return f'<worksheet xmlns="{MAIN}">{head}<sheetData>{rows}</sheetData>{tail}</worksheet>'


def text_cell(reference: str, text: str) -> str:
    return f'<c r="{reference}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


def header_row(*names: str) -> str:
    return f'<row r="1">{"".join(text_cell(f"{chr(65 + at)}1", name) for at, name in enumerate(names))}</row>'


def book_parts(
    sheets: Sequence[str], *, shared: str | None = None, names: Sequence[str] = (), date1904: bool = False
) -> dict[str, str]:
    """All parts of a workbook: sheet XML by tab, and the text of `sst`'s inside."""
    names = names or [f"Sheet{number}" for number in range(1, len(sheets) + 1)]
    listed = "".join(
        f'<sheet name="{name}" sheetId="{number}" r:id="rId{number}"/>' for number, name in enumerate(names, 1)
    )
    related = "".join(
        f'<Relationship Id="rId{number}" Type="{OFFICE}/worksheet" Target="worksheets/sheet{number}.xml"/>'
        for number in range(1, len(sheets) + 1)
    )
    related += f'<Relationship Id="st" Type="{OFFICE}/styles" Target="styles.xml"/>'
    strings = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{SHARED_TYPE}"/>' if shared is not None else ""
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="xml" '
        'ContentType="application/xml"/><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{MAIN_TYPE}"/>{strings}</Types>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><workbookPr date1904="{int(date1904)}"/>'
        f"<sheets>{listed}</sheets></workbook>",
        "xl/styles.xml": STYLES,
    }
    if shared is not None:
        related += f'<Relationship Id="ss" Type="{OFFICE}/sharedStrings" Target="sharedStrings.xml"/>'
        parts["xl/sharedStrings.xml"] = f'<sst xmlns="{MAIN}">{shared}</sst>'
    parts["xl/_rels/workbook.xml.rels"] = f'<Relationships xmlns="{PACKAGE}/relationships">{related}</Relationships>'
    for number, xml in enumerate(sheets, 1):
        parts[f"xl/worksheets/sheet{number}.xml"] = xml
    return parts


def save(path: Path, parts: dict[str, str] | dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in parts.items():
            out.writestr(name, content)
    return path


def save_sheet(folder: Path, xml: str, *, shared: str | None = None, date1904: bool = False) -> Path:
    return save(folder / "book.xlsx", book_parts([xml], shared=shared, date1904=date1904))


def opened(path: Path, *, sheet: str | None = None, limits: IntakeLimits = LIMITS) -> XlsxTable:
    return open_xlsx(path, filename="losses.xlsx", sheet=sheet, limits=limits)


def read(path: Path, *, sheet: str | None = None, limits: IntakeLimits = LIMITS) -> list[tuple[int, tuple[str, ...]]]:
    return [(row.number, row.cells) for row in opened(path, sheet=sheet, limits=limits).rows()]


def test_the_hand_made_workbook_is_one_that_openpyxl_opens(tmp_path: Path) -> None:
    path = save_sheet(tmp_path, sheet_xml(header_row("a", "b") + '<row r="2"><c r="B2"><v>4</v></c></row>'))
    sheet = openpyxl.load_workbook(path).worksheets[0]
    assert [[cell.value for cell in row] for row in sheet.iter_rows()] == [["a", "b"], [None, 4]]
