"""Cells are cleaned for the prompt as config.json says, and as it says only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.render.cleaning import COMMON_NULLS, Cleaning, cleaner

ALL = Cleaning(unescape=True, collapse=True, trim=True, null_tokens=COMMON_NULLS)


def cleaned(cell: str, cleaning: Cleaning = ALL) -> str:
    clean = cleaner(cleaning)
    assert clean is not None
    return clean(cell)


@pytest.mark.parametrize(
    ("cell", "becomes"),
    [
        (r"foo\,bar", "foo,bar"),
        (r"a\\b \"c\" d\;e\|f", r'a\b "c" d;e|f'),
        (r"C:\new\table", r"C:\new\table"),
        ("a\r\nb\tc\u2028d", "a b c d"),
        ("a \n\n  b   c\u00a0\u00a0d", "a b c d"),
        ("  a b  ", "a b"),
        ("n/a", ""),
        (" NULL ", ""),
        ("[None]", ""),
        ("NaN\n", ""),
        ("NA", "NA"),
        ("-", "-"),
        ("none of it", "none of it"),
        ("", ""),
    ],
)
def test_all_of_it(cell: str, becomes: str) -> None:
    assert cleaned(cell) == becomes


@pytest.mark.parametrize(
    ("cleaning", "becomes"),
    [
        (Cleaning(unescape=True), " a,b\n c "),
        (Cleaning(collapse=True), " a\\,b c "),
        (Cleaning(trim=True), "a\\,b\n c"),
        (Cleaning(null_tokens=("A\\,b\n c",)), ""),
    ],
)
def test_each_alone(cleaning: Cleaning, becomes: str) -> None:
    assert cleaned(" a\\,b\n c ", cleaning) == becomes


def test_nothing_asked_for_is_nothing_done() -> None:
    assert cleaner(Cleaning()) is None


@given(st.text())
def test_what_is_clean_stays(cell: str) -> None:
    once = cleaned(cell, Cleaning(collapse=True, trim=True, null_tokens=COMMON_NULLS))
    assert cleaned(once, Cleaning(collapse=True, trim=True, null_tokens=COMMON_NULLS)) == once
