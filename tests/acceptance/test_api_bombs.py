"""Workbooks made to hurt, uploaded: each is refused, the server stays small, answers others, and asks nobody."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance import api_kit
from tests.acceptance.api_kit import Server
from tests.contract.tables.test_xlsx_books import book_parts, header_row, save, save_sheet, sheet_xml, text_cell
from tests.contract.tables.test_xlsx_hostile import BOMBS, GOOD_SHEET, MAX_GROWTH_BYTES, PARTS

AT_ONCE = 3
SLOW_ROWS = 40_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with api_kit.serving(tmp_path_factory.mktemp("api-bombs"), "--sandbox") as server:
        yield server


def _memory(server: Server, name: str) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def _slow(folder: Path, count: int = SLOW_ROWS) -> Path:
    """A whole table of which only the last row is wrong: the server has to read it all."""
    rows = "".join(f'<row r="{at}">{text_cell(f"A{at}", str(at))}</row>' for at in range(2, count))
    last = f'<row r="{count}">{text_cell(f"A{count}", "x" * 300_000)}</row>'
    return save_sheet(folder, sheet_xml(header_row("DescriptionOfEvent", "nfr_taxonomy") + rows + last))


def test_every_bomb_is_refused_while_the_server_answers_others(server: Server, tmp_path: Path) -> None:
    made = {name: (make, message) for name, (make, message) in BOMBS.items()}
    made["a long way to a wrong cell"] = (_slow, "more than 200,000 characters")
    contents = {}
    for name, (make, _) in made.items():
        (tmp_path / name).mkdir()
        contents[name] = make(tmp_path / name).read_bytes()
    before = api_kit.files_of(server.root / "batch_input")
    assert server.upload("losses.xlsx", _slow(tmp_path, 3).read_bytes()).status == 422  # loads what each table needs
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", encoding="ascii")  # its peak is counted from here
    resident, answered = _memory(server, "VmRSS"), 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sent = {name: pool.submit(server.upload, "losses.xlsx", content) for name, content in contents.items()}
        while not all(each.done() for each in sent.values()):
            waiting = [name for name, each in sent.items() if not each.done()]
            assert server.get("/healthz").status == 200
            answered += any(not sent[name].done() for name in waiting)
    for name, each in sent.items():
        reply = each.result()
        assert (reply.status, reply.error["type"]) == (422, "FileRefused"), name
        assert re.search(made[name][1], reply.error["message"]), (name, reply.error["message"])
    assert answered >= AT_ONCE
    assert _memory(server, "VmHWM") - resident < MAX_GROWTH_BYTES
    assert api_kit.files_of(server.root / "batch_input") == before


def test_an_external_entity_makes_the_server_ask_nobody(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        for place in (f"http://127.0.0.1:{listener.getsockname()[1]}/x", "file:///etc/passwd"):
            for part in PARTS:
                parts = book_parts([GOOD_SHEET], shared="<si><t>x</t></si>")
                parts[part] = f'<!DOCTYPE x [<!ENTITY a SYSTEM "{place}">]>' + parts[part].replace("</", "&a;</", 1)
                reply = server.upload("losses.xlsx", save(tmp_path / "book.xlsx", parts).read_bytes())
                assert reply.status == 422
                assert "root:" not in reply.error["message"]
        with pytest.raises(BlockingIOError):
            listener.accept()
