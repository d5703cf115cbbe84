"""A workbook made to hurt is refused in under two seconds and 100 MB, and never makes us open a connection."""

from __future__ import annotations

import dataclasses
import random
import re
import resource
import socket
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_jobs.errors import FileRefused
from batch_jobs.intake import xlsx_package
from tests.contract.tables.test_xlsx_books import (
    LIMITS,
    MAIN,
    book_parts,
    header_row,
    opened,
    read,
    save,
    save_sheet,
    sheet_xml,
)

GOOD_SHEET = sheet_xml(header_row("id") + '<row r="2"><c r="A2"><v>1</v></c></row>')
SHEET = "xl/worksheets/sheet1.xml"


def refused(path: Path, message: str) -> None:
    """Refused for that reason, quickly and in little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(FileRefused, match=message):
        read(path)
    assert time.monotonic() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def patched(path: Path, name: str, change: Callable[[bytearray, int, int], None]) -> Path:
    """Change a stored zip: `change` gets its bytes and the places of the entry's local and central header."""
    with zipfile.ZipFile(path) as archive:
        local = archive.getinfo(name).header_offset
        directory = archive.start_dir
    data = bytearray(path.read_bytes())
    central = data.index(name.encode(), directory) - 46
    change(data, local, central)
    path.write_bytes(bytes(data))
    return path


def bomb(folder: Path, head: bytes, filling: bytes, megabytes: int, tail: bytes) -> Path:
    """A workbook whose sheet has a filling repeated up to that size."""
    path = save(folder / "bomb.xlsx", {k: v for k, v in book_parts([GOOD_SHEET]).items() if k != SHEET})
    block = filling * ((1 << 20) // len(filling))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as out, out.open(SHEET, "w") as part:
        part.write(head)
        for _ in range(megabytes):
            part.write(block)
        part.write(tail)
    return path


HEAD, TAIL = (side.encode() for side in sheet_xml(header_row("id") + "%").split("%"))


def test_a_deflate_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    refused(bomb(tmp_path, HEAD, b" ", 200, TAIL), "unpacks to more than 250 times its size, like a zip bomb")


def test_a_header_that_lies_about_the_size_is_found_while_inflating(tmp_path: Path) -> None:
    path = bomb(tmp_path, HEAD, b" ", 200, TAIL)

    def lie(data: bytearray, local: int, central: int) -> None:
        struct.pack_into("<I", data, local + 22, 1_000)
        struct.pack_into("<I", data, central + 24, 1_000)

    refused(patched(path, SHEET, lie), "holds more than its header says, like a zip bomb")


def test_a_million_tiny_cells_in_one_row_are_refused(tmp_path: Path) -> None:
    row = '<row r="2">' + "<c><v>1</v></c>" * 200_000 + "</row>"
    refused(save_sheet(tmp_path, sheet_xml(header_row("id") + row)), 'column "B": .*no name in the first row')
    refused(bomb(tmp_path, HEAD + b'<row r="2">', b"<c/>", 4, b"</row>" + TAIL), "like a zip bomb|out of order")


def test_a_million_empty_shared_strings_are_refused(tmp_path: Path) -> None:
    refused(save_sheet(tmp_path, GOOD_SHEET, shared="<si><t/></si>" * 1_000_000), "unpacks to more than")


def test_two_cells_that_span_the_sheet_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    far = '<row r="1048576"><c r="XFD1048576" t="inlineStr"><is><t/></is></c></row>'
    refused(
        save_sheet(tmp_path, GOOD_SHEET.replace("</sheetData>", far + "</sheetData>")), "spans 17,179,869,184 cells"
    )
    middle = '<row r="20000"><c r="ALL20000" t="inlineStr"><is><t/></is></c></row>'
    refused(save_sheet(tmp_path, GOOD_SHEET.replace("</sheetData>", middle + "</sheetData>")), "only 3 are filled")


def test_a_long_shared_text_on_very_many_cells_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    text = "".join(random.Random(1).choices("abcdefgh ", k=200_000))
    rows = "".join(f'<row r="{at}"><c r="A{at}" t="s"><v>0</v></c></row>' for at in range(2, 9_000))
    refused(
        save_sheet(tmp_path, sheet_xml(header_row("id") + rows), shared=f"<si><t>{text}</t></si>"), "more cells or text"
    )


def test_a_tag_without_end_is_refused(tmp_path: Path) -> None:
    filling = bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz", k=1 << 20))
    refused(bomb(tmp_path, HEAD + b'<row r="2" x="', filling, 3, b'"/>' + TAIL), "holds a tag of more than")


ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(at)} "{f"&{chr(at - 1)};" * 10}">' for at in range(98, 108)
)
PARTS = (SHEET, "xl/sharedStrings.xml", "xl/styles.xml", "xl/workbook.xml", "[Content_Types].xml", "_rels/.rels")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_entity_bomb_is_refused_in_every_part(tmp_path: Path, part: str, encoding: str) -> None:
    parts = {name: xml.encode() for name, xml in book_parts([GOOD_SHEET], shared="<si><t>x</t></si>").items()}
    parts[part] = (ENTITIES + "]>" + parts[part].decode().replace("</", "&k;</", 1)).encode(encoding)
    refused(save(tmp_path / "book.xlsx", parts), "holds a DOCTYPE" if encoding == "utf-8" else "instead of UTF-8")


