"""Whatever csv.writer writes is read as it was, and written back byte for byte with our cells added."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from batch_jobs.errors import FileRefused
from batch_jobs.intake.dialect import BOMS
from batch_jobs.intake.text import open_text
from batch_jobs.output.text import write_text
from batch_jobs.table import IntakeLimits
from tests.contract.tables.lines import additions_to

LIMITS = IntakeLimits(max_bytes=10**9, max_rows=1_000_000, max_columns=100, max_cell_chars=200_000)
HEADER = ["id", "Größe", "c"]
OURS = ["summary", "status"]
SYNTAX = ",;\t|\"'\n\r =sep"
LATIN = SYNTAX + "abcäöüßéñ09"

any_char = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
ALPHABETS = {
    ("utf-8", False): st.one_of(any_char, st.sampled_from(SYNTAX)),
    ("utf-8", True): st.one_of(any_char, st.sampled_from(SYNTAX)),
    ("utf-16-le", True): st.one_of(any_char, st.sampled_from(SYNTAX)),
    ("utf-16-be", True): st.one_of(any_char, st.sampled_from(SYNTAX)),
    ("utf-16-le", False): st.sampled_from(LATIN + "Утечка"),
    ("utf-16-be", False): st.sampled_from(LATIN + "Утечка"),
    ("cp1252", False): st.sampled_from(LATIN),
}


class Written(NamedTuple):
    """A text file as records, each with the line end it has in the file."""

    records: list[list[str]]
    texts: list[str]
    line_ends: list[str]


def as_text(cells: list[str], delimiter: str, quoting: int) -> str:
    """One record by csv.writer; with CR LF as its line end it quotes cells that hold either."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator="\r\n").writerow(cells)  # type: ignore[arg-type]
    return buffer.getvalue().removesuffix("\r\n")


@st.composite
def files(draw: st.DrawFn, delimiter: str, alphabet: st.SearchStrategy[str]) -> Written:
    cell = st.text(alphabet=alphabet, max_size=12)
    row = st.lists(cell, min_size=3, max_size=3)
    rows = draw(st.lists(row, min_size=1, max_size=6))
    assume(any(any(cells) for cells in rows))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    line_end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    records = [HEADER, *rows]
    line_ends = [line_end] * len(records)
    if draw(st.booleans()):
        line_ends[-1] = ""
    return Written(records, [as_text(cells, delimiter, quoting) for cells in records], line_ends)


def quoted(cell: str, delimiter: str, quote_all: bool) -> str:
    """Our rule for our own cells, told in another way than the writer does."""
    special = quote_all or not set(cell).isdisjoint({delimiter, '"', "\n", "\r"})
    return '"{}"'.format(cell.replace('"', '""')) if special else cell


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round_trip")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(("codec", "bom"), list(ALPHABETS))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_round_trip(folder: Path, delimiter: str, codec: str, bom: bool, data: st.DataObject) -> None:
    alphabet = ALPHABETS[codec, bom]
    file = data.draw(files(delimiter, alphabet))
    upload, target = folder / "upload.csv", folder / "out.csv"
    start = BOMS[codec] if bom else b""
    body = "".join(text + end for text, end in zip(file.texts, file.line_ends, strict=True))
    upload.write_bytes(start + body.encode(codec))

    table = open_text(upload, filename="losses.csv", limits=LIMITS)
    assert (table.format.encoding, table.format.bom, table.format.delimiter) == (codec, bom, delimiter)
    filled = [(number, tuple(cells)) for number, cells in enumerate(file.records, 1) if any(cells)][1:]
    assert [tuple(row) for row in table.rows()] == filled
    assert sum(block.num_rows for block in table.blocks(3)) == len(filled)

    cell = st.text(alphabet=alphabet, max_size=12)
    ours = data.draw(st.lists(st.lists(cell, min_size=2, max_size=2), min_size=len(filled), max_size=len(filled)))
    assert write_text(upload, table.format, target, OURS, additions_to(table, ours)) == 0
    appended = iter([OURS, *ours])
    expected = ""
    for cells, text, end in zip(file.records, file.texts, file.line_ends, strict=True):
        added = [quoted(cell, delimiter, table.format.quote_all) for cell in next(appended)] if any(cells) else []
        expected += delimiter.join([text, *added]) + end
    assert target.read_bytes() == start + expected.encode(codec)

    again = open_text(target, filename="losses.csv", limits=LIMITS)
    assert again.columns == (*HEADER, *OURS)
    both = [(number, (*cells, *mine)) for (number, cells), mine in zip(filled, ours, strict=True)]
    assert [tuple(row) for row in again.rows()] == both


@settings(max_examples=500, deadline=None)
@given(
    content=st.one_of(
        st.text(alphabet=st.sampled_from(SYNTAX + "ab\0é"), max_size=60).map(str.encode),
        st.text(alphabet=st.sampled_from(',"\n\rab'), max_size=40).map(str.encode),
        st.binary(min_size=1, max_size=40),
        st.binary(max_size=20).map(lambda tail: b"id,text\r\n1,a\r\n2," + tail),
    )
)
def test_anything_is_refused_by_name_or_comes_back_as_it_was(folder: Path, content: bytes) -> None:
    upload, target = folder / "any.csv", folder / "any_out.csv"
    upload.write_bytes(content)
    try:
        table = open_text(upload, filename="losses.csv", limits=LIMITS)
        count = len(list(table.rows()))
        assert sum(block.num_rows for block in table.blocks(2)) == count
    except FileRefused as error:
        assert error.message.startswith("losses.csv")
    else:
        assert write_text(upload, table.format, target, [], additions_to(table, [()] * count)) == 0
        assert target.read_bytes() == content
