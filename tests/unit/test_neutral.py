"""No cell that we write is run by a spreadsheet, and ordinary text comes out as it went in."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.output.neutral import neutralise

DANGEROUS = st.text(
    alphabet=st.sampled_from("=+-@＝＋－＠\t\r\n\0\x1b\x85 '\"1e5.,%A(|!\u200b\ufeff\u00a0\u3000"), max_size=12
)
ANY_TEXT = st.text(max_size=40)


def is_signed_number(text: str) -> bool:
    """Digits and separators behind one sign, and at most one exponent: nothing a formula could be made of."""
    body, _, exponent = text.strip()[1:].rstrip("% \u00a0\u202f").lower().partition("e")
    digits = bool(body) and set(body) <= set("0123456789.,")
    return text.strip() == "-" or (digits and re.fullmatch(r"([+-]?[0-9]+)?", exponent) is not None)


def is_live(text: str) -> bool:
    """What a spreadsheet may run, told in another way than the code under test does."""
    if text.startswith(("\t", "\r", "\0")):
        return True
    rest = text.lstrip()
    while rest and (rest[0].isspace() or unicodedata.category(rest[0]) in {"Cf", "Cc"}):
        rest = rest[1:]
    return rest.startswith(tuple("=+-@＝＋－＠")) and not is_signed_number(text)


@given(st.one_of(DANGEROUS, ANY_TEXT))
def test_nothing_that_comes_out_is_live(text: str) -> None:
    assert not is_live(neutralise(text))


@given(st.one_of(DANGEROUS, ANY_TEXT))
def test_twice_is_once(text: str) -> None:
    assert neutralise(neutralise(text)) == neutralise(text)


@given(st.one_of(DANGEROUS, ANY_TEXT))
def test_only_an_apostrophe_comes_and_only_control_characters_go(text: str) -> None:
    kept = "".join(char for char in text if char in "\t\n\r" or unicodedata.category(char) != "Cc")
    assert neutralise(text) in {kept, f"'{kept}"}


@given(st.characters(categories=["L", "N"]), st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40))
def test_text_that_begins_with_a_letter_or_digit_is_unchanged(first: str, rest: str) -> None:
    assert neutralise(first + rest) == first + rest


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://x.example","y")',
        "@SUM(A1)",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "-A1",
        "- a bullet",
        "--",
        "+",
        "+1-555-0100",
        "  =1",
        "\n=1",
        "\u200b=1",
        "\ufeff@x",
        "\u3000＝1",
        "＝1+1",
        "＋1",
        "－1",
        "＠x",
        "\tx",
        "\rx",
        "-1e5+A1",
        "-１",
    ],
)
def test_live_cells_get_an_apostrophe(text: str) -> None:
    assert neutralise(text) == f"'{text}"


@pytest.mark.parametrize(
    "text",
    [
        *("-5", "+3.2", "-1e5", "-1E-5", "-5%", "-5 %", "-.5", "-1,234.50", "-1.234,50", " -5 ", "-", "0", "", "'=1"),
        *("a=b", "1-2", '"=1"', "\nplain", "Größe – ok", "事故", "🙂 = fine", "−5"),
    ],
)
def test_numbers_and_text_stay(text: str) -> None:
    assert neutralise(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\0b", "ab"),
        ("\0=1", "'=1"),
        ("\0x", "'x"),
        ("\x1b=1", "'=1"),
        ("\x1b\tx", "'\tx"),
        ("a\x85b\x7f", "ab"),
        ("a\tb\nc\rd", "a\tb\nc\rd"),
    ],
)
def test_control_characters_go(text: str, expected: str) -> None:
    assert neutralise(text) == expected
