"""Ten thousand answers made to be run by a spreadsheet: written in every format, read again, none of them is live."""

from __future__ import annotations

import csv
import itertools
import random
import unicodedata
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import xlsxwriter
from openpyxl.utils.escape import unescape

from batch_jobs.intake.recognise import open_table
from batch_jobs.output.neutral import neutralise
from batch_jobs.output.table import write_table
from batch_jobs.table import Addition
from tests.contract.tables.test_xlsx_books import LIMITS

ANSWERS = 10_000
NORMAL = 2_000
PLAIN = "=+-@"
WIDE = "＝＋－＠﹦﹢﹣﹫"
BEFORE = (
    *(
        "",
        " ",
        "  ",
        "\t",
        "\r",
        "\n",
        "\r\n",
        "\0",
        "\0\0",
        " \t ",
        "\x0b",
        "\x0c",
        "\x1b",
        "\x85",
        "\u00a0",
        "\u00ad",
    ),
    *(
        "\ufeff",
        "\ufeff\ufeff",
        "\u200b",
        "\u200e",
        "\u200f",
        "\u202e",
        "\u2066",
        "\u061c ",
        "\u180e",
        "\u2028",
        "\u3000",
    ),
    *("\u0301", "\u20dd"),
)
BODIES = (
    *(
        "1+1",
        "cmd|' /C calc'!A0",
        "SUM(1+1)*cmd|' /C calc'!A0",
        'HYPERLINK("http://127.0.0.1:9/"&A1,"x")',
        "A1",
        "2+3+A1",
    ),
    *(
        'DDE("cmd";"/C calc";"1")',
        'WEBSERVICE("http://127.0.0.1:9/"&A1)',
        'IMPORTXML("http://127.0.0.1:9/","//a")',
        "x",
    ),
    *(
        "-1",
        "=1",
        "+1",
        "@x",
        '"',
        '""',
        "'",
        "a,b",
        "a;b",
        "a|b",
        "a\tb",
        'a"b',
        "a\nb",
        "a\r\n=b",
        ",=1",
        ";=1",
        "1e5+A1",
    ),
    *(
        "{1}",
        "1,2",
        "1.5",
        "5%",
        "ä",
        "💩",
        "事故",
        "_x0041_",
        "<f>1</f>",
        "&amp;",
        "]]>",
        "",
        " ",
        "1 2",
        "0x10",
        "1/2",
    ),
)
WORDS = (
    *("Größe", "a=b", "1-2", "x@y.example", "5 > 4", "事故", "🙂", '"said"', "it's", "a|b", "tab\there", "two\nlines"),
    *("-", "+49"),
)

Cells = list[tuple[str, str]]


def hostile(seed: int) -> list[str]:
    """Distinct answers: what may stand before a sign, one sign or more, and what a formula is made of."""
    chance = random.Random(seed)
    found = dict.fromkeys(a + b + c for a, b, c in itertools.product(BEFORE, PLAIN + WIDE, BODIES))
    while len(found) < ANSWERS:
        signs = "".join(chance.choices(PLAIN + WIDE, k=chance.randint(1, 3)))
        parts = (*chance.choices(BEFORE, k=2), signs, *chance.choices(BODIES, k=2))
        found["".join(parts)] = None
    answers = list(found)
    chance.shuffle(answers)
    return answers[:ANSWERS]


def normal(seed: int) -> list[str]:
    """Answers as models write them: words, numbers and signs, the first of them harmless."""
    chance = random.Random(seed)
    numbers = ("-5", "+3.2", "-1,234.50", "-5 %", "0", "12", "-.5", "1e-5", "-1E5", "007")
    texts = [" ".join(("Loss", *chance.choices(WORDS + numbers, k=chance.randint(0, 9)))) for _ in range(NORMAL)]
    return [*texts, *numbers, "", "Ende."]


def is_live(text: str) -> bool:
    """What a spreadsheet may run, told in another way than the code under test does."""
    if text[:1] in {"\t", "\r", "\0"}:
        return True
    for at, char in enumerate(text):
        if not char.isspace() and unicodedata.category(char) not in {"Cf", "Cc", "Mn", "Me"}:
            return char in PLAIN + WIDE and not _is_number(text[at:].strip())
    return False


def _is_number(text: str) -> bool:
    try:
        float(text.rstrip("% \u00a0\u202f").replace(",", ""))
    except ValueError:
        return text == "-"
    return text.isascii() and text[0] in "+-" and not set(text.lower()) - set("0123456789.,e+-% ")


def shown(text: str) -> str:
    """An answer as a person is meant to see it: without the control characters that no cell can show."""
    return "".join(char for char in text if char in "\t\r\n" or unicodedata.category(char) != "Cc")


def written(folder: Path, name: str, content: bytes, answers: Sequence[str]) -> tuple[Path, int]:
    """Take a table in and write it back with two columns of answers, as a job does; returns where, and the count."""
    upload, target = folder / name, folder / f"out-{name}"
    upload.write_bytes(content)
    table = open_table(upload, filename=name, sheet=None, limits=LIMITS)
    additions = [Addition((neutralise(answer), "ok")) for answer in answers]
    return target, write_table(upload, table.format, target, ["summary", "status"], additions)