@pytest.mark.parametrize("part", PARTS)
def test_an_external_entity_opens_no_connection_and_no_file(tmp_path: Path, part: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        for place in (url, "file:///etc/passwd"):
            for doctype in (f'<!DOCTYPE x SYSTEM "{place}">', f'<!DOCTYPE x [<!ENTITY a SYSTEM "{place}">]>'):
                parts = book_parts([GOOD_SHEET], shared="<si><t>x</t></si>")
                parts[part] = doctype + parts[part].replace("</", "&a;</", 1)
                refused(save(tmp_path / "book.xlsx", parts), "holds a DOCTYPE")
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_relationships_that_lead_outside_are_not_followed(tmp_path: Path) -> None:
    parts = book_parts([GOOD_SHEET])
    rels = "xl/_rels/workbook.xml.rels"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        link = f'Type="{MAIN}/externalLink" Target="{url}" TargetMode="External"/></Relationships>'
        linked = {**parts, rels: parts[rels].replace("</Relationships>", f'<Relationship Id="out" {link}')}
        assert read(save(tmp_path / "linked.xlsx", linked)) == [(2, ("1",))]
        moved = {**parts, rels: parts[rels].replace('"worksheets/sheet1.xml"', f'"{url}" TargetMode="External"')}
        refused(save(tmp_path / "moved.xlsx", moved), 'part of its sheet "Sheet1" is missing')
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "name", ["../evil.xml", "xl/../../evil.xml", "/etc/passwd", "xl\\evil.xml", "C:evil.xml", "xl/worksheets/.."]
)
def test_entry_names_that_leave_the_container_are_refused(tmp_path: Path, name: str) -> None:
    refused(save(tmp_path / "book.xlsx", {**book_parts([GOOD_SHEET]), name: "x"}), "unsafe name")


@pytest.mark.parametrize(
    ("added", "content"),
    [
        ("xl/vbaProject.bin", "x"),
        ("xl/VBAPROJECT.BIN", "x"),
        ("[Content_Types].xml", "application/vnd.ms-excel.sheet.macroEnabled.main+xml"),
        ("[Content_Types].xml", "application/vnd.ms-excel.macrosheet+xml"),
    ],
)
def test_macros_are_refused(tmp_path: Path, added: str, content: str) -> None:
    parts = book_parts([GOOD_SHEET])
    if added in parts:
        content = re.sub(r"application/vnd.openxml[^\"]*main\+xml", content, parts[added])
    refused(save(tmp_path / "book.xlsx", {**parts, added: content}), "holds macros")


