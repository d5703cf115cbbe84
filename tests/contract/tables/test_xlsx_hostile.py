"""A workbook made to hurt is refused in under two seconds and 100 MB, and never makes us open a connection."""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
import re
import socket
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from batch_jobs.errors import FileRefused
from batch_jobs.intake import xlsx_package
from batch_jobs.intake.recognise import open_table
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
    text_cell,
)

MAX_CPU_SECONDS = 2.0
MAX_GROWTH_BYTES = 100_000_000
GOOD_SHEET = sheet_xml(header_row("id") + '<row r="2"><c r="A2"><v>1</v></c></row>')
SHEET = "xl/worksheets/sheet1.xml"


def memory(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def cost_of(path: Path) -> tuple[str, float, int]:
    """Take a file in as an upload is; returns why it was refused, seconds of CPU, and by how much memory grew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew from here
    before, start = memory("VmRSS"), time.process_time()
    try:
        rows = sum(1 for _ in open_table(path, filename="losses.xlsx", sheet=None, limits=LIMITS).rows())
        why = f"taken, with {rows} rows"
    except FileRefused as error:
        why = error.message
    return why, time.process_time() - start, memory("VmHWM") - before


def refused(path: Path, message: str) -> None:
    """Refused for that reason, quickly and in little memory."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = memory("VmRSS"), time.process_time()
    with pytest.raises(FileRefused, match=message):
        read(path)
    assert time.process_time() - start < MAX_CPU_SECONDS
    assert memory("VmHWM") - before < MAX_GROWTH_BYTES


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


def _deflated(folder: Path) -> Path:
    return bomb(folder, HEAD, b" ", 200, TAIL)


def _lying(folder: Path) -> Path:
    def lie(data: bytearray, local: int, central: int) -> None:
        struct.pack_into("<I", data, local + 22, 1_000)
        struct.pack_into("<I", data, central + 24, 1_000)

    return patched(_deflated(folder), SHEET, lie)


def _cells_in_one_row(folder: Path) -> Path:
    row = '<row r="2">' + "<c><v>1</v></c>" * 200_000 + "</row>"
    return save_sheet(folder, sheet_xml(header_row("id") + row))


def _empty_cells(folder: Path) -> Path:
    return bomb(folder, HEAD + b'<row r="2">', b"<c/>", 4, b"</row>" + TAIL)


def _empty_strings(folder: Path) -> Path:
    return save_sheet(folder, GOOD_SHEET, shared="<si><t/></si>" * 1_000_000)


def _two_cells(place: str) -> Callable[[Path], Path]:
    row = place.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    cells = f'<row r="{row}"><c r="{place}" t="inlineStr"><is><t/></is></c></row></sheetData>'
    return lambda folder: save_sheet(folder, GOOD_SHEET.replace("</sheetData>", cells))


def _one_text_on_many_cells(folder: Path) -> Path:
    text = "".join(random.Random(1).choices("abcdefgh ", k=200_000))
    rows = "".join(f'<row r="{at}"><c r="A{at}" t="s"><v>0</v></c></row>' for at in range(2, 9_000))
    return save_sheet(folder, sheet_xml(header_row("id") + rows), shared=f"<si><t>{text}</t></si>")


def _tag_without_end(folder: Path) -> Path:
    filling = bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz", k=1 << 20))
    return bomb(folder, HEAD + b'<row r="2" x="', filling, 3, b'"/>' + TAIL)


def _many_columns(folder: Path) -> Path:
    names = (f"{chr(65 + at // 676)}{chr(65 + at // 26 % 26)}{chr(65 + at % 26)}1" for at in range(14_000))
    return save_sheet(folder, sheet_xml(f'<row r="1">{"".join(text_cell(name, name) for name in names)}</row>'))


def _entities(folder: Path) -> Path:
    parts = book_parts([GOOD_SHEET], shared="<si><t>x</t></si>")
    parts["xl/sharedStrings.xml"] = ENTITIES + "]>" + parts["xl/sharedStrings.xml"].replace("</", "&k;</", 1)
    return save(folder / "book.xlsx", parts)


BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "deflate": (_deflated, "unpacks to more than 250 times its size, like a zip bomb"),
    "lying header": (_lying, "holds more than its header says, like a zip bomb"),
    "cells in one row": (_cells_in_one_row, 'column "B": .*no name in the first row'),
    "empty cells": (_empty_cells, "like a zip bomb|out of order"),
    "empty strings": (_empty_strings, "unpacks to more than"),
    "far cell": (_two_cells("XFD1048576"), "spans 17,179,869,184 cells"),
    "two cells": (_two_cells("ALL20000"), "only 3 are filled"),
    "one text on many cells": (_one_text_on_many_cells, "more cells or text"),
    "tag without end": (_tag_without_end, "holds a tag of more than"),
    "many columns": (_many_columns, "columns, more than 1,000"),
    "entities": (_entities, "holds a DOCTYPE"),
}


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """A new process a task, forked from one that has loaded this module and nothing else: memory is counted clean."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        yield pool


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_quickly_and_in_little_memory(
    tmp_path: Path, processes: ProcessPoolExecutor, name: str
) -> None:
    make, message = BOMBS[name]
    why, seconds, growth = processes.submit(cost_of, make(tmp_path)).result()
    assert re.search(message, why), why
    assert seconds < MAX_CPU_SECONDS
    assert growth < MAX_GROWTH_BYTES


def test_the_measure_sees_memory_and_time(tmp_path: Path, processes: ProcessPoolExecutor) -> None:
    """A cell that is held whole costs what it holds, and more rows cost more time."""
    rows = "".join(f'<row r="{at}"><c r="A{at}"><v>{at}</v></c></row>' for at in range(2, 60_000))
    many = save_sheet(tmp_path, sheet_xml(header_row("id") + rows))
    why, seconds, _ = processes.submit(cost_of, many).result()
    assert why == "taken, with 59998 rows"
    assert seconds > 0.05
    assert processes.submit(_held_megabytes, 150).result() > MAX_GROWTH_BYTES


def _held_megabytes(count: int) -> int:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = memory("VmRSS")
    held = b"x" * (count << 20)
    return memory("VmHWM") - before if held else 0


def _nested(folder: Path) -> Path:
    """9 MB of tags that are opened and never closed, in 80 KB."""
    chance = random.Random(1)
    tags = b"".join(b"<a>" * 300 + b"<b%d>" % chance.randrange(10**6) for _ in range(10_000))
    return bomb(folder, HEAD, tags, 0, tags + TAIL)


def _names(folder: Path) -> Path:
    """Each tag has a name of its own, and the parser keeps every name that it has seen."""
    return save_sheet(folder, sheet_xml(header_row("id") + "".join(f"<t{n}/>" for n in range(700_000))))


@pytest.mark.parametrize("make", [_nested, _names])
def test_a_bomb_for_the_parser_itself_is_refused(
    tmp_path: Path, processes: ProcessPoolExecutor, make: Callable[[Path], Path]
) -> None:
    why, seconds, growth = processes.submit(cost_of, make(tmp_path)).result()
    assert growth < MAX_GROWTH_BYTES, (why, seconds, growth)
    assert seconds < MAX_CPU_SECONDS
    assert not why.startswith("taken")


PLACES = {
    "before the rows": "<worksheet {}<sheetData>",
    "in the rows": "<sheetData>{}</sheetData>",
    "in a row": '<row r="2">{}</row>',
    "in a cell": '<c r="A2">{}</c>',
    "in a value": '<c r="A2"><v>{}</v></c>',
    "behind the rows": "</sheetData>{}</worksheet>",
}


@pytest.mark.parametrize("tag", ["a", "v", "t", "f", "is", "rPh", "sheetData"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_tags_nested_in_each_other_are_refused_wherever_they_stand(tmp_path: Path, place: str, tag: str) -> None:
    """Also those that a sheet is made of: the parser keeps every tag that is open."""
    opening, closing = place.split("{}")
    before, after = re.split(re.escape(opening) + ("[^>]*>" if opening.endswith(" ") else ""), GOOD_SHEET, maxsplit=1)
    start = GOOD_SHEET[len(before) : len(GOOD_SHEET) - len(after)]
    nested = f"<{tag}>" * 100_000 + f"</{tag}>" * 100_000
    rest = after[after.index(closing) :] if opening != "<worksheet " else after
    path = save_sheet(tmp_path, f"{before}{start}{nested}{rest}")
    refused(path, "nested more than|more than one value|holds its data twice|outside of the cells|in each other")


ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(at)} "{f"&{chr(at - 1)};" * 10}">' for at in range(98, 108)
)
PARTS = (SHEET, "xl/sharedStrings.xml", "xl/styles.xml", "xl/workbook.xml", "[Content_Types].xml", "_rels/.rels")


@pytest.mark.parametrize("tag", ["si", "t", "r", "rPh"])
def test_texts_nested_in_each_other_are_refused(tmp_path: Path, tag: str) -> None:
    shared = f"<si>{f'<{tag}>' * 100_000}{f'</{tag}>' * 100_000}</si>"
    refused(save_sheet(tmp_path, GOOD_SHEET, shared=shared), "nested more than|in each other")


@pytest.mark.parametrize("part", PARTS[1:])
def test_tags_nested_in_each_other_are_refused_in_every_part(tmp_path: Path, part: str) -> None:
    parts = book_parts([GOOD_SHEET], shared="<si><t>x</t></si>")
    parts[part] = parts[part].replace("</", "<a>" * 100_000 + "</a>" * 100_000 + "</", 1)
    refused(save(tmp_path / "book.xlsx", parts), "nested more than 200 deep")


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
