"""Ids: what is made is read back, fits every provider's rule, and is never taken for another shard's."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_jobs.storage.shards import custom_id, item_of, key_of
from providers.contract import CUSTOM_ID_PATTERN

TASK_ID = "0123456789abcdef" * 2
TASK_IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
ROUNDS, SHARDS, ITEMS = st.integers(0, 99), st.integers(0, 9999), st.integers(0, 10**7)
KEY = key_of(TASK_ID, 1, 1)


@given(TASK_IDS, ROUNDS, SHARDS, ITEMS)
def test_what_is_made_is_read_back_and_fits_the_rule(task_id: str, round_no: int, shard_no: int, item: int) -> None:
    key = key_of(task_id, round_no, shard_no)
    made = custom_id(key, item)
    assert item_of(made, key) == item
    assert len(made) <= 64
    assert re.fullmatch(CUSTOM_ID_PATTERN, made)


@given(ROUNDS, SHARDS, ITEMS, ROUNDS, SHARDS)
def test_an_id_belongs_to_one_shard_only(round_no: int, shard_no: int, item: int, other: int, another: int) -> None:
    made = custom_id(key_of(TASK_ID, round_no, shard_no), item)
    if (round_no, shard_no) != (other, another):
        assert item_of(made, key_of(TASK_ID, other, another)) is None


@given(ROUNDS, SHARDS, ITEMS, ROUNDS, SHARDS, ITEMS)
def test_no_two_sendings_share_an_id(a: int, b: int, c: int, d: int, e: int, f: int) -> None:
    one, two = custom_id(key_of(TASK_ID, a, b), c), custom_id(key_of(TASK_ID, d, e), f)
    assert (one == two) == ((a, b, c) == (d, e, f))


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        (custom_id(key_of(TASK_ID, 1, 11), 1), key_of(TASK_ID, 1, 1)),
        (custom_id(key_of(TASK_ID, 1, 1), 11), key_of(TASK_ID, 1, 11)),
        (custom_id(key_of(TASK_ID, 11, 1), 1), key_of(TASK_ID, 1, 1)),
        (custom_id(key_of("f" * 32, 1, 1), 1), key_of(TASK_ID, 1, 1)),
    ],
)
def test_a_key_that_is_the_beginning_of_another_does_not_match(made: str, asked: str) -> None:
    assert item_of(made, asked) is None


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        KEY,
        f"{KEY}-i",
        f"{KEY}-i-1",
        f"{KEY}-i+1",
        f"{KEY}-i01",
        f"{KEY}-i00",
        f"{KEY}-i1.0",
        f"{KEY}-i1e3",
        f"{KEY}-i1_000",
        f"{KEY}-i 1",
        f"{KEY}-i1 ",
        f"{KEY}-i1\n",
        f"{KEY}-i٣",
        f"{KEY}-i１",
        f"{KEY}-i²",
        f"{KEY}-i1-i2",
        f"{KEY}-I1",
        f" {KEY}-i1",
        f"x{KEY}-i1",
        KEY.upper() + "-i1",
        f"{KEY}-i" + "9" * 5_000,
    ],
)
def test_anything_else_is_nobodys(foreign: str) -> None:
    assert item_of(foreign, KEY) is None


@given(st.text(max_size=80))
def test_no_text_breaks_it(text: str) -> None:
    for candidate in (text, f"{KEY}-i{text}"):
        item = item_of(candidate, KEY)
        assert item is None or candidate == custom_id(KEY, item)