def test_two_parts_of_one_name_are_refused(tmp_path: Path) -> None:
    refused(
        save(tmp_path / "book.xlsx", {**book_parts([GOOD_SHEET]), SHEET.upper(): GOOD_SHEET}), "two parts of the same"
    )


def test_too_many_parts_are_refused(tmp_path: Path) -> None:
    many = {f"xl/media/{at}": "" for at in range(xlsx_package.MAX_ENTRIES)}
    refused(save(tmp_path / "book.xlsx", {**book_parts([GOOD_SHEET]), **many}), "too many files")


def test_a_huge_directory_is_never_loaded(tmp_path: Path) -> None:
    path = save_sheet(tmp_path, GOOD_SHEET)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\x05\x06") + 12, 500_000_000)
    path.write_bytes(bytes(data))
    refused(path, "too many files")


def _encrypt(data: bytearray, local: int, central: int) -> None:
    data[local + 6] |= 1
    data[central + 8] |= 1


def _pack_strangely(data: bytearray, local: int, central: int) -> None:
    struct.pack_into("<H", data, local + 8, zipfile.ZIP_BZIP2)
    struct.pack_into("<H", data, central + 10, zipfile.ZIP_BZIP2)


def _rename_locally(data: bytearray, local: int, central: int) -> None:
    data[local + 30] ^= 1


def _break_crc(data: bytearray, local: int, central: int) -> None:
    data[central + 16] ^= 1


def _claim_more(data: bytearray, local: int, central: int) -> None:
    struct.pack_into("<I", data, central + 24, 5_000)


def _overlap(data: bytearray, local: int, central: int) -> None:
    struct.pack_into("<I", data, central + 42, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_encrypt, "is encrypted.*without a password"),
        (_pack_strangely, "packed in a way"),
        (_rename_locally, "is damaged"),
        (_break_crc, "is damaged"),
        (_claim_more, "is damaged"),
        (_overlap, "parts that overlap"),
    ],
)
def test_a_container_that_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[bytearray, int, int], None], message: str
) -> None:
    refused(patched(save_sheet(tmp_path, GOOD_SHEET), SHEET, change), message)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"id,text\n1,a\n", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)]
)
def test_what_is_no_workbook_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "book.xlsx"
    path.write_bytes(content)
    refused(path, "no .xlsx workbook")


def test_every_cut_of_a_workbook_and_every_flipped_byte_ends_in_a_refusal_or_the_same_table(tmp_path: Path) -> None:
    whole = save_sheet(tmp_path, GOOD_SHEET, shared="<si><t>x</t></si>").read_bytes()
    path = tmp_path / "hurt.xlsx"
    chance = random.Random(7)
    for _ in range(300):
        data = bytearray(whole)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        else:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(data))
        try:
            assert read(path) == [(2, ("1",))]
        except FileRefused:
            continue


@pytest.mark.parametrize("xml", ["", "<worksheet", "<worksheet/>", f'<chartsheet xmlns="{MAIN}"/>', "\x00\x01"])
def test_a_sheet_that_is_none_is_refused(tmp_path: Path, xml: str) -> None:
    refused(save_sheet(tmp_path, xml), "is damaged|is no worksheet")


def test_a_bomb_in_a_part_that_is_not_read_is_refused_too(tmp_path: Path) -> None:
    parts = {**book_parts([GOOD_SHEET]), "xl/worksheets/sheet9.xml": " " * 20_000_000}
    refused(save(tmp_path / "book.xlsx", parts), "like a zip bomb")


def test_more_data_than_the_limits_allow_stops_early(tmp_path: Path) -> None:
    rows = "".join(f'<row r="{at}"><c r="A{at}"><v>{at}</v></c></row>' for at in range(2, 300_000))
    path = save_sheet(tmp_path, sheet_xml(header_row("id") + rows))
    start = time.monotonic()
    with pytest.raises(FileRefused, match="more than 100 rows"):
        opened(path, limits=dataclasses.replace(LIMITS, max_rows=100))
    assert time.monotonic() - start < 1