def read_text(path: Path, encoding: str, delimiter: str) -> Cells:
    with path.open(encoding=encoding, newline="") as handle:
        rows = list(csv.reader(handle, delimiter=delimiter, strict=True))
    assert rows[0] == ["id", "n", "summary", "status"]
    assert [row[:2] for row in rows[1:]] == [[str(at), "ü"] for at in range(len(rows) - 1)]
    assert {len(row) for row in rows} == {4}
    return [(row[2], row[3]) for row in rows[1:]]


def text_table(rows: int, encoding: str, delimiter: str) -> bytes:
    lines = [delimiter.join(("id", "n")), *(f"{at}{delimiter}ü" for at in range(rows))]
    return "".join(f"{line}\r\n" for line in lines).encode(encoding)


FORMATS = [
    ("a.csv", "utf-8-sig", ","),
    ("a.csv", "utf-8", ";"),
    ("a.tsv", "utf-16", "\t"),
    ("a.psv", "utf-8", "|"),
]


@pytest.mark.parametrize(("name", "encoding", "delimiter"), FORMATS)
def test_no_answer_is_live_in_a_text_table_and_each_shows_what_it_was(
    tmp_path: Path, name: str, encoding: str, delimiter: str
) -> None:
    answers = hostile(1)
    assert len(set(answers)) == ANSWERS
    assert sum(map(is_live, answers)) > ANSWERS * 0.9, "the answers are what they are meant to be"
    target, changed = written(tmp_path, name, text_table(ANSWERS, encoding, delimiter), answers)
    assert changed == 0
    for answer, (cell, status) in zip(answers, read_text(target, encoding, delimiter), strict=True):
        assert not is_live(cell), (answer, cell)
        assert cell in {shown(answer), f"'{shown(answer)}"}
        assert status == "ok"


def test_no_answer_is_live_in_a_workbook_and_each_shows_what_it_was(tmp_path: Path) -> None:
    answers = hostile(2)
    rows = _workbook_cells(tmp_path, answers)
    for answer, cell in zip(answers, rows, strict=True):
        assert not is_live(cell), (answer, cell)
        assert cell in {shown(answer), f"'{shown(answer)}"}


def _workbook_cells(folder: Path, answers: Sequence[str]) -> list[str]:
    """Write a workbook with the answers and read them again; no cell of ours may be anything but text."""
    with xlsxwriter.Workbook(str(folder / "a.xlsx"), {"constant_memory": True}) as book:
        sheet = book.add_worksheet("S")
        sheet.write_row(0, 0, ["id", "n"])
        for at in range(len(answers)):
            sheet.write_number(at + 1, 0, at)
            sheet.write_formula(at + 1, 1, "=1+1", None, 2)
    target, changed = written(folder, "a.xlsx", (folder / "a.xlsx").read_bytes(), answers)
    assert changed == 0
    with closing(openpyxl.load_workbook(target, read_only=True)) as read:
        return [_summary(at, row) for at, row in enumerate(read.worksheets[0].iter_rows(min_row=2, max_col=4))]


def _summary(number: int, row: Sequence[Any]) -> str:
    """The answer in a row, of which the user's own formula is left alone."""
    assert row[0].value == number
    assert (row[1].data_type, row[1].value) == ("f", "=1+1")
    assert row[3].value == "ok"
    assert {cell.data_type for cell in row[2:] if cell.value is not None} == {"s"}
    return unescape(str(row[2].value or ""))


def test_no_answer_is_live_where_the_encoding_lacks_its_characters(tmp_path: Path) -> None:
    """A plain form that stands in for a missing character must not become the start of a formula."""
    chance = random.Random(3)
    odd = [chr(code) for code in range(0xA0, 0x3400) if unicodedata.normalize("NFKD", chr(code))[:1] in {*PLAIN, " "}]
    answers = [*hostile(3)[: ANSWERS // 2], *(a + b for a in odd for b in chance.choices(BODIES, k=8))]
    target, changed = written(tmp_path, "a.csv", text_table(len(answers), "cp1252", ","), answers)
    assert changed > 1_000
    for answer, (cell, _) in zip(answers, read_text(target, "cp1252", ","), strict=True):
        assert not is_live(cell), (answer, cell)


@pytest.mark.parametrize(("name", "encoding", "delimiter"), FORMATS)
def test_normal_text_is_unchanged_in_a_text_table(tmp_path: Path, name: str, encoding: str, delimiter: str) -> None:
    answers = normal(4)
    target, changed = written(tmp_path, name, text_table(len(answers), encoding, delimiter), answers)
    assert changed == 0
    assert [cell for cell, _ in read_text(target, encoding, delimiter)] == answers


def test_normal_text_is_unchanged_in_a_workbook(tmp_path: Path) -> None:
    answers = normal(5)
    assert _workbook_cells(tmp_path, answers) == answers


@pytest.mark.parametrize(
    "live", ["=1", " =1", "\ufeff=1", "＝1", "-1+A1", "\tx", "\rx", "\0x", "\u200e@x", "+", "\u0301-x"]
)
def test_the_test_knows_a_live_cell(live: str) -> None:
    assert is_live(live)
    assert not is_live(f"'{live}")
    assert not is_live(f"x{live}")


@pytest.mark.parametrize("text", ["-5", "+3.2", "-", "-1,234.50", "-5 %", "", "'=1", "a=1", "-1e5"])
def test_the_test_knows_a_harmless_cell(text: str) -> None:
    assert not is_live(text)
